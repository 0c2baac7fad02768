//! Lint rules over a plan: those of the text, those of scopes, those of the context.

use std::collections::{BTreeMap, HashSet};

use rbuild_dockerfile::{Diagnostic, Dockerfile, IgnoreFile, lint};
use rbuild_image::{History, ImageConfig, Platform};

use super::graph::Graph;
use super::join::JoinedPlan;
use super::options::{PlanError, PlanOptions};
use super::step::{CopyKind, CopySource, ImageRequest, Plan, Source, Step, StepKind};
use super::{lower, path, warning};

/// Lists what all lint rules find in a Dockerfile and its plan, in the order of the lines, each finding once.
///
/// `ignore` is the ignore file of the context. Rules that a `check` directive silences are left out.
pub fn findings(dockerfile: &Dockerfile, plan: &JoinedPlan, ignore: Option<&IgnoreFile>) -> Vec<Diagnostic> {
    let mut found = lint::lint(dockerfile);
    found.extend(plan.warnings.iter().cloned());
    found.extend(ignore.into_iter().flat_map(|ignore| ignored_sources(dockerfile, plan, ignore)));
    let mut seen = HashSet::new();
    found.retain(|finding| seen.insert((finding.rule, finding.lines, finding.message.clone())));
    found.sort_by_key(|finding| (finding.lines, finding.rule));
    found
}

/// Returns the error that `# check=error=true` makes of findings.
pub fn violation(dockerfile: &Dockerfile, findings: &[Diagnostic]) -> Option<Diagnostic> {
    lint::violation(dockerfile.directives.check.as_ref()?, findings)
}

/// Plans on top of base images that are not asked for: each is taken to set `PATH` and a command.
///
/// # Errors
/// As [`lower`](lower::lower).
pub fn assume(dockerfile: &Dockerfile, mut graph: Graph, options: &PlanOptions) -> Result<Plan, PlanError> {
    let mut bases: BTreeMap<ImageRequest, ImageConfig> = BTreeMap::new();
    loop {
        let missing = graph.missing(&bases)?;
        if missing.is_empty() {
            return lower::lower(dockerfile, graph, options, &bases);
        }
        bases.extend(missing.into_iter().map(|request| {
            let config = assumed(&request.platform);
            (request, config)
        }));
    }
}

fn assumed(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig::scratch(platform);
    config.config.env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    config.config.cmd = Some(vec!["sh".to_owned()]);
    config.history = vec![History { created_by: Some("base".to_owned()), ..History::default() }];
    config
}

/// Finds sources that the ignore file hides. One with `!` is not looked at: what it brings back cannot be told without
/// the files.
fn ignored_sources(dockerfile: &Dockerfile, plan: &JoinedPlan, ignore: &IgnoreFile) -> Vec<Diagnostic> {
    if ignore.has_exclusions() {
        return Vec::new();
    }
    let steps = plan.stages.iter().flat_map(|stage| &stage.steps);
    steps.flat_map(|step| ignored_of_step(dockerfile, step, ignore)).collect()
}

fn ignored_of_step(dockerfile: &Dockerfile, step: &Step, ignore: &IgnoreFile) -> Vec<Diagnostic> {
    let StepKind::Copy(copy) = &step.kind else { return Vec::new() };
    if copy.from != Source::Context {
        return Vec::new();
    }
    let verb = if copy.kind == CopyKind::Copy { "Copy" } else { "Add" };
    let report = |source: &CopySource| {
        let CopySource::Pattern(pattern) = source else { return None };
        let path = path::clean(pattern);
        let hidden = if path == "." || path == "/" {
            ignore.patterns().iter().any(|pattern| matches!(pattern.as_str(), "*" | "**" | "**/*"))
        } else {
            // With the leading slash, as BuildKit: few patterns match a path that has one.
            ignore.is_ignored(&path)
        };
        let message = format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
        warning::new(dockerfile, step.span, &lint::COPY_IGNORED_FILE, message).filter(|_| hidden)
    };
    copy.sources.iter().filter_map(report).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Scope, graph};
    use super::*;

    fn check(text: &str, ignore: &str, expect: &[(&str, u32)]) {
        let (dockerfile, errors) = Dockerfile::parse(text);
        assert!(errors.is_empty(), "{errors:?}");
        let options = PlanOptions { scope: Scope::All, ..PlanOptions::default() };
        let plan =
            assume(&dockerfile, graph(&dockerfile, &options).expect("a graph"), &options).expect("a plan");
        let ignore = IgnoreFile::parse(ignore.as_bytes()).expect("an ignore file");
        let found = findings(&dockerfile, &plan.into(), Some(&ignore));
        let found: Vec<_> = found
            .iter()
            .map(|finding| (finding.message.as_str(), finding.lines.map_or(0, |(first, _)| first)))
            .collect();
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn hidden_sources_are_found() {
        let ignored = "Attempting to Copy file \"tmp/a\" that is excluded by .dockerignore";
        check("FROM scratch\nCOPY ./tmp/a b /x/\n", "tmp\n", &[(ignored, 2)]);
        check("FROM scratch\nCOPY tmp/a /\nCOPY b /\n", "tmp\n!tmp/a\n", &[]);
        check("FROM scratch AS a\nFROM scratch\nCOPY --from=a /tmp/a /\n", "tmp\n", &[]);
        check("FROM scratch\n# check=skip=CopyIgnoredFile\nCOPY tmp/a /\n", "tmp\n", &[]);
        let added = "Attempting to Add file \"tmp\" that is excluded by .dockerignore";
        check("FROM scratch\nADD tmp/ /\n", "**/tmp\n", &[(added, 2)]);
        let all = "Attempting to Copy file \".\" that is excluded by .dockerignore";
        check("FROM scratch\nCOPY . /\n", "*\n", &[(all, 2)]);
        check("FROM scratch\nCOPY . /\n", "a\nb*\n", &[]);
        check("FROM scratch\nCOPY /tmp/a ../tmp /\n", "tmp\n", &[]);
        let absolute = "Attempting to Copy file \"/tmp/a\" that is excluded by .dockerignore";
        check("FROM scratch\nCOPY /tmp/./a /\n", "**/tmp\n", &[(absolute, 2)]);
    }

    #[test]
    fn all_kinds_of_rules_speak_once_in_order() {
        check(
            "FROM debian as b\nWORKDIR app\nCOPY $x .\n",
            "",
            &[
                ("'as' and 'FROM' keywords' casing do not match", 1),
                ("Relative workdir \"app\" can have unexpected results if the base image changes", 2),
                ("Usage of undefined variable '$x'", 3),
            ],
        );
    }
}
