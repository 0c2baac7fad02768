//! An OCI image layout as the store of a node: rbuild's own work directory, or any directory.
//!
//! Blobs land verified under `blobs/`, what is on its way under `partial/`. An image is listed by its manifest, once for
//! each name; an annotation holds the digest that the name stands for when that is an index's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use rbuild_image::layout::IMAGE_NAME;
use rbuild_image::{
    BytesContent, Content, Descriptor, Digest, Layout, Manifest, ManifestOrIndex, Platform, Raw, Reference,
    Source,
};
use rbuild_layers::{Limits, Overlay, Snapshotter as _, Store};
use tokio::task::spawn_blocking;
use tokio_util::io::ReaderStream;

use super::{Flights, NodeImage, NodeStore, Usage, by_cause, grouped, image};
use crate::error::{Error, failed};
use crate::name;
use crate::partial::{Partial, Sync};
use crate::pull::{Arrival, Progress};

/// Annotation of an index entry: the digest that its name stands for.
const TARGET: &str = "dev.rbuild.target";
/// Annotation of an index entry: the image should not be removed when space is short.
const PINNED: &str = "dev.rbuild.pinned";
/// The size of the pieces in which blobs are read.
const PIECE: usize = 256 << 10;
/// How many pieces of a blob may wait for the disk.
const WAITING: usize = 16;

/// Whether layers are unpacked as they land.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unpacking {
    /// Blobs only.
    #[default]
    No,
    /// Into rbuild's snapshots, for its own builds.
    Yes,
}

/// A layout as the store of a node.
#[derive(Clone, Debug)]
pub struct OwnStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    kind: Kind,
    sync: Sync,
    /// Held by whoever brings a blob.
    flights: Flights,
    /// Blobs of removed images that are still there.
    garbage: Mutex<BTreeSet<Digest>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// rbuild's work directory, whose users hold its lock.
    Work(Unpacking),
    /// A directory of which nothing else is known.
    Layout,
}

impl OwnStore {
    /// Uses rbuild's work directory, making it if it is missing.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn open(path: &Path, unpacking: Unpacking, sync: Sync) -> Result<Self, Error> {
        let store = Store::open(path)?;
        Ok(Self::over(store.path().to_owned(), Kind::Work(unpacking), sync))
    }

    /// Uses an OCI image layout, making it if it is missing.
    ///
    /// # Errors
    /// The directory cannot be made, or is a layout of another version.
    pub fn layout(path: &Path, sync: Sync) -> Result<Self, Error> {
        let layout = Layout::create(path)?;
        Ok(Self::over(layout.path().to_owned(), Kind::Layout, sync))
    }

    fn over(path: PathBuf, kind: Kind, sync: Sync) -> Self {
        Self(Arc::new(Shared { path, kind, sync, flights: Flights::default(), garbage: Mutex::default() }))
    }

    /// Does what waits for the disk on a thread where that may be waited for.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.0);
        spawn_blocking(move || work(&shared)).await.map_err(|_| Error::Interrupted)?
    }

    async fn land_all(&self, arrival: &Arrival) -> Result<(), Error> {
        let held = self.blocking(Shared::hold).await?;
        let layout = Layout::open(&self.0.path)?;
        self.0.check_space(&layout, arrival)?;
        let config: Arc<dyn Content> = Arc::new(BytesContent(arrival.config.bytes().clone()));
        rbuild_image::Sink::push(&layout, &arrival.manifest.value().config, config).await?;
        let mut fetches = Vec::new();
        for layer in &arrival.manifest.value().layers {
            fetches.push(self.0.fetch(&layout, &*arrival.source, layer, &arrival.progress));
        }
        stream::iter(fetches).buffer_unordered(arrival.jobs).try_collect::<()>().await?;
        if let (Kind::Work(Unpacking::Yes), Some(store)) = (self.0.kind, &held) {
            let (chain, store) = (image(arrival)?.chain(), store.clone());
            let unpack =
                move |_: &Shared| Ok(Overlay::new(store, Limits::default()).view(&chain).map(drop)?);
            self.blocking(unpack).await?;
        }
        let named = NamedImage::new(arrival);
        self.blocking(move |_| named.list(&layout)).await
    }
}

impl Shared {
    /// Holds off whatever process would remove what is being written or looked at.
    fn hold(&self) -> Result<Option<Store>, Error> {
        Ok(match self.kind {
            Kind::Work(_) => Some(Store::open(&self.path)?),
            Kind::Layout => None,
        })
    }

