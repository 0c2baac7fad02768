//! Places in a Dockerfile's text.

/// A half-open range of byte offsets into [`Dockerfile::text`](crate::Dockerfile::text).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
}

impl Span {
    /// Makes a span of `start..end`; an end before the start gives an empty span.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }
}

/// A value with the place it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// Joins a value and its place.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

/// Returns the line and the column of a byte offset, both counted from 1, the column in characters.
///
/// An offset behind the end of the text is taken as the end.
#[must_use]
pub fn line_col(text: &str, offset: usize) -> (usize, usize) {
    let head = text.get(..offset).unwrap_or(text);
    let start = head.rfind('\n').map_or(0, |newline| newline + 1);
    let line = head.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, head.get(start..).unwrap_or_default().chars().count() + 1)
}
