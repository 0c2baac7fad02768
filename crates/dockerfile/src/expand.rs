//! Variable expansion: the shell-like words of a Dockerfile.

use std::collections::BTreeSet;

pub use crate::glob::PatternError;
use crate::glob::{Length, Pattern};

/// Deepest nesting of `${..}` in the words of `${..}`.
const MAX_DEPTH: usize = 128;
/// Longest result in bytes; ARGs that double one another reach any size within a few lines.
const MAX_RESULT: usize = 16 << 20;

/// Expands words; the fields say how.
///
/// ```
/// use rbuild_dockerfile::Expander;
///
/// let env = |name: &str| (name == "VERSION").then(|| "1.2".to_owned());
/// let word = Expander::new('\\').word("app-${VERSION%.*}${SUFFIX:-.tar}", &env)?;
/// assert_eq!(word.text, "app-1.tar");
/// assert!(word.unmatched.contains("SUFFIX"));
/// # Ok::<(), rbuild_dockerfile::ExpandError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expander {
    /// The escape character.
    pub escape: char,
    /// What happens to quotes.
    pub quotes: Quotes,
    /// Whether escape characters stay.
    pub keep_escapes: bool,
    /// Whether a variable without a value stays as it is written, instead of becoming empty.
    pub keep_unset: bool,
}

/// What an [`Expander`] does with quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quotes {
    /// They quote, and are removed.
    Remove,
    /// They quote, and stay.
    Keep,
    /// They are characters like others: heredoc bodies.
    Ignore,
}

/// An expanded word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The result.
    pub text: String,
    /// The names that were used and have a value.
    pub matched: BTreeSet<String>,
    /// The names that were used and have none.
    pub unmatched: BTreeSet<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A quote is not closed.
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    OpenQuote(&'static str),
    /// A `${` is not well formed.
    #[error("syntax error: {0}")]
    Syntax(&'static str),
    /// A modifier that does not exist.
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    /// A pattern that is not well formed.
    #[error("invalid pattern ({pattern}) in substitution")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: PatternError,
    },
    /// `${name:?text}` without a value.
    #[error("{name}: {text}")]
    Required {
        /// The variable.
        name: String,
        /// The text behind `?`, or a default one.
        text: String,
    },
    /// Nested too deeply.
    #[error("${{..}} is nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// The result is too long.
    #[error("the result is longer than {MAX_RESULT} bytes")]
    TooLong,
}

/// Looks up the value of a variable.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Expander {
    /// Makes the expander of instruction arguments.
    #[must_use]
    pub fn new(escape: char) -> Self {
        Self { escape, quotes: Quotes::Remove, keep_escapes: false, keep_unset: false }
    }

    /// Makes the expander of heredoc bodies: the escape is always `\`, quotes are ordinary characters.
    #[must_use]
    pub fn heredoc() -> Self {
        Self { quotes: Quotes::Ignore, ..Self::new('\\') }
    }

    /// Expands to one string.
    ///
    /// # Errors
    /// When quotes or braces are not closed, a modifier is unknown, or a required variable has no value.
    pub fn word(&self, word: &str, lookup: Lookup<'_>) -> Result<Expanded, ExpandError> {
        let mut scan = Scan::new(self, word, lookup);
        let text = scan.until(None)?;
        Ok(Expanded { text, matched: scan.matched, unmatched: scan.unmatched })
    }

    /// Expands, then splits at unquoted white space.
    ///
    /// As in BuildKit, what stands in front of `${name:-word}` and the other forms that hold a word is lost here, back to
    /// the last white space: `a${X:-b}` gives `b`.
    ///
    /// # Errors
    /// As [`Expander::word`].
    pub fn words(&self, word: &str, lookup: Lookup<'_>) -> Result<Vec<String>, ExpandError> {
        let mut scan = Scan::new(self, word, lookup);
        scan.until(None)?;
        scan.end_word();
        Ok(scan.words)
    }
}

/// One pass over one word.
struct Scan<'a> {
    how: &'a Expander,
    lookup: Lookup<'a>,
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    /// Whether escape characters stay; changes inside patterns.
    keep_escapes: bool,
    depth: usize,
    words: Vec<String>,
    word: String,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

impl<'a> Scan<'a> {
    fn new(how: &'a Expander, word: &'a str, lookup: Lookup<'a>) -> Self {
        Self {
            how,
            lookup,
            // A leading byte order mark is dropped, as by Go's text/scanner.
            chars: word.strip_prefix('\u{feff}').unwrap_or(word).chars().peekable(),
            keep_escapes: how.keep_escapes,
            depth: 0,
            words: Vec::new(),
            word: String::new(),
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        }
    }

