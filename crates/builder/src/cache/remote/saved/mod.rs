//! Cache mounts in registries and directories: what a compiler kept, for the next build that has nothing.
//!
//! A mount is an OCI image manifest. Its config is the list of its files with their attributes, its layers are the bytes of all
//! files, one after the other in the order of the list, cut where their content says. So a file that changes moves the chunks it is in,
//! and times that change move the list alone.

mod chunks;
mod listing;
mod restore;
mod save;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_image::{Descriptor, Digest, Manifest, ManifestOrIndex, Raw, StoreErrorKind};
use rbuild_layers::{Scratch, Store};
use rbuild_registry::Client;

use super::repository::{CacheRepository, RemoteCacheError, Use};
use super::{CachePlace, CacheScope, explain};
use crate::build::OnEvent;
use crate::event::Event;

/// The kind of artifact that a mount is.
const MOUNT_TYPE: &str = "application/vnd.rbuild.cache-mount.v1";
/// The list of files: JSON, zstd.
const LIST_TYPE: &str = "application/vnd.rbuild.cache-mount.list.v1+json+zstd";
/// A part of the bytes of all files: zstd.
const CHUNK_TYPE: &str = "application/vnd.rbuild.cache-mount.chunk.v1+zstd";
/// Digest and length of a chunk's bytes, separated by a space.
const PLAIN: &str = "dev.rbuild.cache-mount.plain";

/// The mounts that one build reads from elsewhere, and writes there.
pub(crate) struct SavedMounts {
    from: Vec<(CachePlace, CacheRepository)>,
    to: Vec<(CachePlace, CacheRepository)>,
    /// The directories of the mounts that steps used, by what they are elsewhere.
    used: Mutex<BTreeMap<Digest, PathBuf>>,
    store: Store,
    on_event: OnEvent,
    runtime: tokio::runtime::Handle,
}

impl std::fmt::Debug for SavedMounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedMounts").field("from", &self.from).field("to", &self.to).finish_non_exhaustive()
    }
}

