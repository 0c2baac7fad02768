//! From physical lines to logical ones: comments, directives, continuations, heredoc bodies.

use crate::diagnostic::Diagnostic;
use crate::directive::{DirectiveReader, Found};
use crate::node::Heredoc;
use crate::span::Span;

/// Longest physical line in bytes, its newline not counted.
const MAX_LINE: usize = 65_535;

/// An instruction as one line, and where its pieces come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logical {
    /// The joined text: no newline, no continuation character, no comment.
    pub(crate) text: String,
    /// First line, counted from 1.
    pub(crate) start: u32,
    /// Last line, heredoc bodies included once they are read.
    pub(crate) end: u32,
    /// Bytes of all lines.
    pub(crate) span: Span,
    /// Comment lines above.
    pub(crate) comments: Vec<String>,
    /// Whether an empty line stands inside a continuation.
    pub(crate) empty_continuation: bool,
    /// Where each piece of `text` begins: offset in `text`, offset in the file.
    pieces: Vec<(usize, usize)>,
}

impl Logical {
    /// Returns the place in the file of a range of `text`.
    pub(crate) fn place(&self, start: usize, end: usize) -> Span {
        let last = end.max(start + 1) - 1;
        Span::new(self.offset(start), self.offset(last) + end.saturating_sub(last))
    }

    fn offset(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|(joined, _)| *joined <= at);
        match piece.checked_sub(1).and_then(|index| self.pieces.get(index)) {
            Some((joined, source)) => source + (at - joined),
            None => self.span.start,
        }
    }

    fn push(&mut self, piece: &str, offset: usize) {
        self.pieces.push((self.text.len(), offset));
        self.text.push_str(piece);
    }
}

/// Reads a file line by line; every line is looked at once.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    offset: usize,
    line: u32,
    /// The line, counted from 1, that is longer than [`MAX_LINE`] bytes in the file.
    too_long: Option<u32>,
    comments: Vec<String>,
    pub(crate) directives: DirectiveReader,
}

impl<'a> Lines<'a> {
    /// Starts at the top of `text`; `bytes` is the same text before invalid UTF-8 was replaced.
    pub(crate) fn new(text: &'a str, bytes: &[u8]) -> Self {
        let long = |line: &[u8]| line.len() > MAX_LINE;
        let too_long = bytes.split(|byte| *byte == b'\n').position(long);
        Self {
            text,
            offset: 0,
            line: 0,
            too_long: too_long.and_then(|index| u32::try_from(index + 1).ok()),
            comments: Vec::new(),
            directives: DirectiveReader::default(),
        }
    }

    /// Returns the next physical line with its newline, and its offset.
    fn next_line(&mut self) -> Result<Option<(&'a str, usize)>, Diagnostic> {
        let rest = self.text.get(self.offset..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let length = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let (line, start) = (rest.get(..length).unwrap_or(rest), self.offset);
        self.offset += line.len();
        self.line = self.line.saturating_add(1);
        if self.too_long == Some(self.line) {
            let message = format!("dockerfile line greater than max allowed size of {MAX_LINE}");
            return Err(Diagnostic::error(message)
                .at(Span::new(start, start + trim_newline(line).len()))
                .on_lines(self.line, self.line));
        }
        Ok(Some((line, start)))
    }

    /// Returns the next instruction, without its heredoc bodies.
    pub(crate) fn next_logical(&mut self) -> Result<Option<Logical>, Diagnostic> {
        while let Some((line, offset)) = self.next_line()? {
            let (line, offset) = match line.strip_prefix('\u{feff}') {
                Some(rest) if offset == 0 => (rest, offset + '\u{feff}'.len_utf8()),
                _ => (line, offset),
            };
            let line = trim_newline(line);
            let trimmed = line.trim_start();
            let offset = offset + (line.len() - trimmed.len());
            let directive = self.directive(trimmed, offset)?;
            if let Some(comment) = trimmed.strip_prefix('#') {
                match comment.trim() {
                    _ if directive == Found::Directive => {}
                    "" => self.comments.clear(),
                    comment => self.comments.push(comment.to_owned()),
                }
                continue;
            }
            let (piece, continues) = strip_continuation(trimmed, self.directives.escape());
            if piece.is_empty() && !continues {
                continue;
            }
            let mut logical =
                Logical { start: self.line, span: Span::new(offset, offset), ..Logical::default() };
            logical.push(piece, offset);
            self.join(&mut logical, continues)?;
            logical.comments = std::mem::take(&mut self.comments);
            self.close(&mut logical);
            return Ok(Some(logical));
        }
        Ok(None)
    }

    /// Appends the lines that continue an instruction.
    fn join(&mut self, logical: &mut Logical, mut continues: bool) -> Result<(), Diagnostic> {
        while continues {
            let Some((line, offset)) = self.next_line()? else { break };
            let line = trim_newline(line);
            self.directive(line, offset)?;
            let trimmed = line.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                logical.empty_continuation = true;
                continue;
            }
            let (piece, more) = strip_continuation(line, self.directives.escape());
            logical.push(piece, offset);
            continues = more;
        }
        Ok(())
    }

