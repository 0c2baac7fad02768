//! What survives a crash of the machine.
//!
//! Blobs and cache entries are synced before they get their names. A tree of thousands of files is not: its key file says
//! in which boot of the machine it was made, and it counts until the machine restarts. [`Store::sync`] writes everything
//! to the disk at once and takes that mark away.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::{Store, StoreDirError, failed};

/// The kernel's name for the time since the machine started.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Key files whose trees may not be on the disk yet.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    files: Mutex<Vec<(PathBuf, u64)>>,
    boot: OnceLock<Option<String>>,
}

/// How far a key file is to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Its tree is complete.
    Complete,
    /// Its tree may have lost files when the machine stopped, or belongs to another key.
    Lost,
}

impl Store {
    /// Writes the key file of a finished tree; it is not trusted after a crash until [`Store::sync`].
    pub(crate) fn write_key(&self, path: &Path, key: &str) -> Result<(), StoreDirError> {
        let mark = self.boot().map_or_else(String::new, |boot| format!("boot {boot}\n"));
        if mark.is_empty() {
            self.sync_all()?;
        }
        fs::write(path, [key, &mark].concat()).map_err(failed("write", path))
    }

    /// Remembers a key file, under its final name, for [`Store::sync`].
    pub(crate) fn sync_later(&self, path: PathBuf, key: &str) {
        let mut files = self.shared.unsynced.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.push((path, key.len() as u64));
    }

    /// Tells how far the key file that holds `found` is to be trusted.
    pub(crate) fn trust(&self, found: &str, key: &str) -> Trust {
        match found.strip_prefix(key) {
            Some("") => Trust::Complete,
            Some(mark) if self.boot().is_some_and(|boot| mark == format!("boot {boot}\n")) => Trust::Complete,
            _ => Trust::Lost,
        }
    }

    /// Brings the snapshots that this process made to the disk, so that they are used after a crash of the machine.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&self) -> Result<(), StoreDirError> {
        let mut files = self.shared.unsynced.files.lock().unwrap_or_else(PoisonError::into_inner);
        let files = std::mem::take(&mut *files);
        if files.is_empty() {
            return Ok(());
        }
        self.sync_all()?;
        for (path, length) in files {
            // a file is as long as before or as after, whenever the machine stops
            let shorten = File::options().write(true).open(&path).and_then(|file| file.set_len(length));
            match shorten {
                // collected meanwhile
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(failed("mark as synced", &path))?,
            }
        }
        Ok(())
    }

    fn sync_all(&self) -> Result<(), StoreDirError> {
        let synced = File::open(self.path()).and_then(|file| Ok(rustix::fs::syncfs(&file)?));
        synced.map_err(failed("sync", self.path()))
    }

    fn boot(&self) -> Option<&str> {
        let read =
            || Some(fs::read_to_string(BOOT_ID).ok()?.trim().to_owned()).filter(|boot| !boot.is_empty());
        self.shared.unsynced.boot.get_or_init(read).as_deref()
    }
}
