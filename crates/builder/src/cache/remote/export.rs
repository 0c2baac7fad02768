//! Caches that a build writes: layers on their way while later steps run, entries when the image is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rbuild_image::{
    BytesContent, Content, Descriptor, Digest, Reference, Resolved, Source, StoreError, StoreErrorKind,
};
use rbuild_layers::Store;
use rbuild_registry::Client;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::entry::{CacheEntry, EMPTY};
use super::index::ScopeIndex;
use super::repository::{CacheRepository, RemoteCacheError, Use, seconds};
use super::{CacheExport, CacheMode, CacheScope, RemoteCache, Used, explain, inline};
use crate::build::OnEvent;
use crate::cache::local::StepResult;
use crate::event::Event;

/// Layers that are sent to one cache at the same time while steps run.
const PARALLEL_UPLOADS: usize = 2;

/// An entry that was written within this time, in seconds, is not written again for its time alone.
const FRESH: u64 = 24 * 3600;

/// One cache, and what is on its way there.
pub(super) struct Export {
    repository: CacheRepository,
    mode: CacheMode,
    /// What messages call it.
    shown: String,
    uploads: Mutex<Uploads>,
    permits: Arc<Semaphore>,
}

#[derive(Default)]
struct Uploads {
    begun: BTreeSet<Digest>,
    /// Stopped when the build ends before they do.
    tasks: JoinSet<()>,
}

impl Export {
    /// Gets ready. What cannot be written at all is told as a notice.
    pub(super) fn new(export: &CacheExport, client: Option<&Client>, on_event: &OnEvent) -> Option<Self> {
        let CacheExport::Place { place, scope, mode } = export else { return None };
        let shown = super::import::shown(&super::CacheImport { place: place.clone(), scope: scope.clone() });
        match CacheRepository::new(place, scope, client, Use::Write) {
            Ok(repository) => Some(Self {
                repository,
                mode: *mode,
                shown,
                uploads: Mutex::default(),
                permits: Arc::new(Semaphore::new(PARALLEL_UPLOADS)),
            }),
            Err(error) => {
                on_event(Event::Notice { message: unwritten(&shown, &error) });
                None
            }
        }
    }

    /// The repository, if a layer is on its way there.
    pub(super) fn origin(&self, layer: &Digest) -> Option<Reference> {
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.begun.contains(layer).then(|| self.repository.name().clone())
    }

    /// Sends a layer while the build goes on. What fails now is sent with its entry.
    fn begin(&self, layer: &Descriptor, store: &Store, runtime: &tokio::runtime::Handle) {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if !uploads.begun.insert(layer.digest) {
            return;
        }
        let (sink, permits) = (self.repository.sink(), Arc::clone(&self.permits));
        let (store, layer) = (store.clone(), layer.clone());
        let send = async move {
            let Ok(_permit) = permits.acquire_owned().await else { return };
            if let Ok(false) = sink.exists(&layer).await
                && let Ok(content) = store.content(&layer).await
            {
                let _ = sink.push(&layer, content).await;
            }
        };
        uploads.tasks.spawn_on(send, runtime);
    }

    /// Waits for what is on its way.
    async fn finish(&self) {
        let tasks = std::mem::take(&mut self.uploads.lock().unwrap_or_else(PoisonError::into_inner).tasks);
        tasks.join_all().await;
    }

    fn takes(&self, used: &Used, of_image: &BTreeSet<Digest>) -> bool {
        let may = used.scope.as_ref().is_none_or(|scope| scope == self.repository.scope());
        may && (self.mode == CacheMode::Max || of_image.contains(&used.entry.result.descriptor.digest))
    }
}

impl RemoteCache {
    /// Notes what a step came to, under which keys, and where it was found if not made here. Its layer is sent now where
    /// all results are wanted.
    pub(crate) fn add(
        &self,
        (keys, variant): (&[Digest], &str),
        result: &StepResult,
        scope: Option<&CacheScope>,
        runtime: &tokio::runtime::Handle,
    ) {
        if (self.exports.is_empty() && !self.has_inline) || keys.is_empty() {
            return;
        }
        let entry = CacheEntry {
            keys: keys.iter().copied().collect(),
            variant: variant.to_owned(),
            result: result.clone(),
            written: seconds(SystemTime::now()),
        };
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let layer = result.descriptor.digest;
        // What was read under a scope and what was made here stay apart, if it is the same layer.
        let used = results.entry((layer, scope.cloned()));
        used.or_insert_with(|| Used { entry, scope: scope.cloned() }).entry.keys.extend(keys);
        drop(results);
        for export in &self.exports {
            if export.mode == CacheMode::Max && scope.is_none() && self.store.has_blob(&layer) {
                export.begin(&result.descriptor, &self.store, runtime);
            }
        }
    }

