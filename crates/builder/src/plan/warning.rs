//! Findings of lint rules that only planning can decide.

use rbuild_dockerfile::lint::Rule;
use rbuild_dockerfile::{Diagnostic, Dockerfile, Node, Span, lint, nearest_variable};

/// A result whose error forbids the build.
pub(super) type Checked<T> = Result<T, Box<Diagnostic>>;

/// Makes an error; its place is added where the instruction is known.
pub(super) fn refuse(message: impl Into<String>) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(message))
}

/// The instruction at a place. Nodes stand in the order of the text, so that a search needs no walk.
pub(super) fn node(dockerfile: &Dockerfile, span: Span) -> Option<&Node> {
    let after = dockerfile.nodes.partition_point(|node| node.span.start <= span.start);
    dockerfile.nodes.get(after.checked_sub(1)?).filter(|node| span.end <= node.span.end)
}

/// Says where a finding belongs: the characters and the lines of the instruction.
pub(super) fn place(
    diagnostic: impl Into<Box<Diagnostic>>,
    dockerfile: &Dockerfile,
    span: Span,
) -> Box<Diagnostic> {
    let diagnostic = *diagnostic.into();
    let diagnostic = if diagnostic.span.is_some() { diagnostic } else { diagnostic.at(span) };
    Box::new(match node(dockerfile, span) {
        Some(node) if diagnostic.lines.is_none() => diagnostic.on_lines(node.start, node.end),
        _ => diagnostic,
    })
}

/// Makes the warning of a rule, unless the rule is switched off for the file or for the instruction.
pub(super) fn new(dockerfile: &Dockerfile, span: Span, rule: &Rule, message: String) -> Option<Diagnostic> {
    let allowed = lint::allows(dockerfile, node(dockerfile, span), rule);
    allowed.then(|| *place(Diagnostic::warning(rule, message), dockerfile, span))
}

/// How many bytes of an instruction are searched for a variable: findings are as many as variables, and both are chosen by
/// the Dockerfile.
const MAX_SEARCH: usize = 4096;

/// The first use of a variable within a place, else the place.
pub(super) fn use_of(dockerfile: &Dockerfile, span: Span, name: &str) -> Span {
    let text = dockerfile.text.get(span.start..span.end).unwrap_or_default();
    let escape = dockerfile.directives.escape;
    let found = text.match_indices('$').take_while(|(at, _)| *at < MAX_SEARCH).find_map(|(at, _)| {
        let (before, after) = (text.get(..at)?, text.get(at + 1..)?);
        let (braces, word) = after.strip_prefix('{').map_or((0, after), |word| (2, word));
        let rest = word.strip_prefix(name)?;
        let longer = rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        if longer || before.ends_with(escape) {
            return None;
        }
        let length = match braces {
            0 => 1 + name.len(),
            _ => 1 + after.find('}').map_or(1 + name.len(), |brace| brace + 1),
        };
        Some(Span::new(span.start + at, (span.start + at + length).min(span.end)))
    });
    found.unwrap_or(span)
}

/// ` (did you mean $PATH?)` when a name is near, else nothing.
pub(super) fn did_you_mean<'a>(name: &str, names: impl IntoIterator<Item = &'a str>, sigil: &str) -> String {
    nearest_variable(name, names).map(|near| format!(" (did you mean {sigil}{near}?)")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_where_they_are_used() {
        let check = |line: &str, expect: &str| {
            let (dockerfile, _) = Dockerfile::parse(format!("FROM scratch\n{line}\n"));
            let place = dockerfile.nodes[1].span;
            let span = use_of(&dockerfile, place, "x");
            assert_eq!(&dockerfile.text[span.start..span.end], expect, "{line}");
        };
        check("ENV A=$x", "$x");
        check("ENV A=$xy${x}", "${x}");
        check("ENV A=${x:+a}b}", "${x:+a}");
        check("ENV A=\\$x B=$x/", "$x");
        check("ENV A=${y:-$x}", "$x");
        check("ENV A=é", "ENV A=é");
        check("ENV A=${x", "${x");
    }
}
