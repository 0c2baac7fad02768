//! Where images of a node live: the seam between what the interface promises and what a runtime reads.

mod containerd;
mod own;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::future::BoxFuture;
use rbuild_image::{Descriptor, Digest, Image, Manifest, Raw, StoreError, StoreErrorKind};

pub use containerd::ContainerdStore;
pub use own::{OwnStore, Unpacking};

use crate::error::Error;
use crate::name;
use crate::pull::Arrival;

/// An image of a node, with all names that lead to it.
#[derive(Clone, Debug)]
pub struct NodeImage {
    /// The digest of its config, which is what runtimes call the image's ID.
    pub id: Digest,
    /// Full names with tags, sorted.
    pub tags: Vec<String>,
    /// Full names with digests, sorted.
    pub digests: Vec<String>,
    /// Bytes of manifest, config and compressed layers.
    pub size: u64,
    /// What the image runs as: the config's `User`.
    pub user: String,
    /// Whether it should not be removed when space is short.
    pub pinned: bool,
    /// The config as it is stored.
    pub config: bytes::Bytes,
}

impl NodeImage {
    fn new(manifest: &Raw<Manifest>, config: bytes::Bytes) -> Option<Self> {
        let document = Raw::<rbuild_image::ImageConfig>::parse(config.clone()).ok()?;
        let value = manifest.value();
        let blobs = value.layers.iter().chain([&value.config]).map(|blob| blob.size);
        let size = blobs.fold(manifest.bytes().len() as u64, u64::saturating_add);
        let (tags, digests, id) = (Vec::new(), Vec::new(), value.config.digest);
        Some(Self { id, tags, digests, size, user: document.into_value().config.user, pinned: false, config })
    }

    /// Returns the chain ID of all layers; `None` when there are none.
    #[must_use]
    pub fn chain_id(&self) -> Option<rbuild_image::ChainId> {
        let config = Raw::<rbuild_image::ImageConfig>::parse(self.config.clone()).ok()?;
        rbuild_image::ChainId::of(&config.value().rootfs.diff_ids)
    }
}

/// Finds the image that a tag, `name@digest`, an ID or the unambiguous beginning of one stands for.
#[must_use]
pub fn find<'a>(images: &'a [NodeImage], text: &str) -> Option<&'a NodeImage> {
    if let Ok(name) = name::normalised(text) {
        let name = name.to_string();
        let by_name = images.iter().find(|image| image.tags.contains(&name) || image.digests.contains(&name));
        if by_name.is_some() {
            return by_name;
        }
    }
    let prefix = name::id_prefix(text)?;
    let mut by_id = images.iter().filter(|image| image.id.hex().starts_with(prefix));
    let first = by_id.next()?;
    by_id.next().is_none().then_some(first)
}

/// Puts names that lead to the same image together.
fn grouped(entries: impl IntoIterator<Item = NodeImage>) -> Vec<NodeImage> {
    let mut images: BTreeMap<Digest, NodeImage> = BTreeMap::new();
    for entry in entries {
        let image = images.entry(entry.id).or_insert_with(|| NodeImage {
            tags: Vec::new(),
            digests: Vec::new(),
            pinned: false,
            ..entry.clone()
        });
        image.tags.extend(entry.tags);
        image.digests.extend(entry.digests);
        image.pinned |= entry.pinned;
    }
    let mut images: Vec<NodeImage> = images.into_values().collect();
    for image in &mut images {
        for names in [&mut image.tags, &mut image.digests] {
            names.sort();
            names.dedup();
        }
    }
    images
}

/// What a store takes of its file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// A directory that can be looked at with statfs(2).
    pub mountpoint: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Where the images of a node live.
pub trait NodeStore: Send + Sync + std::fmt::Debug {
    /// Lists all images.
    ///
    /// # Errors
    /// The store cannot be read.
    fn images(&self) -> BoxFuture<'_, Result<Vec<NodeImage>, Error>>;

    /// Brings what is missing of an image and gives it its names, in this order. Dropping the future stops it; what
    /// arrived by then is taken up by the next call.
    ///
    /// # Errors
    /// The registry or the disk fails, or what comes is not what it should be; no name is given then.
    fn land<'a>(&'a self, arrival: &'a Arrival) -> BoxFuture<'a, Result<(), Error>>;

    /// Takes all names of an image away; what only it needed is freed then or later. Removing what is not there is no
    /// failure.
    ///
    /// # Errors
    /// The store cannot be written.
    fn remove<'a>(&'a self, image: &'a NodeImage) -> BoxFuture<'a, Result<(), Error>>;

    /// Adds up what the store takes.
    ///
    /// # Errors
    /// The store cannot be read.
    fn usage(&self) -> BoxFuture<'_, Result<Usage, Error>>;
}

/// Checks that manifest and config belong together.
pub(crate) fn image(arrival: &Arrival) -> Result<Image, Error> {
    let manifest = arrival.manifest.value().clone();
    let config = arrival.config.value().clone();
    Image::from_parts(manifest, config)
        .map_err(|source| Error::Image { name: arrival.name.to_string(), source })
}

/// Locks by digest, for whoever brings what has it.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Flights {
    pub(crate) fn of(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&digest).and_then(Weak::upgrade) {
            return flight;
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::default();
        flights.insert(digest, Arc::downgrade(&flight));
        flight
    }
}

/// Says of a failed stream what the registry said, when it was the registry.
pub(crate) fn by_cause(blob: &Descriptor, source: io::Error) -> Error {
    let message = format!("cannot fetch blob {}", blob.digest);
    let kind = rbuild_registry::Error::find(&source).and_then(|error| match error {
        rbuild_registry::Error::Transport { .. } | rbuild_registry::Error::Silent { .. } => {
            Some(StoreErrorKind::Unavailable)
        }
        error => match error.status()?.as_u16() {
            401 => Some(StoreErrorKind::Unauthorized),
            403 => Some(StoreErrorKind::Denied),
            404 => Some(StoreErrorKind::NotFound),
            429 | 500..=599 => Some(StoreErrorKind::Unavailable),
            _ => None,
        },
    });
    Error::Store(match kind {
        Some(kind) => StoreError::new(kind, message).with_source(source),
        None => StoreError::io(message, source),
    })
}
