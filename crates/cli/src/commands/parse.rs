//! `rbuild parse`: what Dockerfiles say, and whether a build could start.

use std::io::{self, Read as _};
use std::path::Path;

use anyhow::Context as _;
use rbuild_builder::plan::{self, Plan, PlanError, PlanOptions, PlatformOrigin, Scope};
use rbuild_dockerfile::{Diagnostic, Dockerfile, Heredoc, Node, Stage, line_col, lint};
use rbuild_image::Platform;
use serde_json::{Map, Value, json};

use super::{print, remark};
use crate::args::{Format, ParseArgs};
use crate::render::diagnostic::{self, Colour};

/// A Dockerfile larger than this is refused, in bytes.
const LARGEST: u64 = 16 << 20;

/// Whether every file could be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    /// It could, and a check of it has something to say.
    Warned,
    Rejected,
}

/// Checks each file and prints what was found.
pub(crate) fn run(args: &ParseArgs, colour: Colour) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::Accepted;
    for file in &args.files {
        let name = file.display().to_string();
        let text = read(file).with_context(|| format!("cannot read {name}"))?;
        let checked = Checked::new(&text);
        if checked.error.is_some() {
            verdict = Verdict::Rejected;
        }
        match args.format {
            Format::Json => print(&format!("{}\n", checked.to_json(&name)))?,
            Format::Text => {
                let findings: Vec<Diagnostic> = checked.errors.iter().chain(&checked.lint).cloned().collect();
                let text = &checked.dockerfile.text;
                if !findings.is_empty() {
                    print(&format!("{}\n", diagnostic::render(&name, text, &findings, colour)))?;
                }
                remark(&checked.summary(&name));
            }
        }
    }
    Ok(verdict)
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let limit = LARGEST.saturating_add(1);
    if file == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut text)?;
    } else {
        std::fs::File::open(file)?.take(limit).read_to_end(&mut text)?;
    }
    match text.len() as u64 > LARGEST {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "a Dockerfile of more than 16 MiB")),
        false => Ok(text),
    }
}

/// A Dockerfile with everything that was found in it.
struct Checked {
    dockerfile: Dockerfile,
    /// What forbids a build.
    errors: Vec<Diagnostic>,
    /// What lint rules say.
    lint: Vec<Diagnostic>,
    /// Why no build could start.
    error: Option<Diagnostic>,
}

impl Checked {
    fn new(text: &[u8]) -> Self {
        let (dockerfile, mut errors) = Dockerfile::parse(text);
        errors.retain(Diagnostic::is_error);
        let mut findings = Vec::new();
        if errors.is_empty() {
            match plan_all(&dockerfile) {
                Ok(plan) => findings = plan::findings(&dockerfile, &plan.into(), None),
                Err(PlanError(diagnostics)) => {
                    let (refused, warnings): (Vec<_>, Vec<_>) =
                        diagnostics.into_iter().partition(Diagnostic::is_error);
                    findings = lint::lint(&dockerfile);
                    findings.extend(warnings);
                    errors.extend(refused);
                }
            }
        }
        let error = errors.first().cloned().or_else(|| plan::violation(&dockerfile, &findings));
        Self { dockerfile, errors, lint: findings, error }
    }

    fn to_json(&self, name: &str) -> Value {
        let place = |error| line(&self.dockerfile, error);
        let error = self.error.as_ref().map(|error| json!({"message": error.message, "line": place(error)}));
        let finding = |finding: &Diagnostic| {
            let (start, end) = finding.lines.unwrap_or_default();
            json!({"rule": finding.rule, "start": start, "end": end})
        };
        json!({
            "file": name,
            "ok": self.error.is_none(),
            "error": error,
            "nodes": self.dockerfile.nodes.iter().map(outer_node).collect::<Vec<_>>(),
            "stages": self.dockerfile.stages.iter().map(stage).collect::<Vec<_>>(),
            "lint": self.lint.iter().map(finding).collect::<Vec<_>>(),
        })
    }

    fn summary(&self, name: &str) -> String {
        let count = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let verdict = if self.error.is_some() { "refused" } else { "accepted" };
        let Dockerfile { stages, nodes, .. } = &self.dockerfile;
        let warnings = count(self.lint.len(), "warning");
        format!(
            "{name}: {verdict}: {}, {}, {warnings}",
            count(stages.len(), "stage"),
            count(nodes.len(), "instruction")
        )
    }
}

/// Plans all stages on assumed base images.
fn plan_all(dockerfile: &Dockerfile) -> Result<Plan, PlanError> {
    let platform = Platform::new("linux", "amd64");
    let options = PlanOptions {
        platform: platform.clone(),
        platform_origin: PlatformOrigin::Requested,
        build_platform: platform,
        scope: Scope::All,
        ..PlanOptions::default()
    };
    plan::assume(dockerfile, plan::graph(dockerfile, &options)?, &options)
}

/// The line an error is reported on; 0 for a parser directive, which belongs to no instruction.
fn line(dockerfile: &Dockerfile, error: &Diagnostic) -> Option<usize> {
    let text = &dockerfile.text;
    if error.span.is_some_and(|span| is_directive(text.get(span.start..).unwrap_or_default())) {
        return Some(0);
    }
    let of_span = || error.span.map(|span| line_col(text, span.start).0);
    error.lines.map(|(start, _)| usize::try_from(start).unwrap_or(usize::MAX)).or_else(of_span)
}

/// Tells whether a text begins with a line as `# escape=`.
fn is_directive(text: &str) -> bool {
    let comment = text.lines().next().and_then(|line| line.strip_prefix('#'));
    let key = comment.and_then(|comment| comment.split_once('=')).map(|(key, _)| key.trim());
    key.is_some_and(|key| ["escape", "syntax", "check"].iter().any(|known| key.eq_ignore_ascii_case(known)))
}

fn stage(stage: &Stage) -> Value {
    json!({
        "name": stage.name.as_deref().unwrap_or_default(),
        "base": stage.base.value,
        "platform": stage.platform.as_ref().map(|platform| platform.value.as_str()).unwrap_or_default(),
        "start": stage.lines.0,
    })
}

fn outer_node(node: &Node) -> Value {
    let mut fields = inner_node(node);
    fields.insert("start".to_owned(), json!(node.start));
    fields.insert("end".to_owned(), json!(node.end));
    Value::Object(fields)
}

fn inner_node(node: &Node) -> Map<String, Value> {
    let heredoc = |heredoc: &Heredoc| {
        let Heredoc { name, content, expand, chomp, fd } = heredoc;
        json!({"name": name, "content": content, "expand": expand, "chomp": chomp, "fd": fd})
    };
    let mut fields = Map::new();
    fields.insert("instruction".to_owned(), json!(node.instruction));
    fields.insert("flags".to_owned(), json!(node.flags));
    fields.insert("args".to_owned(), json!(node.args));
    fields.insert("json".to_owned(), json!(node.json));
    fields.insert("heredocs".to_owned(), node.heredocs.iter().map(heredoc).collect());
    if let Some(sub) = &node.sub {
        fields.insert("sub".to_owned(), Value::Object(inner_node(sub)));
    }
    fields
}
