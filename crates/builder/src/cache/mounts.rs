//! Directories that outlive a build: where the cache of a `RUN --mount=type=cache` is, and whose turn it is.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rbuild_image::Digest;
use rbuild_layers::{Changes, Kind, Meta, Scratch, Store, Time, View, apply};
use rbuild_sandbox::Cancel;

use super::content;
use super::key::KeyHasher;
use super::remote::SavedMounts;
use crate::plan::{CacheMount, Sharing};

/// Private copies of one cache directory that may be in use at the same time.
const MAX_PRIVATE: usize = 64;

/// How often a build that waits for a locked cache looks up.
const POLL: Duration = Duration::from_millis(20);

/// The name under which the first content of a directory stands in its scratch directory.
pub(crate) const CONTENT: &str = "source";

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// How a step gets at a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It is mounted where it is.
    Mounted,
    /// It is moved into the step's tree: nobody else may use it meanwhile, whatever its sharing says.
    Moved,
}

/// What asks for directories.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub store: &'a Store,
    pub access: Access,
    /// Directories that the same step has already.
    pub held: &'a [PathBuf],
    /// The time of a directory that is new.
    pub now: Time,
    pub cancel: &'a Cancel,
    /// Where one that is new may come from.
    pub saved: &'a SavedMounts,
}

/// A cache directory in use.
#[derive(Debug)]
pub(crate) struct CacheDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// Held while it is used, unless the same step holds it already.
    pub lock: Option<File>,
}

/// Finds or makes the directory of a cache mount, and takes the lock its sharing asks for.
///
/// `content` is what a new directory starts with, below [`CONTENT`]. Waits for a locked one until the build is cancelled.
///
/// # Errors
/// The directory cannot be made; too many private copies are in use; the build was cancelled; a step wants to move one
/// directory to two places.
pub(crate) fn open(
    request: &Request<'_>,
    mount: &CacheMount,
    content: Option<&Changes>,
) -> Result<CacheDirectory, Cause> {
    let Request { store, access, held, cancel, .. } = request;
    let name = name(store, mount, content)?;
    let base = store.mounts_path();
    let lock_file =
        |name: &str| File::options().create(true).append(true).open(base.join(format!("{name}.lock")));
    let is_held = mount.sharing != Sharing::Private && held.contains(&base.join(&name));
    let (name, lock) = match (mount.sharing, access) {
        (_, Access::Moved) if is_held => {
            return Err("one cache cannot be in two places where nothing can be mounted".into());
        }
        _ if is_held => (name, None),
        (Sharing::Shared, Access::Mounted) => {
            let lock = lock_file(&name)?;
            wait_for(&lock, File::try_lock_shared, cancel)?;
            (name, Some(lock))
        }
        (Sharing::Shared, Access::Moved) | (Sharing::Locked, _) => {
            let lock = lock_file(&name)?;
            wait_for(&lock, File::try_lock, cancel)?;
            (name, Some(lock))
        }
        (Sharing::Private, _) => {
            let mut candidates = (0..MAX_PRIVATE).map(|number| format!("{name}-{number}"));
            let free = candidates.find_map(|name| {
                let lock = lock_file(&name).ok()?;
                lock.try_lock().ok().map(|()| (name, Some(lock)))
            });
            free.ok_or_else(|| io::Error::from(io::ErrorKind::ResourceBusy))?
        }
    };
    store.mark_mount(&name)?;
    let path = base.join(&name);
    let identity = identity(mount, content)?;
    if !path.is_dir() {
        make(request, (mount, &identity), content, &path)?;
    }
    request.saved.note(identity, path.clone());
    Ok(CacheDirectory { path, lock })
}

/// The name of a cache directory: how this process keeps owners, its id, what a new one would look like, and what it
/// would hold. Owners that somebody else recorded, or numbers of another user namespace, would be wrong ones here.
fn name(store: &Store, mount: &CacheMount, content: Option<&Changes>) -> Result<String, Cause> {
    let mut hasher = KeyHasher::new("rbuild cache mount");
    hasher
        .text(store.form()?)
        .text(&mount.id)
        .number(u64::from(mount.mode))
        .number(u64::from(mount.uid))
        .number(u64::from(mount.gid));
    let content = content.map(content::digest).transpose()?;
    hasher.option(content, |hasher, digest| {
        hasher.digest(&digest);
    });
    Ok(hasher.finish().hex())
}

/// What a cache is, wherever it is: which one, what a new one looks like, and what it starts with.
fn identity(mount: &CacheMount, content: Option<&Changes>) -> Result<Digest, Cause> {
    let mut hasher = KeyHasher::new("rbuild cache mount elsewhere");
    let content = content.map(content::digest).transpose()?;
    hasher
        .text(&mount.id)
        .number(u64::from(mount.mode))
        .number(u64::from(mount.uid))
        .number(u64::from(mount.gid))
        .option(content, |hasher, digest| {
            hasher.digest(&digest);
        });
    Ok(hasher.finish())
}

fn wait_for(lock: &File, take: fn(&File) -> Result<(), TryLockError>, cancel: &Cancel) -> io::Result<()> {
    loop {
        match take(lock) {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if cancel.is_cancelled() => {
                return Err(io::Error::other("cancelled while waiting for the cache"));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(POLL),
        }
    }
}

/// Makes a directory aside and renames it: another process sees it with its owner, mode and first content, or not at
/// all. What it starts from keeps its own owner and mode, as in BuildKit.
fn make(
    request: &Request<'_>,
    (mount, identity): (&CacheMount, &Digest),
    content: Option<&Changes>,
    path: &Path,
) -> Result<(), Cause> {
    let scratch = match (request.saved.restore(identity), content) {
        (Some(restored), _) => restored,
        (None, Some(content)) => copied(request.store, content)?,
        (None, None) => {
            let scratch = request.store.scratch()?;
            let root = scratch.root()?;
            root.create_dir(Path::new(CONTENT))?;
            let meta = Meta {
                uid: mount.uid,
                gid: mount.gid,
                mtime: request.now,
                ..Meta::new(Kind::Directory, mount.mode & 0o7777)
            };
            root.set_meta(Path::new(CONTENT), &meta)?;
            scratch
        }
    };
    match std::fs::rename(scratch.path().join(CONTENT), path) {
        Err(_) if path.is_dir() => Ok(()),
        renamed => Ok(renamed?),
    }
}

/// Writes a tree into a directory of its own.
///
/// # Errors
/// The store cannot be written, the tree not be read.
pub(crate) fn copied(store: &Store, content: &Changes) -> Result<Scratch, Cause> {
    let scratch = store.scratch()?;
    apply(content, &scratch.root()?, &View::empty())?;
    Ok(scratch)
}