impl SavedMounts {
    /// Names the places; nothing is asked of them yet. What cannot be used is told as a notice.
    pub(crate) fn new(
        (from, to): (&[CachePlace], &[CachePlace]),
        client: Option<&Client>,
        store: &Store,
        on_event: &OnEvent,
    ) -> Self {
        let open = |place: &CachePlace, how| match CacheRepository::new(
            place,
            &CacheScope::default(),
            client,
            how,
        ) {
            Ok(repository) => Some((place.clone(), repository)),
            // The first build that writes it makes it.
            Err(RemoteCacheError::Missing) => None,
            Err(error) => {
                let message = format!("warning: cannot use the cache mounts at {place}: {}", explain(&error));
                on_event(Event::Notice { message });
                None
            }
        };
        Self {
            from: from.iter().filter_map(|place| open(place, Use::Read)).collect(),
            to: to.iter().filter_map(|place| open(place, Use::Write)).collect(),
            used: Mutex::default(),
            store: store.clone(),
            on_event: Arc::clone(on_event),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Notes that a step uses a mount.
    pub(crate) fn note(&self, mount: Digest, directory: PathBuf) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(mount, directory);
    }

    /// Brings a mount here, as [`crate::cache::mounts::CONTENT`] of a directory; none when nobody has it. Blocks.
    pub(crate) fn restore(&self, mount: &Digest) -> Option<Scratch> {
        self.from.iter().find_map(|(place, repository)| {
            match restore::restore(repository, mount, &self.store, &self.runtime) {
                Ok(restored) => restored,
                Err(error) => {
                    self.notice(format!(
                        "warning: cannot use a cache mount at {place}: {}",
                        explain(&*error)
                    ));
                    None
                }
            }
        })
    }

    /// Writes the mounts that steps used everywhere they are wanted. Blocks. What cannot be written is told as a notice.
    pub(crate) fn save(&self) {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (place, repository) in &self.to {
            for (mount, directory) in &used {
                match save::save(repository, mount, (&self.store, directory), &self.runtime) {
                    Ok(sent) => self.notice(format!("cache mounts {place}: {sent}")),
                    Err(error) => {
                        self.notice(format!(
                            "warning: cannot write a cache mount to {place}: {}",
                            explain(&*error)
                        ));
                    }
                }
            }
        }
    }

    fn notice(&self, message: String) {
        (self.on_event)(Event::Notice { message });
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The manifest of a mount; none when there is none.
async fn find(repository: &CacheRepository, mount: &Digest) -> Result<Option<Raw<Manifest>>, Cause> {
    let name = repository.mount_name(mount)?;
    let resolved = match repository.source().resolve(&name).await {
        Err(error) if *error.kind() == StoreErrorKind::NotFound => return Ok(None),
        resolved => resolved?,
    };
    match ManifestOrIndex::parse(&resolved.descriptor.media_type, resolved.bytes)? {
        ManifestOrIndex::Manifest(manifest)
            if manifest.value().artifact_type.as_deref() == Some(MOUNT_TYPE) =>
        {
            Ok(Some(manifest))
        }
        _ => Err(format!("{name} is no cache mount").into()),
    }
}

/// What a chunk is when decompressed: its digest and length.
fn plain(chunk: &Descriptor) -> Option<(Digest, u64)> {
    let (digest, length) = chunk.annotations.get(PLAIN)?.split_once(' ')?;
    let length = length.parse().ok().filter(|length| *length <= chunks::MOST as u64)?;
    Some((digest.parse().ok()?, length))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn write(path: &Path, bytes: &[u8]) {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, bytes).expect("a file");
    }

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    /// Saves a tree, and restores it in a store that knows nothing.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_mount_comes_back_as_it_was_and_only_changes_move() {
        let scratch = tempfile::tempdir().expect("a directory");
        let store = |name: &str| Store::open(&scratch.path().join(name)).expect("a store");
        let place = CachePlace::Directory(scratch.path().join("kept"));
        let mount = Digest::of(b"mount");
        let saved = |store: &Store| {
            let (places, notices) = ([place.clone()], Arc::new(Mutex::new(Vec::new())));
            let heard = Arc::clone(&notices);
            let on_event: OnEvent = Arc::new(move |event| {
                if let Event::Notice { message } = event {
                    heard.lock().expect("one thread").push(message);
                }
            });
            (SavedMounts::new((&places, &places), None, store, &on_event), notices)
        };
        let first = store("first");
        let directory = first.mounts_path().join("m");
        for number in 0..40_u64 {
            write(&directory.join(format!("{number:02}/object")), &noise(number, 200_000));
        }
        write(&directory.join("empty"), b"");
        symlink("00/object", directory.join("link")).expect("a link");
        std::fs::set_permissions(directory.join("empty"), PermissionsExt::from_mode(0o4751)).expect("a mode");
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
        let file = std::fs::File::options().write(true).open(directory.join("07/object")).expect("a file");
        file.set_modified(time).expect("a time");

        let save = async |store: &Store, directory: &Path| {
            let (mounts, notices) = saved(store);
            mounts.note(mount, directory.to_owned());
            tokio::task::spawn_blocking(move || mounts.save()).await.expect("saved");
            let notices = notices.lock().expect("one thread").clone();
            notices.concat()
        };
        let restore = async |store: &Store| {
            let (mounts, notices) = saved(store);
            let restored =
                tokio::task::spawn_blocking(move || mounts.restore(&mount)).await.expect("restored");
            (restored, notices.lock().expect("one thread").concat())
        };
        let chunks = async || {
            let repository =
                CacheRepository::new(&place, &CacheScope::default(), None, Use::Read).expect("a directory");
            let name = repository.mount_name(&mount).expect("a name");
            let resolved = repository.source().resolve(&name).await.expect("a mount");
            let manifest: Manifest = serde_json::from_slice(&resolved.bytes).expect("JSON");
            manifest.layers.into_iter().map(|layer| layer.digest).collect::<Vec<_>>()
        };
        let said = save(&first, &directory).await;
        assert!(said.contains("83 paths with 8000000 bytes"), "{said}");
        let before = chunks().await;
        assert!(before.len() > 4, "{}", before.len());

        let second = store("second");
        let (restored, said) = restore(&second).await;
        let restored = restored.unwrap_or_else(|| panic!("{said}"));
        let tree = restored.path().join(crate::cache::mounts::CONTENT);
        for number in 0..40_u64 {
            let bytes = std::fs::read(tree.join(format!("{number:02}/object"))).expect("a file");
            assert!(bytes == noise(number, 200_000), "{number}");
        }
        assert_eq!(std::fs::read_link(tree.join("link")).expect("a link"), Path::new("00/object"));
        let meta = std::fs::metadata(tree.join("empty")).expect("a file");
        assert_eq!((meta.len(), meta.permissions().mode() & 0o7777), (0, 0o4751));
        let meta = std::fs::metadata(tree.join("07/object")).expect("a file");
        assert_eq!(meta.modified().expect("a time"), time);

        write(&directory.join("20/object"), &noise(99, 200_000));
        write(&directory.join("20/new"), &noise(98, 1000));
        save(&first, &directory).await;
        let after = chunks().await;
        let new = after.iter().filter(|digest| !before.contains(digest)).count();
        assert!((1..=3).contains(&new), "{new} of {} chunks are new", after.len());

        let layout = rbuild_image::Layout::open(scratch.path().join("kept")).expect("a layout");
        let victim = after.first().expect("a chunk");
        std::fs::write(layout.blob_path(victim), b"wrong").expect("a blob");
        let (restored, said) = restore(&store("third")).await;
        assert!(restored.is_none() && said.contains("cannot use a cache mount"), "{said}");
    }
}
