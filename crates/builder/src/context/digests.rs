//! Digests of the files of a context, remembered from build to build: [`FileDigests`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rbuild_image::Digest;
use rbuild_layers::{Root, RootError, Stamp, Store, Time};

/// What a file has to have been left alone for, before the build began, to be remembered.
///
/// A change within one tick of the clock of an earlier one moves no time. And a process that has a file mapped moves its times when it first
/// writes to a page, not again before the page was written to the disk, which takes the kernel 35 s by default.
const SETTLED: Duration = Duration::from_secs(60);

/// Files of one table; more are read by every build.
const MAX_FILES: usize = 1 << 18;

/// Tables that were written since a file was last asked for, until it is forgotten.
const MAX_AGE: u8 = 8;

/// What a table begins with; another one is no table.
const MAGIC: &[u8] = b"rbuild files 1\n";

/// Bytes of one file in a table: inode, size, two times of 12, age and digest.
const RECORD: usize = 8 + 8 + 12 + 12 + 1 + 32;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What earlier builds read in a directory, by inode.
///
/// A file whose size, inode and both times are what they were has the bytes it had, where the file system is of a kind that says so: a
/// local one on a disk. Inodes of network file systems and of overlays are not those of files, and mapped pages of a tmpfs are never
/// cleaned. Device numbers mean something until the machine starts again; then everything is read once.
///
/// The table is a cache entry of the store: whole or not there, and one that is not what its own digest says is none. Of processes that write at
/// the same time the last wins, and what it did not know is read again.
#[derive(Debug)]
pub(super) struct FileDigests {
    store: Store,
    /// The name of the cache entry.
    name: String,
    device: u64,
    /// When this build began to look at files.
    started: Time,
    known: HashMap<u64, Known>,
    news: Mutex<News>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    stamp: Stamp,
    age: u8,
    digest: Digest,
}

/// What this build found out.
#[derive(Debug, Default)]
struct News {
    /// What was asked for and known.
    used: Vec<u64>,
    /// What was read, by path.
    read: HashMap<PathBuf, (Stamp, Digest)>,
}

impl FileDigests {
    /// Opens the table of a directory; none where files cannot be told apart by looking at them.
    pub(super) fn open(root: &Root, store: &Store) -> Option<Self> {
        let system = rustix::fs::statfs(root.path()).ok()?;
        let is_trusted = tells_changes(system.f_type as u64);
        if is_trusted { Self::at(root, store, SystemTime::now()) } else { None }
    }

    /// Opens the table of a directory for a build that begins then.
    fn at(root: &Root, store: &Store, now: SystemTime) -> Option<Self> {
        let path = std::fs::canonicalize(root.path()).ok()?;
        let device = root.list(Path::new("")).ok()?.own_stamp().ok()?.dev;
        let volume = rustix::fs::statvfs(&path).ok()?.f_fsid;
        let boot = std::fs::read_to_string(BOOT_ID).ok()?;
        let name = crate::cache::key::KeyHasher::name("rbuild files", |hasher| {
            hasher.text(boot.trim()).number(device).number(volume).bytes(path.as_os_str().as_encoded_bytes());
        });
        let name = format!("files/{}", name.hex());
        let known = store.cache_get(&name).ok().flatten().and_then(|bytes| decode(&bytes, device));
        Some(Self {
            store: store.clone(),
            name,
            device,
            started: time(now.checked_sub(SETTLED)?)?,
            known: known.unwrap_or_default(),
            news: Mutex::default(),
        })
    }

    /// The digest of a file that was read before and has not changed.
    pub(super) fn get(&self, stamp: &Stamp) -> Option<Digest> {
        let known = self.known.get(&stamp.ino).filter(|known| known.stamp == *stamp)?;
        self.news().used.push(stamp.ino);
        Some(known.digest)
    }

    /// Takes what was read of a file that had this stamp before it was opened.
    pub(super) fn add(&self, path: &Path, stamp: Stamp, digest: Digest) {
        if stamp.dev == self.device && stamp.ctime < self.started {
            self.news().read.insert(path.to_owned(), (stamp, digest));
        }
    }

