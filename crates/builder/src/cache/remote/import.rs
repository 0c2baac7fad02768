//! Caches that a build reads.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use rbuild_image::{
    Descriptor, Digest, Layer, ManifestOrIndex, Resolved, Sink as _, Source, StoreError, media_type,
};
use rbuild_layers::Store;
use rbuild_registry::Client;

use super::entry::CacheEntry;
use super::index::ForeignCache;
use super::repository::{CacheRepository, RemoteCacheError, Use};
use super::{CacheExport, CacheImport, CacheScope, Export, RemoteCache, explain, inline};
use crate::build::OnEvent;
use crate::event::{Event, Transfer, TransferState};

/// Layers that are fetched at the same time.
const PARALLEL_FETCHES: usize = 4;

/// Images of an index that are looked at for inline caches.
const MAX_IMAGES: usize = 16;

/// The entries of one cache.
pub(super) struct Import {
    import: CacheImport,
    source: Arc<dyn Source>,
    /// Entries by key, the first made first.
    entries: HashMap<Digest, Vec<Arc<CacheEntry>>>,
    layers: BTreeSet<Digest>,
    is_given_up: AtomicBool,
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import").field("import", &self.import).field("keys", &self.entries.len()).finish()
    }
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shown(&self.import).fmt(f)
    }
}

/// A cache as messages name it.
pub(super) fn shown(import: &CacheImport) -> String {
    match import.scope == CacheScope::default() {
        true => import.place.to_string(),
        false => format!("{} (scope {})", import.place, import.scope),
    }
}

impl RemoteCache {
    /// Reads every cache, all at once. What cannot be read is told as a notice, and nothing is found there.
    pub(crate) async fn open(
        (imports, exports): (&[CacheImport], &[CacheExport]),
        client: Option<&Client>,
        store: &Store,
        on_event: &OnEvent,
    ) -> Self {
        let read = imports.iter().map(|import| async move { (import, read(import, client).await) });
        let mut found = Vec::new();
        for (import, outcome) in join_all(read).await {
            match outcome {
                Ok(import) => found.push(import),
                Err(error) => {
                    let why = match &error {
                        RemoteCacheError::Missing => format!("cache {}: {error}", shown(import)),
                        _ => format!("warning: cannot use the cache {}: {}", shown(import), explain(&error)),
                    };
                    on_event(Event::Notice { message: why });
                }
            }
        }
        Self {
            imports: found,
            has_inline: exports.contains(&CacheExport::Inline),
            exports: exports.iter().filter_map(|export| Export::new(export, client, on_event)).collect(),
            results: Default::default(),
            was_given_up: AtomicBool::new(false),
            store: store.clone(),
            on_event: Arc::clone(on_event),
        }
    }
}

async fn read(import: &CacheImport, client: Option<&Client>) -> Result<Import, RemoteCacheError> {
    let repository = CacheRepository::new(&import.place, &import.scope, client, Use::Read)?;
    let found = repository.find().await?;
    let entries = match repository.read(&found).await {
        Ok(index) => index.entries.into_values().collect(),
        Err(RemoteCacheError::Foreign(foreign)) => {
            let inline = match &found.root {
                Some(root) => read_inline(root, &*repository.source(), &import.scope).await?,
                None => Vec::new(),
            };
            if inline.is_empty() {
                return Err(foreign.into());
            }
            inline
        }
        Err(error) => return Err(error),
    };
    if entries.is_empty() && found.root.is_none() {
        return Err(RemoteCacheError::Missing);
    }
    Ok(Import::new(import.clone(), repository.source(), entries))
}

