//! The lint rules: their names, what the text alone decides, and the `check` directives.
//!
//! Findings are [`Diagnostic`]s with a rule's name and BuildKit's own message. [`lint`] gives those that the text alone
//! decides. Others depend on the build: on its variables and base images, on which stages it needs, on the ignore file
//! ([`needs_plan`]). Who has these makes the findings with [`Diagnostic::warning`] where [`allows`] says so.
//!
//! ```
//! use rbuild_dockerfile::{Dockerfile, lint};
//!
//! let (dockerfile, _) = Dockerfile::parse("FROM debian as build\nMAINTAINER me\n");
//! let rules: Vec<_> = lint::lint(&dockerfile).into_iter().filter_map(|found| found.rule).collect();
//! assert_eq!(rules, ["FromAsCasing", "MaintainerDeprecated"]);
//! ```
//!
//! # References
//! <https://docs.docker.com/reference/build-checks/>

mod names;
mod rules;

use std::collections::BTreeSet;

use crate::diagnostic::Diagnostic;
use crate::directive::Check;
use crate::expand::Expander;
use crate::instruction::Instruction;
use crate::node::Node;
use crate::parse::{Dockerfile, Stage};
use crate::span::Span;

pub use rules::*;

/// Runs every rule that the text alone decides, the `check` directives applied.
///
/// The findings are in the order of the file. A file with errors gives only those of rules that need no instructions.
#[must_use]
pub fn lint(dockerfile: &Dockerfile) -> Vec<Diagnostic> {
    let mut linter = Linter { dockerfile, found: Vec::new() };
    for node in &dockerfile.nodes {
        linter.continuation(node);
    }
    linter.keywords();
    linter.stage_names();
    linter.global_args();
    for stage in &dockerfile.stages {
        linter.from(stage);
        linter.stage(stage);
    }
    linter.found.sort_by_key(|diagnostic| diagnostic.lines);
    linter.found
}

/// Tells whether a rule may speak: neither the `check` directive at the top of the file nor one right above the
/// instruction, where there is one, silences it.
#[must_use]
pub fn allows(dockerfile: &Dockerfile, instruction: Option<&Node>, rule: &Rule) -> bool {
    let default = Check::default();
    let check = dockerfile.directives.check.as_ref().unwrap_or(&default);
    match instruction.filter(|node| !node.comments.is_empty()) {
        Some(node) => with_comments(check, node).allows(rule),
        None => check.allows(rule),
    }
}

/// Adds what the comments right above an instruction say.
fn with_comments(check: &Check, node: &Node) -> Check {
    let mut check = check.clone();
    for inline in node.comments.iter().filter_map(|line| inline_check(line)) {
        check.skip.extend(inline.skip);
        check.skip_all |= inline.skip_all;
        check.experimental.extend(inline.experimental);
        check.experimental_all |= inline.experimental_all;
    }
    check.skip.sort();
    check.skip.dedup();
    check
}

/// Returns the error that `# check=error=true` makes of findings.
#[must_use]
pub fn violation(check: &Check, found: &[Diagnostic]) -> Option<Diagnostic> {
    let rules: BTreeSet<&str> = found.iter().filter_map(|diagnostic| diagnostic.rule).collect();
    if !check.error || rules.is_empty() {
        return None;
    }
    let first = found.iter().find(|diagnostic| diagnostic.rule.is_some());
    let names: Vec<&str> = rules.into_iter().collect();
    let error = Diagnostic::error(format!("lint violation found for rules: {}", names.join(", ")));
    Some(Diagnostic {
        span: first.and_then(|first| first.span),
        lines: first.and_then(|first| first.lines),
        ..error
    })
}

/// Reads `check=...` in a comment line; one that is not well formed is a comment like others.
fn inline_check(comment: &str) -> Option<Check> {
    let value = comment.strip_prefix("check")?.trim_start().strip_prefix('=')?;
    Check::parse(value.trim().split(' ').next().unwrap_or_default()).ok()
}

/// Whether a keyword is in upper or lower case, if it is in one of them.
fn casing(keyword: &str) -> Option<&'static str> {
    if keyword == keyword.to_lowercase() {
        return Some("lowercase");
    }
    (keyword == keyword.to_uppercase()).then_some("uppercase")
}

struct Linter<'a> {
    dockerfile: &'a Dockerfile,
    found: Vec<Diagnostic>,
}

