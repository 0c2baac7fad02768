//! Findings of lint rules that only planning can decide.

use rbuild_dockerfile::lint::Rule;
use rbuild_dockerfile::{Check, Diagnostic, Dockerfile, Node, Span, nearest};

const fn rule(name: &'static str, description: &'static str, url: Option<&'static str>) -> Rule {
    Rule { name, description, url, experimental: false }
}

pub(super) const UNDEFINED_VAR: Rule = rule(
    "UndefinedVar",
    "Variables should be defined before their use",
    Some("https://docs.docker.com/go/dockerfile/rule/undefined-var/"),
);
pub(super) const UNDEFINED_ARG_IN_FROM: Rule = rule(
    "UndefinedArgInFrom",
    "FROM command must use declared ARGs",
    Some("https://docs.docker.com/go/dockerfile/rule/undefined-arg-in-from/"),
);
pub(super) const INVALID_DEFAULT_ARG_IN_FROM: Rule = rule(
    "InvalidDefaultArgInFrom",
    "Default value for global ARG results in an empty or invalid base image name",
    Some("https://docs.docker.com/go/dockerfile/rule/invalid-default-arg-in-from/"),
);
pub(super) const WORKDIR_RELATIVE_PATH: Rule = rule(
    "WorkdirRelativePath",
    "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base \
     image changes",
    Some("https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/"),
);
pub(super) const INVALID_BASE_IMAGE_PLATFORM: Rule =
    rule("InvalidBaseImagePlatform", "Base image platform does not match expected target platform", None);

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
    let comments = node(dockerfile, span).map(|node| node.comments.as_slice()).unwrap_or_default();
    let above = comments.iter().filter_map(|comment| inline_check(comment));
    let allowed = above.chain(dockerfile.directives.check.clone()).all(|check| check.allows(rule));
    allowed.then(|| *place(Diagnostic::warning(rule, message), dockerfile, span))
}

/// ` (did you mean $PATH?)` when a name is near, else nothing.
pub(super) fn did_you_mean<'a>(name: &str, names: impl IntoIterator<Item = &'a str>, sigil: &str) -> String {
    nearest(name, names).map(|near| format!(" (did you mean {sigil}{near}?)")).unwrap_or_default()
}

/// What a comment above an instruction says about rules: `check=skip=A,B`, up to the first space.
fn inline_check(comment: &str) -> Option<Check> {
    let (key, value) = comment.split_once('=')?;
    if !key.trim().eq_ignore_ascii_case("check") {
        return None;
    }
    Check::parse(value.split_whitespace().next()?).ok()
}
