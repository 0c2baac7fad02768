//! What a tree looked like, to find what changed since: [`Listing`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use crate::directory::Directory;
use crate::root::{Root, RootError};

/// Threads of a walk: more wait for the same locks of the kernel.
const MAX_THREADS: usize = 8;

/// Inode times may lie this far behind the clock: a tick of the slowest common kernel (`HZ=100`).
const TICK: Duration = Duration::from_millis(10);

/// The fingerprints of everything in a tree: a hash of all that statx(2) tells of a file but its access time. Any change
/// of a file, its attributes or its names moves its change time, which nothing in user space can set.
///
/// Takes about 30 bytes and the name for each file.
#[derive(Debug)]
pub(super) struct Listing {
    directories: HashMap<PathBuf, Listed>,
    hasher: RandomState,
    /// The latest change, and whether times have fractions of a second.
    latest: Duration,
    is_coarse: bool,
}

/// One directory.
#[derive(Debug, Default)]
struct Listed {
    /// Which directory it is, whatever happens in it.
    identity: u64,
    /// Sorted by name.
    names: Vec<(Box<OsStr>, u64)>,
}

/// A directory with names that are not as they were.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) path: PathBuf,
    /// It, or one above it, took the place of another directory.
    pub(crate) is_replaced: bool,
    /// The names that are new or changed.
    pub(crate) present: Vec<(OsString, FileType)>,
    /// The names that are gone.
    pub(crate) gone: Vec<OsString>,
}

impl Listing {
    /// Lists a tree.
    pub(super) fn take(root: &Root) -> Result<Self, RootError> {
        Ok(Walk::new(root, None).run()?.0)
    }

    /// Lists the tree again, and returns the directories in which something changed, sorted by path.
    pub(super) fn compare(&self, root: &Root) -> Result<(Self, Vec<Changed>), RootError> {
        let (listing, mut changed) = Walk::new(root, Some(self)).run()?;
        changed.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok((listing, changed))
    }

    /// Waits until a change of the tree cannot have the time of the last that was listed.
    pub(super) fn settle(&self) {
        let granularity = if self.is_coarse { Duration::from_secs(1) } else { TICK };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // a change that lies in the future says nothing of this clock
        if let Some(left) = (self.latest + granularity).checked_sub(now)
            && left <= granularity
        {
            std::thread::sleep(left);
        }
    }
}

/// A directory to be listed.
struct Pending {
    path: PathBuf,
    is_replaced: bool,
}

/// What the threads of a walk share.
struct Walk<'a> {
    root: &'a Root,
    before: Option<&'a Listing>,
    hasher: RandomState,
    queue: Mutex<Queue>,
    more: Condvar,
}

struct Queue {
    pending: Vec<Pending>,
    /// Directories that are being listed and may add to the queue.
    busy: usize,
    error: Option<RootError>,
}

