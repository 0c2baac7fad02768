//! Finding heredocs in an instruction.

use crate::expand::{ExpandError, Expander, Quotes};
use crate::node::Heredoc;

/// Finds the heredocs of a whole instruction line, their bodies still empty.
///
/// A line that does not lex (an unpaired quote, say) has none: its shell will complain.
pub(crate) fn in_line(line: &str) -> Result<Vec<Heredoc>, ExpandError> {
    if !line.contains("<<") {
        return Ok(Vec::new());
    }
    let lexer =
        Expander { quotes: Quotes::Keep, keep_escapes: true, keep_unset: true, ..Expander::new('\\') };
    let words = lexer.words(line, &|_| None).unwrap_or_default();
    words.iter().filter_map(|word| in_word(word).transpose()).collect()
}

/// Reads `[fd]<<[-]name`; any quote in the name turns expansion off.
pub(crate) fn in_word(word: &str) -> Result<Option<Heredoc>, ExpandError> {
    let Some((digits, rest)) = word.split_once("<<") else { return Ok(None) };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || rest.contains('<') {
        return Ok(None);
    }
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    let bare = Expander { keep_unset: true, ..Expander::new('\\') };
    let quoted = Expander { quotes: Quotes::Keep, ..bare.clone() };
    let (names, raw) = (bare.words(rest, &|_| None)?, quoted.words(rest, &|_| None)?);
    let ([name], [raw]) = (names.as_slice(), raw.as_slice()) else { return Ok(None) };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Heredoc {
        name: name.clone(),
        expand: quotes(name) == quotes(raw),
        chomp,
        fd: digits.parse().unwrap_or(if digits.is_empty() { 0 } else { u32::MAX }),
        ..Heredoc::default()
    }))
}

/// Tells whether a word is a heredoc.
pub(crate) fn is_heredoc(word: &str) -> bool {
    matches!(in_word(word), Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check = |line: &str, expect: &[(&str, bool, bool, u32)]| {
            let found = in_line(line).unwrap();
            let found: Vec<_> =
                found.iter().map(|doc| (doc.name.as_str(), doc.expand, doc.chomp, doc.fd)).collect();
            assert_eq!(found, expect, "{line:?}");
        };
        check("RUN <<EOF", &[("EOF", true, false, 0)]);
        check("RUN <<-EOF", &[("EOF", true, true, 0)]);
        check("RUN << EOF", &[("EOF", true, false, 0)]);
        check("RUN 3<<EOF cat", &[("EOF", true, false, 3)]);
        check("RUN <<\"EOF\"", &[("EOF", false, false, 0)]);
        check("RUN <<E'O'F", &[("EOF", false, false, 0)]);
        check("COPY <<a <<b /c", &[("a", true, false, 0), ("b", true, false, 0)]);
        check("RUN <<$EOF", &[("$EOF", true, false, 0)]);
        check("RUN echo $((1<<2))", &[]);
        check("RUN cat <<<foo", &[]);
        check("RUN echo \"<<EOF\"", &[]);
        check("RUN a<<EOF", &[]);
        check("RUN echo it's <<EOF", &[]);
    }
}
