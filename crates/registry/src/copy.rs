//! One verb for pull, push and everything between: copy what a name stands for from a source to a sink.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use rbuild_image::{
    Content, Descriptor, Digest, DocumentError, ManifestOrIndex, Platform, Reference, Resolved, Sink, Source,
    StoreError, media_type,
};
use tokio::io::{AsyncRead, ReadBuf};

use crate::error::Error;

/// Indexes may hold indexes; a chain longer than this is refused.
const MAX_DEPTH: usize = 8;
/// The number of manifests and indexes below one name.
const MAX_MANIFESTS: usize = 1024;
/// What these may weigh together, in bytes: all are held in memory until their blobs have been sent.
const MAX_MANIFEST_BYTES: usize = 64 << 20;

/// How a copy is made.
#[derive(Clone)]
pub struct CopyOptions {
    /// Copies the image of this platform out of an index; without it the whole index is copied.
    pub platform: Option<Platform>,
    /// Names the copy gets in the sink, once everything is there; without any it can be had by digest only.
    pub tags: Vec<Reference>,
    /// Hears of everything that moves, from several tasks at once.
    pub on_progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
    /// How many blobs are copied at once; 0 counts as 1.
    pub jobs: usize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { platform: None, tags: Vec::new(), on_progress: None, jobs: 4 }
    }
}

impl fmt::Debug for CopyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyOptions")
            .field("platform", &self.platform)
            .field("tags", &self.tags)
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

/// News of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What happened to it.
    pub transfer: Transfer,
}

/// What happens to a blob in a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transfer {
    /// It was there already. Nothing else follows.
    Exists,
    /// The sink took it over from another of its repositories. Nothing else follows.
    Mounted,
    /// It is a foreign layer, which registries do not distribute. Nothing else follows.
    Foreign,
    /// Its bytes begin to move.
    Started,
    /// So many of its bytes have been read; after a retry it may be less than before.
    Advanced(u64),
    /// It has arrived.
    Finished,
}

/// Why a copy did not come about. What had been copied by then stays in the sink, without a name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The source or the sink failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A manifest or an index cannot be read.
    #[error("cannot read manifest {digest}")]
    Document {
        /// The manifest.
        digest: Digest,
        /// Why not.
        source: DocumentError,
    },
    /// An index has no image for the platform.
    #[error("index {digest} has no image for {platform}, only for {}", available.join(", "))]
    Platform {
        /// The index.
        digest: Digest,
        /// The platform that was asked for.
        platform: Box<Platform>,
        /// The platforms there are.
        available: Vec<String>,
    },
    /// The index holds more than a copy takes on.
    #[error("index {digest} has too many manifests below it")]
    TooMany {
        /// The index.
        digest: Digest,
    },
}

/// Copies what `name` stands for in `source` to `sink` and returns the descriptor of what was copied.
///
/// Blobs go first, several at once; then manifests, children before parents; the tags last, so that no name ever stands
/// for something incomplete. What the sink has is not read; what it can mount from a repository that the source knows of is not sent.
///
/// # Errors
/// The first failure ends the copy; see [`CopyError`].
pub async fn copy(
    source: &dyn Source,
    sink: &dyn Sink,
    name: &Reference,
    options: &CopyOptions,
) -> Result<Descriptor, CopyError> {
    let resolved = source.resolve(name).await?;
    copy_manifest(source, sink, resolved, options).await
}

/// Copies a manifest or an index that has been resolved already; see [`copy`].
///
/// # Errors
/// As [`copy`].
pub async fn copy_manifest(
    source: &dyn Source,
    sink: &dyn Sink,
    root: Resolved,
    options: &CopyOptions,
) -> Result<Descriptor, CopyError> {
    let root = match &options.platform {
        Some(platform) => select(source, root, platform).await?,
        None => root,
    };
    let mut plan = Plan::new(source, root.descriptor.digest);
    plan.visit(root.clone(), 0).await?;
    let Plan { blobs, manifests, .. } = plan;

    let transfers = blobs.into_iter().map(|blob| {
        let job = BlobCopy { source, sink, options };
        async move { job.run(blob).await }
    });
    stream::iter(transfers).buffer_unordered(options.jobs.max(1)).try_collect::<()>().await?;

    for Resolved { descriptor, bytes } in manifests {
        if descriptor.digest != root.descriptor.digest || options.tags.is_empty() {
            sink.push_manifest(&descriptor, bytes).await?;
        }
    }
    for tag in &options.tags {
        sink.tag(&root.descriptor, root.bytes.clone(), tag).await?;
    }
    Ok(root.descriptor)
}

fn parse(document: &Resolved) -> Result<ManifestOrIndex, CopyError> {
    ManifestOrIndex::parse(&document.descriptor.media_type, document.bytes.clone())
        .map_err(|source| CopyError::Document { digest: document.descriptor.digest, source })
}

/// Goes down from an index to the image of a platform.
async fn select(source: &dyn Source, root: Resolved, platform: &Platform) -> Result<Resolved, CopyError> {
    let mut current = root;
    for _ in 0..MAX_DEPTH {
        let ManifestOrIndex::Index(index) = parse(&current)? else { return Ok(current) };
        let manifests = &index.value().manifests;
        let Some(chosen) = platform.select(manifests) else {
            let platforms = manifests.iter().filter_map(|manifest| manifest.platform.as_ref());
            return Err(CopyError::Platform {
                digest: current.descriptor.digest,
                platform: Box::new(platform.clone()),
                available: platforms.map(ToString::to_string).collect(),
            });
        };
        let bytes = source.manifest(chosen).await?;
        current = Resolved { descriptor: chosen.clone(), bytes };
    }
    Err(CopyError::TooMany { digest: current.descriptor.digest })
}

