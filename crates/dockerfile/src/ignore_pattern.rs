//! One pattern of an ignore file.

use crate::ignore_path::{PathPattern, Subject};

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// Whether what it matches is not ignored after all.
    pub(crate) exclusion: bool,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    /// No special characters: the path itself.
    Exact(String),
    /// `text**`: everything that begins with the text.
    Prefix(String),
    /// `**text`: everything that ends with the text.
    Suffix(String),
    /// Everything else: by its components, where it has such, else by its tokens.
    Tokens(Option<PathPattern>, Tokens),
}

/// Literal text, tokens, literal text; the tokens match what lies between.
#[derive(Debug, Clone)]
struct Tokens {
    head: String,
    middle: Vec<Token>,
    tail: String,
    /// How many slashes every match holds, if that is fixed.
    slashes: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    Char(char),
    /// `?`: one character but a slash.
    One,
    /// `*`: characters but slashes.
    Segment,
    /// `**` at the end: characters.
    Rest,
    /// `**` elsewhere: nothing, or characters up to a slash.
    Directories,
    /// `[..]`.
    Class(Class),
    /// A class that the regular expression repeats.
    Repeated(Class),
    /// `^`, which the regular expression takes for an anchor.
    Start,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    pub(crate) fn holds(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.negated
    }
}

impl Pattern {
    /// Compiles a cleaned pattern without its `!`; `None` if it is malformed.
    pub(crate) fn compile(text: &str, exclusion: bool) -> Option<Self> {
        check_syntax(text)?;
        Some(Self { exclusion, form: Form::compile(text)? })
    }

    /// Tells whether the pattern matches this path, parents not considered.
    pub(crate) fn matches(&self, path: &Subject<'_>) -> bool {
        match &self.form {
            Form::Exact(text) => path.text == text,
            Form::Prefix(text) => path.text.starts_with(text.as_str()),
            Form::Suffix(text) => {
                path.text.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path.text)
            }
            Form::Tokens(by_component, tokens) => {
                let told = by_component.as_ref().and_then(|pattern| pattern.matches(path));
                told.unwrap_or_else(|| tokens.matches(path.text))
            }
        }
    }

    /// Tells whether the pattern may match something below a directory.
    pub(crate) fn may_match_below(&self, directory: &str) -> bool {
        let below = |prefix: &str| match prefix.strip_prefix(directory) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => directory.starts_with(prefix),
        };
        match &self.form {
            Form::Exact(text) => text.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/')),
            Form::Prefix(text) => below(text),
            Form::Suffix(_) => true,
            Form::Tokens(_, tokens) => {
                let depth = directory.matches('/').count();
                tokens.slashes.is_none_or(|slashes| slashes > depth) && below(&tokens.head)
            }
        }
    }
}

impl Form {
    fn compile(text: &str) -> Option<Self> {
        let (tokens, literal) = tokenize(text)?;
        match tokens.as_slice() {
            _ if text == "**" => return Some(Self::Suffix(String::new())),
            [Token::Directories, rest @ ..] if is_literal(rest) && literal => {
                return text.strip_prefix("**").map(|suffix| Self::Suffix(suffix.to_owned()));
            }
            [rest @ .., Token::Rest] if is_literal(rest) && literal => {
                return text.strip_suffix("**").map(|prefix| Self::Prefix(prefix.to_owned()));
            }
            rest if is_literal(rest) && literal => return Some(Self::Exact(text.to_owned())),
            _ => {}
        }
        Some(Self::Tokens(PathPattern::new(&tokens), Tokens::new(tokens)))
    }
}

fn is_literal(tokens: &[Token]) -> bool {
    tokens.iter().all(|token| matches!(token, Token::Char(_) | Token::Start))
}