    /// Reads the body of a heredoc, up to its terminator.
    pub(crate) fn read_heredoc(
        &mut self,
        heredoc: &mut Heredoc,
        logical: &mut Logical,
    ) -> Result<(), Diagnostic> {
        while let Some((line, _)) = self.next_line()? {
            let bare = trim_newline(line);
            let bare = if heredoc.chomp { bare.trim_start_matches('\t') } else { bare };
            if bare == heredoc.name {
                self.close(logical);
                return Ok(());
            }
            heredoc.content.push_str(line);
        }
        self.close(logical);
        Err(Diagnostic::error("unterminated heredoc")
            .at(logical.place(0, logical.text.trim_end().len()))
            .on_lines(logical.start, logical.end)
            .with_hint(format!("end it with a line that holds nothing but `{}`", heredoc.name)))
    }

    fn close(&self, logical: &mut Logical) {
        logical.end = self.line;
        let read = self.text.get(logical.span.start..self.offset).unwrap_or_default();
        logical.span.end = logical.span.start + trim_newline(read).len();
    }

    fn directive(&mut self, line: &str, offset: usize) -> Result<Found, Diagnostic> {
        let at = Span::new(offset, offset + line.len());
        self.directives.read(line, at).map_err(|error| error.at(at).on_lines(self.line, self.line))
    }
}

/// Removes a newline and all carriage returns before it.
fn trim_newline(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// Removes the continuation character, and tells whether there was one.
///
/// Behind another escape character it is an escaped one; that two of them may themselves stand behind a third is not
/// looked at, as in the reference parser.
fn strip_continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(head) if !head.ends_with(escape) => (head, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continuations() {
        let check = |line: &str, escape: char, expect: (&str, bool)| {
            assert_eq!(strip_continuation(line, escape), expect, "{line:?}");
        };
        check("a \\", '\\', ("a ", true));
        check("a \\ \t", '\\', ("a ", true));
        check("\\", '\\', ("", true));
        check("a \\\\", '\\', ("a \\\\", false));
        check("a \\\\\\", '\\', ("a \\\\\\", false));
        check("a \\", '`', ("a \\", false));
        check("a `", '`', ("a ", true));
        check("a \\b", '\\', ("a \\b", false));
        check("", '\\', ("", false));
    }

    #[test]
    fn joined_text_knows_its_places() {
        let text = "RUN a \\\n  # no\n  b\n";
        let mut lines = Lines::new(text, text.as_bytes());
        let logical = lines.next_logical().unwrap().unwrap();
        assert_eq!(logical.text, "RUN a   b");
        assert_eq!((logical.start, logical.end), (1, 3));
        assert_eq!(logical.place(0, 3), Span::new(0, 3));
        let at = logical.place(8, 9);
        assert_eq!(&text[at.start..at.end], "b");
        assert_eq!(&text[logical.span.start..logical.span.end], text.trim_end());
    }
}