    fn read(&self) -> Result<Vec<NodeImage>, Error> {
        let layout = Layout::open(&self.path)?;
        let host = Platform::host();
        let mut known: BTreeMap<Digest, Option<NodeImage>> = BTreeMap::new();
        let mut entries = Vec::new();
        for descriptor in layout.descriptors()? {
            let Some(name) = full_name(&descriptor) else { continue };
            let read = || {
                let manifest = manifest(&layout, &descriptor, &host)?;
                NodeImage::new(&manifest, layout.read(&manifest.value().config).ok()?)
            };
            // What is listed and incomplete, or no image for this node, is none of its images.
            let Some(image) = known.entry(descriptor.digest).or_insert_with(read) else { continue };
            let mut image = image.clone();
            let target = descriptor.annotations.get(TARGET).and_then(|target| target.parse().ok());
            let target = name.digest().or(target).unwrap_or(descriptor.digest);
            image.digests.push(format!("{}@{target}", name::repository(&name)));
            image.tags.extend(name.digest().is_none().then(|| name.to_string()));
            image.pinned = descriptor.annotations.contains_key(PINNED);
            entries.push(image);
        }
        Ok(grouped(entries))
    }

    fn check_space(&self, layout: &Layout, arrival: &Arrival) -> Result<(), Error> {
        let layers = arrival.manifest.value().layers.iter();
        let missing = layers.filter(|layer| !has(layout, layer)).map(|layer| layer.size);
        let compressed = missing.fold(0, u64::saturating_add);
        // Layers shrink to about a third or half.
        let unpacked = if self.kind == Kind::Work(Unpacking::Yes) { compressed.saturating_mul(2) } else { 0 };
        let needed = compressed.saturating_add(unpacked);
        let found = rustix::fs::statvfs(&self.path).map_err(failed("look at", &self.path))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if needed <= free {
            return Ok(());
        }
        Err(Error::NoSpace { name: arrival.name.to_string(), path: self.path.clone(), needed, free })
    }

    /// Brings one blob, unless it is there or somebody else brings it.
    async fn fetch(
        &self,
        layout: &Layout,
        source: &dyn Source,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<(), Error> {
        let flight = self.flights.of(blob.digest);
        let _flight = flight.lock().await;
        progress.step();
        if has(layout, blob) {
            return Ok(());
        }
        let resumed = self.fetch_once(layout, source, blob, progress).await?;
        if has(layout, blob) || !resumed {
            return Ok(());
        }
        // What an earlier pull had left was damaged, and is gone now.
        self.fetch_once(layout, source, blob, progress).await.map(drop)
    }

    /// Fetches the rest of a blob. Returns whether there was a beginning; then a wrong blob is not yet an error.
    async fn fetch_once(
        &self,
        layout: &Layout,
        source: &dyn Source,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<bool, Error> {
        let (opening, wanted) = (layout.clone(), blob.clone());
        let opened = spawn_blocking(move || Partial::open(&opening, &wanted)).await;
        let mut partial = opened.map_err(|_| Error::Interrupted)??;
        // Another process may have brought it while its file was waited for.
        if has(layout, blob) {
            return Ok(true);
        }
        let offset = partial.position();
        if offset < blob.size {
            let content = source.content(blob).await?;
            let reader = content.open(offset).await.map_err(|error| by_cause(blob, error))?;
            let mut pieces = ReaderStream::with_capacity(reader, PIECE);
            let (sender, mut receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(WAITING);
            // Hashing and writing go on while the next pieces come; dropping the sender ends this.
            let writing = spawn_blocking(move || {
                while let Some(piece) = receiver.blocking_recv() {
                    partial.write(&piece)?;
                }
                Ok::<_, Error>(partial)
            });
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|error| by_cause(blob, error))?;
                progress.fetched(piece.len() as u64);
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
            drop(sender);
            partial = writing.await.map_err(|_| Error::Interrupted)??;
        }
        let (layout, blob, sync) = (layout.clone(), blob.clone(), self.sync);
        let finished = spawn_blocking(move || partial.finish(&layout, &blob, sync)).await;
        match finished.map_err(|_| Error::Interrupted)? {
            Err(Error::Store(_)) if offset > 0 => Ok(true),
            other => other.map(|()| offset > 0),
        }
    }

    fn forget(&self, image: &NodeImage) -> Result<(), Error> {
        let _held = self.hold()?;
        let layout = Layout::open(&self.path)?;
        let blobs = self.blobs(&layout, image.id)?;
        for name in image.tags.iter().chain(&image.digests).filter_map(|name| name.parse().ok()) {
            layout.unlist(&name)?;
        }
        self.garbage.lock().unwrap_or_else(PoisonError::into_inner).extend(blobs);
        self.reclaim()
    }

    /// Lists the blobs of all entries of an image, manifests included.
    fn blobs(&self, layout: &Layout, id: Digest) -> Result<BTreeSet<Digest>, Error> {
        let host = Platform::host();
        let mut blobs = BTreeSet::new();
        for descriptor in layout.descriptors()? {
            let Some(manifest) = manifest(layout, &descriptor, &host) else { continue };
            if manifest.value().config.digest == id {
                blobs.extend([descriptor.digest, manifest.digest(), id]);
                blobs.extend(manifest.value().layers.iter().map(|layer| layer.digest));
            }
        }
        Ok(blobs)
    }

    /// Removes blobs that only removed images had. Those that a process which uses the store may rely on are left to the next
    /// pull or removal.
    ///
    /// A plain layout may have users that nobody knows of: there blobs stay.
    fn reclaim(&self) -> Result<(), Error> {
        let mut garbage = self.garbage.lock().unwrap_or_else(PoisonError::into_inner);
        if garbage.is_empty() || self.kind == Kind::Layout {
            return Ok(());
        }
        *garbage = Store::open(&self.path)?.collect_blobs(&garbage)?;
        Ok(())
    }

    fn add_up(&self) -> Result<Usage, Error> {
        let mut usage = Usage { mountpoint: self.path.clone(), bytes: 0, inodes: 0 };
        for directory in ["blobs/sha256", "partial"].map(|name| self.path.join(name)) {
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed("read", &directory))?,
            };
            usage.inodes += 1;
            // A file that vanishes meanwhile takes nothing.
            for metadata in entries.filter_map(|entry| entry.ok()?.metadata().ok()) {
                usage.bytes = usage.bytes.saturating_add(metadata.blocks().saturating_mul(512));
                usage.inodes += 1;
            }
        }
        Ok(usage)
    }
}