/// The entries that an image holds, or the images of an index together.
async fn read_inline(
    root: &Resolved,
    source: &dyn Source,
    scope: &CacheScope,
) -> Result<Vec<CacheEntry>, RemoteCacheError> {
    let malformed = |error: rbuild_image::DocumentError| ForeignCache::Malformed(error.to_string());
    let parse = |document: &Resolved| {
        ManifestOrIndex::parse(&document.descriptor.media_type, document.bytes.clone()).map_err(malformed)
    };
    let index = match parse(root)? {
        ManifestOrIndex::Manifest(manifest) => return Ok(inline::parse(manifest.value(), scope)),
        ManifestOrIndex::Index(index) => index.into_value(),
    };
    let mut entries = Vec::new();
    let images = index.manifests.into_iter().filter(|child| media_type::is_manifest(&child.media_type));
    for descriptor in images.take(MAX_IMAGES) {
        let bytes = source.manifest(&descriptor).await?;
        if let ManifestOrIndex::Manifest(manifest) = parse(&Resolved { descriptor, bytes })? {
            entries.extend(inline::parse(manifest.value(), scope));
        }
    }
    Ok(entries)
}

impl Import {
    fn new(import: CacheImport, source: Arc<dyn Source>, all: Vec<CacheEntry>) -> Self {
        let layers = all.iter().map(|entry| entry.result.descriptor.digest).collect();
        let mut entries: HashMap<Digest, Vec<Arc<CacheEntry>>> = HashMap::new();
        for entry in all.into_iter().map(Arc::new) {
            for key in &entry.keys {
                entries.entry(*key).or_default().push(Arc::clone(&entry));
            }
        }
        let order = |entry: &Arc<CacheEntry>| (entry.result.created.clone(), entry.result.descriptor.digest);
        entries.values_mut().for_each(|same| same.sort_by_key(order));
        Self { import, source, entries, layers, is_given_up: AtomicBool::new(false) }
    }

    fn is_used(&self) -> bool {
        !self.is_given_up.load(Ordering::Acquire)
    }

    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
    }

    pub(super) fn has_entries(&self) -> bool {
        self.is_used() && !self.entries.is_empty()
    }

    pub(super) fn scope(&self) -> &CacheScope {
        &self.import.scope
    }

    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    pub(super) fn get(&self, key: &Digest, variant: &str) -> Option<&CacheEntry> {
        let entries = self.entries.get(key).filter(|_| self.is_used())?;
        entries.iter().find(|entry| entry.variant == variant).map(|entry| &**entry)
    }

    /// Tells whether some entry's layer is this one.
    pub(super) fn holds(&self, layer: &Digest) -> bool {
        self.is_used() && self.layers.contains(layer)
    }

    /// Finds out whether a layer can be read.
    pub(super) async fn open(&self, layer: &Descriptor) -> Result<(), StoreError> {
        let content = self.source.content(layer).await?;
        let opened = content.open(0).await;
        opened.map(drop).map_err(|error| StoreError::io(format!("cannot read {}", layer.digest), error))
    }

    /// Brings layers into the store that it lacks, each verified.
    pub(super) async fn fetch(
        &self,
        layers: &[&Layer],
        store: &Store,
        on_event: &OnEvent,
    ) -> Result<(), StoreError> {
        let fetch = async |layer: &Layer| {
            let descriptor = &layer.descriptor;
            if store.exists(descriptor).await? {
                return Ok(());
            }
            on_event(self.transfer(descriptor, TransferState::Running));
            let content = self.source.content(descriptor).await?;
            store.push(descriptor, content).await?;
            on_event(self.transfer(descriptor, TransferState::Finished));
            Ok(())
        };
        stream::iter(layers.iter().map(|layer| fetch(layer)))
            .buffer_unordered(PARALLEL_FETCHES)
            .try_collect()
            .await
    }

    fn transfer(&self, descriptor: &Descriptor, state: TransferState) -> Event {
        let total = descriptor.size;
        let done = if state == TransferState::Finished { total } else { 0 };
        Event::Pull(Transfer {
            image: self.to_string(),
            digest: descriptor.digest.to_string(),
            done,
            total,
            state,
        })
    }
}
