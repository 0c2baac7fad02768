//! The work directory: blobs, snapshots, cache entries and scratch space, shared by any number of processes.
//!
//! ```text
//! oci-layout, index.json, blobs/sha256/   an OCI image layout that other tools read
//! snapshots/                              unpacked layers (crate::snapshot)
//! cache/                                  small files by key
//! mounts/                                 what cache mounts keep between builds
//! tmp/                                    files and directories being made; the maker holds a flock on each
//! locks/                                  one file per snapshot being unpacked
//! leases/                                 one flocked file per process that uses the store, as old as its use
//! lock                                    flock: shared by users
//! ```
//!
//! Nothing appears under its final name before it is whole: blobs and cache entries are written into `tmp/`,
//! synced and renamed. There is no database and no daemon.
//!
//! [`Store::collect`] removes what was not used for longest, beside builds that are running; [`Store::verify`] compares what
//! is there with what its names say.

mod abilities;
mod blob;
mod durable;
mod gc;
mod images;
mod lease;
mod locks;
mod remove;
mod scratch;
mod space;
mod usage;
mod verify;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use rbuild_image::layout::LayoutError;
use rbuild_image::{Digest, Layout, VerifyError};

pub(crate) use abilities::Abilities;
pub use blob::BlobWriter;
pub(crate) use durable::Trust;
pub use gc::{Collected, GcPolicy, NamedImages, Part, Tally};
pub use locks::Locks;
pub use scratch::Scratch;
pub use verify::{Damage, Verified};

use durable::Unsynced;
use lease::{Lease, mark_used};
use space::Space;

use crate::owner::{OwnerTable, Ownership};
use crate::root::{Root, RootError};

/// Cache entries above this size are not read: 64 MiB.
const MAX_CACHE_ENTRY: u64 = 64 << 20;
const DIRECTORIES: [&str; 6] = ["snapshots", "cache", "mounts", "tmp", "locks", lease::LEASES];