    /// What the manifest of an image with these layers is to say of its cache.
    pub(crate) fn inline(&self, layers: &[Descriptor], variant: &str) -> BTreeMap<String, String> {
        if !self.has_inline {
            return BTreeMap::new();
        }
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let default = CacheScope::default();
        let own = results.values().filter(|used| used.scope.as_ref().is_none_or(|scope| *scope == default));
        inline::annotations(own.map(|used| &used.entry), layers, variant)
    }

    /// Writes every cache. `layers` are those of the image, which `pushed` repositories have now. What cannot be written is
    /// told as a notice: the image is done.
    pub(crate) async fn write(&self, layers: &BTreeSet<Digest>, pushed: &[Reference]) {
        let results: Vec<Used> =
            self.results.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for export in &self.exports {
            export.finish().await;
            let entries = results.iter().filter(|used| export.takes(used, layers));
            let entries: Vec<CacheEntry> = entries.map(|used| used.entry.clone()).collect();
            let (count, written) = (entries.len(), self.write_one(export, entries, pushed).await);
            match written {
                Ok(new) => {
                    self.notice(format!("cache {}: {new} of {count} results are new there", export.shown));
                }
                Err(error) => self.notice(unwritten(&export.shown, &error)),
            }
        }
    }

    /// Writes what one cache lacks. Returns how much that was.
    async fn write_one(
        &self,
        export: &Export,
        entries: Vec<CacheEntry>,
        pushed: &[Reference],
    ) -> Result<usize, RemoteCacheError> {
        let there = export.repository.read(&export.repository.find().await?).await?;
        let index = ScopeIndex::of(entries.into_iter().filter(|entry| !is_known(entry, &there)));
        let count = index.entries.len();
        if count == 0 {
            return Ok(0);
        }
        let source = EntrySource { index: &index, cache: self, pushed };
        let nonce = nonce();
        export.repository.add(index.clone(), &source, &nonce).await?;
        Ok(count)
    }
}

/// Tells whether a result is there already, under all of its keys, and was written not long ago.
fn is_known(entry: &CacheEntry, there: &ScopeIndex) -> bool {
    there.entries.values().any(|known| {
        known.variant == entry.variant
            && known.result.descriptor.digest == entry.result.descriptor.digest
            && known.keys.is_superset(&entry.keys)
            && known.written.saturating_add(FRESH) >= entry.written
    })
}

/// A text that no other writer has.
fn nonce() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    let random = || RandomState::new().hash_one(std::process::id());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{:016x}{:016x}", now.as_nanos(), random(), random())
}

fn unwritten(shown: &str, error: &RemoteCacheError) -> String {
    format!("warning: cannot write the cache {shown}: {}", explain(error))
}

/// New entries as a source: their manifests, and layers from wherever they are.
struct EntrySource<'a> {
    index: &'a ScopeIndex,
    cache: &'a RemoteCache,
    pushed: &'a [Reference],
}

impl Source for EntrySource<'_> {
    fn resolve<'a>(&'a self, name: &'a Reference) -> BoxFuture<'a, Result<Resolved, StoreError>> {
        Box::pin(async move { Err(StoreError::new(StoreErrorKind::NotFound, format!("no image {name}"))) })
    }

    fn manifest<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let entry = self.index.entries.get(&descriptor.digest);
            let missing =
                || StoreError::new(StoreErrorKind::NotFound, format!("no entry {}", descriptor.digest));
            Ok(entry.ok_or_else(missing)?.manifest().bytes().clone())
        })
    }

    fn content<'a>(
        &'a self,
        descriptor: &'a Descriptor,
    ) -> BoxFuture<'a, Result<Arc<dyn Content>, StoreError>> {
        Box::pin(async move {
            if descriptor.digest == Digest::of(EMPTY) {
                return Ok(Arc::new(BytesContent(Bytes::from_static(EMPTY))) as Arc<dyn Content>);
            }
            if self.cache.store.has_blob(&descriptor.digest) {
                return self.cache.store.content(descriptor).await;
            }
            let missing =
                || StoreError::new(StoreErrorKind::NotFound, format!("no layer {}", descriptor.digest));
            self.cache.source_of(&descriptor.digest).ok_or_else(missing)?.content(descriptor).await
        })
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Reference> {
        if blob.digest == Digest::of(EMPTY) {
            return Vec::new();
        }
        self.cache.origins(blob).into_iter().chain(self.pushed.iter().cloned()).collect()
    }
}
