//! containerd's own store, written as containerd's own pull writes it.
//!
//! Under a lease: blobs with the labels that garbage collection follows, a snapshot for each layer, unpacked here into the
//! directory that the overlayfs snapshotter gives, then three names. What is there already is kept.
//!
//! # References
//! containerd, `docs/garbage-collection.md`, `docs/snapshotters/README.md`

mod api;
mod content;
mod feed;
mod landing;
mod trees;
mod unpacking;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use rbuild_image::{ChainId, Digest, Layer, Manifest, ManifestOrIndex, Platform, Raw, Reference, media_type};
use tokio::sync::OnceCell;

use super::{NodeImage, NodeStore, Usage, grouped, image};
use crate::error::{Error, failed};
use crate::partial::Sync;
use crate::pull::Arrival;

use api::{Api, Collect, Labels, SNAPSHOTTER, path_prefix};
use landing::Landing;

/// Documents larger than this are not read.
const MAX_DOCUMENT: usize = 8 << 20;
/// Marks names that containerd's CRI plugin answers for.
const MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");
/// Marks images that should not be removed when space is short.
const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");

/// containerd's store, in the namespace of Kubernetes.
#[derive(Debug)]
pub struct ContainerdStore {
    api: Api,
    socket: PathBuf,
    prefix: Option<PathBuf>,
    sync: Sync,
    places: OnceCell<Places>,
    /// Held by whoever brings a blob or a snapshot, by digest.
    flights: super::Flights,
    /// Images by the digest that their names stand for; content never changes.
    known: Mutex<BTreeMap<Digest, NodeImage>>,
    leases: AtomicU64,
}

/// Where containerd keeps its things, as it says itself.
#[derive(Clone, Debug)]
struct Places {
    content: Option<PathBuf>,
    snapshots: PathBuf,
    /// What to put before such paths here.
    prefix: Option<PathBuf>,
}

