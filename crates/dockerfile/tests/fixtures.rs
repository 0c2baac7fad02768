//! Parses the Dockerfiles of `testdata/dockerfiles/parse-*` and compares with the `parsed.json` beside them.
//!
//! `UPDATE_EXPECT=1` writes the answers instead.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::path::{Path, PathBuf};

use rbuild_dockerfile::{Diagnostic, Dockerfile, Node, lint};
use serde_json::{Value, json};

fn node(node: &Node) -> Value {
    let mut out = json!({"instruction": node.instruction, "args": node.args});
    let mut add = |key: &str, value: Value, present: bool| {
        if present {
            out[key] = value;
        }
    };
    add("flags", json!(node.flags), !node.flags.is_empty());
    add("json", json!(true), node.json);
    add("comments", json!(node.comments), !node.comments.is_empty());
    let heredocs = node.heredocs.iter().map(|doc| {
        json!({"name": doc.name, "content": doc.content, "expand": doc.expand, "chomp": doc.chomp, "fd": doc.fd})
    });
    add("heredocs", heredocs.collect(), !node.heredocs.is_empty());
    add("lines", json!([node.start, node.end]), node.start > 0);
    if let Some(sub) = &node.sub {
        out["sub"] = self::node(sub);
    }
    out
}

fn diagnostic(text: &str, found: &Diagnostic) -> Value {
    let excerpt = found.span.and_then(|span| text.get(span.start..span.end));
    json!({"rule": found.rule, "message": found.message, "hint": found.hint, "lines": found.lines, "excerpt": excerpt})
}

fn parsed(text: &[u8]) -> Value {
    let (file, errors) = Dockerfile::parse(text);
    let stages = file.stages.iter().map(|stage| {
        json!({
            "name": stage.name,
            "base": stage.base.value,
            "platform": stage.platform.as_ref().map(|platform| &platform.value),
            "doc": stage.doc,
            "lines": stage.lines,
            "instructions": stage.instructions.iter().map(|one| format!("{:?}", one.value)).collect::<Vec<_>>(),
        })
    });
    json!({
        "syntax": file.directives.syntax.as_ref().map(|syntax| &syntax.value),
        "escape": file.directives.escape,
        "nodes": file.nodes.iter().map(node).collect::<Vec<_>>(),
        "stages": stages.collect::<Vec<_>>(),
        "errors": errors.iter().map(|error| diagnostic(&file.text, error)).collect::<Vec<_>>(),
        "lint": lint::lint(&file).iter().map(|found| diagnostic(&file.text, found)).collect::<Vec<_>>(),
    })
}

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/dockerfiles");
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let is_ours = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("parse-");
    let mut folders: Vec<PathBuf> = entries.filter(is_ours).collect();
    folders.sort();
    folders
}

#[test]
fn dockerfiles_parse_as_recorded() {
    #[expect(clippy::disallowed_methods, reason = "a test may be told to bless its answers")]
    let bless = std::env::var_os("UPDATE_EXPECT").is_some();
    let folders = folders();
    assert!(folders.len() >= 8, "the fixtures are there");
    for folder in folders {
        let got = serde_json::to_string_pretty(&parsed(&std::fs::read(folder.join("Dockerfile")).unwrap()))
            .unwrap();
        let expected = folder.join("parsed.json");
        if bless {
            std::fs::write(&expected, got + "\n").unwrap();
            continue;
        }
        let want = std::fs::read_to_string(&expected).unwrap();
        assert_eq!(got.trim_end(), want.trim_end(), "{}", folder.display());
    }
}
