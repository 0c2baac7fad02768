//! The patterns of `${name#pattern}` and `${name/pattern/text}`.

/// Most steps one match may take; a pattern and a value of 4 KiB each stay below.
const MAX_STEPS: usize = 1 << 24;

/// Which match is wanted where several are possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Shortest,
    Longest,
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A `\` in front of something that needs none.
    #[error("invalid escape '\\{0}'")]
    Escape(String),
    /// Pattern and value are too long for one another.
    #[error("it takes too long to match")]
    TooLong,
    /// The replacements make the value too long.
    #[error("the result is too long")]
    ResultTooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`: any character but a newline.
    One,
    /// `*`: any characters but newlines.
    Many,
}

impl Token {
    fn takes(self, c: char) -> bool {
        match self {
            Self::Char(literal) => literal == c,
            Self::One | Self::Many => c != '\n',
        }
    }
}

/// A shell pattern without bracket expressions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    /// Reads a pattern: `*`, `?`, and `\` in front of these two, of itself, `}` and `/`.
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Many,
                '?' => Token::One,
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Char(escaped),
                    other => return Err(PatternError::Escape(other.into_iter().collect())),
                },
                c => Token::Char(c),
            });
        }
        Ok(Self { tokens })
    }

    /// Removes a match at the start.
    pub(crate) fn trim_start(self, value: &str, length: Length) -> Result<String, PatternError> {
        let chars: Vec<char> = value.chars().collect();
        let end = self.match_at(&chars, length, &mut 0)?.unwrap_or(0);
        Ok(chars.iter().skip(end).collect())
    }

    /// Removes a match at the end.
    pub(crate) fn trim_end(mut self, value: &str, length: Length) -> Result<String, PatternError> {
        self.tokens.reverse();
        let chars: Vec<char> = value.chars().rev().collect();
        let end = self.match_at(&chars, length, &mut 0)?.unwrap_or(0);
        Ok(chars.iter().skip(end).rev().collect())
    }

    /// Replaces the first match; the replacement is taken literally.
    pub(crate) fn replace_first(self, value: &str, replacement: &str) -> Result<String, PatternError> {
        let chars: Vec<char> = value.chars().collect();
        let Some((start, end)) = self.find(&chars, 0, &mut 0)? else { return Ok(value.to_owned()) };
        let mut out: String = chars.iter().take(start).collect();
        out.push_str(replacement);
        out.extend(chars.iter().skip(end));
        Ok(out)
    }

    /// Replaces all matches; in the replacement `$0` is the match and `$$` a dollar sign, other names are empty.
    pub(crate) fn replace_all(
        self,
        value: &str,
        replacement: &str,
        limit: usize,
    ) -> Result<String, PatternError> {
        let chars: Vec<char> = value.chars().collect();
        let slice = |from: usize, to: usize| chars.get(from..to).unwrap_or_default();
        let (mut out, mut copied, mut from, mut steps) = (String::new(), 0, 0, 0);
        while let Some((start, end)) = self.find(&chars, from, &mut steps)? {
            out.extend(slice(copied, start));
            // An empty match right behind a match does not count.
            if end > copied || start == 0 {
                out.push_str(&fill_template(replacement, slice(start, end)));
            }
            if out.len() > limit {
                return Err(PatternError::ResultTooLong);
            }
            copied = end;
            from = end.max(from + 1);
            if from > chars.len() {
                break;
            }
        }
        out.extend(slice(copied, chars.len()));
        Ok(out)
    }

    /// Finds the leftmost match, the longest there.
    fn find(
        &self,
        chars: &[char],
        from: usize,
        steps: &mut usize,
    ) -> Result<Option<(usize, usize)>, PatternError> {
        for start in from..=chars.len() {
            let rest = chars.get(start..).unwrap_or_default();
            if let Some(length) = self.match_at(rest, Length::Longest, steps)? {
                return Ok(Some((start, start + length)));
            }
        }
        Ok(None)
    }

    /// Matches at the start of `chars`, keeping the set of all places a prefix of the pattern may end at.
    fn match_at(
        &self,
        chars: &[char],
        length: Length,
        steps: &mut usize,
    ) -> Result<Option<usize>, PatternError> {
        // Both are sorted and hold no value twice.
        let mut ends = vec![0];
        for token in &self.tokens {
            let mut next: Vec<usize> = Vec::with_capacity(ends.len());
            for end in ends {
                if *token != Token::Many {
                    next.extend(chars.get(end).filter(|c| token.takes(**c)).map(|_| end + 1));
                    continue;
                }
                if next.last().is_some_and(|last| *last >= end) {
                    continue;
                }
                next.push(end);
                let run = chars.iter().enumerate().skip(end).take_while(|(_, c)| token.takes(**c));
                next.extend(run.map(|(at, _)| at + 1));
            }
            *steps = steps.saturating_add(next.len() + 1);
            if *steps > MAX_STEPS {
                return Err(PatternError::TooLong);
            }
            if next.is_empty() {
                return Ok(None);
            }
            ends = next;
        }
        Ok(if length == Length::Shortest { ends.first() } else { ends.last() }.copied())
    }
}

