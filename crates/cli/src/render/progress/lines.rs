//! Bytes a process wrote, cut into lines.

/// A line longer than this is cut, in bytes.
const LONGEST: usize = 16 << 10;

/// Collects what one stream writes and gives whole lines back.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes more bytes and returns the lines they complete.
    ///
    /// Of a line that was overwritten with carriage returns, as progress bars do, the last writing counts.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.pending.len() >= LONGEST {
                lines.extend(self.rest());
            }
        }
        lines
    }

    /// Returns the line that was not ended.
    pub(super) fn rest(&mut self) -> Option<String> {
        let bytes = std::mem::take(&mut self.pending);
        if bytes.is_empty() {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches(['\n', '\r']);
        Some(text.rsplit('\r').next().unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_lines() {
        let check = |pieces: &[&str], expect: &[&str]| {
            let mut lines = Lines::default();
            let mut got: Vec<String> = pieces.iter().flat_map(|piece| lines.push(piece.as_bytes())).collect();
            got.extend(lines.rest());
            assert_eq!(got, expect, "{pieces:?}");
        };
        check(&["a\nb\n"], &["a", "b"]);
        check(&["a", "b\nc"], &["ab", "c"]);
        check(&["é".get(..2).unwrap_or_default()], &["é"]);
        check(&["10%\r50%\r100%\r\n"], &["100%"]);
        check(&["\n\n"], &["", ""]);
        check(&[], &[]);
    }

    #[test]
    fn characters_may_be_split() {
        let mut lines = Lines::default();
        assert!(lines.push(&[0xc3]).is_empty());
        assert_eq!(lines.push(&[0xa9, b'\n']), ["é"]);
    }

    #[test]
    fn endless_lines_are_cut() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(&[b'x'; 2 * LONGEST]).len(), 1);
        assert!(lines.rest().is_none());
    }
}
