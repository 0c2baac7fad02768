//! Results of steps in registries and directories, shared by builds that share no store.
//!
//! A cache is an OCI image index, one for each scope, whose manifests are its entries; `docs/cache.md` has the format. Nothing
//! that is read there can fail a build: what is not there, not ours, of another scope or not as this version writes it is a
//! miss, and so is a layer that turns out to be missing or another one than its entry says.

mod entry;
mod export;
mod import;
mod index;
mod inline;
mod options;
mod prune;
mod repository;
mod saved;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rbuild_image::{Descriptor, Digest, Layer, Reference, StoreError};
use rbuild_layers::Store;

pub use index::ForeignCache;
pub use options::{CacheExport, CacheImport, CacheMode, CachePlace, CacheScope, ScopeError};
pub use prune::{ManifestRemoval, PrunePolicy, Pruned, prune};
pub use repository::RemoteCacheError;
pub(crate) use saved::SavedMounts;

use super::local::StepResult;
use crate::build::OnEvent;
use crate::event::Event;
use entry::CacheEntry;
use export::Export;
use import::Import;

/// The caches elsewhere that one build reads and writes.
pub(crate) struct RemoteCache {
    imports: Vec<Import>,
    exports: Vec<Export>,
    /// Whether the image holds its own cache.
    has_inline: bool,
    /// What this build made or found, for the exports.
    results: Mutex<BTreeMap<(Digest, Option<CacheScope>), Used>>,
    /// Since that was last asked.
    was_given_up: AtomicBool,
    store: Store,
    on_event: OnEvent,
}

/// A result, and the scope it was read from, if it was not made here.
#[derive(Debug, Clone)]
struct Used {
    entry: CacheEntry,
    scope: Option<CacheScope>,
}

/// A result that was found elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    pub result: StepResult,
    pub scope: CacheScope,
}

impl std::fmt::Debug for RemoteCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteCache").field("imports", &self.imports).finish_non_exhaustive()
    }
}

impl RemoteCache {
    /// Tells whether anything may be found elsewhere.
    pub(crate) fn has_entries(&self) -> bool {
        self.imports.iter().any(Import::has_entries)
    }

    /// The result under a key whose layer was made in this way, from the first cache that has one.
    pub(crate) fn get(&self, key: &Digest, variant: &str) -> Option<Hit> {
        self.imports.iter().find_map(|import| {
            let entry = import.get(key, variant)?;
            Some(Hit { result: entry.result.clone(), scope: import.scope().clone() })
        })
    }

    /// Brings layers into the store that only caches elsewhere have.
    ///
    /// # Errors
    /// A cache does not have a layer, or not the one it says it has. That cache is not used any more.
    pub(crate) async fn fetch(&self, layers: &[Layer]) -> Result<(), StoreError> {
        for import in &self.imports {
            let own: Vec<&Layer> =
                layers.iter().filter(|layer| import.holds(&layer.descriptor.digest)).collect();
            if let Err(error) = import.fetch(&own, &self.store, &self.on_event).await {
                self.distrust(import, &error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Stops using the caches that gave a layer which cannot be unpacked. Tells whether there were any.
    pub(crate) fn refuse(&self, layer: &Layer, why: &(dyn std::error::Error + 'static)) -> bool {
        let gave = |import: &&Import| import.holds(&layer.descriptor.digest);
        let found: Vec<&Import> = self.imports.iter().filter(gave).collect();
        found.iter().for_each(|import| self.distrust(import, why));
        !found.is_empty()
    }

    /// Tells whether a cache was given up since this was last asked, after a look for those of `layers` that only caches have.
    pub(crate) async fn was_given_up(&self, layers: &[Descriptor]) -> bool {
        for import in &self.imports {
            let is_elsewhere = |layer: &&Descriptor| !self.store.has_blob(&layer.digest);
            for layer in layers.iter().filter(is_elsewhere) {
                if import.holds(&layer.digest)
                    && let Err(error) = import.open(layer).await
                {
                    self.distrust(import, &error);
                }
            }
        }
        self.was_given_up.swap(false, Ordering::AcqRel)
    }

    /// The source of a layer that only a cache elsewhere has.
    pub(crate) fn source_of(&self, layer: &Digest) -> Option<&std::sync::Arc<dyn rbuild_image::Source>> {
        self.imports.iter().find(|import| import.holds(layer)).map(Import::source)
    }

    /// The repositories of registries that hold a layer.
    pub(crate) fn origins(&self, layer: &Descriptor) -> Vec<Reference> {
        let imports = self.imports.iter().filter(|import| import.holds(&layer.digest));
        let imported = imports.flat_map(|import| import.source().origins(layer));
        imported.chain(self.exports.iter().filter_map(|export| export.origin(&layer.digest))).collect()
    }

    fn distrust(&self, import: &Import, why: &(dyn std::error::Error + 'static)) {
        import.give_up();
        self.was_given_up.store(true, Ordering::Release);
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.retain(|(_, scope), _| scope.is_none());
        drop(results);
        self.notice(format!("warning: the cache {import} is not used any more: {}", explain(why)));
    }

    fn notice(&self, message: String) {
        (self.on_event)(Event::Notice { message });
    }
}

/// An error with its causes, in one line.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
