//! `rbuild inspect`: manifest and config of an image, from the store or its registry.

use std::fmt::Write as _;

use rbuild_image::{Reference, Source, StoreErrorKind};
use serde_json::json;

use super::{Documents, open_store, print};
use crate::args::{Format, InspectArgs};
use crate::render::{bytes, printable};
use crate::settings;

/// Prints what is known of an image.
pub(crate) async fn run(args: InspectArgs) -> anyhow::Result<()> {
    let name = settings::reference(&args.name)?;
    let platform = settings::platform(args.platform.as_deref())?;
    let store = open_store(&args.store)?;
    let layout = store.layout();
    let documents = match layout.resolve(&name).await {
        Ok(resolved) => Documents::read(layout, &resolved.descriptor, &platform).await?,
        Err(error) if *error.kind() == StoreErrorKind::NotFound => {
            let remote = settings::client(&args.registry)?.remote(&name);
            let resolved = remote.resolve(&name).await?;
            Documents::read(&remote, &resolved.descriptor, &platform).await?
        }
        Err(error) => return Err(error.into()),
    };
    match args.format {
        Format::Json => {
            let value = json!({
                "name": name,
                "descriptor": documents.descriptor,
                "manifest": documents.manifest.value(),
                "config": documents.config.value(),
            });
            print(&format!("{}\n", serde_json::to_string_pretty(&value)?))
        }
        Format::Text => print(&text(&name, &documents)),
    }
}

fn text(name: &Reference, documents: &Documents) -> String {
    let mut out = String::new();
    let mut line = |key: &str, value: &str| {
        if !value.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{key:<11} {}", printable(value));
        }
    };
    let config = documents.config.value();
    let runtime = &config.config;
    let list = |list: &[String]| if list.is_empty() { String::new() } else { json!(list).to_string() };
    line("name", &name.to_string());
    line("digest", &documents.descriptor.digest.to_string());
    line("media type", &documents.descriptor.media_type);
    line("platform", &config.platform().to_string());
    line("size", &bytes(documents.size()));
    line("created", config.created.as_deref().unwrap_or_default());
    line("user", &runtime.user);
    line("workdir", &runtime.working_dir);
    line("entrypoint", &list(runtime.entrypoint.as_deref().unwrap_or_default()));
    line("cmd", &list(runtime.cmd.as_deref().unwrap_or_default()));
    for variable in &runtime.env {
        line("env", variable);
    }
    for (key, value) in &runtime.labels {
        line("label", &format!("{key}={value}"));
    }
    for (layer, diff_id) in documents.manifest.value().layers.iter().zip(&config.rootfs.diff_ids) {
        line("layer", &format!("{} {} diff ID {diff_id}", layer.digest, bytes(layer.size)));
    }
    for step in &config.history {
        line("history", step.created_by.as_deref().unwrap_or("-"));
    }
    out
}
