//! Patterns that can be matched component by component, which almost all are.

use crate::ignore_pattern::{Class, Token};

/// A path that many patterns are compared with.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) text: &'a str,
    components: Vec<&'a str>,
    /// `**` does not match line breaks: a path with one is left to the tokens.
    has_line_break: bool,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, components: text.split('/').collect(), has_line_break: text.contains('\n') }
    }
}

/// A pattern whose wildcards, but for `**`, stay within one component.
#[derive(Debug, Clone)]
pub(crate) struct PathPattern {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    /// `**/`: any number of components.
    Any,
    /// `**` at the end: one component at least, which may be empty.
    Rest,
    /// One component.
    One(Glob),
}

impl PathPattern {
    /// Takes tokens apart at their slashes; `None` if one of them may match a slash in another place.
    pub(crate) fn new(tokens: &[Token]) -> Option<Self> {
        let (mut parts, mut glob) = (Vec::new(), Some(Glob::default()));
        for token in tokens {
            match (token, &mut glob) {
                (Token::Directories, Some(begun)) if begun.is_empty() => parts.push(Part::Any),
                (Token::Rest, Some(begun)) if begun.is_empty() => {
                    parts.push(Part::Rest);
                    glob = None;
                }
                (Token::Char('/'), Some(begun)) => parts.push(Part::One(std::mem::take(begun))),
                (token, Some(begun)) => begun.push(token)?,
                (_, None) => return None,
            }
        }
        parts.extend(glob.map(Part::One));
        Some(Self { parts })
    }

    /// Tells whether the whole path matches; `None` if only the tokens can tell.
    pub(crate) fn matches(&self, path: &Subject<'_>) -> Option<bool> {
        if path.has_line_break {
            return None;
        }
        let (mut parts, mut components) = (self.parts.as_slice(), path.components.as_slice());
        // The last component tells most patterns from most paths.
        if let ([before @ .., Part::One(glob)], [above @ .., name]) = (parts, components) {
            if !glob.matches(name) {
                return Some(false);
            }
            (parts, components) = (before, above);
        }
        Some(match_components(parts, components))
    }
}

/// Goes back to the last `**` alone: whatever an earlier one could take, the last one can take too.
fn match_components(parts: &[Part], components: &[&str]) -> bool {
    let (mut parts, mut rest) = (parts, components);
    let mut retry: Option<(&[Part], &[&str])> = None;
    loop {
        match (parts, rest) {
            ([Part::Any, after @ ..], _) => {
                retry = Some((after, rest));
                parts = after;
                continue;
            }
            ([Part::Rest], [_, ..]) | ([], []) => return true,
            ([Part::One(glob), after @ ..], [name, below @ ..]) if glob.matches(name) => {
                (parts, rest) = (after, below);
                continue;
            }
            _ => {}
        }
        let Some((after, [_, from @ ..])) = retry else { return false };
        retry = Some((after, from));
        (parts, rest) = (after, from);
    }
}

/// What one component must look like.
#[derive(Debug, Clone, Default)]
struct Glob {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    /// `?`
    One,
    /// `*`
    Many,
    Class(Class),
}

impl Piece {
    /// Takes the piece off the front of a component.
    fn strip<'a>(&self, name: &'a str) -> Option<&'a str> {
        if let Self::Text(text) = self {
            return name.strip_prefix(text.as_str());
        }
        let mut chars = name.chars();
        let first = chars.next()?;
        match self {
            Self::Class(class) if !class.holds(first) => None,
            _ => Some(chars.as_str()),
        }
    }
}

impl Glob {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds a token; `None` if it may match a slash.
    fn push(&mut self, token: &Token) -> Option<()> {
        let piece = match token {
            Token::Char(c) => {
                if let Some(Piece::Text(text)) = self.pieces.last_mut() {
                    text.push(*c);
                    return Some(());
                }
                Piece::Text(c.to_string())
            }
            Token::One => Piece::One,
            Token::Segment => Piece::Many,
            Token::Class(class) if !class.holds('/') => Piece::Class(class.clone()),
            _ => return None,
        };
        self.pieces.push(piece);
        Some(())
    }

    /// Goes back to the last `*` alone, as [`match_components`] does.
    fn matches(&self, name: &str) -> bool {
        if let Some(Piece::Text(end)) = self.pieces.last()
            && !name.ends_with(end.as_str())
        {
            return false;
        }
        let (mut pieces, mut rest) = (self.pieces.as_slice(), name);
        let mut retry: Option<(&[Piece], &str)> = None;
        loop {
            match pieces.split_first() {
                Some((Piece::Many, [])) => return true,
                Some((Piece::Many, after)) => {
                    retry = Some((after, rest));
                    pieces = after;
                    continue;
                }
                Some((piece, after)) => {
                    if let Some(below) = piece.strip(rest) {
                        (pieces, rest) = (after, below);
                        continue;
                    }
                }
                None if rest.is_empty() => return true,
                None => {}
            }
            let Some((after, from)) = retry else { return false };
            let mut chars = from.chars();
            if chars.next().is_none() {
                return false;
            }
            retry = Some((after, chars.as_str()));
            (pieces, rest) = (after, chars.as_str());
        }
    }
}