    /// Expands up to a character, which is consumed, or to the end.
    fn until(&mut self, stop: Option<char>) -> Result<String, ExpandError> {
        let mut out = String::new();
        while let Some(c) = self.chars.peek().copied() {
            if Some(c) == stop {
                self.chars.next();
                return Ok(out);
            }
            self.one(c, &mut out)?;
            if out.len() > MAX_RESULT {
                return Err(ExpandError::TooLong);
            }
        }
        match stop {
            Some('/') => Err(ExpandError::Syntax("missing '/' in ${}")),
            Some(_) => Err(ExpandError::Syntax("missing '}'")),
            None => Ok(out),
        }
    }

    /// Expands what begins with `c`.
    fn one(&mut self, c: char, out: &mut String) -> Result<(), ExpandError> {
        let quotes = self.how.quotes != Quotes::Ignore;
        match c {
            '$' => {
                let value = self.dollar()?;
                if self.top() {
                    value.chars().for_each(|c| self.add(c));
                }
                out.push_str(&value);
                return Ok(());
            }
            '\'' | '"' if quotes => {
                let text = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                self.add_raw(&text);
                out.push_str(&text);
                return Ok(());
            }
            '<' => {
                let text = self.angle();
                self.add_raw(&text);
                out.push_str(&text);
                return Ok(());
            }
            _ => {}
        }
        self.chars.next();
        if c != self.how.escape {
            self.add(c);
            out.push(c);
            return Ok(());
        }
        if self.keep_escapes {
            self.add_raw_char(c);
            out.push(c);
        }
        if let Some(escaped) = self.chars.next() {
            self.add_raw_char(escaped);
            out.push(escaped);
        }
        Ok(())
    }

