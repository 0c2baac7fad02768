//! The verbs.

pub(crate) mod build;
pub(crate) mod cache;
mod call;
mod containers_storage;
pub(crate) mod copy;
pub(crate) mod cri;
pub(crate) mod doctor;
pub(crate) mod gc;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod lint;
pub(crate) mod login;
pub(crate) mod parse;
pub(crate) mod pull;
pub(crate) mod push;
mod transfer;
pub(crate) mod verify;
pub(crate) mod version;

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context as _;
use rbuild_image::{Descriptor, ImageConfig, Manifest, ManifestOrIndex, Platform, Raw, Source};
use rbuild_layers::Store;

use crate::args::StoreArgs;

/// Opens the store that `--root` names, else the default one.
fn open_store(args: &StoreArgs) -> anyhow::Result<Store> {
    let store = match &args.root {
        Some(root) => Store::open(root),
        None => Store::from_env(),
    };
    store.context("cannot open the store")
}

/// Writes data to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Writes a remark to standard error; when that is closed nobody wants to know.
fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Writes a path as it is seen from the working directory, if it is below it.
#[expect(clippy::disallowed_methods, reason = "the command line knows where it stands")]
pub(crate) fn shown_path(path: &str) -> String {
    let below = std::env::current_dir().ok().and_then(|here| Path::new(path).strip_prefix(here).ok());
    let path = below.unwrap_or(Path::new(path));
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

/// An image's two documents.
struct Documents {
    descriptor: Descriptor,
    manifest: Raw<Manifest>,
    config: Raw<ImageConfig>,
}

impl Documents {
    /// Reads manifest and config of what `root` describes, the image of `platform` where there are several.
    async fn read(source: &dyn Source, root: &Descriptor, platform: &Platform) -> anyhow::Result<Self> {
        let mut descriptor = root.clone();
        let mut document =
            ManifestOrIndex::parse(&descriptor.media_type, source.manifest(&descriptor).await?)?;
        if let ManifestOrIndex::Index(index) = &document {
            let chosen = platform.select(&index.value().manifests);
            descriptor =
                chosen.with_context(|| format!("{} has no image for {platform}", descriptor.digest))?.clone();
            document = ManifestOrIndex::parse(&descriptor.media_type, source.manifest(&descriptor).await?)?;
        }
        let ManifestOrIndex::Manifest(manifest) = document else {
            anyhow::bail!("{} is an index inside an index", descriptor.digest);
        };
        let config = Raw::parse(source.manifest(&manifest.value().config).await?)
            .with_context(|| format!("cannot read the config of {}", descriptor.digest))?;
        Ok(Self { descriptor, manifest, config })
    }

    /// The size of the image as it travels, in bytes.
    fn size(&self) -> u64 {
        let manifest = self.manifest.value();
        let layers = manifest.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        layers.saturating_add(manifest.config.size).saturating_add(self.descriptor.size)
    }
}