/// Why the work directory could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreDirError {
    /// A file or directory of the store could not be read or written.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file system cannot lock files, so that several processes would harm each other's work.
    #[error(
        "the file system of the store `{}` has no locks: put the store on a local one, or mount this one with locks",
        path.display()
    )]
    NoLocks {
        /// The store.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no such blob.
    #[error("the store has no blob {0}")]
    Missing(Digest),
    /// A blob is not what its name says; pulling the image again, or building without the cache, replaces it.
    #[error("blob {digest} in the store is corrupt")]
    Corrupt {
        /// The digest it is stored under.
        digest: Digest,
        /// What was found.
        source: Box<VerifyError>,
    },
    /// A blob was about to be stored that is not the expected one.
    #[error("blob is not the expected one")]
    Unexpected(#[source] Box<VerifyError>),
    /// A blob or cache entry is longer than the caller reads.
    #[error("`{}` is longer than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The disk has not the room for what is about to be written.
    #[error("the disk of `{}` has {available} bytes left, {needed} are needed", path.display())]
    Full {
        /// The store.
        path: PathBuf,
        /// The bytes that are about to be written.
        needed: u64,
        /// The bytes that are free.
        available: u64,
    },
    /// The store would become larger than it may.
    #[error("the store would take {needed} bytes, its limit is {limit}")]
    Limit {
        /// The limit in bytes.
        limit: u64,
        /// The bytes that are needed, with everything that is in use.
        needed: u64,
    },
    /// A cache key is not a relative path of plain names.
    #[error("`{0}` cannot be a cache key")]
    Key(String),
    /// The environment does not say where the store is.
    #[error("no place for the store: set RBUILD_ROOT, XDG_DATA_HOME or HOME")]
    NoPlace,
    /// The directory cannot be an OCI image layout.
    #[error(transparent)]
    Layout(#[from] Box<LayoutError>),
}

/// Why a directory could not be opened as a tree of the store.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The store could not be written.
    #[error(transparent)]
    Store(#[from] StoreDirError),
    /// The directory could not be opened.
    #[error(transparent)]
    Root(#[from] RootError),
}

/// Makes the closure that `map_err` wants for a failed system call.
fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreDirError + 'a {
    move |source| StoreDirError::Io { operation, path: path.to_owned(), source }
}

/// The work directory, open. Clones share it; as long as one lives, what it was asked for stays there.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

/// Held by whoever brings a blob.
type Flight = futures_util::lock::Mutex<()>;

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    layout: Layout,
    abilities: OnceLock<Abilities>,
    /// Blobs that are on their way into the store.
    flights: Mutex<BTreeMap<Digest, Weak<Flight>>>,
    lease: Lease,
    unsynced: Unsynced,
    space: Space,
    /// Holds the flock of the whole directory.
    _lock: File,
}

impl Store {
    /// Opens the store at `path`, making what is missing, and removes what dead processes left in `tmp/`.
    ///
    /// A directory made here has mode 0700.
    ///
    /// # Errors
    /// The directory cannot be made, written or locked.
    pub fn open(path: &Path) -> Result<Self, StoreDirError> {
        let (path, lock) = prepare(path)?;
        if lock.try_lock().is_ok() {
            scratch::sweep(&path)?;
        }
        // On Linux this turns an exclusive flock into a shared one.
        lock.lock_shared().map_err(locks::unlocked(&path))?;
        Self::opened(path, lock)
    }

    /// Opens the store at `$RBUILD_ROOT`, or else at `/var/lib/rbuild` for root and at
    /// `$XDG_DATA_HOME/rbuild` (`$HOME/.local/share/rbuild`) for others.
    ///
    /// # Errors
    /// As [`Store::open`]; [`StoreDirError::NoPlace`] when none of the variables is set.
    pub fn from_env() -> Result<Self, StoreDirError> {
        #[expect(clippy::disallowed_methods, reason = "a constructor named from_env")]
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = variable("RBUILD_ROOT") {
            return Self::open(&path);
        }
        if rustix::process::geteuid().is_root() {
            return Self::open(Path::new("/var/lib/rbuild"));
        }
        // The XDG specification says to ignore relative paths.
        let data = variable("XDG_DATA_HOME").filter(|path| path.is_absolute());
        let data = data.or_else(|| variable("HOME").map(|home| home.join(".local/share")));
        Self::open(&data.ok_or(StoreDirError::NoPlace)?.join("rbuild"))
    }

    fn opened(path: PathBuf, lock: File) -> Result<Self, StoreDirError> {
        for name in DIRECTORIES {
            make_directory(&path.join(name))?;
        }
        for name in ["tmp", lease::LEASES] {
            scratch::reclaim(&path.join(name))?;
        }
        let lease = Lease::take(&path)?;
        let (unsynced, space) = (Unsynced::default(), Space::default());
        // Two at once could both find no index.json, and the second would empty what the first has listed.
        let creating = lock_file(&path, "layout")?;
        let layout = Layout::create(&path).map_err(Box::new)?;
        drop(creating);
        Ok(Self {
            shared: Arc::new(Shared {
                path,
                layout,
                abilities: OnceLock::new(),
                flights: Mutex::default(),
                lease,
                unsynced,
                space,
                _lock: lock,
            }),
        })
    }

    /// The lock under which a blob is brought into the store: two images that are pulled at the same time fetch what they
    /// share once.
    fn flight(&self, digest: Digest) -> Arc<Flight> {
        let mut flights = self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&digest).and_then(Weak::upgrade) {
            return flight;
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::new(Flight::default());
        flights.insert(digest, Arc::downgrade(&flight));
        flight
    }

    /// Returns the directory, absolute and without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Tells who takes part in the locks of this store.
    #[must_use]
    pub fn locks(&self) -> Locks {
        Locks::of(self.path())
    }

    /// Returns when this process began to use the store.
    pub(crate) fn since(&self) -> SystemTime {
        self.shared.lease.since
    }

    /// Tells how owners are kept here, by having tried once to give a file away.
    ///
    /// # Errors
    /// Nothing can be written.
    pub fn ownership(&self) -> Result<Ownership, StoreDirError> {
        Ok(self.abilities()?.ownership)
    }

    /// Opens a directory as a tree that keeps owners as this store does; what it records of links lives as long as the
    /// returned value.
    ///
    /// # Errors
    /// The directory cannot be opened; how owners are kept cannot be found out.
    pub fn root(&self, path: &Path) -> Result<Root, TreeError> {
        Ok(Root::keeping(path, self.abilities()?.keeping(OwnerTable::default()))?)
    }

    pub(crate) fn abilities(&self) -> Result<&Abilities, StoreDirError> {
        if let Some(abilities) = self.shared.abilities.get() {
            return Ok(abilities);
        }
        let abilities = Abilities::probe(self)?;
        Ok(self.shared.abilities.get_or_init(|| abilities))
    }

    /// Returns the same directory as an OCI image layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// Names the way this process keeps trees in this store: with native owners of which id ranges, or recorded ones.
    /// What was kept in one way is of no use in another.
    ///
    /// # Errors
    /// The store cannot be tried.
    pub fn form(&self) -> Result<&str, StoreDirError> {
        Ok(&self.abilities()?.name)
    }

    /// Returns where cache mounts are kept.
    #[must_use]
    pub fn mounts_path(&self) -> PathBuf {
        self.path().join("mounts")
    }

    pub(crate) fn snapshots_path(&self) -> PathBuf {
        self.path().join("snapshots")
    }

    fn tmp_path(&self) -> PathBuf {
        self.path().join("tmp")
    }

    /// Makes an empty private directory on the store's file system.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn scratch(&self) -> Result<Scratch, StoreDirError> {
        Scratch::new(self)
    }

    /// Waits for, and takes, the lock of that name; dropping the file gives it back.
    pub(crate) fn lock(&self, name: &str) -> Result<File, StoreDirError> {
        lock_file(self.path(), name)
    }

    /// Reads the cache entry `key`; `None` when there is none. The content is as it was put, but callers must
    /// not trust it further than the disk.
    ///
    /// # Errors
    /// `key` is not a relative path of names made of `A-Za-z0-9._-` that do not begin with a dot; the entry
    /// cannot be read or is longer than 64 MiB.
    pub fn cache_get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreDirError> {
        let path = self.cache_path(key)?;
        match File::open(&path) {
            Ok(file) => {
                mark_used(&path)?;
                read_bounded(file, &path, MAX_CACHE_ENTRY).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open", &path)(error)),
        }
    }

    /// Writes the cache entry `key`, atomically: readers see the old value or the new one.
    ///
    /// # Errors
    /// As [`Store::cache_get`]; the file cannot be written.
    pub fn cache_put(&self, key: &str, value: &[u8]) -> Result<(), StoreDirError> {
        let path = self.cache_path(key)?;
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        let mut file = scratch::temporary_file(&self.tmp_path())?;
        file.write_all(value).map_err(failed("write", file.path()))?;
        blob::persist(file, &path)
    }

    fn cache_path(&self, key: &str) -> Result<PathBuf, StoreDirError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let sound = |name: &str| {
            !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.bytes().all(plain)
        };
        if !key.split('/').all(sound) {
            return Err(StoreDirError::Key(key.to_owned()));
        }
        Ok(self.path().join("cache").join(key))
    }
}

/// Makes the directory itself and opens its lock file.
fn prepare(path: &Path) -> Result<(PathBuf, File), StoreDirError> {
    make_directory(path)?;
    let path = fs::canonicalize(path).map_err(failed("resolve", path))?;
    // A volume may come with any mode and belong to somebody else: then its owner decides who gets in.
    match fs::set_permissions(&path, Permissions::from_mode(0o700)) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
            return Err(failed("restrict", &path)(error));
        }
        _ => {}
    }
    let lock = path.join("lock");
    let file = File::options().create(true).append(true).open(&lock).map_err(failed("open", &lock))?;
    Ok((path, file))
}

fn lock_file(store: &Path, name: &str) -> Result<File, StoreDirError> {
    let path = store.join("locks").join(name);
    loop {
        let file = File::options().create(true).append(true).open(&path).map_err(failed("open", &path))?;
        file.lock().map_err(failed("lock", &path))?;
        // garbage collection may have removed the file meanwhile: then others would lock another one
        let held = file.metadata().map_err(failed("look at", &path))?;
        if fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
            return Ok(file);
        }
    }
}

fn make_directory(path: &Path) -> Result<(), StoreDirError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make directory", path))
}

fn read_bounded(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, StoreDirError> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(StoreDirError::TooLong { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