/// Reads the regular expression that moby/patternmatcher makes of a pattern.
///
/// Also tells whether the pattern has neither escapes nor brackets, so that its text can be compared as it is.
fn tokenize(text: &str) -> Option<(Vec<Token>, bool)> {
    let mut tokens = Vec::new();
    let mut literal = true;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                let last = chars.peek().is_none();
                tokens.push(if last { Token::Rest } else { Token::Directories });
            }
            '*' => tokens.push(Token::Segment),
            '?' => tokens.push(Token::One),
            '^' => tokens.push(Token::Start),
            '[' => {
                literal = false;
                tokens.push(class(&mut chars)?);
            }
            ']' => {
                literal = false;
                tokens.push(Token::Char(c));
            }
            '\\' => {
                literal = false;
                tokens.push(escaped(chars.next()?)?);
            }
            c => tokens.push(Token::Char(c)),
        }
    }
    Some((tokens, literal))
}

/// Reads what stands behind a backslash, which the regular expression takes for an escape of its own.
fn escaped(c: char) -> Option<Token> {
    let (ranges, negated): (&[(char, char)], bool) = match c {
        'd' | 'D' => (&[('0', '9')], c == 'D'),
        'w' | 'W' => (&[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')], c == 'W'),
        's' | 'S' => (&[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')], c == 'S'),
        't' => return Some(Token::Char('\t')),
        'n' => return Some(Token::Char('\n')),
        'r' => return Some(Token::Char('\r')),
        'f' => return Some(Token::Char('\x0c')),
        'v' => return Some(Token::Char('\x0b')),
        'a' => return Some(Token::Char('\x07')),
        // Others are assertions, or errors, and surely not what was meant.
        c if c.is_ascii_alphanumeric() => return None,
        c => return Some(Token::Char(c)),
    };
    Some(Token::Class(Class { negated, ranges: ranges.to_vec() }))
}

/// Reads a bracket expression, its `[` already taken.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let mut class = Class { negated: chars.next_if_eq(&'^').is_some(), ranges: Vec::new() };
    loop {
        let low = match chars.next()? {
            ']' => return Some(Token::Class(class)),
            // Stars and question marks are replaced inside brackets too: `[a*]` becomes `[a[^/]*]`, which is a repeated
            // class followed by a bracket.
            c @ ('*' | '?') => {
                if c == '*' && chars.next_if_eq(&'*').is_some() {
                    chars.next_if_eq(&'/');
                    class.ranges.extend("(.*/)?".chars().map(|c| (c, c)));
                    continue;
                }
                class.ranges.extend("[^/".chars().map(|c| (c, c)));
                return Some(if c == '*' { Token::Repeated(class) } else { Token::Class(class) });
            }
            '\\' => class_escape(chars.next()?, &mut class)?,
            c => Some(c),
        };
        let Some(low) = low else { continue };
        if chars.peek() != Some(&'-') {
            class.ranges.push((low, low));
            continue;
        }
        chars.next();
        let high = match chars.next()? {
            '\\' => class_escape(chars.next()?, &mut class)??,
            '*' | '?' | '[' | ']' => return None,
            c => c,
        };
        if low > high {
            return None;
        }
        class.ranges.push((low, high));
    }
}

/// Reads an escape inside brackets: a character, or a set that is added to the class.
fn class_escape(c: char, class: &mut Class) -> Option<Option<char>> {
    match escaped(c)? {
        Token::Char(c) => Some(Some(c)),
        Token::Class(set) if !set.negated => {
            class.ranges.extend(set.ranges);
            Some(None)
        }
        _ => None,
    }
}

impl Tokens {
    fn new(mut tokens: Vec<Token>) -> Self {
        let fixed = tokens.iter().all(|t| matches!(t, Token::Char(_) | Token::One | Token::Segment));
        let slashes = tokens.iter().filter(|token| **token == Token::Char('/')).count();
        let (mut head, mut tail) = (String::new(), String::new());
        // With an anchor in the middle the literal ends cannot be looked at alone.
        if !tokens.contains(&Token::Start) {
            let literal = |token: &Token| if let Token::Char(c) = token { Some(*c) } else { None };
            head = tokens.iter().map_while(literal).collect();
            tokens.drain(..head.chars().count());
            let mut reversed: Vec<char> = tokens.iter().rev().map_while(literal).collect();
            tokens.truncate(tokens.len() - reversed.len());
            reversed.reverse();
            tail = reversed.into_iter().collect();
        }
        Self { head, middle: tokens, tail, slashes: fixed.then_some(slashes) }
    }

    fn matches(&self, path: &str) -> bool {
        let rest = path.strip_prefix(self.head.as_str());
        let Some(rest) = rest.and_then(|rest| rest.strip_suffix(self.tail.as_str())) else { return false };
        match self.middle.as_slice() {
            [] => rest.is_empty(),
            [Token::Segment] => !rest.contains('/'),
            tokens => run(tokens, rest),
        }
    }
}

/// Matches a whole text, keeping the set of places that a prefix of the tokens may end at.
fn run(tokens: &[Token], text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    let mut here = vec![false; chars.len() + 1];
    if let Some(first) = here.first_mut() {
        *first = true;
    }
    for token in tokens {
        let next = step(token, &chars, &here);
        if !next.contains(&true) {
            return false;
        }
        here = next;
    }
    here.last().copied().unwrap_or(false)
}

/// Returns where a match may end that goes on from one of the places with one token.
fn step(token: &Token, chars: &[char], here: &[bool]) -> Vec<bool> {
    let one = |takes: &dyn Fn(char) -> bool| -> Vec<bool> {
        let moved = here.iter().zip(chars).map(|(set, c)| *set && takes(*c));
        std::iter::once(false).chain(moved).collect()
    };
    let many = |takes: &dyn Fn(char) -> bool| -> Vec<bool> {
        let mut open = false;
        let chars = std::iter::once(None).chain(chars.iter().map(|c| Some(*c)));
        let reach = here.iter().zip(chars).map(|(set, before)| {
            open = *set || (open && before.is_some_and(takes));
            open
        });
        reach.collect()
    };
    match token {
        Token::Char(literal) => one(&|c| c == *literal),
        Token::One => one(&|c| c != '/'),
        Token::Class(class) => one(&|c| class.holds(c)),
        Token::Segment => many(&|c| c != '/'),
        Token::Repeated(class) => many(&|c| class.holds(c)),
        Token::Rest => many(&|c| c != '\n'),
        Token::Directories => {
            let reach = many(&|c| c != '\n');
            let slash = |at: usize| at.checked_sub(1).and_then(|before| chars.get(before)) == Some(&'/');
            // A place right behind a slash counts if the run began before that slash.
            let ran = reach
                .iter()
                .enumerate()
                .map(|(at, _)| at > 0 && slash(at) && reach.get(at - 1) == Some(&true));
            here.iter().zip(ran).map(|(set, ran)| *set || ran).collect()
        }
        Token::Start => here.iter().enumerate().map(|(at, set)| *set && at == 0).collect(),
    }
}

/// Checks a pattern as Go's `filepath.Match` does.
fn check_syntax(text: &str) -> Option<()> {
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()?),
            '[' => {
                chars.next_if_eq(&'^');
                let mut first = true;
                while first || chars.next_if_eq(&']').is_none() {
                    first = false;
                    class_member(&mut chars)?;
                    if chars.next_if_eq(&'-').is_some() {
                        class_member(&mut chars)?;
                    }
                }
            }
            _ => {}
        }
    }
    Some(())
}

/// Reads one character of a bracket expression; one must follow, if only the closing bracket.
fn class_member(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<()> {
    match chars.next()? {
        '-' | ']' => return None,
        '\\' => drop(chars.next()?),
        _ => {}
    }
    chars.peek().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(pieces: &'static [&'static str], count: usize) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(pieces), 1..count).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn components_and_tokens_agree(
            pattern in text(&["a", "b", "ab", "/", "*", "**", "**/", "/**", "?", "[ab]", "[^a]", "\\*", "é"], 8),
            path in text(&["a", "b", "ab", "/", "/", "*", "é", "\n"], 10),
        ) {
            let tokens = tokenize(&pattern).map(|(tokens, _)| (PathPattern::new(&tokens), Tokens::new(tokens)));
            if let Some((Some(by_component), tokens)) = tokens
                && let Some(told) = by_component.matches(&Subject::new(&path))
            {
                prop_assert_eq!(told, tokens.matches(&path), "{:?} on {:?}", pattern, path);
            }
        }
    }
}
