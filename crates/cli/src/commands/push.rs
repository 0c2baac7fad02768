//! `rbuild push`: store or OCI layout to registry.

use anyhow::Context as _;
use rbuild_image::{Descriptor, Layout, LayoutError, Reference, Resolved, Source};
use rbuild_registry::{CopyOptions, copy_manifest};

use super::transfer::{Direction, watch, write_digest};
use super::{open_store, print, remark};
use crate::args::PushArgs;
use crate::settings::{self, Usage, split_layout};

/// Copies an image, or an index with all of its images, to a registry and prints its digest.
pub(crate) async fn run(args: PushArgs) -> anyhow::Result<()> {
    let (layout, root) = find(&args)?;
    let destination = match &args.destination {
        Some(destination) => settings::reference(destination)?,
        None => default_destination(&args.source)?,
    };
    let client = settings::client(&args.transfer.registry)?;
    let (progress, on_progress) = watch(Direction::Push, destination.familiar(), args.transfer.quiet);
    let remote = progress.hear_retries(client).remote(&destination);
    let options = CopyOptions {
        tags: vec![destination.clone()],
        on_progress: Some(on_progress),
        ..CopyOptions::default()
    };
    let resolved = Resolved { bytes: layout.manifest(&root).await?, descriptor: root };
    let copied = copy_manifest(&layout, &remote, resolved, &options).await;
    progress.clear();
    let descriptor = copied.with_context(|| format!("cannot push {}", destination.familiar()))?;
    write_digest(args.transfer.digestfile.as_deref(), &descriptor)?;
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

fn default_destination(source: &str) -> Result<Reference, Usage> {
    if split_layout(source).0.is_some() {
        return Err(Usage::new(format!("{source} is an OCI layout, where shall it go?"))
            .hint(format!("rbuild push {source} registry.example/team/app:tag")));
    }
    settings::reference(source)
}