/// Fills in a replacement as Go's `Regexp.Expand` does for a pattern without groups.
fn fill_template(template: &str, found: &[char]) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((head, tail)) = rest.split_once('$') {
        out.push_str(head);
        if let Some(tail) = tail.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let (name, after) = match tail.strip_prefix('{').map(|braced| braced.split_once('}')) {
            Some(Some((name, after))) if !name.is_empty() && name.chars().all(is_name) => (name, after),
            Some(_) => ("", tail),
            None => tail.split_at(tail.find(|c| !is_name(c)).unwrap_or(tail.len())),
        };
        match name {
            "" => out.push('$'),
            "0" => out.extend(found),
            _ => {}
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming() {
        let check = |pattern: &str, value: &str, expect: [&str; 4]| {
            let run = |length, end: bool| {
                let pattern = Pattern::parse(pattern).unwrap();
                if end { pattern.trim_end(value, length) } else { pattern.trim_start(value, length) }.unwrap()
            };
            let found = [
                run(Length::Shortest, false),
                run(Length::Longest, false),
                run(Length::Shortest, true),
                run(Length::Longest, true),
            ];
            assert_eq!(found, expect, "{pattern:?} on {value:?}");
        };
        check("*/", "a/b/c/", ["b/c/", "", "a/b/c", ""]);
        check("?", "abc", ["bc", "bc", "ab", "ab"]);
        check("x", "abc", ["abc"; 4]);
        check("", "abc", ["abc"; 4]);
        check("\\*", "*a*", ["a*", "a*", "*a", "*a"]);
        check("a*b", "aXbYb", ["Yb", "", "", ""]);
        check("*", "a\nb", ["a\nb", "\nb", "a\nb", "a\n"]);
    }

    #[test]
    fn replacing() {
        let check = |pattern: &str, value: &str, text: &str, first: &str, all: &str| {
            let parse = || Pattern::parse(pattern).unwrap();
            assert_eq!(parse().replace_first(value, text).unwrap(), first, "{pattern:?}");
            assert_eq!(parse().replace_all(value, text, 1 << 20).unwrap(), all, "{pattern:?}");
        };
        check("a", "banana", "o", "bonana", "bonono");
        check("", "ab", "-", "-ab", "-a-b-");
        check("a*", "banana", "o", "bo", "bo");
        check("n?", "banana", "<$0>", "ba<$0>na", "ba<na><na>");
        check("a", "a", "$$ $1 ${2} $", "$$ $1 ${2} $", "$   $");
        check("x", "banana", "o", "banana", "banana");
    }

    #[test]
    fn hostile_patterns_end() {
        let value = "a".repeat(100_000);
        let pattern = Pattern::parse(&"*a".repeat(1000)).unwrap();
        assert_eq!(pattern.clone().trim_start(&value, Length::Longest), Err(PatternError::TooLong));
        let pattern = Pattern::parse(&format!("{}b", "a".repeat(50_000))).unwrap();
        assert_eq!(pattern.replace_first(&value, ""), Err(PatternError::TooLong));
    }
}
