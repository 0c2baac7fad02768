//! `rbuild copy`: images between registries, the store, layouts and archives.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use rbuild_image::archive::{Tree, write_docker, write_oci_tree};
use rbuild_image::layout::REF_NAME;
use rbuild_image::{
    Descriptor, Finished, Image, Layout, ManifestOrIndex, Platform, Reference, Resolved, Sink, Source,
};
use rbuild_layers::ImageArchive;
use rbuild_registry::{Client, CopyOptions, copy_manifest};

use super::transfer::{Direction, watch, write_digest};
use super::{Documents, open_store, print, remark};
use crate::args::CopyArgs;
use crate::settings::{self, Place, Usage};

/// Copies an image, or an index with all of its images, and prints its digest.
pub(crate) async fn run(args: CopyArgs) -> anyhow::Result<()> {
    let (from, to) = (Place::parse(&args.source)?, Place::parse(&args.destination)?);
    let platform = match &args.platform {
        None => None,
        Some(all) if all == "all" => None,
        Some(platform) => Some(settings::platform(Some(platform))?),
    };
    let title = match (&to, &from) {
        (Place::Registry(name), _) | (_, Place::Registry(name)) => name.familiar(),
        _ => args.destination.clone(),
    };
    let direction = if matches!(to, Place::Registry(_)) { Direction::Push } else { Direction::Pull };
    let (progress, on_progress) = watch(direction, title, args.transfer.quiet);
    let client = progress.hear_retries(settings::client(&args.transfer.registry)?);
    let copied = Copying { args: &args, client, platform, on_progress }.run(from, to).await;
    progress.clear();
    let descriptor =
        copied.with_context(|| format!("cannot copy {} to {}", args.source, args.destination))?;
    write_digest(args.transfer.digestfile.as_deref(), &descriptor)?;
    if !args.transfer.quiet {
        remark(&format!("copied {} to {}", args.source, args.destination));
    }
    print(&format!("{}\n", descriptor.digest))
}

struct Copying<'a> {
    args: &'a CopyArgs,
    client: Client,
    platform: Option<Platform>,
    on_progress: Arc<dyn Fn(rbuild_registry::Progress) + Send + Sync>,
}

impl Copying<'_> {
    async fn run(self, from: Place, to: Place) -> anyhow::Result<Descriptor> {
        let (source, root) = self.open(from).await?;
        let source = &*source;
        match to {
            Place::Registry(name) => self.send(source, root, &self.client.remote(&name), vec![name]).await,
            Place::Store(name) => {
                let store = open_store(&self.args.transfer.store)?;
                self.send(source, root, &store, vec![name]).await
            }
            Place::Layout(directory, tag) => {
                let layout = Layout::create(directory)?;
                let descriptor = self.send(source, root, &layout, vec![]).await?;
                layout.list(&tagged(&descriptor, tag), None)?;
                Ok(descriptor)
            }
            Place::OciArchive(file, tag) => {
                let (layout, _scratch) = scratch(&file)?;
                let descriptor = self.send(source, root, &layout, vec![]).await?;
                let documents = Below::read(&layout, &descriptor).await?;
                let tree = documents.tree(tagged(&descriptor, tag));
                replace(&file, |out| Ok(write_oci_tree(out, &tree, &[], &layout).map(drop)?))?;
                Ok(descriptor)
            }
            Place::DockerArchive(file, name) => {
                let names = name.as_deref().map(settings::reference).transpose()?;
                let names: Vec<Reference> = names.into_iter().collect();
                let (layout, _scratch) = scratch(&file)?;
                // The form has no place for an index.
                let platform = self.platform.clone().map_or_else(|| settings::platform(None), Ok)?;
                let descriptor = Self { platform: Some(platform.clone()), ..self }
                    .send(source, root, &layout, vec![])
                    .await?;
                let documents = Documents::read(&layout, &descriptor, &platform).await?;
                let image =
                    Image::from_parts(documents.manifest.into_value(), documents.config.into_value())?;
                let image: Finished = image.finish_docker();
                replace(&file, |out| Ok(write_docker(out, &image, &names, &layout).map(drop)?))?;
                Ok(image.descriptor())
            }
        }
    }

    /// Finds what is to be copied.
    async fn open(&self, from: Place) -> anyhow::Result<(Box<dyn Source>, Resolved)> {
        let (source, descriptor): (Box<dyn Source>, Descriptor) = match from {
            Place::Registry(_) => {
                // A short name may be an alias.
                let text = &self.args.source;
                let name = self.client.reference(text.strip_prefix("docker://").unwrap_or(text))?;
                let remote = self.client.remote(&name);
                let root = remote.resolve(&name).await?;
                return Ok((Box::new(remote), root));
            }
            Place::Store(name) => {
                let store = open_store(&self.args.transfer.store)?;
                let root = store.resolve(&name).await?;
                return Ok((Box::new(store), root));
            }
            Place::Layout(directory, tag) => {
                let layout = Layout::open(directory)?;
                let descriptor = layout.by_tag(tag.as_deref())?;
                (Box::new(layout), descriptor)
            }
            Place::OciArchive(file, name) | Place::DockerArchive(file, name) => {
                let archive = tokio::task::spawn_blocking(move || ImageArchive::open(file)).await??;
                let descriptor = archive.image(name.as_deref())?.clone();
                (Box::new(archive), descriptor)
            }
        };
        let bytes = source.manifest(&descriptor).await?;
        Ok((source, Resolved { descriptor, bytes }))
    }

    async fn send(
        &self,
        source: &dyn Source,
        root: Resolved,
        sink: &dyn Sink,
        tags: Vec<Reference>,
    ) -> anyhow::Result<Descriptor> {
        let (platform, on_progress) = (self.platform.clone(), Some(Arc::clone(&self.on_progress)));
        let options = CopyOptions { platform, tags, on_progress, ..CopyOptions::default() };
        let mut root = root;
        // Names are the source's own affair.
        root.descriptor.annotations.clear();
        Ok(copy_manifest(source, sink, root, &options).await?)
    }
}

