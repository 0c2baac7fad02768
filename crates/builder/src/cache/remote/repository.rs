//! The entries of one scope in one place, written by anybody at any time.
//!
//! A registry's tags cannot be compared and exchanged: of two writers that read, merge and write one tag at the same time,
//! the later undoes what the earlier did, and no check of the earlier's own finds that out. So a writer first stores its
//! entries as a *note*, an index under a tag that has its own digest as its name and that nobody overwrites:
//!
//! ```text
//! <tag>                   all entries, and which notes are among them
//! <tag>.w-<64 hex digits> a note: what one build wrote
//! ```
//!
//! Then it merges: everything under the tag and in notes that are not merged there yet becomes the new tag. A reader takes the
//! tag, lists the notes, and reads those that the tag does not name as merged. Whatever order writes come in, what is said to
//! be merged is there, and the rest is read from the notes: nothing is lost, and a scope has one tag as soon as notes are gone.
//!
//! A note may go once no writer is left that read the tag before it was merged. A merge takes [`MERGE_LIMIT`] at most, or is
//! given up; notes are removed [`NOTE_AGE`] after they were merged, by whichever writer comes by. Registries that remove
//! nothing keep them, as tags that nobody has to read again.
//!
//! A directory has a lock instead.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join;
use futures_util::stream::{self, StreamExt as _};
use rbuild_image::{
    Descriptor, Digest, Layout, LayoutError, Reference, ReferenceError, Resolved, Sink, Source, StoreError,
    StoreErrorKind,
};
use rbuild_registry::{Client, CopyError, CopyOptions, Remote, Removal, copy_manifest};
use thiserror::Error;

use super::index::{ForeignCache, ScopeIndex};
use super::{CachePlace, CacheScope};

/// How long a merge may take from reading the tag to writing it.
const MERGE_LIMIT: Duration = Duration::from_secs(300);

/// How long a note stays after it was merged. Clocks of writers may differ by the rest.
const NOTE_AGE: Duration = Duration::from_secs(3600);

/// Merges that others undo are done again so many times; after that the note speaks for itself.
const MERGES: usize = 4;

/// Entries that a registry refuses are sent so many times.
const SENDS: usize = 5;

/// How long after the first time; each wait is twice as long as the last.
const FIRST_DELAY: Duration = Duration::from_millis(200);

/// Requests at the same time.
const PARALLEL: usize = 4;

/// More notes than these are not read; the next writer merges them.
const MAX_NOTES: usize = 500;

/// Why a cache could not be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RemoteCacheError {
    /// The registry or directory failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory is no OCI image layout, or cannot be written.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// What is there is none of ours.
    #[error(transparent)]
    Foreign(#[from] ForeignCache),
    /// Entries could not be sent.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// No name can be made for the scope.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// Nothing was written there yet.
    #[error("there is nothing yet")]
    Missing,
    /// A registry is named where none can be reached.
    #[error("there is no registry client")]
    NoClient,
    /// The directory could not be locked, or a merge did not end.
    #[error("{0}")]
    Busy(String),
}

/// The entries of a scope, and where they are.
#[derive(Debug, Clone)]
pub(crate) struct CacheRepository {
    kept: Kept,
    name: Reference,
    scope: CacheScope,
}

#[derive(Debug, Clone)]
enum Kept {
    Registry(Remote),
    Directory(Layout),
}

/// Whether a directory that does not exist is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

/// What was found under the tag, and which notes there are; `None` when they could not be listed.
pub(crate) struct Found {
    pub root: Option<Resolved>,
    notes: Option<BTreeSet<Digest>>,
}

impl CacheRepository {
    /// Names the repository; nothing is asked of a registry yet.
    ///
    /// # Errors
    /// The scope has no name there; the directory is not a layout.
    pub(crate) fn new(
        place: &CachePlace,
        scope: &CacheScope,
        client: Option<&Client>,
        how: Use,
    ) -> Result<Self, RemoteCacheError> {
        place.check(scope)?;
        let name = place.name(scope)?;
        let kept = match place {
            CachePlace::Registry(_) => {
                Kept::Registry(client.ok_or(RemoteCacheError::NoClient)?.remote(&name))
            }
            CachePlace::Directory(path) if how == Use::Write => Kept::Directory(Layout::create(path)?),
            CachePlace::Directory(path) if !path.exists() => return Err(RemoteCacheError::Missing),
            CachePlace::Directory(path) => Kept::Directory(Layout::open(path)?),
        };
        Ok(Self { kept, name, scope: scope.clone() })
    }

    /// The name of the tag.
    pub(crate) fn name(&self) -> &Reference {
        &self.name
    }

    /// The name of a cache mount.
    ///
    /// # Errors
    /// The tag is too long for that.
    pub(crate) fn mount_name(&self, mount: &Digest) -> Result<Reference, ReferenceError> {
        self.name.with_tag(&format!("{}.m-{}", self.name.tag().unwrap_or("latest"), mount.hex()))
    }

