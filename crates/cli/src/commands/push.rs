//! `rbuild push`: store or OCI layout to registry.

use std::path::Path;

use anyhow::Context as _;
use rbuild_image::{Descriptor, Layout, LayoutError, Reference, Resolved, Source};
use rbuild_registry::{CopyOptions, copy_manifest};

use super::transfer::{Direction, watch};
use super::{is_layout, open_store, print, remark};
use crate::args::PushArgs;
use crate::settings::{self, Usage};

/// Copies an image, or an index with all of its images, to a registry and prints its digest.
pub(crate) async fn run(args: PushArgs) -> anyhow::Result<()> {
    let (layout, root) = find(&args)?;
    let destination = match &args.destination {
        Some(destination) => settings::reference(destination)?,
        None => default_destination(&args.source)?,
    };
    let remote = settings::client(&args.transfer.registry)?.remote(&destination);
    let (progress, on_progress) = watch(Direction::Push, &destination, args.transfer.quiet);
    let options = CopyOptions {
        tags: vec![destination.clone()],
        on_progress: Some(on_progress),
        ..CopyOptions::default()
    };
    let resolved = Resolved { bytes: layout.manifest(&root).await?, descriptor: root };
    let copied = copy_manifest(&layout, &remote, resolved, &options).await;
    progress.clear();
    let descriptor = copied.with_context(|| format!("cannot push {}", destination.familiar()))?;
    if !args.transfer.quiet {
        remark(&format!("pushed {}", destination.familiar()));
    }
    print(&format!("{}\n", descriptor.digest))
}

/// Finds the image SRC names: a layout directory, which may be followed by a tag, else a name of the store.
fn find(args: &PushArgs) -> anyhow::Result<(Layout, Descriptor)> {
    let (directory, tag) = split_layout(&args.source);
    if let Some(directory) = directory {
        let layout = Layout::open(directory)?;
        let root = layout.by_tag(tag)?;
        return Ok((layout, root));
    }
    let name = settings::reference(&args.source)?;
    let store = open_store(&args.transfer.store)?;
    let layout = store.layout().clone();
    let missing = || LayoutError::NoSuchImage { path: layout.path().to_owned(), name: name.familiar() };
    let root = layout.get(&name)?.ok_or_else(missing)?;
    Ok((layout, root))
}

/// Splits `DIR[:TAG]`; no directory when SRC is the name of an image.
fn split_layout(source: &str) -> (Option<&Path>, Option<&str>) {
    let bare = source.strip_prefix("oci-layout://").or_else(|| source.strip_prefix("oci:"));
    let text = bare.unwrap_or(source);
    let tagged = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
    match tagged {
        _ if is_layout(Path::new(text)) => (Some(Path::new(text)), None),
        Some((directory, tag)) if bare.is_some() || is_layout(Path::new(directory)) => {
            (Some(Path::new(directory)), Some(tag))
        }
        _ if bare.is_some() => (Some(Path::new(text)), None),
        _ => (None, None),
    }
}

fn default_destination(source: &str) -> Result<Reference, Usage> {
    if split_layout(source).0.is_some() {
        return Err(Usage::new(format!("{source} is an OCI layout, where shall it go?"))
            .hint(format!("rbuild push {source} registry.example/team/app:tag")));
    }
    settings::reference(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_and_names_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app");
        Layout::create(&path).unwrap();
        let path = path.to_str().unwrap();
        let check = |source: &str, expect: (Option<&str>, Option<&str>)| {
            let expect = (expect.0.map(Path::new), expect.1);
            assert_eq!(split_layout(source), expect, "{source}");
        };
        check("app", (None, None));
        check("app:1", (None, None));
        check("localhost:5000/app", (None, None));
        check(path, (Some(path), None));
        check(&format!("{path}:1"), (Some(path), Some("1")));
        check(&format!("oci-layout://{path}:1"), (Some(path), Some("1")));
        check("oci:/nowhere:1", (Some("/nowhere"), Some("1")));
        check("oci:/nowhere", (Some("/nowhere"), None));
    }
}