impl Places {
    /// The path under which this process finds one of containerd's.
    fn here(&self, path: &Path) -> PathBuf {
        match &self.prefix {
            Some(prefix) => prefix.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// Where a blob of the content store is.
    fn blob(&self, digest: &Digest) -> PathBuf {
        let root = self.content.as_deref();
        let root = root.unwrap_or(Path::new("/var/lib/containerd/io.containerd.content.v1.content"));
        self.here(&root.join("blobs/sha256").join(digest.hex()))
    }
}

impl ContainerdStore {
    /// Speaks to containerd at a socket. `prefix` is put before containerd's paths to find them from here; without it they are
    /// taken as they are, or below containerd's root in /proc when it has other mounts. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: &Path, prefix: Option<PathBuf>, sync: Sync) -> Self {
        Self {
            api: Api::new(socket),
            socket: socket.to_owned(),
            prefix,
            sync,
            places: OnceCell::new(),
            flights: super::Flights::default(),
            known: Mutex::default(),
            leases: AtomicU64::new(0),
        }
    }

    async fn places(&self) -> Result<&Places, Error> {
        self.places
            .get_or_try_init(async || {
                let content = self.api.root_of("io.containerd.content.v1", "content").await?;
                let snapshots = self.api.root_of("io.containerd.snapshotter.v1", SNAPSHOTTER).await?;
                let default = || PathBuf::from("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs");
                let prefix = self.prefix.clone().or_else(|| path_prefix(&self.socket));
                Ok(Places { content, snapshots: snapshots.unwrap_or_else(default), prefix })
            })
            .await
    }

    async fn land_all(&self, arrival: &Arrival) -> Result<(), Error> {
        let chain = image(arrival)?.chain();
        self.check_space(arrival).await?;
        let places = self.places().await?;
        let number = self.leases.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let api = self.api.leased(&format!("rbuild-{now}-{number}")).await?;
        let lease = Lease(Some(api.clone()));
        let landing = Landing::new((&api, places), (arrival, &chain), &self.flights, self.sync);
        let landed = match landing.land().await {
            Ok(()) => self.name(&api, arrival, &chain).await,
            Err(error) => Err(error),
        };
        landing.end().await;
        let ended = lease.end(Collect::from(&landed)).await;
        landed.and(ended)
    }

    /// Writes what makes an image of layers.
    async fn name(&self, api: &Api, arrival: &Arrival, chain: &[Layer]) -> Result<(), Error> {
        self.write_documents(api, arrival, chain).await?;
        let mut labels: Labels = [(MANAGED.0.to_owned(), MANAGED.1.to_owned())].into();
        if arrival.pinned {
            labels.insert(PINNED.0.to_owned(), PINNED.1.to_owned());
        }
        let id = arrival.manifest.value().config.digest.to_string();
        let names = [arrival.tag_name(), Some(arrival.digest_name()), Some(id)];
        for name in names.into_iter().flatten() {
            api.put_image(&name, &arrival.target, &labels).await?;
        }
        Ok(())
    }

    /// Writes config, manifest and index: what points to something after what it points to.
    async fn write_documents(&self, api: &Api, arrival: &Arrival, chain: &[Layer]) -> Result<(), Error> {
        let manifest = arrival.manifest.value();
        let diff_ids: Vec<_> = chain.iter().map(|layer| layer.diff_id).collect();
        let top = ChainId::of(&diff_ids)
            .map(|top| (format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"), top.to_string()));
        let labels = source_label(arrival).into_iter().chain(top).collect();
        content::write_bytes(api, &manifest.config, arrival.config.bytes(), labels).await?;
        for document in arrival.documents.iter().rev() {
            let labels = source_label(arrival).into_iter().chain(children(document)).collect();
            content::write_bytes(api, &document.descriptor, &document.bytes, labels).await?;
        }
        Ok(())
    }

    async fn check_space(&self, arrival: &Arrival) -> Result<(), Error> {
        let places = self.places().await?;
        let path = places.here(&places.snapshots);
        let mut needed: u64 = 0;
        let layers = &arrival.manifest.value().layers;
        for layer in layers {
            if !places.blob(&layer.digest).exists() {
                // The blob, and what it unpacks to.
                needed = needed.saturating_add(layer.size.saturating_mul(3));
            }
        }
        let found = rustix::fs::statvfs(&path).map_err(failed("look at", &path))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if needed <= free {
            return Ok(());
        }
        Err(Error::NoSpace { name: arrival.name.to_string(), path, needed, free })
    }

    async fn list(&self) -> Result<Vec<NodeImage>, Error> {
        let mut entries = Vec::new();
        for named in self.api.images().await? {
            let Some(target) = named.target.as_ref() else { continue };
            let Ok(digest) = target.digest.parse::<Digest>() else { continue };
            let Some(mut image) = self.known_image(digest, &target.media_type).await? else { continue };
            image.pinned = named.labels.get(PINNED.0).is_some_and(|label| label == PINNED.1);
            // The third name is the image's ID.
            if !named.name.starts_with("sha256:") {
                let Ok(name) = named.name.parse::<Reference>() else { continue };
                match name.digest() {
                    Some(_) => image.digests.push(name.to_string()),
                    None => image.tags.push(name.to_string()),
                }
            }
            entries.push(image);
        }
        Ok(grouped(entries))
    }

    /// Reads what a name stands for; `None` when it is no image for this node, or incomplete.
    async fn known_image(&self, digest: Digest, media_type: &str) -> Result<Option<NodeImage>, Error> {
        if let Some(image) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&digest) {
            return Ok(Some(image.clone()));
        }
        let Some(manifest) = self.manifest(digest, media_type).await? else { return Ok(None) };
        let config = self.api.read(&manifest.value().config.digest, MAX_DOCUMENT).await?;
        let Some(image) = config.and_then(|config| NodeImage::new(&manifest, config)) else {
            return Ok(None);
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, image.clone());
        Ok(Some(image))
    }

    async fn manifest(&self, digest: Digest, media_type: &str) -> Result<Option<Raw<Manifest>>, Error> {
        let Some(bytes) = self.api.read(&digest, MAX_DOCUMENT).await? else { return Ok(None) };
        Ok(match ManifestOrIndex::parse(media_type, bytes).ok() {
            None => None,
            Some(ManifestOrIndex::Manifest(manifest)) => Some(manifest),
            Some(ManifestOrIndex::Index(index)) => {
                let Some(chosen) = Platform::host().select(&index.value().manifests).cloned() else {
                    return Ok(None);
                };
                let Some(bytes) = self.api.read(&chosen.digest, MAX_DOCUMENT).await? else { return Ok(None) };
                match ManifestOrIndex::parse(&chosen.media_type, bytes) {
                    Ok(ManifestOrIndex::Manifest(manifest)) => Some(manifest),
                    _ => None,
                }
            }
        })
    }

    async fn forget(&self, image: &NodeImage) -> Result<(), Error> {
        for name in image.tags.iter().chain(&image.digests) {
            self.api.delete_image(name, false).await?;
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, known| known.id != image.id);
        // The last one waits for the collection.
        self.api.delete_image(&image.id.to_string(), true).await
    }

    async fn add_up(&self) -> Result<Usage, Error> {
        let mut usage = Usage { mountpoint: self.places().await?.snapshots.clone(), bytes: 0, inodes: 0 };
        for snapshot in self.api.snapshots().await? {
            let taken = self.api.snapshot_usage(&snapshot.name).await?;
            usage.bytes = usage.bytes.saturating_add(u64::try_from(taken.size).unwrap_or(0));
            usage.inodes = usage.inodes.saturating_add(u64::try_from(taken.inodes).unwrap_or(0));
        }
        Ok(usage)
    }
}

/// The lease of one pull. It ends with it, also when the caller goes away.
///
/// Content that broke off stays in containerd's ingests; the lease is not what keeps it.
struct Lease(Option<Api>);

impl Lease {
    async fn end(mut self, collect: Collect) -> Result<(), Error> {
        match self.0.take() {
            Some(api) => api.end_lease(collect).await,
            None => Ok(()),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let (Some(api), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            // A lease that stays ends by itself a day later.
            runtime.spawn(async move { api.end_lease(Collect::Now).await });
        }
    }
}

/// Says of a blob where it came from.
fn source_label(arrival: &Arrival) -> Option<(String, String)> {
    let (key, value) = (arrival.name.registry(), arrival.name.repository());
    let key = format!("containerd.io/distribution.source.{key}");
    (key.len() + value.len() <= 4096).then(|| (key, value.to_owned()))
}

/// The labels by which garbage collection finds what a document points to.
fn children(document: &rbuild_image::Resolved) -> Labels {
    let label =
        |key: String, digest: &Digest| (format!("containerd.io/gc.ref.content.{key}"), digest.to_string());
    match ManifestOrIndex::parse(&document.descriptor.media_type, document.bytes.clone()) {
        Ok(ManifestOrIndex::Manifest(manifest)) => {
            let layers = manifest.value().layers.iter().enumerate();
            let layers = layers.map(|(number, layer)| label(format!("l.{number}"), &layer.digest));
            layers.chain([label("config".to_owned(), &manifest.value().config.digest)]).collect()
        }
        Ok(ManifestOrIndex::Index(index)) => {
            let (mut manifests, mut others) = (0_u32, 0_u32);
            let keyed = index.value().manifests.iter().map(|child| {
                let is_manifest = media_type::is_manifest(&child.media_type);
                let (prefix, counter) = if is_manifest { ("m.", &mut manifests) } else { ("", &mut others) };
                let key = format!("{prefix}{counter}");
                *counter += 1;
                label(key, &child.digest)
            });
            keyed.collect()
        }
        Err(_) => Labels::new(),
    }
}

impl NodeStore for ContainerdStore {
    fn images(&self) -> BoxFuture<'_, Result<Vec<NodeImage>, Error>> {
        Box::pin(self.list())
    }

    fn land<'a>(&'a self, arrival: &'a Arrival) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.land_all(arrival))
    }

    fn remove<'a>(&'a self, image: &'a NodeImage) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.forget(image))
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, Error>> {
        Box::pin(self.add_up())
    }
}
