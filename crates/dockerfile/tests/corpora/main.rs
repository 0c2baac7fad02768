//! Compares the crate with the answers that BuildKit gave for a large collection of Dockerfiles, when it is at hand.
//!
//! The collection is looked for in `$RBUILD_CORPORA`, else beside the repository; without it the tests say so and pass.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "this is a test")]

mod typed;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rbuild_dockerfile::expand::Quotes;
use rbuild_dockerfile::{Diagnostic, Dockerfile, Expander, IgnoreFile, Node, lint};
use serde_json::{Value, json};

/// Finds the collection, or prints why the test is skipped.
fn corpora() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "a test may be told where its data is")]
    let given = std::env::var_os("RBUILD_CORPORA").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpora");
    let folder = given.unwrap_or(beside);
    if folder.join("tables").is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no corpora in {} (set RBUILD_CORPORA)", folder.display());
    None
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn table(folder: &Path, name: &str) -> Vec<Value> {
    read_json(&folder.join("tables").join(name)).as_array().unwrap().clone()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Fails with all differences, not with the first.
fn report(what: &str, total: usize, failures: &[String]) {
    assert!(failures.is_empty(), "{what}: {} of {total} differ\n{}", failures.len(), failures.join("\n"));
    assert!(total > 0, "{what}: no cases");
    eprintln!("{what}: {total} cases");
}

#[test]
fn expansion() {
    let Some(folder) = corpora() else { return };
    let cases = table(&folder, "expand.json");
    let mut failures = Vec::new();
    for case in &cases {
        let env: BTreeMap<String, String> = list(&case["env"])
            .iter()
            .map(|pair| pair.as_str().unwrap().split_once('=').unwrap_or((pair.as_str().unwrap(), "")))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let escape = text(case, "escape").chars().next().unwrap_or('\\');
        let (word, expect) = (text(case, "word"), &case["expect"]);
        let lookup = |name: &str| env.get(name).cloned();
        let expander = Expander::new(escape);
        let got = match (expander.word(word, &lookup), expander.words(word, &lookup)) {
            (Ok(one), Ok(words)) => json!({"result": one.text, "words": words, "unmatched": one.unmatched}),
            (Err(_), Err(_)) => json!({"error": true}),
            other => json!({"inconsistent": format!("{other:?}")}),
        };
        let want = if expect["error"].is_string() {
            json!({"error": true})
        } else {
            json!({"result": expect["result"], "words": list(&expect["words"]),
                   "unmatched": list(&expect["unmatched"])})
        };
        if got != want {
            failures.push(format!("{word:?}: want {want}, got {got}"));
        }
    }
    report("expand.json", cases.len(), &failures);
}

#[test]
fn ignore_files() {
    let Some(folder) = corpora() else { return };
    let cases = table(&folder, "ignore.json");
    let mut failures = Vec::new();
    for case in &cases {
        let (ignore, expect) = (text(case, "ignore"), &case["expect"]);
        let mut got = json!({});
        match IgnoreFile::parse(ignore.as_bytes()) {
            Err(_) => got["error"] = json!(true),
            Ok(file) => {
                got["patterns"] = json!(file.patterns());
                let paths = list(&case["paths"]);
                let answers = paths.iter().map(|path| path.as_str().unwrap());
                got["excluded"] =
                    answers.map(|path| (path.to_owned(), json!(file.is_ignored(path)))).collect();
            }
        }
        let want = if expect["error"].is_string() {
            json!({"error": true})
        } else {
            json!({"patterns": list(&expect["patterns"]), "excluded": expect["excluded"]})
        };
        if got != want {
            failures.push(format!("{ignore:?}: want {want}, got {got}"));
        }
    }
    report("ignore.json", cases.len(), &failures);
}

/// A Dockerfile with BuildKit's answer.
struct Case {
    name: String,
    text: Vec<u8>,
    expect: Value,
    /// Whether the answer was given without build arguments.
    plain: bool,
}

fn cases(folder: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut folders = vec![folder.join("parse"), folder.join("build")];
    while let Some(next) = folders.pop() {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if file.ends_with("expect.json") {
                let bare =
                    if file == "expect.json" { "Dockerfile" } else { file.trim_end_matches(".expect.json") };
                let dockerfile = path.with_file_name(bare);
                let (text, expect) = (std::fs::read(&dockerfile).unwrap(), read_json(&path));
                let name = dockerfile.strip_prefix(folder).unwrap().display().to_string();
                cases.push(Case { name, text, expect, plain: true });
            }
        }
    }
    for (name, key) in [("corners", "dockerfile"), ("features", "dockerfile"), ("snippets", "text")] {
        for (index, case) in table(folder, &format!("{name}.json")).iter().enumerate() {
            let plain = list(&case["labels"]).is_empty()
                && case["build_args"].as_object().is_none_or(serde_json::Map::is_empty)
                && case["labels"].as_object().is_none_or(serde_json::Map::is_empty);
            let label = format!("{name}[{index}] {}{}", text(case, "name"), text(case, "feature"));
            cases.push(Case {
                name: label,
                text: text(case, key).as_bytes().to_vec(),
                expect: case["expect"].clone(),
                plain,
            });
        }
    }
    cases
}

