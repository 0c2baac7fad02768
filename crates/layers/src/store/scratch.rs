//! What is being made under `tmp/`: each entry is flocked by its maker, so that a dead maker's is free to take.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use super::remove::remove_tree;
use super::{Store, StoreDirError, TreeError, failed};
use crate::root::Root;

/// A private directory on the store's file system; removed with everything in it when dropped.
///
/// It is flocked for as long as this value lives. What a killed process leaves is removed by the next
/// [`Store::open`].
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    lock: File,
    /// Keeps the shared lock of the store.
    store: Store,
}

impl Scratch {
    pub(super) fn new(store: &Store) -> Result<Self, StoreDirError> {
        let tmp = store.tmp_path();
        let _making = hold_back_reclaim(&tmp)?;
        // Six characters after one letter: the path becomes part of bounded mount options.
        let private = fs::Permissions::from_mode(0o700);
        let directory = Builder::new().prefix("s").permissions(private).tempdir_in(&tmp);
        let directory = directory.map_err(failed("make a directory in", &tmp))?;
        let lock = File::open(directory.path()).and_then(|file| {
            file.lock()?;
            Ok(file)
        });
        let lock = lock.map_err(failed("lock", directory.path()))?;
        Ok(Self { path: directory.keep(), lock, store: store.clone() })
    }

    /// Returns the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it as a tree that keeps owners as the store does.
    ///
    /// # Errors
    /// The directory cannot be opened; how owners are kept cannot be found out.
    pub fn root(&self) -> Result<Root, TreeError> {
        self.store.root(&self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is tried again by the next process that opens the store.
        let _ = remove_tree(&self.path);
        let _ = self.lock.unlock();
    }
}

/// Makes a file in `tmp` that the next process removes if this one dies.
pub(super) fn temporary_file(tmp: &Path) -> Result<NamedTempFile, StoreDirError> {
    let _making = hold_back_reclaim(tmp)?;
    let readable = fs::Permissions::from_mode(0o644);
    let file = Builder::new().prefix("f").permissions(readable).tempfile_in(tmp);
    let file = file.map_err(failed("make a file in", tmp))?;
    file.as_file().lock().map_err(failed("lock", file.path()))?;
    Ok(file)
}

/// Between making an entry and locking it, it would look abandoned.
pub(super) fn hold_back_reclaim(tmp: &Path) -> Result<File, StoreDirError> {
    let directory = File::open(tmp).map_err(failed("open", tmp))?;
    directory.lock_shared().map_err(failed("lock", tmp))?;
    Ok(directory)
}

/// Lists the entries of a directory whose makers are alive.
pub(super) fn held(directory: &Path) -> Result<Vec<PathBuf>, StoreDirError> {
    // what is being made cannot be told from what is abandoned
    let listing = File::open(directory).map_err(failed("open", directory))?;
    listing.lock().map_err(failed("lock", directory))?;
    let entries = fs::read_dir(directory).map_err(failed("read", directory))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed("read", directory)));
    let mut paths = paths.collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| take(path).is_none());
    Ok(paths)
}

/// Removes a tree, whatever is in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    remove_tree(path)
}

/// Removes the entries of `tmp` whose makers are gone. Best effort: what resists is left.
pub(super) fn reclaim(tmp: &Path) -> Result<(), StoreDirError> {
    for (path, _lock) in abandoned(tmp)? {
        let _ = remove_tree(&path);
    }
    Ok(())
}

/// Removes what killed processes left of blobs being pulled. Only for whoever has the store alone: these files
/// are not locked one by one.
pub(super) fn sweep(store: &Path) -> Result<(), StoreDirError> {
    for directory in [store.to_owned(), store.join("blobs/sha256")] {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed("read", &directory))?,
        };
        for entry in entries {
            let entry = entry.map_err(failed("read", &directory))?;
            // The layout's own name for a file that has not its final name yet.
            if entry.file_name().as_encoded_bytes().starts_with(b".new-") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    Ok(())
}

/// Lists and locks entries nobody holds; none when somebody is just making one.
fn abandoned(tmp: &Path) -> Result<Vec<(PathBuf, File)>, StoreDirError> {
    let directory = File::open(tmp).map_err(failed("open", tmp))?;
    match directory.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Vec::new()),
        Err(TryLockError::Error(source)) => return Err(failed("lock", tmp)(source)),
    }
    let mut free = Vec::new();
    for entry in fs::read_dir(tmp).map_err(failed("read", tmp))? {
        let path = entry.map_err(failed("read", tmp))?.path();
        if let Some(lock) = take(&path) {
            free.push((path, lock));
        }
    }
    Ok(free)
}

fn take(path: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from).ok()?);
    file.try_lock().ok().map(|()| file)
}
