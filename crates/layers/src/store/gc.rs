//! Garbage collection: what was not used for longest goes first.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rbuild_image::{Descriptor, Digest, ManifestOrIndex};

use super::lease::mark_used;
use super::scratch;
use super::usage::disk_usage;
use super::{Store, StoreDirError, failed};

/// What garbage collection leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcPolicy {
    /// Bytes on disk that may stay.
    pub max_size: u64,
    /// What was used within this time stays, whatever its size.
    pub keep_duration: Duration,
    /// Whether images that have a name may go.
    pub images: NamedImages,
}

/// What becomes of the images that the store's index lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamedImages {
    /// They stay, with their blobs.
    #[default]
    Keep,
    /// They go when their turn comes, and their blobs with them.
    Collect,
}

/// What the store consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The images of the index. Their bytes are those of blobs.
    Image,
    /// Layers, configs, manifests and files of the web.
    Blob,
    /// Unpacked layers.
    Snapshot,
    /// Results of steps, and what is known of files of the web.
    CacheEntry,
    /// The directories of `RUN --mount=type=cache`.
    CacheMount,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Image, Self::Blob, Self::Snapshot, Self::CacheEntry, Self::CacheMount];
}

/// A number of things and the disk space they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// How many bytes, in whole blocks of the file system.
    pub bytes: u64,
}

/// What garbage collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    removed: HashMap<Part, Tally>,
    kept: HashMap<Part, Tally>,
}

impl Collected {
    /// Returns what is gone of a part.
    pub fn removed(&self, part: Part) -> Tally {
        self.removed.get(&part).copied().unwrap_or_default()
    }

    /// Returns what is left of a part.
    pub fn kept(&self, part: Part) -> Tally {
        self.kept.get(&part).copied().unwrap_or_default()
    }

    /// Returns the bytes that are left.
    pub fn size(&self) -> u64 {
        self.kept.values().map(|tally| tally.bytes).sum()
    }

    fn count(tallies: &mut HashMap<Part, Tally>, item: &Item) {
        let tally = tallies.entry(item.part).or_default();
        tally.count += 1;
        tally.bytes += item.bytes;
    }
}

/// Something that can be removed by itself.
struct Item {
    part: Part,
    path: PathBuf,
    used: SystemTime,
    bytes: u64,
    /// An image that the index lists, or a part of one.
    is_named: bool,
    image: Option<Descriptor>,
}

impl Store {
    /// Removes what was used longest ago, until the store is small enough or only what `policy` protects is left.
    ///
    /// Other processes may use the store meanwhile: what was used since the oldest of them opened it stays. A killed
    /// collection leaves a store that is sound; what it had begun to remove is removed by the next process that opens it.
    ///
    /// # Errors
    /// The store cannot be read, or something not be removed.
    pub fn collect(&self, policy: &GcPolicy) -> Result<Collected, StoreDirError> {
        let _alone = self.lock("collect")?;
        let now = SystemTime::now();
        let mut items = self.items()?;
        items.sort_by(|one, other| {
            (one.used, one.part, &one.path).cmp(&(other.used, other.part, &other.path))
        });
        let mut size: u64 = items.iter().map(|item| item.bytes).sum();
        let mut collected = Collected::default();
        let scratch = self.scratch()?;
        for (number, item) in items.iter().enumerate() {
            let is_young = now.duration_since(item.used).unwrap_or_default() < policy.keep_duration;
            let is_protected = item.is_named && policy.images == NamedImages::Keep;
            let wanted = size > policy.max_size && !is_young && !is_protected;
            if wanted && self.remove(item, &scratch.path().join(number.to_string()))? {
                size -= item.bytes;
                Collected::count(&mut collected.removed, item);
            } else {
                Collected::count(&mut collected.kept, item);
            }
        }
        Ok(collected)
    }

    /// Removes those of some blobs that no image of the index has. Returns the others that are there because a process may
    /// be using them.
    ///
    /// # Errors
    /// As [`Store::collect`].
    pub fn collect_blobs(&self, digests: &BTreeSet<Digest>) -> Result<BTreeSet<Digest>, StoreDirError> {
        let _alone = self.lock("collect")?;
        let named = self.named(&mut Vec::new())?;
        let scratch = self.scratch()?;
        let mut left = BTreeSet::new();
        for digest in digests.iter().filter(|digest| !named.contains_key(digest.hex().as_bytes())) {
            let path = self.blob_path(digest);
            let Ok(file) = fs::metadata(&path) else { continue };
            if !self.remove(&item(Part::Blob, path, &file), scratch.path())? {
                left.insert(*digest);
            }
        }
        Ok(left)
    }