/// Runs a comparison over all cases; it gives what differs.
fn compare(what: &str, check: impl Fn(&Case, &Dockerfile, &[Diagnostic]) -> Option<String>) {
    let Some(folder) = corpora() else { return };
    let cases = cases(&folder);
    let mut failures = Vec::new();
    for case in &cases {
        let (dockerfile, errors) = Dockerfile::parse(&case.text);
        if let Some(difference) = check(case, &dockerfile, &errors) {
            failures.push(format!("{}: {difference}", case.name));
        }
    }
    report(what, cases.len(), &failures);
}

fn node(node: &Node) -> Value {
    let args: Vec<&String> = node.args.iter().collect();
    let mut out = json!({
        "instruction": node.instruction,
        "flags": node.flags,
        "args": if args == [""] { Vec::new() } else { args },
        "json": node.json,
        "heredocs": node.heredocs.iter().map(|doc| json!({
            "name": doc.name, "content": doc.content, "expand": doc.expand, "chomp": doc.chomp, "fd": doc.fd,
        })).collect::<Vec<_>>(),
    });
    if let Some(sub) = &node.sub {
        out["sub"] = self::node(sub);
    } else {
        out["comments"] = json!(node.comments);
    }
    out
}

/// Brings a node of an answer into the same form.
fn expected_node(value: &Value) -> Value {
    let args = list(&value["args"]);
    let mut out = json!({
        "instruction": value["instruction"],
        "flags": list(&value["flags"]),
        "args": if args == [json!("")] { Vec::new() } else { args },
        "json": value["json"].as_bool().unwrap_or(false),
        "heredocs": list(&value["heredocs"]).iter().map(|doc| json!({
            "name": doc["name"], "content": doc["content"], "expand": doc["expand"], "chomp": doc["chomp"],
            "fd": doc["fd"],
        })).collect::<Vec<_>>(),
    });
    if value["sub"].is_object() {
        out["sub"] = expected_node(&value["sub"]);
    } else {
        out["comments"] = json!(list(&value["comments"]));
    }
    out
}

#[test]
fn nodes() {
    compare("nodes", |case, dockerfile, _| {
        if case.expect["ast"]["error"].is_string() {
            return (!dockerfile.nodes.is_empty()).then(|| "want no nodes".to_owned());
        }
        let want: Vec<Value> = list(&case.expect["ast"]["nodes"])
            .iter()
            .map(|value| json!([expected_node(value), value["start"], value["end"], value["original"]]))
            .collect();
        let got: Vec<Value> = dockerfile
            .nodes
            .iter()
            .map(|found| json!([node(found), found.start, found.end, found.original]))
            .collect();
        let first = want.iter().zip(&got).find(|(want, got)| want != got);
        match first {
            Some((want, got)) => Some(format!("want {want}\n    got {got}")),
            None => {
                (want.len() != got.len()).then(|| format!("want {} nodes, got {}", want.len(), got.len()))
            }
        }
    });
}

#[test]
fn accepted_and_refused() {
    compare("errors", |case, _, errors| {
        let part = ["ast", "instr"].into_iter().find(|part| case.expect[part]["error"].is_string());
        // What only a plan can know is not known here.
        let no_stages = text(&case.expect["lint"], "error").contains("no stages")
            || text(&case.expect["convert"], "error").contains("no stages");
        let want = part.map(|part| &case.expect[part]);
        match (want, errors.first()) {
            (None, Some(_)) if no_stages => None,
            (None, Some(error)) => Some(format!("want no error, got {error}")),
            (Some(want), None) => Some(format!("want {}, got no error", want["error"])),
            (Some(want), Some(error)) => {
                let ranges = list(&want["error_lines"]);
                let inside = |line: u32| {
                    ranges.iter().any(|range| {
                        range[0].as_u64() <= Some(u64::from(line))
                            && Some(u64::from(line)) <= range[1].as_u64()
                    })
                };
                // A wrong directive is on the line it is on, which BuildKit counts from 0.
                let directive = error.message.starts_with("invalid escape token");
                let right = ranges.is_empty()
                    || directive
                    || text(want, "error") == "file with no instructions"
                    || error.lines.is_some_and(|(line, _)| inside(line));
                (!right).then(|| format!("want lines {ranges:?}, got {error:?}"))
            }
            (None, None) => None,
        }
    });
}

