//! An OCI image layout on disk: a directory of blobs with an index of names, readable by skopeo, crane and podman.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Verified};
use crate::incoming;
use crate::manifest::{Descriptor, DocumentError, Index, MAX_DOCUMENT, ManifestOrIndex, Raw};
use crate::reference::Reference;
use crate::store::{Content, FileContent, Resolved, Sink, Source, StoreError, StoreErrorKind};

/// Annotation of an index entry: the tag.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation of an index entry: when the image was made, as RFC 3339.
pub const CREATED: &str = "org.opencontainers.image.created";
/// Annotation of an index entry: the full name, written by containerd and BuildKit and read by `docker load`.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// The content of the file `oci-layout`.
pub(crate) const LAYOUT_FILE: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The largest blob that is read into memory, in bytes.
const MAX_WHOLE: u64 = 8 << 20;

/// An OCI image layout directory.
///
/// Any number of processes may use one at the same time: blobs and `index.json` are written aside, synced and renamed into
/// place, and changes of the index exclude each other by a `flock(2)` on the file `oci-layout`. Readers need no lock.
/// A killed writer leaves nothing under a valid name.
///
/// # References
/// - [OCI image layout](https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    path: PathBuf,
}

/// Why a layout cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The directory has no `oci-layout` file of version 1.
    #[error("{path:?} is not an OCI image layout: {reason}")]
    NotALayout {
        /// The directory.
        path: PathBuf,
        /// What is missing or wrong.
        reason: &'static str,
    },
    /// Reading or writing failed.
    #[error("cannot {verb} {path:?}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `index.json` cannot be understood.
    #[error("cannot read {path:?}")]
    Index {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: DocumentError,
    },
    /// No image goes by that name.
    #[error("no image {name} in {path:?}")]
    NoSuchImage {
        /// The layout.
        path: PathBuf,
        /// What was asked for.
        name: String,
    },
    /// A name is needed: the layout holds several images.
    #[error("{path:?} holds several images, name one by its tag")]
    Ambiguous {
        /// The layout.
        path: PathBuf,
    },
}