    /// Removes an item that nobody uses, and tells whether it did.
    fn remove(&self, item: &Item, aside: &Path) -> Result<bool, StoreDirError> {
        if item.part == Part::CacheMount {
            return remove_mount(&item.path, aside);
        }
        let gate = self.close_gate()?;
        let marked = match item.part {
            Part::Snapshot => fs::metadata(item.path.join("chain")).or_else(|_| fs::metadata(&item.path)),
            _ => fs::metadata(&item.path),
        };
        let used = match marked.and_then(|file| file.modified()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(failed("look at", &item.path))?,
        };
        if used.max(item.used) >= self.oldest_use()? {
            return Ok(false);
        }
        if let Some(image) = &item.image {
            self.layout().unlist_all(image).map_err(Box::new)?;
            return Ok(true);
        }
        if item.part != Part::Snapshot {
            return fs::remove_file(&item.path).map(|()| true).map_err(failed("remove", &item.path));
        }
        fs::rename(&item.path, aside).map_err(failed("remove", &item.path))?;
        drop(gate);
        scratch::remove(aside).map_err(failed("remove", aside))?;
        let lock = self.path().join("locks").join(item.path.file_name().unwrap_or_default());
        match fs::remove_file(&lock) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &lock)(error)),
            _ => Ok(true),
        }
    }

    fn items(&self) -> Result<Vec<Item>, StoreDirError> {
        let mut items = Vec::new();
        let named = self.named(&mut items)?;
        for (path, file) in files(&self.path().join("blobs/sha256"))? {
            let image_use = named.get(path.file_name().unwrap_or_default().as_encoded_bytes());
            let item = item(Part::Blob, path, &file);
            items.push(Item {
                used: image_use.copied().unwrap_or(item.used).max(item.used),
                is_named: image_use.is_some(),
                ..item
            });
        }
        let mut directories = vec![self.path().join("cache")];
        while let Some(directory) = directories.pop() {
            for (path, file) in entries(&directory)? {
                match file.is_dir() {
                    true => directories.push(path),
                    false => items.push(item(Part::CacheEntry, path, &file)),
                }
            }
        }
        for (path, directory) in entries(&self.snapshots_path())? {
            // a snapshot without its key is none, and can be of no use to anybody
            let key = fs::metadata(path.join("chain")).unwrap_or(directory);
            items.push(Item { bytes: disk_usage(&path), ..item(Part::Snapshot, path, &key) });
        }
        for (path, directory) in entries(&self.mounts_path())? {
            if directory.is_dir() {
                let mark = fs::metadata(lock_of(&path)).unwrap_or(directory);
                items.push(Item { bytes: disk_usage(&path), ..item(Part::CacheMount, path, &mark) });
            }
        }
        Ok(items)
    }

    /// Lists the images of the index, and when the blobs of each were used at last as a part of one.
    fn named(&self, items: &mut Vec<Item>) -> Result<HashMap<Vec<u8>, SystemTime>, StoreDirError> {
        let mut named: HashMap<Vec<u8>, SystemTime> = HashMap::new();
        for descriptor in self.layout().descriptors().map_err(Box::new)? {
            let path = self.blob_path(&descriptor.digest);
            let used = fs::metadata(&path).and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            for digest in self.reached(&descriptor) {
                let latest = named.entry(digest.hex().into_bytes()).or_insert(used);
                *latest = used.max(*latest);
            }
            let image = Some(descriptor);
            items.push(Item { part: Part::Image, path, used, bytes: 0, is_named: true, image });
        }
        Ok(named)
    }

    /// Lists the blobs an image is made of, whether they are there or not.
    fn reached(&self, root: &Descriptor) -> Vec<Digest> {
        let (mut reached, mut pending) = (Vec::new(), vec![root.clone()]);
        while let Some(descriptor) = pending.pop() {
            if reached.contains(&descriptor.digest) {
                continue;
            }
            reached.push(descriptor.digest);
            // not through the store, which would mark it as used
            let Ok(bytes) = self.layout().read(&descriptor) else { continue };
            match ManifestOrIndex::parse(&descriptor.media_type, bytes) {
                Ok(ManifestOrIndex::Index(index)) => pending.extend(index.into_value().manifests),
                Ok(ManifestOrIndex::Manifest(manifest)) => {
                    let manifest = manifest.into_value();
                    reached.extend(manifest.layers.iter().map(|layer| layer.digest));
                    reached.push(manifest.config.digest);
                }
                Err(_) => {}
            }
        }
        reached
    }

    /// Keeps garbage collection from a cache mount for a while: whoever holds its lock has used it now.
    ///
    /// # Errors
    /// The time cannot be set.
    pub fn mark_mount(&self, name: &str) -> Result<(), StoreDirError> {
        mark_used(&lock_of(&self.mounts_path().join(name)))
    }
}

/// Removes a cache mount that no step holds. Its lock file stays: who waits for it must not wait for another one.
fn remove_mount(path: &Path, aside: &Path) -> Result<bool, StoreDirError> {
    let lock = lock_of(path);
    let file = File::options().create(true).append(true).open(&lock).map_err(failed("open", &lock))?;
    if file.try_lock().is_err() {
        return Ok(false);
    }
    match fs::rename(path, aside) {
        Ok(()) => scratch::remove(aside).map_err(failed("remove", aside))?,
        // somebody else's mode is in the way of moving it
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            scratch::remove(path).map_err(failed("remove", path))?;
        }
        Err(error) => return Err(failed("remove", path)(error)),
    }
    Ok(true)
}

fn lock_of(mount: &Path) -> PathBuf {
    let mut lock = mount.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

fn item(part: Part, path: PathBuf, file: &fs::Metadata) -> Item {
    let used = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Item { part, path, used, bytes: file.blocks().saturating_mul(512), is_named: false, image: None }
}

fn files(directory: &Path) -> Result<Vec<(PathBuf, fs::Metadata)>, StoreDirError> {
    let mut files = entries(directory)?;
    // the layout's own name for a file that has not its final name yet
    files.retain(|(path, file)| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        file.is_file() && !name.starts_with(b".new-")
    });
    Ok(files)
}

/// Lists a directory with what is known of its entries. What goes meanwhile is left out.
pub(super) fn entries(directory: &Path) -> Result<Vec<(PathBuf, fs::Metadata)>, StoreDirError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let entry = entry.map_err(failed("read", directory))?;
        match entry.metadata() {
            Ok(metadata) => entries.push((entry.path(), metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at", &entry.path())(error)),
        }
    }
    Ok(entries)
}