/// The descriptor as an index lists it under a tag.
fn tagged(descriptor: &Descriptor, tag: Option<String>) -> Descriptor {
    let mut entry = descriptor.clone();
    entry.annotations.extend(tag.map(|tag| (REF_NAME.to_owned(), tag)));
    entry
}

/// Everything below an index or a manifest.
#[derive(Default)]
struct Below {
    documents: BTreeMap<rbuild_image::Digest, Bytes>,
    layers: Vec<Descriptor>,
}

impl Below {
    async fn read(layout: &Layout, root: &Descriptor) -> anyhow::Result<Self> {
        let mut below = Self::default();
        let mut waiting = vec![root.clone()];
        while let Some(descriptor) = waiting.pop() {
            let bytes = layout.manifest(&descriptor).await?;
            match ManifestOrIndex::parse(&descriptor.media_type, bytes.clone())? {
                ManifestOrIndex::Index(index) => waiting.extend(index.value().manifests.iter().cloned()),
                ManifestOrIndex::Manifest(manifest) => {
                    let manifest = manifest.value();
                    // A config that is a layer too is there once.
                    if !manifest.layers.iter().any(|layer| layer.digest == manifest.config.digest) {
                        let config = layout.manifest(&manifest.config).await?;
                        below.documents.insert(manifest.config.digest, config);
                    }
                    // What registries do not hold was not copied.
                    let held =
                        manifest.layers.iter().filter(|layer| layout.blob_path(&layer.digest).exists());
                    below.layers.extend(held.cloned());
                }
            }
            below.documents.insert(descriptor.digest, bytes);
        }
        below.layers.retain(|layer| !below.documents.contains_key(&layer.digest));
        Ok(below)
    }

    fn tree(&self, root: Descriptor) -> Tree<'_> {
        Tree { root, documents: self.documents.values().collect(), layers: self.layers.iter().collect() }
    }
}

/// A layout beside a file to be.
fn scratch(file: &Path) -> anyhow::Result<(Layout, tempfile::TempDir)> {
    let directory = tempfile::tempdir_in(parent(file)?)?;
    Ok((Layout::create(directory.path())?, directory))
}

fn parent(file: &Path) -> Result<&Path, Usage> {
    if file.is_dir() {
        return Err(Usage::new(format!("{} is a directory", file.display())));
    }
    Ok(file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Writes a file aside and renames it when it is complete.
fn replace(
    file: &Path,
    write: impl FnOnce(&mut dyn std::io::Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let temporary = tempfile::Builder::new().permissions(permissions).tempfile_in(parent(file)?)?;
    let mut out = std::io::BufWriter::with_capacity(256 << 10, temporary);
    write(&mut out)?;
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.persist(file)?;
    Ok(())
}