impl From<LayoutError> for StoreError {
    fn from(error: LayoutError) -> Self {
        match error {
            LayoutError::Io { verb, path, source } => Self::io(format!("cannot {verb} {path:?}"), source),
            LayoutError::NoSuchImage { .. } => Self::new(StoreErrorKind::NotFound, error.to_string()),
            LayoutError::Index { path, source } => {
                Self::new(StoreErrorKind::Other, format!("cannot read {path:?}")).with_source(source)
            }
            other => Self::new(StoreErrorKind::Other, other.to_string()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Marker {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

impl Layout {
    /// Opens the layout at `path`, making directory and files that are missing.
    ///
    /// # Errors
    /// When a file cannot be made, or the directory is a layout of another version.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, LayoutError> {
        let layout = Self { path: path.into() };
        let blobs = layout.blobs();
        fs::create_dir_all(&blobs).map_err(|source| io_error("create directory", &blobs, source))?;
        for (name, content) in [("oci-layout", LAYOUT_FILE.to_vec()), ("index.json", empty_index())] {
            let file = layout.path.join(name);
            if !file.exists() {
                layout.write_new(&file, &content)?;
            }
        }
        Self::open(layout.path)
    }

    /// Opens the layout at `path`.
    ///
    /// # Errors
    /// When `path` has no `oci-layout` file, or one of a version other than 1.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LayoutError> {
        let path = path.into();
        let marker = path.join("oci-layout");
        let bytes = match read_bounded(&marker, MAX_DOCUMENT as u64) {
            Err(LayoutError::Io { source, .. })
                if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Err(LayoutError::NotALayout { path, reason: "there is no file oci-layout" });
            }
            other => other?,
        };
        match serde_json::from_slice::<Marker>(&bytes) {
            Ok(marker) if marker.version.starts_with("1.") => Ok(Self { path }),
            Ok(_) => Err(LayoutError::NotALayout { path, reason: "its version is not 1" }),
            Err(_) => Err(LayoutError::NotALayout { path, reason: "the file oci-layout is malformed" }),
        }
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where the blob of `digest` is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Lists what `index.json` points to.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn descriptors(&self) -> Result<Vec<Descriptor>, LayoutError> {
        self.read_index().map(|index| index.manifests)
    }

    /// Finds the image that goes by the full name, or by the digest, of `name`.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn get(&self, name: &Reference) -> Result<Option<Descriptor>, LayoutError> {
        let full = name.to_string();
        let goes_by = |descriptor: &&Descriptor| match name.digest() {
            Some(digest) => descriptor.digest == digest,
            None => [IMAGE_NAME, REF_NAME].iter().any(|key| descriptor.annotations.get(*key) == Some(&full)),
        };
        Ok(self.descriptors()?.iter().find(goes_by).cloned())
    }

    /// Finds the image with `tag`; without one, the image tagged `latest`, or the only one.
    ///
    /// # Errors
    /// [`LayoutError::NoSuchImage`], and [`LayoutError::Ambiguous`] when no tag is given and several images are there.
    pub fn by_tag(&self, tag: Option<&str>) -> Result<Descriptor, LayoutError> {
        let descriptors = self.descriptors()?;
        let tagged = |tag: &str| {
            descriptors
                .iter()
                .find(|descriptor| descriptor.annotations.get(REF_NAME).is_some_and(|name| name == tag))
        };
        let found = match (tag, descriptors.as_slice()) {
            (Some(tag), _) => tagged(tag),
            (None, [only]) => Some(only),
            (None, []) => None,
            (None, _) => {
                let latest = tagged("latest");
                Some(latest.ok_or_else(|| LayoutError::Ambiguous { path: self.path.clone() })?)
            }
        };
        let name = tag.unwrap_or("at all");
        found
            .cloned()
            .ok_or_else(|| LayoutError::NoSuchImage { path: self.path.clone(), name: name.to_owned() })
    }

    /// Stores `bytes` as a blob; nothing happens when it is there already.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, LayoutError> {
        let digest = Digest::of(bytes);
        let path = self.blob_path(&digest);
        if !has_size(&path, bytes.len() as u64) {
            self.write_new(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Reads a whole blob, verified; for manifests, indexes and configs.
    ///
    /// # Errors
    /// When the blob is missing, larger than 8 MiB, or not what `descriptor` says.
    pub fn read(&self, descriptor: &Descriptor) -> Result<Bytes, LayoutError> {
        let path = self.blob_path(&descriptor.digest);
        let read = |path: &Path| -> io::Result<Vec<u8>> {
            if descriptor.size > MAX_WHOLE {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 8 MiB"));
            }
            let mut bytes = Vec::new();
            Verified::new(File::open(path)?, descriptor.digest, descriptor.size).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read(&path).map(Bytes::from).map_err(|source| io_error("read blob", &path, source))
    }

    /// Lets `name` stand for the manifest or index `descriptor`, whose blob is there already; what the name stood for
    /// before is no longer listed. Without a name the descriptor is listed under those its annotations give it, if any.
    ///
    /// # Errors
    /// When the index cannot be read or written.
    pub fn list(&self, descriptor: &Descriptor, name: Option<&Reference>) -> Result<(), LayoutError> {
        let entry = named(descriptor, name);
        self.change_index(|manifests| {
            manifests.retain(|old| !replaces(&entry, old));
            let is_named = [IMAGE_NAME, REF_NAME].iter().any(|key| entry.annotations.contains_key(*key));
            if is_named || manifests.iter().all(|old| old.digest != entry.digest) {
                manifests.push(entry);
            }
        })
    }

    /// Takes the image `name` out of the index; its blobs stay. Tells whether it was listed.
    ///
    /// # Errors
    /// When the index cannot be read or written.
    pub fn unlist(&self, name: &Reference) -> Result<bool, LayoutError> {
        let full = name.to_string();
        let mut found = false;
        self.change_index(|manifests| {
            let before = manifests.len();
            manifests.retain(|old| old.annotations.get(IMAGE_NAME) != Some(&full));
            found = manifests.len() != before;
        })?;
        Ok(found)
    }

    /// Takes an entry out of the index, and every other of the same digest; the blobs stay.
    ///
    /// # Errors
    /// When the index cannot be read or written.
    pub fn unlist_all(&self, descriptor: &Descriptor) -> Result<(), LayoutError> {
        self.change_index(|manifests| manifests.retain(|old| old.digest != descriptor.digest))
    }

    fn blobs(&self) -> PathBuf {
        self.path.join("blobs").join("sha256")
    }

    fn index_path(&self) -> PathBuf {
        self.path.join("index.json")
    }

    fn read_index(&self) -> Result<Index, LayoutError> {
        let path = self.index_path();
        let bytes = read_bounded(&path, MAX_DOCUMENT as u64)?;
        let raw = Raw::<Index>::parse(bytes.into()).map_err(|source| LayoutError::Index { path, source })?;
        Ok(raw.into_value())
    }

    fn change_index(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<(), LayoutError> {
        let lock = self.path.join("oci-layout");
        let held = File::open(&lock).and_then(|file| file.lock().map(|()| file));
        let _held = held.map_err(|source| io_error("lock", &lock, source))?;
        let mut index = self.read_index()?;
        change(&mut index.manifests);
        self.write_new(&self.index_path(), Raw::from_value(index).bytes())
    }

    /// Writes `bytes` aside, syncs and renames into `path`.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
        let write = || -> io::Result<()> {
            let mut temporary = temporary_beside(path)?;
            io::Write::write_all(&mut temporary, bytes)?;
            temporary.as_file().sync_all()?;
            persist(temporary.into_temp_path(), path)
        };
        write().map_err(|source| io_error("write", path, source))
    }

    async fn push_blob(&self, descriptor: &Descriptor, content: &dyn Content) -> Result<(), StoreError> {
        let path = self.blob_path(&descriptor.digest);
        if has_size(&path, descriptor.size) {
            return Ok(());
        }
        let write = async || -> io::Result<()> {
            let (file, temporary) = temporary_beside(&path)?.into_parts();
            incoming::receive(content, descriptor, file).await?;
            let target = path.clone();
            tokio::task::spawn_blocking(move || persist(temporary, &target))
                .await
                .map_err(io::Error::other)?
        };
        write()
            .await
            .map_err(|source| StoreError::io(format!("cannot store blob {}", descriptor.digest), source))
    }

    fn put_verified(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), StoreError> {
        let actual = Digest::of(bytes);
        if actual != descriptor.digest || bytes.len() as u64 != descriptor.size {
            let kind = StoreErrorKind::Corrupt { expected: descriptor.digest, actual: Some(actual) };
            return Err(StoreError::new(kind, format!("manifest {} has digest {actual}", descriptor.digest)));
        }
        self.put(bytes)?;
        Ok(())
    }
}

impl Source for Layout {
    fn resolve<'a>(&'a self, name: &'a Reference) -> BoxFuture<'a, Result<Resolved, StoreError>> {
        Box::pin(async move {
            let descriptor = match self.get(name)? {
                Some(descriptor) => descriptor,
                None => {
                    let missing =
                        || LayoutError::NoSuchImage { path: self.path.clone(), name: name.to_string() };
                    self.unlisted(name.digest().ok_or_else(missing)?).ok_or_else(missing)?
                }
            };
            Ok(Resolved { bytes: self.read(&descriptor)?, descriptor })
        })
    }

    fn manifest<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { Ok(self.read(descriptor)?) })
    }

    fn content<'a>(
        &'a self,
        descriptor: &'a Descriptor,
    ) -> BoxFuture<'a, Result<Arc<dyn Content>, StoreError>> {
        Box::pin(async move {
            let path = self.blob_path(&descriptor.digest);
            match path.metadata() {
                Ok(_) => Ok(Arc::new(FileContent::new(path)) as Arc<dyn Content>),
                Err(error) => Err(StoreError::io(format!("cannot find blob {}", descriptor.digest), error)),
            }
        })
    }
}

impl Layout {
    /// Describes a manifest that is there as a blob and not in the index.
    fn unlisted(&self, digest: Digest) -> Option<Descriptor> {
        let bytes = read_bounded(&self.blob_path(&digest), MAX_DOCUMENT as u64).ok()?;
        let size = bytes.len() as u64;
        let document = ManifestOrIndex::parse("", bytes.into()).ok()?;
        Some(Descriptor::new(document.media_type(), digest, size))
    }
}

impl Sink for Layout {
    fn exists<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(has_size(&self.blob_path(&descriptor.digest), descriptor.size)) })
    }

    fn push<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: Arc<dyn Content>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.push_blob(descriptor, &*content).await })
    }

    fn push_manifest<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.put_verified(descriptor, &bytes) })
    }

    fn tag<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
        name: &'a Reference,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.put_verified(descriptor, &bytes)?;
            Ok(self.list(descriptor, Some(name))?)
        })
    }
}

