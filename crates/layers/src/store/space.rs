//! Room on the disk: looked for before it is taken, and bounded where somebody said so.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::gc::{Collected, GcPolicy};
use super::usage::disk_usage;
use super::{Store, StoreDirError, failed};

/// Writers of blobs, who do not know how much it will be, take room in pieces of this.
pub(super) const PIECE: u64 = 1 << 20;

/// Stands for "no limit".
const NONE: u64 = u64::MAX;

/// What this process may take, takes and is about to write.
#[derive(Debug)]
pub(super) struct Space {
    limit: AtomicU64,
    /// What stands under its name.
    used: AtomicU64,
    /// What is being made, and how much of it is not on the disk yet.
    reserved: AtomicU64,
    pending: AtomicU64,
}

impl Default for Space {
    fn default() -> Self {
        Self { limit: NONE.into(), used: 0.into(), reserved: 0.into(), pending: 0.into() }
    }
}

/// Room that is taken; given back when dropped, unless it was kept.
#[derive(Debug)]
#[must_use]
pub(super) struct Reservation {
    store: Store,
    bytes: u64,
    /// Those of them that are not on the disk yet.
    pending: u64,
    pub(super) is_kept: bool,
}

impl Reservation {
    /// Tells that all of it is written.
    pub(super) fn filled(&mut self) {
        self.store.shared.space.pending.fetch_sub(self.pending, Ordering::Relaxed);
        self.pending = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.filled();
        let space = &self.store.shared.space;
        space.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.is_kept {
            space.used.fetch_add(self.bytes, Ordering::Relaxed);
        }
    }
}

impl Store {
    /// Has the store take no more than `limit` bytes of disk space. What was used least recently is removed, now and when
    /// room is needed; what this process writes beyond that fails. What others write meanwhile is not counted, nor what
    /// a step writes before it has ended.
    ///
    /// # Errors
    /// Something cannot be removed; [`StoreDirError::Limit`] when what others use, and named images, are larger.
    pub fn limit(&self, limit: u64) -> Result<Collected, StoreDirError> {
        let collected = self.make_room(limit)?;
        self.shared.space.limit.store(limit, Ordering::Relaxed);
        if collected.size() > limit {
            return Err(StoreDirError::Limit { limit, needed: collected.size() });
        }
        Ok(collected)
    }

    fn make_room(&self, size: u64) -> Result<Collected, StoreDirError> {
        let collected = self.collect(&GcPolicy { max_size: size, ..GcPolicy::default() })?;
        self.shared.space.used.store(collected.size(), Ordering::Relaxed);
        Ok(collected)
    }

    /// Takes room before it is written to.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation, StoreDirError> {
        let space = &self.shared.space;
        let needed = space.pending.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let reserved = space.reserved.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let reservation = Reservation { store: self.clone(), bytes, pending: bytes, is_kept: false };
        let available = self.available()?;
        if available < needed {
            return Err(StoreDirError::Full { path: self.path().to_owned(), needed, available });
        }
        let limit = space.limit.load(Ordering::Relaxed);
        let mut size = space.used.load(Ordering::Relaxed).saturating_add(reserved);
        if size > limit {
            // a little more than is needed, so that not every write collects
            let room = reserved.saturating_add(limit / 16);
            size = self.make_room(limit.saturating_sub(room))?.size().saturating_add(reserved);
        }
        if size > limit {
            return Err(StoreDirError::Limit { limit, needed: size });
        }
        Ok(reservation)
    }

    /// Counts what was written into room that was given back.
    pub(super) fn count(&self, bytes: u64) {
        self.shared.space.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a tree that was written, if anybody counts.
    pub(crate) fn count_tree(&self, path: &Path) -> Result<(), StoreDirError> {
        if self.shared.space.limit.load(Ordering::Relaxed) != NONE {
            self.reserve(disk_usage(path))?.is_kept = true;
        }
        Ok(())
    }

    /// Returns the bytes that are free on the disk for who runs this.
    fn available(&self) -> Result<u64, StoreDirError> {
        let found =
            rustix::fs::statvfs(self.path()).map_err(|errno| failed("look at", self.path())(errno.into()))?;
        // file systems without a size, as some remote ones, say 0 of everything
        Ok(if found.f_blocks == 0 { u64::MAX } else { found.f_bavail.saturating_mul(found.f_frsize) })
    }
}
