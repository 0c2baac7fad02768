//! Findings in a Dockerfile with the lines they are about.

use std::io::IsTerminal;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use rbuild_dockerfile::{Diagnostic, Dockerfile, Severity};

/// Whether escape sequences may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Never,
    Always,
}

impl Colour {
    /// Decides for one of the standard streams as <https://no-color.org> has it.
    #[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
    pub(crate) fn on(stream: &impl IsTerminal) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if stream.is_terminal() && !unwanted { Self::Always } else { Self::Never }
    }
}

/// Draws `diagnostics` of the Dockerfile `name` with its `text`, one after the other.
pub(crate) fn render(name: &str, text: &str, diagnostics: &[Diagnostic], colour: Colour) -> String {
    let drawn: Vec<String> =
        diagnostics.iter().map(|diagnostic| render_one(name, text, diagnostic, colour)).collect();
    drawn.join("\n\n")
}

/// Draws the instruction that starts on `line`, counted from 1, with `message` at it; `None` when there is no such line.
pub(crate) fn excerpt(name: &str, text: &str, line: usize, message: &str, colour: Colour) -> Option<String> {
    let line = u32::try_from(line).ok()?;
    let (dockerfile, _) = Dockerfile::parse(text);
    let end = dockerfile.nodes.iter().find(|node| node.start == line).map_or(line, |node| node.end);
    let span = span_of_lines(text, (line, end))?;
    let snippet =
        Snippet::source(text).path(name).annotation(AnnotationKind::Primary.span(span).label(message));
    Some(renderer(colour).render(&[Group::with_level(Level::ERROR).element(snippet)]))
}

fn render_one(name: &str, text: &str, diagnostic: &Diagnostic, colour: Colour) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(super::printable(&diagnostic.message));
    let title = match diagnostic.rule {
        Some(rule) => title.id(rule),
        None => title,
    };
    let span = diagnostic.span.map(|span| span.start..span.end);
    let span = span.or_else(|| span_of_lines(text, diagnostic.lines?));
    let mut group = match span {
        Some(span) => {
            let annotation = AnnotationKind::Primary.span(clamp(text, span));
            title.element(Snippet::source(text).path(name).annotation(annotation))
        }
        None => Group::with_title(title),
    };
    if let Some(hint) = &diagnostic.hint {
        group = group.element(Level::HELP.message(super::printable(hint)));
    }
    if let Some(url) = diagnostic.url {
        group = group.element(Level::NOTE.message(url));
    }
    renderer(colour).render(&[group])
}

fn renderer(colour: Colour) -> Renderer {
    match colour {
        Colour::Never => Renderer::plain(),
        Colour::Always => Renderer::styled(),
    }
}

/// Finds the characters of the lines `first` to `last`, counted from 1, without the newline at the end.
fn span_of_lines(text: &str, (first, last): (u32, u32)) -> Option<Range<usize>> {
    let mut offset = 0;
    let mut start = None;
    let mut end = 0;
    for (number, line) in (1_u32..).zip(text.split_inclusive('\n')) {
        if number == first {
            start = Some(offset);
        }
        if number <= last {
            end = offset + line.trim_end_matches(['\n', '\r']).len();
        }
        offset += line.len();
    }
    start.map(|start| start..end.max(start))
}

/// Moves a span onto characters of the text: the renderer panics on others.
fn clamp(text: &str, span: Range<usize>) -> Range<usize> {
    let mut start = span.start.min(text.len());
    let mut end = span.end.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_dockerfile::Span;

    const TEXT: &str = "FROM debian\nRUN apt-get update && \\\n    apt-get install gcc\nCOPPY é /\n";

    fn check(diagnostic: Diagnostic, expect: &str) {
        let got = render("Dockerfile", TEXT, &[diagnostic], Colour::Never);
        assert_eq!(got.trim_end(), expect.trim_matches('\n'), "\n{got}");
    }

    #[test]
    fn errors_point_at_the_word() {
        let start = TEXT.find("COPPY").unwrap();
        let error = Diagnostic::error("unknown instruction: COPPY").at(Span::new(start, start + 5));
        check(
            error.with_hint("did you mean `COPY`?"),
            "
error: unknown instruction: COPPY
 --> Dockerfile:4:1
  |
4 | COPPY é /
  | ^^^^^
  |
  = help: did you mean `COPY`?",
        );
    }

    #[test]
    fn lines_stand_in_for_a_span() {
        let warning = Diagnostic {
            severity: Severity::Warning,
            rule: Some("Rule"),
            url: Some("https://example.com"),
            ..Diagnostic::error("not so").on_lines(2, 3)
        };
        check(
            warning,
            "
warning[Rule]: not so
 --> Dockerfile:2:1
  |
2 | / RUN apt-get update && \\
3 | |     apt-get install gcc
  | |_______________________^
  |
  = note: https://example.com",
        );
    }

    #[test]
    fn no_place_is_no_excerpt() {
        check(Diagnostic::error("the Dockerfile is empty"), "error: the Dockerfile is empty");
    }

    #[test]
    fn wild_spans_do_not_panic() {
        let wide = TEXT.find('é').unwrap();
        for (start, end) in
            [(wide + 1, wide + 1), (0, usize::MAX), (usize::MAX, usize::MAX), (TEXT.len(), TEXT.len())]
        {
            let diagnostic = Diagnostic::error("x").at(Span { start, end });
            assert!(!render("Dockerfile", TEXT, &[diagnostic], Colour::Always).is_empty());
        }
        assert!(
            !render("Dockerfile", "", &[Diagnostic::error("x").at(Span::new(0, 9))], Colour::Never)
                .is_empty()
        );
    }

    #[test]
    fn failing_steps_are_shown_in_place() {
        let got = excerpt("Dockerfile", TEXT, 2, "exit code: 1", Colour::Never).unwrap();
        let expect = "
 --> Dockerfile:2:1
  |
2 | / RUN apt-get update && \\
3 | |     apt-get install gcc
  | |_______________________^ exit code: 1";
        assert_eq!(got.trim_end(), expect.trim_start_matches('\n'), "\n{got}");
        assert_eq!(excerpt("Dockerfile", TEXT, 9, "x", Colour::Never), None);
    }
}
