//! Who uses the store since when, so that garbage collection leaves alone what they may rely on.
//!
//! What a process finds in the store it marks as used ([`Store::keep`]), by its modification time. Garbage collection removes
//! nothing that was used since the oldest process that is alive opened the store; looking and marking on one side,
//! looking and removing on the other exclude each other by a `flock(2)` that is held for microseconds.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use tempfile::{Builder, TempPath};

use super::scratch::{held, hold_back_reclaim};
use super::{Store, StoreDirError, failed, lock_file};

/// The directory of the leases.
pub(super) const LEASES: &str = "leases";

/// The lock between marking and removing.
const GATE: &str = "gate";

/// A process that uses the store: a file that it holds a `flock(2)` on, as old as its use.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) since: SystemTime,
    _file: File,
    _path: TempPath,
}

impl Lease {
    pub(super) fn take(store: &Path) -> Result<Self, StoreDirError> {
        let leases = store.join(LEASES);
        let _making = hold_back_reclaim(&leases)?;
        let file = Builder::new().prefix("l").tempfile_in(&leases);
        let (file, path) = file.map_err(failed("make a file in", &leases))?.into_parts();
        file.lock().map_err(failed("lock", &path))?;
        let since = file.metadata().and_then(|file| file.modified()).map_err(failed("look at", &path))?;
        Ok(Self { since, _file: file, _path: path })
    }
}

impl Store {
    /// Looks at a file, and keeps garbage collection from it for as long as this store is open; `None` if it is not there.
    pub(crate) fn keep(&self, path: &Path) -> Result<Option<Metadata>, StoreDirError> {
        let gate = self.path().join("locks").join(GATE);
        let _gate = File::options().create(true).append(true).open(&gate).and_then(|file| {
            file.lock_shared()?;
            Ok(file)
        });
        let _gate = _gate.map_err(failed("lock", &gate))?;
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("look at", path)(error)),
        };
        if metadata.modified().is_ok_and(|used| used < self.since()) {
            mark_used(path)?;
        }
        Ok(Some(metadata))
    }

    /// Returns when the oldest process that is alive, this one included, opened the store.
    pub(super) fn oldest_use(&self) -> Result<SystemTime, StoreDirError> {
        let leases = self.path().join(LEASES);
        let times = held(&leases)?.into_iter().filter_map(|path| fs::metadata(path).ok()?.modified().ok());
        Ok(times.chain([self.since()]).min().unwrap_or_else(|| self.since()))
    }

    /// Keeps everybody from marking anything.
    pub(super) fn close_gate(&self) -> Result<File, StoreDirError> {
        lock_file(self.path(), GATE)
    }
}

/// Sets the time of a file to now. Who may not is no owner of the store, and leaves collecting to its owner.
pub(super) fn mark_used(path: &Path) -> Result<(), StoreDirError> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
    use rustix::io::Errno;
    let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
    match utimensat(CWD, path, &times, AtFlags::empty()) {
        Ok(()) | Err(Errno::PERM | Errno::ACCESS | Errno::ROFS | Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("mark as used", path)(errno.into())),
    }
}
