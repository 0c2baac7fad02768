//! Findings of lint rules that only planning can decide.

use rbuild_dockerfile::{Diagnostic, Dockerfile, Severity, Span, nearest};

/// A lint rule.
#[derive(Debug)]
pub(super) struct Rule {
    name: &'static str,
    url: Option<&'static str>,
}

pub(super) const UNDEFINED_VAR: Rule =
    Rule { name: "UndefinedVar", url: Some("https://docs.docker.com/go/dockerfile/rule/undefined-var/") };
pub(super) const UNDEFINED_ARG_IN_FROM: Rule = Rule {
    name: "UndefinedArgInFrom",
    url: Some("https://docs.docker.com/go/dockerfile/rule/undefined-arg-in-from/"),
};
pub(super) const INVALID_DEFAULT_ARG_IN_FROM: Rule = Rule {
    name: "InvalidDefaultArgInFrom",
    url: Some("https://docs.docker.com/go/dockerfile/rule/invalid-default-arg-in-from/"),
};
pub(super) const WORKDIR_RELATIVE_PATH: Rule = Rule {
    name: "WorkdirRelativePath",
    url: Some("https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/"),
};
pub(super) const INVALID_BASE_IMAGE_PLATFORM: Rule = Rule { name: "InvalidBaseImagePlatform", url: None };

/// A result whose error forbids the build.
pub(super) type Checked<T> = Result<T, Box<Diagnostic>>;

/// Makes an error; its place is added where the instruction is known.
pub(super) fn refuse(message: impl Into<String>) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(message))
}

/// Says where a finding belongs: the characters and the lines of the instruction.
pub(super) fn place(
    diagnostic: impl Into<Box<Diagnostic>>,
    dockerfile: &Dockerfile,
    span: Span,
) -> Box<Diagnostic> {
    let diagnostic = *diagnostic.into();
    let diagnostic = if diagnostic.span.is_some() { diagnostic } else { diagnostic.at(span) };
    Box::new(match dockerfile.lines(span) {
        Some((start, end)) if diagnostic.lines.is_none() => diagnostic.on_lines(start, end),
        _ => diagnostic,
    })
}

/// Makes the warning of a rule, unless the rule is switched off for the file or for the instruction.
pub(super) fn new(dockerfile: &Dockerfile, span: Span, rule: &Rule, message: String) -> Option<Diagnostic> {
    let is_rule = |name: &str| name.eq_ignore_ascii_case(rule.name) || name.eq_ignore_ascii_case("all");
    let check = dockerfile.directives.check.as_ref();
    let for_file = check.is_some_and(|check| check.skip_all || check.skip.iter().any(|name| is_rule(name)));
    let comments = dockerfile.node_at(span).map(|node| node.comments.as_slice()).unwrap_or_default();
    let for_instruction = comments.iter().any(|comment| skipped_by(comment).any(is_rule));
    if for_file || for_instruction {
        return None;
    }
    let warning = Diagnostic {
        severity: Severity::Warning,
        rule: Some(rule.name),
        url: rule.url,
        ..Diagnostic::error(message)
    };
    Some(*place(warning, dockerfile, span))
}

/// ` (did you mean $PATH?)` when a name is near, else nothing.
pub(super) fn did_you_mean<'a>(name: &str, names: impl IntoIterator<Item = &'a str>, sigil: &str) -> String {
    nearest(name, names).map(|near| format!(" (did you mean {sigil}{near}?)")).unwrap_or_default()
}

/// The rules that a comment above an instruction switches off: `check=skip=A,B`.
fn skipped_by(comment: &str) -> impl Iterator<Item = &str> {
    let options = comment.strip_prefix("check=").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    options.split(';').filter_map(|option| option.strip_prefix("skip=")).flat_map(|names| names.split(','))
}
