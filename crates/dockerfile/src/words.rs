//! Splitting the arguments of an instruction into words.

/// A word and its place in the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// White space between words of an instruction: no newline, and no Unicode.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Splits off the first word.
pub(crate) fn split_first(text: &str) -> (&str, Option<&str>) {
    match text.split_once(is_blank) {
        Some((first, rest)) => (first, Some(rest.trim_start_matches(is_blank))),
        None => (text, None),
    }
}

/// Splits at blanks; quotes mean nothing. An empty text has no words.
pub(crate) fn split_blank(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut words = Vec::new();
    let mut rest = Some(text);
    while let Some(text) = rest {
        let (word, tail) = split_first(text);
        words.push(word.to_owned());
        rest = tail;
    }
    words
}

/// Splits `key=value` words: Unicode white space outside quotes separates; quotes and escapes stay.
pub(crate) fn split_quoted(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        // The quote that was just opened decides whether an escape counts.
        if c == escape && quote != Some('\'') {
            // An escape at the very end is dropped.
            let Some(next) = chars.next() else { break };
            word.push(c);
            word.push(next);
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Takes the flags off the front of an instruction's arguments; gives them and the offset of what is left.
///
/// Quotes and escapes inside a flag are removed; `--` alone ends the flags.
pub(crate) fn take_flags(text: &str, escape: char) -> (Vec<Word>, usize) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        let start = at + (rest.len() - trimmed.len());
        if !trimmed.starts_with("--") {
            return (flags, start);
        }
        let (flag, length) = flag_word(trimmed, escape);
        at = start + length;
        if flag == "--" {
            return (flags, at);
        }
        flags.push(Word { text: flag, start, end: at });
    }
}

/// Reads one flag, to the next white space outside quotes; gives its text and its length in the line.
fn flag_word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => word.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => word.push(c),
        }
    }
    (word, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words() {
        let check = |text: &str, expect: &[&str]| assert_eq!(split_quoted(text, '\\'), expect, "{text:?}");
        check("a=b c=d", &["a=b", "c=d"]);
        check("a=\"b c\" d='e f'", &["a=\"b c\"", "d='e f'"]);
        check("a=b\\ c", &["a=b\\ c"]);
        check("a='b\\' c", &["a='b\\'", "c"]);
        check("a=\"b\\\" c\"", &["a=\"b\\\" c\""]);
        check("a\u{a0}b", &["a", "b"]);
        check("a=\\", &["a="]);
        check("  ", &[]);
        check("'' a", &["''", "a"]);
    }

    #[test]
    fn flags() {
        let check = |text: &str, flags: &[&str], rest: &str| {
            let (found, at) = take_flags(text, '\\');
            let found: Vec<&str> = found.iter().map(|flag| flag.text.as_str()).collect();
            assert_eq!((found.as_slice(), text[at..].trim()), (flags, rest), "{text:?}");
        };
        check("--a=b --c d --e", &["--a=b", "--c"], "d --e");
        check("--chown=\"1:2\" a b", &["--chown=1:2"], "a b");
        check("--a=x\\ y z", &["--a=x y"], "z");
        check("-- --a b", &[], "--a b");
        check("\"--a\" b", &[], "\"--a\" b");
        check("--a", &["--a"], "");
        check("--", &[], "");
        check("--a=\"open", &["--a=open"], "");
        check("-x", &[], "-x");
    }
}