    /// Whose entries.
    pub(crate) fn scope(&self) -> &CacheScope {
        &self.scope
    }

    /// Where blobs are read.
    pub(crate) fn source(&self) -> Arc<dyn Source> {
        match &self.kept {
            Kept::Registry(remote) => Arc::new(remote.clone()),
            Kept::Directory(layout) => Arc::new(layout.clone()),
        }
    }

    /// Where blobs are written.
    pub(crate) fn sink(&self) -> Arc<dyn Sink> {
        match &self.kept {
            Kept::Registry(remote) => Arc::new(remote.clone()),
            Kept::Directory(layout) => Arc::new(layout.clone()),
        }
    }

    /// Looks at the tag and lists the notes, both at once.
    pub(crate) async fn find(&self) -> Result<Found, RemoteCacheError> {
        let root = async {
            match self.source().resolve(&self.name).await {
                Ok(root) => Ok(Some(root)),
                Err(error) if *error.kind() == StoreErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        let (root, notes) = join(root, self.list_notes()).await;
        Ok(Found { root: root?, notes })
    }

    async fn list_notes(&self) -> Option<BTreeSet<Digest>> {
        let Kept::Registry(remote) = &self.kept else { return Some(BTreeSet::new()) };
        let prefix = CachePlace::note_prefix(&self.name);
        let tags = remote.tags(&prefix).await.ok()?;
        let hex = |tag: &String| format!("sha256:{}", tag.strip_prefix(&prefix)?).parse().ok();
        Some(tags.iter().filter_map(hex).collect())
    }

    /// All entries: those under the tag, and those of notes that are not merged there.
    pub(crate) async fn read(&self, found: &Found) -> Result<ScopeIndex, RemoteCacheError> {
        let mut index = match &found.root {
            Some(root) => ScopeIndex::parse(root, &self.scope)?,
            None => ScopeIndex::default(),
        };
        let Some(notes) = &found.notes else { return Ok(index) };
        // Those that are gone need not be remembered.
        index.merged.retain(|note, _| notes.contains(note));
        let unread: Vec<Digest> =
            notes.iter().filter(|note| !index.merged.contains_key(note)).copied().take(MAX_NOTES).collect();
        let source = self.source();
        let read = unread.into_iter().map(|note| self.read_note(&*source, note));
        let read: Vec<_> = stream::iter(read).buffer_unordered(PARALLEL).collect().await;
        let now = seconds(SystemTime::now());
        for (note, entries) in read.into_iter().flatten() {
            index.merge(entries);
            index.merged.insert(note, now);
        }
        Ok(index)
    }

    /// One note; none when it is gone or none of ours.
    async fn read_note(&self, source: &dyn Source, note: Digest) -> Option<(Digest, ScopeIndex)> {
        let resolved = source.resolve(&self.name.with_digest(note)).await.ok()?;
        Some((note, ScopeIndex::parse(&resolved, &self.scope).ok()?))
    }

    /// Adds entries, whose manifests and layers come from `source`.
    ///
    /// # Errors
    /// What is under the tag is none of ours; the registry or directory fails. Nothing that was there is lost then.
    pub(crate) async fn add(
        &self,
        entries: ScopeIndex,
        source: &dyn Source,
        nonce: &str,
    ) -> Result<(), RemoteCacheError> {
        let note = entries.document(&self.scope, Some(nonce));
        let sink = self.sink();
        match &self.kept {
            Kept::Registry(remote) => {
                let name = CachePlace::note(&self.name, &note.descriptor.digest)?;
                let options = CopyOptions { tags: vec![name], ..CopyOptions::default() };
                send(source, &*sink, &note, &options).await?;
                self.merge_notes(remote, &entries).await
            }
            Kept::Directory(layout) => {
                copy_manifest(source, &*sink, note, &CopyOptions::default()).await?;
                self.change_locked(layout, |index| index.merge(entries)).await
            }
        }
    }

    /// Merges all notes into the tag until these entries are there.
    async fn merge_notes(&self, remote: &Remote, own: &ScopeIndex) -> Result<(), RemoteCacheError> {
        for _ in 0..MERGES {
            let merge = tokio::time::timeout(MERGE_LIMIT, self.change(|_| {})).await;
            merge.map_err(|_| {
                RemoteCacheError::Busy("the cache's index could not be written in time".into())
            })??;
            let Some(root) = self.find().await?.root else { continue };
            let now = ScopeIndex::parse(&root, &self.scope)?;
            if own.entries.keys().all(|digest| now.entries.contains_key(digest)) {
                self.remove_notes(remote, &now).await;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads everything, changes it and writes the tag.
    async fn change(&self, change: impl FnOnce(&mut ScopeIndex)) -> Result<(), RemoteCacheError> {
        let mut index = self.read(&self.find().await?).await?;
        change(&mut index);
        let first = self.write(&index).await;
        let Err(error) = first else { return Ok(()) };
        if !matches!(error.kind(), StoreErrorKind::Other | StoreErrorKind::NotFound) {
            return Err(error.into());
        }
        // A registry refuses an index of what it does not have any more.
        let before = index.entries.len();
        self.drop_missing(&mut index).await;
        match index.entries.len() == before {
            true => Err(error.into()),
            false => Ok(self.write(&index).await?),
        }
    }

    async fn write(&self, index: &ScopeIndex) -> Result<(), StoreError> {
        let Resolved { descriptor, bytes } = index.document(&self.scope, None);
        self.sink().tag(&descriptor, bytes, &self.name).await
    }

    async fn drop_missing(&self, index: &mut ScopeIndex) {
        let sink = self.sink();
        let manifests: Vec<Descriptor> =
            index.entries.values().map(super::entry::CacheEntry::descriptor).collect();
        let missing = manifests.into_iter().map(|manifest| {
            let sink = Arc::clone(&sink);
            async move { matches!(sink.exists(&manifest).await, Ok(false)).then_some(manifest.digest) }
        });
        let missing: Vec<_> = stream::iter(missing).buffer_unordered(PARALLEL).collect().await;
        for digest in missing.into_iter().flatten() {
            index.entries.remove(&digest);
        }
    }

    /// Removes notes that nobody can need; failures are the next writer's.
    async fn remove_notes(&self, remote: &Remote, index: &ScopeIndex) {
        let oldest = seconds(SystemTime::now()).saturating_sub(NOTE_AGE.as_secs());
        for (note, _) in index.merged.iter().filter(|(_, since)| **since < oldest).take(MAX_NOTES) {
            if !matches!(remote.remove_manifest(*note).await, Ok(Removal::Removed)) {
                return;
            }
        }
    }

    /// Removes entries, those for which `keep` says no. Returns how many went, and whether their manifests did.
    ///
    /// # Errors
    /// As [`CacheRepository::add`].
    pub(crate) async fn prune(
        &self,
        mut choose: impl FnMut(&ScopeIndex) -> BTreeSet<Digest>,
    ) -> Result<(BTreeSet<Digest>, Removal), RemoteCacheError> {
        let mut gone = BTreeSet::new();
        let mut without = |index: &mut ScopeIndex| {
            gone = choose(index);
            index.entries.retain(|digest, _| !gone.contains(digest));
        };
        match &self.kept {
            Kept::Directory(layout) => {
                self.change_locked(layout, &mut without).await?;
                for digest in &gone {
                    let _ = std::fs::remove_file(layout.blob_path(digest));
                }
                Ok((gone, Removal::Removed))
            }
            Kept::Registry(remote) => {
                if self.find().await?.root.is_none() {
                    return Ok((gone, Removal::Removed));
                }
                self.change(&mut without).await?;
                let mut removal = Removal::Removed;
                for digest in &gone {
                    removal = remote.remove_manifest(*digest).await?;
                    if removal == Removal::Unsupported {
                        break;
                    }
                }
                Ok((gone, removal))
            }
        }
    }

    /// As [`CacheRepository::change`], while nobody else does.
    async fn change_locked(
        &self,
        layout: &Layout,
        change: impl FnOnce(&mut ScopeIndex),
    ) -> Result<(), RemoteCacheError> {
        let path = layout.path().join("rbuild-cache.lock");
        let locked = tokio::task::spawn_blocking(move || lock(&path)).await;
        let failed =
            |error: std::io::Error| RemoteCacheError::Busy(format!("cannot lock the cache: {error}"));
        let _lock = locked.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)?;
        self.change(change).await
    }
}

/// Copies entries. A registry that takes one blob of several writers at once, as the config that all entries share, may not see
/// it for a moment (distribution refuses the manifest with MANIFEST_BLOB_UNKNOWN).
async fn send(
    source: &dyn Source,
    sink: &dyn Sink,
    note: &Resolved,
    options: &CopyOptions,
) -> Result<(), CopyError> {
    let mut delay = FIRST_DELAY;
    for _ in 1..SENDS {
        match copy_manifest(source, sink, note.clone(), options).await {
            Err(CopyError::Store(error))
                if matches!(error.kind(), StoreErrorKind::Other | StoreErrorKind::NotFound) =>
            {
                tokio::time::sleep(delay).await;
                delay *= 2;
            }
            sent => return sent.map(drop),
        }
    }
    copy_manifest(source, sink, note.clone(), options).await.map(drop)
}

fn lock(path: &Path) -> std::io::Result<File> {
    let file = File::options().create(true).append(true).open(path)?;
    file.lock()?;
    Ok(file)
}

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
#[path = "repository_tests.rs"]
mod tests;