/// What one thread found.
#[derive(Default)]
struct Found {
    directories: Vec<(PathBuf, Listed)>,
    changed: Vec<Changed>,
    latest: Duration,
    has_fractions: bool,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Root, before: Option<&'a Listing>) -> Self {
        let hasher = before.map_or_else(RandomState::new, |before| before.hasher.clone());
        let top = Pending { path: PathBuf::new(), is_replaced: false };
        let queue = Mutex::new(Queue { pending: vec![top], busy: 0, error: None });
        Self { root, before, hasher, queue, more: Condvar::new() }
    }

    fn run(self) -> Result<(Listing, Vec<Changed>), RootError> {
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_THREADS);
        let found = std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads).map(|_| scope.spawn(|| self.work())).collect();
            let mut found = vec![self.work()];
            found.extend(workers.into_iter().filter_map(|worker| worker.join().ok()));
            found
        });
        let queue = self.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = queue.error {
            return Err(error);
        }
        let mut listing = Listing {
            directories: HashMap::new(),
            hasher: self.hasher,
            latest: Duration::ZERO,
            is_coarse: !found.iter().any(|found| found.has_fractions),
        };
        let mut changed = Vec::new();
        for found in found {
            listing.directories.extend(found.directories);
            listing.latest = listing.latest.max(found.latest);
            changed.extend(found.changed);
        }
        Ok((listing, changed))
    }

    fn work(&self) -> Found {
        let mut found = Found::default();
        while let Some(pending) = self.next() {
            let mut below = Vec::new();
            let listed = self.list(&pending, &mut found, &mut below);
            let error = listed.err().map(|errno| RootError::at("list", &pending.path)(errno));
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.busy -= 1;
            queue.pending.extend(below);
            queue.error = queue.error.take().or(error);
            self.more.notify_all();
        }
        found
    }

    /// Takes a directory, waiting while others may still find some.
    fn next(&self) -> Option<Pending> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if queue.error.is_some() {
                return None;
            }
            if let Some(pending) = queue.pending.pop() {
                queue.busy += 1;
                return Some(pending);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn list(&self, pending: &Pending, found: &mut Found, below: &mut Vec<Pending>) -> rustix::io::Result<()> {
        let directory = self.root.exact(&pending.path)?;
        let identity = self.identity(&look(&directory, OsStr::new(""))?);
        let before = self.before.and_then(|before| before.directories.get(&pending.path));
        let is_replaced = pending.is_replaced || before.is_some_and(|before| before.identity != identity);
        let mut listed = Listed { identity, names: Vec::new() };
        let mut changed =
            Changed { path: pending.path.clone(), is_replaced, present: Vec::new(), gone: Vec::new() };
        for (name, file_type) in directory.list()? {
            let stat = look(&directory, &name)?;
            found.note(&stat);
            let fingerprint = self.fingerprint(&stat);
            if self.before.is_some() && before.and_then(|before| before.get(&name)) != Some(fingerprint) {
                changed.present.push((name.clone(), file_type));
            }
            if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
                below.push(Pending { path: pending.path.join(&name), is_replaced });
            }
            listed.names.push((name.into_boxed_os_str(), fingerprint));
        }
        let was = before.map(|before| before.names.iter()).into_iter().flatten();
        changed.gone.extend(
            was.map(|(name, _)| name)
                .filter(|name| listed.get(name).is_none())
                .map(|name| name.to_os_string()),
        );
        if !changed.present.is_empty() || !changed.gone.is_empty() {
            found.changed.push(changed);
        }
        found.directories.push((pending.path.clone(), listed));
        Ok(())
    }

    fn identity(&self, stat: &Statx) -> u64 {
        self.hasher.hash_one((stat.stx_ino, stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
    }

    fn fingerprint(&self, stat: &Statx) -> u64 {
        let time = |time: &rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
        self.hasher.hash_one((
            (stat.stx_ino, time(&stat.stx_btime), time(&stat.stx_ctime), time(&stat.stx_mtime)),
            (stat.stx_mode, stat.stx_uid, stat.stx_gid, stat.stx_nlink, stat.stx_size),
            (stat.stx_rdev_major, stat.stx_rdev_minor),
        ))
    }
}

impl Listed {
    fn get(&self, name: &OsStr) -> Option<u64> {
        let found = self.names.binary_search_by(|(listed, _)| (**listed).cmp(name)).ok()?;
        self.names.get(found).map(|(_, fingerprint)| *fingerprint)
    }
}

impl Found {
    fn note(&mut self, stat: &Statx) {
        let seconds = u64::try_from(stat.stx_ctime.tv_sec).unwrap_or_default();
        self.latest = self.latest.max(Duration::new(seconds, stat.stx_ctime.tv_nsec));
        self.has_fractions |= stat.stx_ctime.tv_nsec != 0;
    }
}

fn look(directory: &Directory, name: &OsStr) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    match rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME) {
        Err(Errno::INTR) => look(directory, name),
        looked => looked,
    }
}