    /// Reads `<`, or `<<` with the white space behind it, which does not separate words.
    fn angle(&mut self) -> String {
        let mut text: String = self.chars.next().into_iter().collect();
        if self.chars.next_if_eq(&'<').is_some() {
            text.push('<');
            while let Some(space) = self.chars.next_if(|c| matches!(c, ' ' | '\t' | '\r' | '\n')) {
                text.push(space);
            }
        }
        text
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let keep = self.how.quotes == Quotes::Keep;
        let mut out = String::new();
        out.extend(self.chars.next().filter(|_| keep));
        for c in self.chars.by_ref() {
            if c == '\'' {
                out.extend(keep.then_some(c));
                return Ok(out);
            }
            out.push(c);
        }
        Err(ExpandError::OpenQuote("single"))
    }

    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let keep = self.how.quotes == Quotes::Keep;
        let mut out = String::new();
        out.extend(self.chars.next().filter(|_| keep));
        while let Some(c) = self.chars.peek().copied() {
            if c == '$' {
                out.push_str(&self.dollar()?);
            } else if c == '"' {
                self.chars.next();
                out.extend(keep.then_some(c));
                return Ok(out);
            } else {
                self.chars.next();
                self.quoted_char(c, &mut out);
            }
            if out.len() > MAX_RESULT {
                return Err(ExpandError::TooLong);
            }
        }
        Err(ExpandError::OpenQuote("double"))
    }

    /// Takes one character between double quotes; the escape character escapes `"`, `$` and itself only.
    fn quoted_char(&mut self, c: char, out: &mut String) {
        if c != self.how.escape {
            out.push(c);
            return;
        }
        if self.keep_escapes {
            out.push(c);
        }
        match self.chars.peek().copied() {
            None => {}
            Some(next) if matches!(next, '"' | '$') || next == self.how.escape => {
                out.extend(self.chars.next());
            }
            Some(_) => out.push(c),
        }
    }

    /// Expands what begins with `$`.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.chars.next();
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            let value = self.value(&name);
            return Ok(match value {
                None if self.how.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        match self.chars.peek() {
            None => return Err(ExpandError::Syntax("missing '}'")),
            Some('{' | '}' | ':') => return Err(ExpandError::Syntax("bad substitution")),
            Some(_) => {}
        }
        let name = self.name();
        match self.chars.next() {
            Some('}') => {
                let value = self.value(&name);
                Ok(match value {
                    None if self.how.keep_unset => format!("${{{name}}}"),
                    value => value.unwrap_or_default(),
                })
            }
            Some(':') => match self.chars.next() {
                Some(modifier @ ('-' | '+' | '?')) => self.conditional(&name, modifier, Empty::IsUnset),
                other => Err(ExpandError::Modifier(format!(":{}", other.unwrap_or_default()))),
            },
            Some(modifier @ ('-' | '+' | '?')) => self.conditional(&name, modifier, Empty::IsSet),
            Some(modifier @ ('#' | '%')) => self.trim(&name, modifier),
            Some('/') => self.replace(&name),
            Some(other) => Err(ExpandError::Modifier(other.to_string())),
            None => Err(ExpandError::Syntax("missing '}'")),
        }
    }

    /// `${name:-word}`, `${name:+word}`, `${name:?word}` and the same without the colon.
    fn conditional(&mut self, name: &str, modifier: char, empty: Empty) -> Result<String, ExpandError> {
        let word = self.nested('}', false)?;
        let value = self.value(name);
        if value.is_none() && self.how.keep_unset {
            let colon = if empty == Empty::IsUnset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let was_set = value.is_some();
        match (modifier, value.filter(|value| empty == Empty::IsSet || !value.is_empty())) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            (_, None) => {
                let state = if was_set { "empty" } else { "unset" };
                let text = if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                Err(ExpandError::Required { name: name.to_owned(), text })
            }
        }
    }

    /// `${name#pattern}`, `${name%pattern}` and the doubled ones.
    fn trim(&mut self, name: &str, modifier: char) -> Result<String, ExpandError> {
        let word = self.nested('}', true)?;
        let value = match self.value(name) {
            None if self.how.keep_unset => return Ok(format!("${{{name}{modifier}{word}}}")),
            value => value.unwrap_or_default(),
        };
        let (length, text) = match word.strip_prefix(modifier) {
            Some(rest) => (Length::Longest, rest),
            None => (Length::Shortest, word.as_str()),
        };
        let run = |pattern: Pattern| match modifier {
            '#' => pattern.trim_start(&value, length),
            _ => pattern.trim_end(&value, length),
        };
        Pattern::parse(text).and_then(run).map_err(|source| pattern_error(text, source))
    }

    /// `${name/pattern/text}` and `${name//pattern/text}`.
    fn replace(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.chars.next_if_eq(&'/').is_some();
        let text = self.nested('/', true)?;
        let replacement = self.nested('}', true)?;
        let value = match self.value(name) {
            None if self.how.keep_unset => return Ok(format!("${{{name}/{text}/{replacement}}}")),
            value => value.unwrap_or_default(),
        };
        let run = |pattern: Pattern| match all {
            true => pattern.replace_all(&value, &replacement, MAX_RESULT),
            false => pattern.replace_first(&value, &replacement),
        };
        Pattern::parse(&text).and_then(run).map_err(|source| pattern_error(&text, source))
    }

    /// Expands the word inside `${..}`.
    fn nested(&mut self, stop: char, keep_escapes: bool) -> Result<String, ExpandError> {
        if self.depth >= MAX_DEPTH {
            return Err(ExpandError::TooDeep);
        }
        // The reference lexer has one word buffer for all levels; see `Expander::words`.
        self.word.clear();
        let outer = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        self.depth += 1;
        let result = self.until(Some(stop));
        self.depth -= 1;
        self.keep_escapes = outer;
        result
    }

    /// Reads a name: letters, digits and `_`; or digits; or one special character.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(special) = self.chars.next_if(|c| matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!')) {
            name.push(special);
            return name;
        }
        let digits_only = self.chars.peek().is_some_and(|c| c.is_numeric());
        while let Some(c) = self
            .chars
            .next_if(|c| if digits_only { c.is_numeric() } else { c.is_alphanumeric() || *c == '_' })
        {
            name.push(c);
        }
        name
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        let names = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        names.insert(name.to_owned());
        value
    }

    fn top(&self) -> bool {
        self.depth == 0
    }

    /// Adds a character that separates words if it is white space.
    fn add(&mut self, c: char) {
        if !self.top() {
            return;
        }
        if c.is_whitespace() {
            self.end_word();
        } else {
            self.word.push(c);
        }
    }

    fn add_raw(&mut self, text: &str) {
        if self.top() {
            self.word.push_str(text);
        }
    }

    fn add_raw_char(&mut self, c: char) {
        if self.top() {
            self.word.push(c);
        }
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }
}

/// Whether an empty value counts as set: the colon of `${name:-word}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Empty {
    IsSet,
    IsUnset,
}