/// Returns `descriptor` as an index lists it under `name`.
pub(crate) fn named(descriptor: &Descriptor, name: Option<&Reference>) -> Descriptor {
    let mut entry = descriptor.clone();
    if let Some(name) = name {
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        entry.annotations.remove(REF_NAME);
        if let Some(tag) = name.tag() {
            entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        }
    }
    entry
}

/// Tells whether `new` takes the place of `old`: same full name, else same tag, else same content.
///
/// Entries of other tools have no full name; two full names may share a tag.
fn replaces(new: &Descriptor, old: &Descriptor) -> bool {
    let of = |descriptor: &Descriptor, key: &str| descriptor.annotations.get(key).cloned();
    match (of(old, IMAGE_NAME), of(old, REF_NAME)) {
        (Some(name), _) => of(new, IMAGE_NAME) == Some(name),
        (None, Some(tag)) => of(new, REF_NAME) == Some(tag),
        (None, None) => new.digest == old.digest,
    }
}

fn empty_index() -> Vec<u8> {
    Raw::from_value(Index::new(Vec::new())).bytes().to_vec()
}

fn io_error(verb: &'static str, path: &Path, source: io::Error) -> LayoutError {
    LayoutError::Io { verb, path: path.to_owned(), source }
}

fn has_size(path: &Path, size: u64) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, LayoutError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > limit {
            true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes"))),
            false => Ok(bytes),
        }
    };
    read().map_err(|source| io_error("read", path, source))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Makes a temporary file in the directory of `path`, readable by everyone the umask allows: other tools read layouts.
