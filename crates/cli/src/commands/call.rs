//! `rbuild build --call outline|targets`: what a Dockerfile offers.

use rbuild_builder::plan::{Outline, OutlineMount};
use rbuild_dockerfile::Dockerfile;
use serde_json::{Map, Value, json};

use super::print;
use crate::args::LintFormat;
use crate::render::findings::{in_base64, location};
use crate::render::report::table;

/// Prints what the target takes.
pub(super) fn outline(dockerfile: &Dockerfile, outline: &Outline, format: LintFormat) -> anyhow::Result<()> {
    match format {
        LintFormat::Text => print(&outline_text(outline)),
        _ => print(&format!("{:#}\n", outline_json(dockerfile, outline))),
    }
}

/// Prints the stages.
pub(super) fn targets(dockerfile: &Dockerfile, format: LintFormat) -> anyhow::Result<()> {
    match format {
        LintFormat::Text => print(&targets_text(dockerfile)),
        _ => print(&format!("{:#}\n", targets_json(dockerfile))),
    }
}

fn outline_text(outline: &Outline) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut tables = Vec::new();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.clone().unwrap_or_else(|| "(default)".to_owned());
        let mut rows = vec![vec!["TARGET:".to_owned(), name]];
        rows.extend(outline.description.clone().map(|text| vec!["DESCRIPTION:".to_owned(), text]));
        tables.push(table(&rows));
    }
    if !outline.args.is_empty() {
        let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"].map(str::to_owned).to_vec()];
        rows.extend(
            outline.args.iter().map(|arg| vec![arg.name.clone(), text(&arg.value), text(&arg.description)]),
        );
        tables.push(table(&rows));
    }
    for (title, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !mounts.is_empty() {
            let mut rows = vec![vec![title.to_owned(), "REQUIRED".to_owned()]];
            let required = |mount: &OutlineMount| if mount.required { "true" } else { "" };
            rows.extend(mounts.iter().map(|mount| vec![mount.name.clone(), required(mount).to_owned()]));
            tables.push(table(&rows));
        }
    }
    tables.join("\n")
}

/// The document of `docker buildx build --call=outline,format=json`.
fn outline_json(dockerfile: &Dockerfile, outline: &Outline) -> Value {
    let args = outline.args.iter().map(|arg| {
        let mut fields = named(Some(&arg.name), arg.description.as_deref());
        let value = arg.value.as_ref().filter(|value| !value.is_empty());
        fields.extend(value.map(|value| ("value".to_owned(), json!(value))));
        fields.insert("location".to_owned(), location(arg.lines));
        Value::Object(fields)
    });
    let mounts = |mounts: &[OutlineMount]| -> Vec<Value> {
        let mount = |mount: &OutlineMount| {
            let mut fields = named(Some(&mount.name), None);
            fields.extend(mount.required.then(|| ("required".to_owned(), json!(true))));
            fields.insert("location".to_owned(), location(mount.lines));
            Value::Object(fields)
        };
        mounts.iter().map(mount).collect()
    };
    let mut fields = named(outline.name.as_deref(), outline.description.as_deref());
    let lists =
        [("args", args.collect()), ("secrets", mounts(&outline.secrets)), ("ssh", mounts(&outline.ssh))];
    for (key, list) in lists {
        if !list.is_empty() {
            fields.insert(key.to_owned(), Value::Array(list));
        }
    }
    fields.insert("sources".to_owned(), json!([in_base64(&dockerfile.text)]));
    Value::Object(fields)
}

fn named(name: Option<&str>, description: Option<&str>) -> Map<String, Value> {
    let fields = [("name", name), ("description", description)];
    fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value?)))).collect()
}

fn targets_text(dockerfile: &Dockerfile) -> String {
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for (index, stage) in dockerfile.stages.iter().enumerate() {
        let is_default = index + 1 == dockerfile.stages.len();
        let name = match (&stage.name, is_default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            // It has no name, and its number is none that --target takes.
            (None, false) => continue,
        };
        rows.push(vec![name, stage.doc.clone().unwrap_or_default()]);
    }
    table(&rows)
}

/// The document of `docker buildx build --call=targets,format=json`.
fn targets_json(dockerfile: &Dockerfile) -> Value {
    let target = |(index, stage): (usize, &rbuild_dockerfile::Stage)| {
        let mut fields = named(stage.name.as_deref(), stage.doc.as_deref());
        if index + 1 == dockerfile.stages.len() {
            fields.insert("default".to_owned(), json!(true));
        }
        fields.insert("base".to_owned(), json!(stage.base.value));
        fields.extend(stage.platform.as_ref().map(|platform| ("platform".to_owned(), json!(platform.value))));
        fields.insert("location".to_owned(), location(stage.lines));
        Value::Object(fields)
    };
    json!({
        "targets": dockerfile.stages.iter().enumerate().map(target).collect::<Vec<_>>(),
        "sources": [in_base64(&dockerfile.text)],
    })
}
