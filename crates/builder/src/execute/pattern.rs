//! Go's `filepath.Match`, which decides what a wildcard in a COPY source means.
//!
//! Patterns and names are bytes: a class or `?` matches one UTF-8 character where the bytes form one, else one byte.

use thiserror::Error;

/// A pattern that cannot match anything because it is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("syntax error in pattern")]
pub(crate) struct BadPattern;

/// Tells whether `name` holds a character that makes it a pattern.
///
/// A backslash takes the special meaning from the character after it.
pub(crate) fn has_wildcard(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Matches one path component against one pattern component.
///
/// # Errors
/// [`BadPattern`] for an unterminated class, an empty range or a trailing backslash met while matching.
///
/// # References
/// <https://pkg.go.dev/path/filepath#Match>
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    let (mut pattern_at, mut name_at) = (0, 0);
    // The position after the last `*`, and the name position it is to be tried from next.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let rest = name.get(name_at..).unwrap_or_default();
        if pattern.get(pattern_at) == Some(&b'*') {
            pattern_at += 1;
            retry = Some((pattern_at, name_at));
            continue;
        }
        if pattern_at >= pattern.len() && rest.is_empty() {
            return Ok(true);
        }
        let step = match_one(pattern.get(pattern_at..).unwrap_or_default(), rest)?;
        if let Some((pattern_used, name_used)) = step {
            pattern_at += pattern_used;
            name_at += name_used;
            continue;
        }
        match retry {
            Some((after_star, from)) if from < name.len() => {
                let from = from + char_at(name.get(from..).unwrap_or_default()).1;
                retry = Some((after_star, from));
                pattern_at = after_star;
                name_at = from;
            }
            _ => return Ok(false),
        }
    }
}

/// Matches one character; how many bytes of pattern and name that used, or `None` when it does not match.
fn match_one(pattern: &[u8], name: &[u8]) -> Result<Option<(usize, usize)>, BadPattern> {
    let Some(&first) = pattern.first() else { return Ok(None) };
    let (character, width) = char_at(name);
    match first {
        b'?' => Ok((!name.is_empty()).then_some((1, width))),
        b'[' => {
            let (used, inside) = class(pattern, character)?;
            Ok((inside && !name.is_empty()).then_some((used, width)))
        }
        b'\\' => {
            let escaped = pattern.get(1).ok_or(BadPattern)?;
            Ok((name.first() == Some(escaped)).then_some((2, 1)))
        }
        _ => Ok((name.first() == Some(&first)).then_some((1, 1))),
    }
}

/// Reads a class; how many bytes it takes and whether `character` is in it.
fn class(pattern: &[u8], character: u32) -> Result<(usize, bool), BadPattern> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    if negated {
        at += 1;
    }
    let (mut inside, mut ranges) = (false, 0);
    loop {
        if pattern.get(at) == Some(&b']') && ranges > 0 {
            return Ok((at + 1, inside != negated));
        }
        let (low, next) = class_character(pattern, at)?;
        at = next;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') {
            (high, at) = class_character(pattern, at + 1)?;
        }
        inside |= low <= character && character <= high;
        ranges += 1;
    }
}

fn class_character(pattern: &[u8], at: usize) -> Result<(u32, usize), BadPattern> {
    let at = match pattern.get(at) {
        None | Some(b'-' | b']') => return Err(BadPattern),
        Some(b'\\') => at + 1,
        Some(_) => at,
    };
    let rest = pattern.get(at..).unwrap_or_default();
    let (character, width) = char_at(rest);
    // A class needs its closing bracket, so nothing may end with the pattern.
    if rest.is_empty() || at + width >= pattern.len() {
        return Err(BadPattern);
    }
    Ok((character, at + width))
}

/// The first character and its width; a byte that starts no character stands for itself.
fn char_at(bytes: &[u8]) -> (u32, usize) {
    let Some(&first) = bytes.first() else { return (0, 0) };
    for width in 1..=bytes.len().min(4) {
        let text = bytes.get(..width).and_then(|prefix| std::str::from_utf8(prefix).ok());
        if let Some(character) = text.and_then(|text| text.chars().next()) {
            return (u32::from(character), width);
        }
    }
    (u32::from(first), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_go_does() {
        let check = |pattern: &str, name: &str, expect: Result<bool, BadPattern>| {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expect, "{pattern} {name}");
        };
        check("abc", "abc", Ok(true));
        check("*", "abc", Ok(true));
        check("*", "", Ok(true));
        check("*c", "abc", Ok(true));
        check("a*", "a", Ok(true));
        check("a*b*c*d*e*", "axbxcxdxe", Ok(true));
        check("a*b?c*x", "abxbbxdbxebxczzx", Ok(true));
        check("a*b?c*x", "abxbbxdbxebxczzy", Ok(false));
        check("ab[c]", "abc", Ok(true));
        check("ab[b-d]", "abc", Ok(true));
        check("ab[e-g]", "abc", Ok(false));
        check("ab[^c]", "abc", Ok(false));
        check("ab[^e-g]", "abc", Ok(true));
        check("a\\*b", "a*b", Ok(true));
        check("a\\*b", "ab", Ok(false));
        check("a?b", "a\u{263a}b", Ok(true));
        check("a[^a]b", "a\u{263a}b", Ok(true));
        check("a???b", "a\u{263a}b", Ok(false));
        check("[a-\u{3b6}]*", "\u{3b1}", Ok(true));
        check("*[a-\u{3b6}]", "A", Ok(false));
        check("[\\]a]", "]", Ok(true));
        check("[\\-x]", "-", Ok(true));
        check("[]a]", "]", Err(BadPattern));
        check("[-]", "-", Err(BadPattern));
        check("[x-]", "x", Err(BadPattern));
        check("[a-b-c]", "a", Err(BadPattern));
        check("[", "a", Err(BadPattern));
        check("[^bc", "a", Err(BadPattern));
        check("a[", "ab", Err(BadPattern));
        check("*x", "xxx", Ok(true));
        check("", "", Ok(true));
        check("", "a", Ok(false));
    }

    #[test]
    fn finds_wildcards() {
        let check = |name: &str, expect: bool| assert_eq!(has_wildcard(name.as_bytes()), expect, "{name}");
        check("plain", false);
        check("a*", true);
        check("a?", true);
        check("[a]", true);
        check("a\\*", false);
        check("a\\", false);
    }
}