fn temporary_beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt as _;
    tempfile::Builder::new()
        .prefix(".new-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(parent(path))
}

/// Renames into place and syncs the directory, without which the new name may be lost in a crash.
fn persist(temporary: tempfile::TempPath, path: &Path) -> io::Result<()> {
    temporary.persist(path).map_err(|error| error.error)?;
    File::open(parent(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::History;
    use crate::image::{Finished, Image, Layer};
    use crate::platform::Platform;
    use crate::store::BytesContent;
    use crate::{DiffId, media_type};

    fn image(content: &str) -> (Finished, Bytes) {
        let layer = Bytes::from(content.as_bytes().to_vec());
        let mut image = Image::scratch(&"linux/amd64".parse::<Platform>().unwrap());
        let descriptor = Descriptor::of(media_type::OCI_LAYER, &layer);
        image.append(Layer { diff_id: DiffId(descriptor.digest), descriptor }, History::default());
        (image.finish(&Default::default()), layer)
    }

    async fn push(layout: &Layout, content: &str, name: &str) -> Descriptor {
        let (finished, layer) = image(content);
        let manifest = finished.manifest.value();
        layout.push(&manifest.layers[0], Arc::new(BytesContent(layer))).await.unwrap();
        let config = Arc::new(BytesContent(finished.config.bytes().clone()));
        layout.push(&manifest.config, config).await.unwrap();
        let descriptor = finished.descriptor();
        layout.tag(&descriptor, finished.manifest.bytes().clone(), &name.parse().unwrap()).await.unwrap();
        descriptor
    }

    #[tokio::test]
    async fn what_is_tagged_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path().join("deep/layout")).unwrap();
        assert_eq!(Layout::create(layout.path()).unwrap(), layout);
        let first = push(&layout, "one", "debian:12").await;
        let resolved = layout.resolve(&"docker.io/library/debian:12".parse().unwrap()).await.unwrap();
        assert_eq!(resolved.descriptor.digest, first.digest);
        assert_eq!(Digest::of(&resolved.bytes), first.digest);
        assert_eq!(layout.by_tag(None).unwrap().digest, first.digest);

        let second = push(&layout, "two", "debian:12").await;
        assert_eq!(layout.descriptors().unwrap().len(), 1, "a moved tag leaves no entry behind");
        push(&layout, "two", "other:12").await;
        assert_eq!(layout.descriptors().unwrap().len(), 2, "one image may have two names");
        assert!(matches!(layout.by_tag(None), Err(LayoutError::Ambiguous { .. })));
        assert_eq!(layout.by_tag(Some("12")).unwrap().digest, second.digest);
        let old = format!("debian@{}", first.digest).parse().unwrap();
        assert_eq!(
            layout.resolve(&old).await.unwrap().descriptor.size,
            first.size,
            "an unlisted manifest is found"
        );
        assert!(layout.unlist(&"other:12".parse().unwrap()).unwrap());
        assert!(!layout.unlist(&"other:12".parse().unwrap()).unwrap());
    }

    #[tokio::test]
    async fn missing_names_are_not_found() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let zero = Digest::of(b"0");
        for name in ["a:1".to_owned(), format!("a@{zero}")] {
            let error = layout.resolve(&name.parse().unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), &StoreErrorKind::NotFound, "{name}");
        }
        assert!(matches!(layout.by_tag(None), Err(LayoutError::NoSuchImage { .. })));
        let error = layout.content(&Descriptor::new("x", zero, 1)).await.unwrap_err();
        assert_eq!(error.kind(), &StoreErrorKind::NotFound);
    }

    #[tokio::test]
    async fn wrong_content_is_refused_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let wanted = Descriptor::of("x", b"wanted");
        for content in [&b"wanter"[..], b"wante", b"wanteds", b""] {
            let content = Arc::new(BytesContent(Bytes::from_static(content)));
            let error = layout.push(&wanted, content).await.unwrap_err();
            assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error:?}");
        }
        let error = layout.push_manifest(&wanted, Bytes::from_static(b"other")).await.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }));
        assert!(!layout.exists(&wanted).await.unwrap());
        assert_eq!(fs::read_dir(layout.blobs()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_corrupted_blob_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let descriptor = push(&layout, "one", "a:1").await;
        let mut bytes = fs::read(layout.blob_path(&descriptor.digest)).unwrap();
        bytes[10] ^= 1;
        fs::write(layout.blob_path(&descriptor.digest), bytes).unwrap();
        let error = layout.resolve(&"a:1".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error:?}");
    }

    #[test]
    fn other_directories_are_no_layouts() {
        let directory = tempfile::tempdir().unwrap();
        let check = |content: Option<&str>, expect: &str| {
            if let Some(content) = content {
                fs::write(directory.path().join("oci-layout"), content).unwrap();
            }
            let error = Layout::open(directory.path()).unwrap_err().to_string();
            assert!(error.ends_with(expect), "{error}");
        };
        check(None, "is not an OCI image layout: there is no file oci-layout");
        check(Some("{}"), "is not an OCI image layout: the file oci-layout is malformed");
        check(Some("{\"imageLayoutVersion\":\"2.0.0\"}"), "is not an OCI image layout: its version is not 1");
    }

    #[test]
    fn entries_of_other_tools_give_way_only_to_their_tag() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let tagged = |tag: &str, content: &[u8]| {
            let mut descriptor = Descriptor::of(media_type::OCI_MANIFEST, content);
            descriptor.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
            descriptor
        };
        let tags = || {
            let list = layout.descriptors().unwrap();
            list.iter()
                .map(|entry| entry.annotations.get(REF_NAME).cloned().unwrap_or_default())
                .collect::<Vec<_>>()
        };
        layout.list(&tagged("1", b"a"), None).unwrap();
        layout.list(&tagged("2", b"b"), None).unwrap();
        let plain = Descriptor::of(media_type::OCI_MANIFEST, b"c");
        layout.list(&plain, None).unwrap();
        layout.list(&plain, None).unwrap();
        assert_eq!(tags(), ["1", "2", ""]);
        layout.list(&tagged("3", b"a"), None).unwrap();
        assert_eq!(tags(), ["1", "2", "", "3"]);
        layout
            .list(&Descriptor::of(media_type::OCI_MANIFEST, b"a"), Some(&"app:2".parse().unwrap()))
            .unwrap();
        assert_eq!(tags(), ["1", "", "3", "2"]);
        assert_eq!(layout.by_tag(Some("2")).unwrap().digest, Digest::of(b"a"));
    }

    #[test]
    fn concurrent_writers_lose_no_entry() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let layout = &layout;
                scope.spawn(move || {
                    let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &[writer]);
                    let name = format!("image:{writer}").parse().unwrap();
                    layout.list(&descriptor, Some(&name)).unwrap();
                });
            }
        });
        assert_eq!(layout.descriptors().unwrap().len(), 8);
    }
}