/// Everything below a root, each content once.
struct Plan<'a> {
    source: &'a dyn Source,
    root: Digest,
    seen: BTreeSet<Digest>,
    blobs: Vec<Descriptor>,
    /// Children before parents.
    manifests: Vec<Resolved>,
    manifest_bytes: usize,
}

impl<'a> Plan<'a> {
    fn new(source: &'a dyn Source, root: Digest) -> Self {
        let (seen, blobs, manifests) = (BTreeSet::new(), Vec::new(), Vec::new());
        Self { source, root, seen, blobs, manifests, manifest_bytes: 0 }
    }

    fn visit(&mut self, document: Resolved, depth: usize) -> BoxFuture<'_, Result<(), CopyError>> {
        Box::pin(async move {
            self.manifest_bytes = self.manifest_bytes.saturating_add(document.bytes.len());
            let too_many = self.seen.len() > MAX_MANIFESTS * 64 || self.manifests.len() >= MAX_MANIFESTS;
            if depth > MAX_DEPTH || too_many || self.manifest_bytes > MAX_MANIFEST_BYTES {
                return Err(CopyError::TooMany { digest: self.root });
            }
            self.seen.insert(document.descriptor.digest);
            let parsed = parse(&document)?;
            for child in parsed.children() {
                if !self.seen.insert(child.digest) {
                    continue;
                }
                if media_type::is_manifest(&child.media_type) || media_type::is_index(&child.media_type) {
                    let bytes = self.source.manifest(child).await?;
                    self.visit(Resolved { descriptor: child.clone(), bytes }, depth + 1).await?;
                } else {
                    self.blobs.push(child.clone());
                }
            }
            self.manifests.push(document);
            Ok(())
        })
    }
}

/// What it takes to copy one blob.
struct BlobCopy<'a> {
    source: &'a dyn Source,
    sink: &'a dyn Sink,
    options: &'a CopyOptions,
}

impl BlobCopy<'_> {
    async fn run(self, blob: Descriptor) -> Result<(), CopyError> {
        let transfer = self.transfer(&blob).await?;
        Watch::new(&blob, self.options).report(transfer);
        Ok(())
    }

    async fn transfer(&self, blob: &Descriptor) -> Result<Transfer, StoreError> {
        if media_type::is_foreign_layer(&blob.media_type) && !blob.urls.is_empty() {
            return Ok(Transfer::Foreign);
        }
        if self.sink.exists(blob).await? {
            return Ok(Transfer::Exists);
        }
        for origin in self.source.origins(blob) {
            if self.sink.mount(blob, &origin).await? {
                return Ok(Transfer::Mounted);
            }
        }
        let watch = Watch::new(blob, self.options);
        watch.report(Transfer::Started);
        let content = self.source.content(blob).await?;
        let pushed = self.sink.push(blob, Arc::new(Watched { content, watch })).await;
        pushed.map_err(|error| by_cause(error, blob)).map(|()| Transfer::Finished)
    }
}

/// A sink sees a failing source as failed reading; what its registry said is what a caller can act on.
fn by_cause(error: StoreError, blob: &Descriptor) -> StoreError {
    match Error::find(&error).map(Error::kind) {
        Some(kind) if *error.kind() != kind => {
            StoreError::new(kind, format!("cannot copy {}", blob.digest)).with_source(error)
        }
        _ => error,
    }
}

/// Reports on one blob.
#[derive(Clone)]
struct Watch {
    digest: Digest,
    size: u64,
    report: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl Watch {
    fn new(blob: &Descriptor, options: &CopyOptions) -> Self {
        Self { digest: blob.digest, size: blob.size, report: options.on_progress.clone() }
    }

    fn report(&self, transfer: Transfer) {
        if let Some(report) = &self.report {
            report(Progress { digest: self.digest, size: self.size, transfer });
        }
    }
}

/// Content that reports how far it has been read.
struct Watched {
    content: Arc<dyn Content>,
    watch: Watch,
}

impl Content for Watched {
    fn open(&self, offset: u64) -> BoxFuture<'_, io::Result<Box<dyn AsyncRead + Send + Unpin>>> {
        Box::pin(async move {
            let inner = self.content.open(offset).await?;
            let reader = WatchedReader { inner, position: offset, watch: self.watch.clone() };
            Ok(Box::new(reader) as Box<dyn AsyncRead + Send + Unpin>)
        })
    }

    fn path(&self) -> Option<&Path> {
        self.content.path()
    }
}

struct WatchedReader {
    inner: Box<dyn AsyncRead + Send + Unpin>,
    position: u64,
    watch: Watch,
}

impl AsyncRead for WatchedReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let count = buffer.filled().len().saturating_sub(before) as u64;
        if count > 0 {
            self.position = self.position.saturating_add(count);
            self.watch.report(Transfer::Advanced(self.position));
        }
        Poll::Ready(Ok(()))
    }
}