/// What is written of an image at the very end.
struct NamedImage {
    manifest: (Descriptor, bytes::Bytes),
    names: Vec<Reference>,
}

impl NamedImage {
    fn new(arrival: &Arrival) -> Self {
        let mut descriptor = arrival.manifest_descriptor();
        let platform = arrival.config.value().platform();
        descriptor.platform = Some(platform);
        descriptor.annotations.clear();
        descriptor.annotations.insert(TARGET.to_owned(), arrival.target.digest.to_string());
        if arrival.pinned {
            descriptor.annotations.insert(PINNED.to_owned(), "true".to_owned());
        }
        let names = [Some(arrival.digest_name()), arrival.tag_name()].into_iter().flatten();
        let names = names.filter_map(|name| name.parse().ok()).collect();
        Self { manifest: (descriptor, arrival.manifest.bytes().clone()), names }
    }

    fn list(&self, layout: &Layout) -> Result<(), Error> {
        let (descriptor, bytes) = &self.manifest;
        layout.put(bytes)?;
        for name in &self.names {
            layout.list(descriptor, Some(name))?;
        }
        Ok(())
    }
}

fn full_name(descriptor: &Descriptor) -> Option<Reference> {
    descriptor.annotations.get(IMAGE_NAME)?.parse().ok()
}

fn has(layout: &Layout, blob: &Descriptor) -> bool {
    let found = layout.blob_path(&blob.digest).metadata();
    found.is_ok_and(|found| found.is_file() && found.len() == blob.size)
}

/// Finds the manifest for this node below a descriptor.
fn manifest(layout: &Layout, descriptor: &Descriptor, platform: &Platform) -> Option<Raw<Manifest>> {
    let parse = |descriptor: &Descriptor| {
        ManifestOrIndex::parse(&descriptor.media_type, layout.read(descriptor).ok()?).ok()
    };
    match parse(descriptor)? {
        ManifestOrIndex::Manifest(manifest) => Some(manifest),
        ManifestOrIndex::Index(index) => match parse(platform.select(&index.value().manifests)?)? {
            ManifestOrIndex::Manifest(manifest) => Some(manifest),
            ManifestOrIndex::Index(_) => None,
        },
    }
}

impl NodeStore for OwnStore {
    fn images(&self) -> BoxFuture<'_, Result<Vec<NodeImage>, Error>> {
        Box::pin(self.blocking(Shared::read))
    }

    fn land<'a>(&'a self, arrival: &'a Arrival) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.land_all(arrival).await?;
            self.blocking(Shared::reclaim).await
        })
    }

    fn remove<'a>(&'a self, image: &'a NodeImage) -> BoxFuture<'a, Result<(), Error>> {
        let image = image.clone();
        Box::pin(self.blocking(move |shared| shared.forget(&image)))
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, Error>> {
        Box::pin(self.blocking(Shared::add_up))
    }
}