impl Linter<'_> {
    /// Reports at an instruction, unless a `check` directive silences the rule there.
    fn report(&mut self, rule: &Rule, span: Span, message: impl Into<String>) {
        if !allows(self.dockerfile, self.dockerfile.node_at(span), rule) {
            return;
        }
        let mut diagnostic = Diagnostic::warning(rule, message).at(span);
        diagnostic.lines = self.dockerfile.lines(span);
        self.found.push(diagnostic);
    }

    fn continuation(&mut self, node: &Node) {
        if let Some(line) = node.empty_continuation
            && allows(self.dockerfile, Some(node), &NO_EMPTY_CONTINUATION)
        {
            let warning = Diagnostic::warning(&NO_EMPTY_CONTINUATION, "Empty continuation line");
            self.found.push(warning.at(node.span).on_lines(line, line));
        }
    }

    /// All keywords of the stages against the casing that most of them have.
    fn keywords(&mut self) {
        let mut keywords: Vec<(&str, Span)> = Vec::new();
        for stage in &self.dockerfile.stages {
            let spans = [stage.from].into_iter().chain(stage.instructions.iter().map(|one| one.span));
            let nodes = spans.filter_map(|span| self.dockerfile.node_at(span));
            keywords.extend(nodes.map(|node| (node.written_keyword(), node.keyword)));
        }
        let count = |case| keywords.iter().filter(|(keyword, _)| casing(keyword) == Some(case)).count();
        let majority = if count("lowercase") > count("uppercase") { "lowercase" } else { "uppercase" };
        for (keyword, span) in keywords {
            if casing(keyword) != Some(majority) {
                let message =
                    format!("Command '{keyword}' should match the case of the command majority ({majority})");
                self.report(&CONSISTENT_INSTRUCTION_CASING, span, message);
            }
        }
    }

    fn stage_names(&mut self) {
        let mut seen = BTreeSet::new();
        for stage in &self.dockerfile.stages {
            let (Some(name), Some(written)) = (&stage.name, &stage.name_written) else { continue };
            if written.value != *name {
                let message = format!("Stage name '{}' should be lowercase", written.value);
                self.report(&STAGE_NAME_CASING, written.span, message);
            }
            if matches!(name.as_str(), "scratch" | "context") {
                let message = format!("Stage name should not use the same name as reserved stage {name:?}");
                self.report(&RESERVED_STAGE_NAME, written.span, message);
            }
            if !seen.insert(name) {
                let message = format!("Duplicate stage name {name:?}, stage names should be unique");
                self.report(&DUPLICATE_STAGE_NAME, written.span, message);
            }
        }
    }

    fn global_args(&mut self) {
        for args in self.dockerfile.args.chunk_by(|one, next| one.span == next.span) {
            let names: Vec<&str> = args.iter().map(|arg| arg.value.name.as_str()).collect();
            if let Some(first) = args.first() {
                self.description("ARG", &names, first.span);
            }
        }
    }

    /// The comment right above must begin with a name that the instruction declares.
    fn description(&mut self, keyword: &str, names: &[&str], span: Span) {
        let Some(node) = self.dockerfile.node_at(span) else { return };
        let comment = node.comments.last().and_then(|comment| comment.split(' ').next());
        let Some(first) = comment.filter(|first| !names.is_empty() && !names.contains(first)) else { return };
        if inline_check(first).is_some() {
            return;
        }
        let name = if let [name] = names { name } else { "<arg_key>" };
        let message = format!("Comment for {keyword} should follow the format: `# {name} <description>`");
        self.report(&INVALID_DEFINITION_DESCRIPTION, span, message);
    }

    fn from(&mut self, stage: &Stage) {
        let Some(node) = self.dockerfile.node_at(stage.from) else { return };
        let names: Vec<&str> = stage.name.as_deref().into_iter().collect();
        self.description("FROM", &names, stage.from);
        let from = node.written_keyword();
        if let (Some(case), Some(keyword)) = (casing(from), node.args.get(1))
            && casing(keyword) != Some(case)
        {
            let message = format!("'{keyword}' and '{from}' keywords' casing do not match");
            self.report(&FROM_AS_CASING, stage.from, message);
        }
        self.platform(stage);
    }

    fn platform(&mut self, stage: &Stage) {
        let Some(platform) = &stage.platform else { return };
        let marker = "rbuild/target";
        let lookup = |name: &str| (name == "TARGETPLATFORM").then(|| marker.to_owned());
        let expander = Expander::new(self.dockerfile.directives.escape);
        let Ok(expanded) = expander.word(&platform.value, &lookup) else { return };
        if !expanded.unmatched.is_empty() {
            return;
        }
        if expanded.matched.is_empty() {
            let name = stage.name.as_deref().unwrap_or_default();
            if names::platform(&expanded.text)
                .is_some_and(|(os, arch)| !name.contains(&os) && !name.contains(&arch))
            {
                let message =
                    format!("FROM --platform flag should not use constant value {:?}", expanded.text);
                self.report(&FROM_PLATFORM_FLAG_CONST_DISALLOWED, platform.span, message);
            }
        } else if expanded.text == marker {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                platform.value
            );
            self.report(&REDUNDANT_TARGET_PLATFORM, platform.span, message);
        }
    }

    fn stage(&mut self, stage: &Stage) {
        for instruction in &stage.instructions {
            match &instruction.value {
                Instruction::Maintainer(_) => {
                    let message = "Maintainer instruction is deprecated in favor of using label";
                    self.report(&MAINTAINER_DEPRECATED, instruction.span, message);
                }
                Instruction::Arg(args) => {
                    let names: Vec<&str> = args.iter().map(|arg| arg.name.as_str()).collect();
                    self.description("ARG", &names, instruction.span);
                }
                _ => {}
            }
        }
    }
}