#[test]
fn stages() {
    compare("stages", |case, dockerfile, _| {
        let Some(stages) = case.expect["instr"]["stages"].as_array() else {
            return (!dockerfile.stages.is_empty() && case.expect["instr"]["error"].is_string())
                .then(|| "want no stages".to_owned());
        };
        let want: Vec<Value> = stages
            .iter()
            .map(|stage| {
                json!([
                    text(stage, "name"),
                    text(stage, "base"),
                    text(stage, "platform"),
                    stage["start"],
                    text(stage, "doc"),
                    list(&stage["commands"]).len()
                ])
            })
            .collect();
        let got: Vec<Value> = dockerfile
            .stages
            .iter()
            .map(|stage| {
                json!([
                    stage.name.as_deref().unwrap_or_default(),
                    stage.base.value,
                    stage.platform.as_ref().map(|platform| platform.value.as_str()).unwrap_or_default(),
                    stage.lines.0,
                    stage.doc.as_deref().unwrap_or_default(),
                    stage.instructions.len()
                ])
            })
            .collect();
        (want != got).then(|| format!("want {want:?}\n    got {got:?}"))
    });
}

#[test]
fn typed_instructions() {
    compare("typed instructions", |case, dockerfile, errors| {
        if !errors.is_empty() {
            return None;
        }
        let stages = list(&case.expect["instr"]["stages"]);
        for (want, got) in stages.iter().zip(&dockerfile.stages) {
            let commands = list(&want["commands"]);
            for (want, got) in commands.iter().zip(&got.instructions) {
                let want = typed::without_empty(typed::expected(want));
                let got = typed::without_empty(typed::instruction(&got.value));
                if want != got {
                    return Some(format!("want {want}\n    got {got}"));
                }
            }
        }
        let args: Vec<Value> = list(&case.expect["instr"]["meta_args"])
            .iter()
            .flat_map(|arg| list(&arg["Args"]))
            .map(|arg| json!([arg["Key"], arg["Value"], arg["DocComment"]]))
            .collect();
        let ours = dockerfile.args.iter().map(|arg| &arg.value);
        let ours: Vec<Value> =
            ours.map(|arg| json!([arg.name, arg.value, arg.doc.as_deref().unwrap_or_default()])).collect();
        (args != ours).then(|| format!("want arguments {args:?}, got {ours:?}"))
    });
}

#[test]
fn lint_findings() {
    compare("lint", |case, dockerfile, errors| {
        let lint = &case.expect["lint"];
        let comparable = lint.is_object()
            && case.plain
            && (lint["error"].is_null() || text(lint, "error").starts_with("lint violation"));
        if !comparable || !errors.is_empty() {
            return None;
        }
        let mut want: Vec<String> = list(&lint["warnings"])
            .iter()
            .filter(|found| !lint::needs_plan(text(found, "rule")))
            .map(|found| {
                format!(
                    "{}-{} {}: {}",
                    found["start"],
                    found["end"],
                    text(found, "rule"),
                    text(found, "message")
                )
            })
            .collect();
        let mut got: Vec<String> = lint::lint(dockerfile)
            .iter()
            .map(|found| {
                let (start, end) = found.lines.unwrap_or_default();
                format!("{start}-{end} {}: {}", found.rule.unwrap_or_default(), found.message)
            })
            .collect();
        want.sort();
        got.sort();
        got.dedup();
        want.dedup();
        (want != got).then(|| {
            let lost: Vec<_> = want.iter().filter(|one| !got.contains(one)).collect();
            let extra: Vec<_> = got.iter().filter(|one| !want.contains(one)).collect();
            format!("missing {lost:?}, unexpected {extra:?}")
        })
    });
}

/// The lexer of heredoc words keeps quotes; the table of words does not cover that.
#[test]
fn quotes_can_be_kept() {
    let keep = Expander { quotes: Quotes::Keep, ..Expander::new('\\') };
    let word = keep.word("'a'\"b\"", &|_| None).unwrap();
    assert_eq!(word.text, "'a'\"b\"");
}