fn pattern_error(pattern: &str, source: PatternError) -> ExpandError {
    if matches!(source, PatternError::ResultTooLong) {
        return ExpandError::TooLong;
    }
    ExpandError::Pattern { pattern: pattern.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        let value = match name {
            "A" => "abc",
            "E" => "",
            "S" => "x y",
            "P" => "/usr/local/bin",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn words_expand_to_one_string() {
        let check = |word: &str, expect: &str| {
            let text = Expander::new('\\').word(word, &env).map(|word| word.text);
            assert_eq!(text.as_deref(), Ok(expect), "{word:?}");
        };
        check("a$A-${A}b", "aabc-abcb");
        check("$ $. a$", "$ $. a$");
        check("$1x $10x $@ $$", "x x  ");
        check("${U:-d} ${U-d} ${E:-d} ${E-d}", "d d d ");
        check("${A:+d} ${U:+d} ${E:+d} ${E+d}", "d   d");
        check("${A:?m} ${E?m}", "abc ");
        check("${U:-${V:-${A}}}", "abc");
        check("${U:-a}b}", "ab}");
        check("'$A' \"$A\" \\$A", "$A abc $A");
        check("\"a\\b\\\"\\$\"", "a\\b\"$");
        check("'a\\'b", "a\\b");
        check("a\\", "a");
        check("${P#*/} ${P##*/} ${P%/*} ${P%%/*}", "usr/local/bin bin /usr/local ");
        check("${A/b/X} ${P//\\//_} ${A//?/.} ${A//b/}", "aXc _usr_local_bin ... ac");
        check("${A/[b]/X}", "abc");
        check("${S// /_}", "x_y");
        check("a << b", "a << b");
        check("${1:-d} ${@:-d} ${@} ${@:+d}", "d d  ");
        check(
            "\u{c548}${A:+000}\u{b155}\\t'\u{d558}' \u{c548}$.x",
            "\u{c548}000\u{b155}t\u{d558} \u{c548}$.x",
        );
        check("${U:-\\${A}z}x", "${Az}x");
    }

    #[test]
    fn errors() {
        let check = |word: &str, expect: &str| {
            let error = Expander::new('\\').word(word, &env).unwrap_err();
            assert_eq!(error.to_string(), expect, "{word:?}");
        };
        check("${}", "syntax error: bad substitution");
        check("${:x}", "syntax error: bad substitution");
        check("${{A}", "syntax error: bad substitution");
        check("${A", "syntax error: missing '}'");
        check("${A:-b", "syntax error: missing '}'");
        check("${A/ba}", "syntax error: missing '/' in ${}");
        check("${A^^}", "unsupported modifier (^) in substitution");
        check("${A:1:2}", "unsupported modifier (:1) in substitution");
        check("${A:#x}", "unsupported modifier (:#) in substitution");
        check("${A=x}", "unsupported modifier (=) in substitution");
        check("${U:?need U}", "U: need U");
        check("${U?}", "U: is not allowed to be unset");
        check("${E:?}", "E: is not allowed to be empty");
        check("'a", "unexpected end of statement while looking for matching single-quote");
        check("\"a", "unexpected end of statement while looking for matching double-quote");
        check(&"${A:-".repeat(5000), "${..} is nested more than 128 deep");
        check(&"\"${A:-".repeat(5000), "${..} is nested more than 128 deep");
    }

    #[test]
    fn splitting() {
        let check = |word: &str, expect: &[&str]| {
            assert_eq!(Expander::new('\\').words(word, &env).unwrap(), expect, "{word:?}");
        };
        check("a $S b", &["a", "x", "y", "b"]);
        check("a \"$S\" b", &["a", "x y", "b"]);
        check("$U", &[]);
        check("a\\ b", &["a b"]);
        check("80 a${U:-b}", &["80", "b"]);
    }

    #[test]
    fn heredoc_bodies_keep_their_quotes() {
        let body = Expander::heredoc().word("'$A' \"${U}\" \\$A `a`\n", &env).unwrap();
        assert_eq!(body.text, "'abc' \"\" $A `a`\n");
        assert_eq!(body.unmatched.into_iter().collect::<Vec<_>>(), ["U"]);
    }

    #[test]
    fn doubling_arguments_end_in_an_error() {
        let big = "x".repeat(1 << 20);
        let result = Expander::new('\\').word(&"$A".repeat(32), &|_| Some(big.clone()));
        assert_eq!(result, Err(ExpandError::TooLong));
    }
}
