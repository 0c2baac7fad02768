//! `--chmod`: octal or symbolic permission bits.

use thiserror::Error;

const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const READ: u32 = 0o444;
const WRITE: u32 = 0o222;
const EXECUTE: u32 = 0o111;

/// A mode that is neither octal up to 07777 nor symbolic.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid mode {text:?}: want octal between 0 and 07777, or symbolic as `u=rwX,go=rX`")]
pub struct ModeError {
    text: String,
}

/// A change of permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModeChange(Vec<Clause>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Clause {
    Absolute(u32),
    Symbolic { who: u32, operator: Operator, permissions: Permissions },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Assign,
}

/// The right side of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Permissions {
    bits: u32,
    /// `X`: execute where it is a directory or anybody may execute it.
    search: bool,
    /// `u`, `g` or `o`: how far right the class to copy is shifted.
    copy: Option<u32>,
}

/// What a mode is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

impl ModeChange {
    /// Reads the value of `--chmod`.
    ///
    /// Without a class (`+x`) all classes are meant: no umask is applied.
    ///
    /// # Errors
    /// [`ModeError`] for everything else.
    ///
    /// # References
    /// chmod(1), and the setmode(3) of BSD for `X` and the copies `u`, `g`, `o`.
    pub(crate) fn parse(text: &str) -> Result<Self, ModeError> {
        let fail = || ModeError { text: text.to_owned() };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).map_err(|_| fail())?;
            return if bits <= 0o7777 { Ok(Self(vec![Clause::Absolute(bits)])) } else { Err(fail()) };
        }
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut clauses).ok_or_else(fail)?;
        }
        Ok(Self(clauses))
    }

    /// The bits of an octal mode.
    pub(crate) fn octal(&self) -> Option<u32> {
        match *self.0.as_slice() {
            [Clause::Absolute(bits)] => Some(bits),
            _ => None,
        }
    }

    /// The bits that `mode` becomes; bits above 07777 are dropped.
    pub(crate) fn apply(&self, mode: u32, target: Target) -> u32 {
        let searchable = target == Target::Directory || mode & EXECUTE != 0;
        let mut mode = mode & 0o7777;
        for clause in &self.0 {
            mode = match *clause {
                Clause::Absolute(bits) => bits,
                Clause::Symbolic { who, operator, permissions } => {
                    let bits = who & permissions.resolve(mode, searchable);
                    match operator {
                        Operator::Add => mode | bits,
                        Operator::Remove => mode & !bits,
                        Operator::Assign => (mode & !who) | bits,
                    }
                }
            };
        }
        mode
    }
}

impl Permissions {
    fn resolve(self, mode: u32, searchable: bool) -> u32 {
        let copied = self.copy.map_or(0, |shift| (mode >> shift & 0o7) * 0o111);
        let search = if self.search && searchable { EXECUTE } else { 0 };
        self.bits | copied | search
    }
}

/// Reads `[ugoa]*([+-=][rwxXst]*|[ugo])+`.
fn parse_clause(text: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let mut rest = text.chars().peekable();
    let mut who = 0;
    while let Some(bits) = rest.peek().and_then(|class| match class {
        'u' => Some(SET_USER | 0o700),
        'g' => Some(SET_GROUP | 0o070),
        'o' => Some(0o007),
        'a' => Some(SET_USER | SET_GROUP | 0o777),
        _ => None,
    }) {
        who |= bits;
        rest.next();
    }
    rest.peek()?;
    while let Some(operator) = rest.next() {
        let operator = match operator {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Assign,
            _ => return None,
        };
        let named = if who == 0 { SET_USER | SET_GROUP | 0o777 } else { who };
        // The sticky bit belongs to no class; only naming `o` alone leaves it out.
        let sticky = if who == 0 || who & !0o007 != 0 { STICKY } else { 0 };
        let mut permissions = Permissions::default();
        let mut affected = named;
        while let Some(permission) = rest.next_if(|c| !"+-=".contains(*c)) {
            match permission {
                'r' => permissions.bits |= READ,
                'w' => permissions.bits |= WRITE,
                'x' => permissions.bits |= EXECUTE,
                'X' => permissions.search = true,
                's' => permissions.bits |= SET_USER | SET_GROUP,
                't' => {
                    permissions.bits |= sticky;
                    affected |= sticky;
                }
                'u' => permissions.copy = Some(6),
                'g' => permissions.copy = Some(3),
                'o' => permissions.copy = Some(0),
                _ => return None,
            }
        }
        clauses.push(Clause::Symbolic { who: affected, operator, permissions });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applies_modes() {
        let check = |text: &str, mode: u32, target: Target, expect: u32| {
            let change = ModeChange::parse(text).expect(text);
            assert_eq!(change.apply(mode, target), expect, "{text} on {mode:o}");
        };
        check("755", 0o644, Target::File, 0o755);
        check("0", 0o644, Target::File, 0);
        check("07777", 0o644, Target::File, 0o7777);
        check("+x", 0o644, Target::File, 0o755);
        check("+w", 0o444, Target::File, 0o666);
        check("u=rwX,go=rX", 0o600, Target::File, 0o644);
        check("u=rwX,go=rX", 0o700, Target::File, 0o755);
        check("u=rwX,go=rX", 0o600, Target::Directory, 0o755);
        check("go-w", 0o666, Target::File, 0o644);
        check("go=u", 0o640, Target::File, 0o666);
        check("u+s", 0o755, Target::File, 0o4755);
        check("+s", 0o755, Target::File, 0o6755);
        check("+t", 0o755, Target::Directory, 0o1755);
        check("o+t", 0o755, Target::Directory, 0o755);
        check("u=", 0o4755, Target::File, 0o055);
        check("u+x-w", 0o600, Target::File, 0o500);
        check("a=r", 0o777, Target::File, 0o444);
    }

    #[test]
    fn refuses_other_text() {
        for text in ["", "64a", "08", "10000", "u", "u!x", "0o755", "u+x,", "rwx"] {
            assert!(ModeChange::parse(text).is_err(), "{text}");
        }
    }
}