    /// Looks again at what was read, and writes what has still the stamp it had. What fails is not remembered.
    pub(super) fn keep(&self, root: &Root) {
        let News { used, read } = std::mem::take(&mut *self.news());
        if read.is_empty() {
            return;
        }
        let mut by_directory: HashMap<&Path, Vec<(&Path, Stamp, Digest)>> = HashMap::new();
        for (path, (stamp, digest)) in &read {
            let directory = path.parent().unwrap_or(Path::new(""));
            by_directory.entry(directory).or_default().push((path, *stamp, *digest));
        }
        let mut table: HashMap<u64, Known> = self.known.clone();
        table.values_mut().for_each(|known| known.age = known.age.saturating_add(1));
        for inode in used {
            table.entry(inode).and_modify(|known| known.age = 0);
        }
        table.retain(|_, known| known.age < MAX_AGE);
        let mut directories = Directories { started: self.started, settled: HashMap::new() };
        for (directory, files) in by_directory {
            let Ok(true) = directories.are_settled(root, directory) else { continue };
            let Ok(listing) = root.list(directory) else { continue };
            for (path, stamp, digest) in files {
                let Some(name) = path.file_name() else { continue };
                if listing.stamp(name).ok().flatten() == Some(stamp) {
                    table.insert(stamp.ino, Known { stamp, age: 0, digest });
                }
            }
        }
        let _ = self.store.cache_put(&self.name, &encode(&table));
    }

    fn news(&self) -> std::sync::MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which directories, with all above them, nobody changed since the build began: the path of a file led to the same file all the time.
struct Directories {
    started: Time,
    settled: HashMap<PathBuf, bool>,
}

impl Directories {
    fn are_settled(&mut self, root: &Root, directory: &Path) -> Result<bool, RootError> {
        let (mut path, mut asked) = (directory, Vec::new());
        let answer = loop {
            if let Some(known) = self.settled.get(path) {
                break *known;
            }
            asked.push(path.to_owned());
            if root.list(path)?.own_stamp()?.ctime >= self.started {
                break false;
            }
            match path.parent() {
                Some(parent) => path = parent,
                None => break true,
            }
        };
        self.settled.extend(asked.into_iter().map(|path| (path, answer)));
        Ok(answer)
    }
}

/// Tells whether a file system, by its magic number of statfs(2), moves the change time of an inode whenever its bytes change, and
/// gives no two files of one device the same inode.
fn tells_changes(magic: u64) -> bool {
    const EXT: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const F2FS: u64 = 0xf2f5_2010;
    // sign extension of a 32-bit field
    [EXT, XFS, BTRFS, F2FS].contains(&(magic & 0xffff_ffff))
}

fn time(at: SystemTime) -> Option<Time> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Time { seconds: i64::try_from(since.as_secs()).ok()?, nanos: since.subsec_nanos() })
}

/// Writes a table: the magic text, the digest of what follows, and records of one length, the youngest first as far as there is room.
fn encode(table: &HashMap<u64, Known>) -> Vec<u8> {
    let mut files: Vec<_> = table.values().collect();
    files.sort_unstable_by_key(|known| (known.age, known.stamp.ino));
    let mut records = Vec::with_capacity(files.len().min(MAX_FILES) * RECORD);
    for Known { stamp, age, digest } in files.into_iter().take(MAX_FILES) {
        for number in [stamp.ino, stamp.size] {
            records.extend_from_slice(&number.to_le_bytes());
        }
        for time in [stamp.mtime, stamp.ctime] {
            records.extend_from_slice(&time.seconds.to_le_bytes());
            records.extend_from_slice(&time.nanos.to_le_bytes());
        }
        records.push(*age);
        records.extend_from_slice(digest.as_bytes());
    }
    [MAGIC, Digest::of(&records).as_bytes(), &records].concat()
}

/// Reads a table; none if anything of it is not as it was written.
fn decode(bytes: &[u8], dev: u64) -> Option<HashMap<u64, Known>> {
    let (digest, records) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    if Digest::of(records).as_bytes() != digest || records.len() % RECORD != 0 {
        return None;
    }
    records.chunks_exact(RECORD).map(|record| decode_one(record, dev)).collect()
}

fn decode_one(record: &[u8], dev: u64) -> Option<(u64, Known)> {
    let (ino, rest) = record.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let (mtime, rest) = decode_time(rest)?;
    let (ctime, rest) = decode_time(rest)?;
    let (age, digest) = rest.split_first()?;
    let stamp = Stamp { dev, ino: u64::from_le_bytes(*ino), size: u64::from_le_bytes(*size), mtime, ctime };
    Some((stamp.ino, Known { stamp, age: *age, digest: Digest::from_bytes(digest.try_into().ok()?) }))
}

fn decode_time(bytes: &[u8]) -> Option<(Time, &[u8])> {
    let (seconds, rest) = bytes.split_first_chunk()?;
    let (nanos, rest) = rest.split_first_chunk()?;
    Some((Time { seconds: i64::from_le_bytes(*seconds), nanos: u32::from_le_bytes(*nanos) }, rest))
}

#[cfg(test)]
#[path = "digests_tests.rs"]
mod tests;
