//! Images in archives as sources: what `docker save`, `podman save`, skopeo and rbuild write.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rbuild_image::layout::{IMAGE_NAME, REF_NAME};
use rbuild_image::{
    BytesContent, Content, Descriptor, Digest, Digester, FilePart, Index, Manifest, Raw, Reference, Resolved,
    Source, StoreError, StoreErrorKind, media_type,
};
use serde::Deserialize;

use crate::change::Content as Bits;
use crate::meta::Kind;
use crate::tar::{Reader, TarError};

/// The largest document read into memory, in bytes.
const MAX_DOCUMENT: u64 = 8 << 20;
/// The number of entries of an archive.
const MAX_ENTRIES: usize = 1 << 20;

/// An archive that holds an OCI image layout, or images in the form of `docker save`, read in place.
///
/// Layers of `docker save` are plain tars: their digests are computed when the archive is opened, and a manifest is
/// made that lists them.
#[derive(Debug)]
pub struct ImageArchive {
    path: PathBuf,
    /// Where each file of the archive is.
    files: BTreeMap<PathBuf, Bits>,
    /// Content by digest, besides what lies under `blobs/`.
    blobs: BTreeMap<Digest, Blob>,
    images: Vec<Descriptor>,
}

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageArchiveError {
    /// The file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is no archive, or a damaged one. Compressed archives are none.
    #[error("{path:?} is no tar archive that can be read, decompress it first if it is compressed")]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: TarError,
    },
    /// The archive holds no images, or not what it says.
    #[error("{path:?} is no archive of images: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// No image goes by that name.
    #[error("no image {name} in {path:?}")]
    NoSuchImage {
        /// The archive.
        path: PathBuf,
        /// What was asked for.
        name: String,
    },
}

impl From<ImageArchiveError> for StoreError {
    fn from(error: ImageArchiveError) -> Self {
        let kind = match error {
            ImageArchiveError::NoSuchImage { .. } => StoreErrorKind::NotFound,
            ImageArchiveError::Read { .. } => StoreErrorKind::Io,
            _ => StoreErrorKind::Other,
        };
        let message = error.to_string();
        match error {
            ImageArchiveError::Read { source, .. } => Self::new(kind, message).with_source(source),
            ImageArchiveError::Archive { source, .. } => Self::new(kind, message).with_source(source),
            _ => Self::new(kind, message),
        }
    }
}

#[derive(Clone, Debug)]
enum Blob {
    /// A part of the archive.
    Part(Bits),
    /// Made when the archive was opened.
    Bytes(Bytes),
}

/// An element of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: PathBuf,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<PathBuf>,
}

impl ImageArchive {
    /// Opens an archive and lists what is in it. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, is no archive, or holds no images.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ImageArchiveError> {
        let path = path.into();
        let opened = File::open(&path);
        let file = Arc::new(opened.map_err(|source| ImageArchiveError::Read { path: path.clone(), source })?);
        let files =
            list(&file).map_err(|source| ImageArchiveError::Archive { path: path.clone(), source })?;
        let mut archive = Self { path, files, blobs: BTreeMap::new(), images: Vec::new() };
        if archive.files.contains_key(Path::new("oci-layout")) {
            archive.read_layout()?;
        } else if archive.files.contains_key(Path::new("manifest.json")) {
            archive.read_saved()?;
        } else {
            return Err(archive.malformed("it has neither oci-layout nor manifest.json"));
        }
        Ok(archive)
    }

    /// Lists the images, with their names as annotations.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.images
    }

    /// Finds the image with a tag or a full name; without one, the only image there is.
    ///
    /// # Errors
    /// [`ImageArchiveError::NoSuchImage`] when there is none, or there are several.
    pub fn image(&self, name: Option<&str>) -> Result<&Descriptor, ImageArchiveError> {
        let missing =
            |name: &str| ImageArchiveError::NoSuchImage { path: self.path.clone(), name: name.to_owned() };
        let Some(name) = name else {
            return match self.images.as_slice() {
                [first, rest @ ..] if rest.iter().all(|other| other.digest == first.digest) => Ok(first),
                [] => Err(missing("at all")),
                _ => Err(missing("without a name among several")),
            };
        };
        let full = name.parse::<Reference>().map(|name| name.to_string());
        let goes_by = |image: &&Descriptor| {
            [IMAGE_NAME, REF_NAME]
                .iter()
                .filter_map(|key| image.annotations.get(*key))
                .any(|own| own == name || full.as_ref().is_ok_and(|full| own == full))
        };
        self.images.iter().find(goes_by).ok_or_else(|| missing(name))
    }

    fn malformed(&self, reason: impl Into<String>) -> ImageArchiveError {
        ImageArchiveError::Malformed { path: self.path.clone(), reason: reason.into() }
    }

    fn read_layout(&mut self) -> Result<(), ImageArchiveError> {
        let index = self.document(Path::new("index.json"))?;
        let index =
            Raw::<Index>::parse(index).map_err(|error| self.malformed(format!("index.json: {error}")))?;
        self.images = index.into_value().manifests;
        let blobs = self.files.iter().filter_map(|(path, part)| {
            let hex = path.strip_prefix("blobs/sha256").ok()?.to_str()?;
            Some((format!("sha256:{hex}").parse().ok()?, Blob::Part(part.clone())))
        });
        self.blobs.extend(blobs.collect::<Vec<_>>());
        Ok(())
    }

    fn read_saved(&mut self) -> Result<(), ImageArchiveError> {
        let listing = self.document(Path::new("manifest.json"))?;
        let listing: Vec<Saved> = serde_json::from_slice(&listing)
            .map_err(|error| self.malformed(format!("manifest.json: {error}")))?;
        let mut known = BTreeMap::new();
        for Saved { config, repo_tags, layers } in listing {
            let config = self.document(&config)?;
            let descriptor = Descriptor::of(media_type::OCI_CONFIG, &config);
            self.blobs.insert(descriptor.digest, Blob::Bytes(config));
            let layers = layers.iter().map(|layer| self.layer(layer, &mut known));
            let layers = layers.collect::<Result<Vec<_>, _>>()?;
            let manifest = Raw::from_value(manifest_of(descriptor, layers)).bytes().clone();
            let image = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
            self.blobs.insert(image.digest, Blob::Bytes(manifest));
            let names = repo_tags.unwrap_or_default();
            let named = names.iter().filter_map(|name| name.parse::<Reference>().ok()).map(|name| {
                let mut image = image.clone();
                image.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
                image.annotations.extend(name.tag().map(|tag| (REF_NAME.to_owned(), tag.to_owned())));
                image
            });
            let before = self.images.len();
            self.images.extend(named);
            if self.images.len() == before {
                self.images.push(image);
            }
        }
        Ok(())
    }

    /// Describes a layer by reading it, once for each place it lies at.
    fn layer(
        &mut self,
        path: &Path,
        known: &mut BTreeMap<(u64, u64), Descriptor>,
    ) -> Result<Descriptor, ImageArchiveError> {
        let part = self.part(path)?.clone();
        let place = place(&part);
        if let Some(layer) = known.get(&place) {
            return Ok(layer.clone());
        }
        let mut reader = part.open().map_err(|error| self.unreadable(io::Error::other(error)))?;
        let (mut digester, mut start, mut piece) = (Digester::new(), Vec::new(), vec![0; 256 << 10]);
        loop {
            let count = reader.read(&mut piece).map_err(|error| self.unreadable(error))?;
            let Some(bytes) = piece.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            if start.is_empty() {
                start.extend_from_slice(bytes.get(..4).unwrap_or(bytes));
            }
            digester.update(bytes);
        }
        let kind = match start.as_slice() {
            [0x1f, 0x8b, ..] => media_type::OCI_LAYER_GZIP,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => media_type::OCI_LAYER_ZSTD,
            _ => media_type::OCI_LAYER,
        };
        let layer = Descriptor::new(kind, digester.finish(), place.1);
        self.blobs.insert(layer.digest, Blob::Part(part));
        known.insert(place, layer.clone());
        Ok(layer)
    }

    fn part(&self, path: &Path) -> Result<&Bits, ImageArchiveError> {
        self.files.get(&plain(path)).ok_or_else(|| self.malformed(format!("there is no file {path:?}")))
    }

    /// A small file of the archive.
    fn document(&self, path: &Path) -> Result<Bytes, ImageArchiveError> {
        self.whole(self.part(path)?)
    }

    fn whole(&self, part: &Bits) -> Result<Bytes, ImageArchiveError> {
        let (_, length) = place(part);
        if length > MAX_DOCUMENT {
            return Err(self.malformed(format!("a document has {length} bytes")));
        }
        let mut bytes = Vec::new();
        let reader = part.open().map_err(io::Error::other);
        let read = reader.and_then(|mut reader| reader.read_to_end(&mut bytes));
        read.map_err(|source| self.unreadable(source))?;
        Ok(bytes.into())
    }

    fn unreadable(&self, source: io::Error) -> ImageArchiveError {
        ImageArchiveError::Read { path: self.path.clone(), source }
    }

    fn blob(&self, digest: &Digest) -> Result<&Blob, StoreError> {
        let missing =
            || StoreError::new(StoreErrorKind::NotFound, format!("no blob {digest} in {:?}", self.path));
        self.blobs.get(digest).ok_or_else(missing)
    }

    fn read(&self, descriptor: &Descriptor) -> Result<Bytes, StoreError> {
        let bytes = match self.blob(&descriptor.digest)? {
            Blob::Bytes(bytes) => bytes.clone(),
            Blob::Part(part) => self.whole(part)?,
        };
        let actual = Digest::of(&bytes);
        if actual == descriptor.digest {
            return Ok(bytes);
        }
        let kind = StoreErrorKind::Corrupt { expected: descriptor.digest, actual: Some(actual) };
        Err(StoreError::new(
            kind,
            format!("blob {} in {:?} has digest {actual}", descriptor.digest, self.path),
        ))
    }
}

impl Source for ImageArchive {
    fn resolve<'a>(&'a self, name: &'a Reference) -> BoxFuture<'a, Result<Resolved, StoreError>> {
        Box::pin(async move {
            let descriptor = match name.digest() {
                Some(digest) => self.images.iter().find(|image| image.digest == digest),
                None => self.image(Some(&name.to_string())).ok(),
            };
            let missing =
                || ImageArchiveError::NoSuchImage { path: self.path.clone(), name: name.to_string() };
            let descriptor = descriptor.ok_or_else(missing)?.clone();
            Ok(Resolved { bytes: self.read(&descriptor)?, descriptor })
        })
    }

    fn manifest<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { self.read(descriptor) })
    }

    fn content<'a>(
        &'a self,
        descriptor: &'a Descriptor,
    ) -> BoxFuture<'a, Result<Arc<dyn Content>, StoreError>> {
        Box::pin(async move {
            let content: Arc<dyn Content> = match self.blob(&descriptor.digest)? {
                Blob::Bytes(bytes) => Arc::new(BytesContent(bytes.clone())),
                Blob::Part(part) => {
                    let (offset, length) = place(part);
                    Arc::new(FilePart::new(&self.path, offset, length))
                }
            };
            Ok(content)
        })
    }
}

fn manifest_of(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
    Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: BTreeMap::new(),
        extra: BTreeMap::new(),
    }
}

/// Offset and length of a file in the archive.
fn place(part: &Bits) -> (u64, u64) {
    match part {
        Bits::Range { offset, length, .. } => (*offset, *length),
        _ => (0, 0),
    }
}

/// Lists the regular files of an archive, and the links to them that `docker save` made for layers that are equal.
fn list(file: &Arc<File>) -> Result<BTreeMap<PathBuf, Bits>, TarError> {
    let mut reader = Reader::seeking(file.try_clone().map_err(TarError::Read)?).map_err(TarError::Read)?;
    let (mut files, mut links) = (BTreeMap::new(), Vec::new());
    while let Some(member) = reader.next_member()? {
        if files.len() >= MAX_ENTRIES {
            return Err(TarError::Read(io::Error::other("too many entries")));
        }
        let path = plain(&member.path);
        match (&member.hard_link, &member.meta.kind) {
            (Some(target), _) => links.push((path, plain(target))),
            (None, Kind::Symlink(target)) => {
                let parent = path.parent().unwrap_or(Path::new(""));
                links.push((path.clone(), plain(&parent.join(target))));
            }
            (None, Kind::File) if !member.is_sparse() => {
                files.insert(path, member.content(file));
            }
            _ => {}
        }
    }
    for (path, target) in links {
        if let Some(content) = files.get(&target).cloned() {
            files.insert(path, content);
        }
    }
    Ok(files)
}

/// The path without `.`, and `..` taken away with what it leads out of; this names entries, not files.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_image::archive::{write_docker, write_oci};
    use rbuild_image::{DiffId, Image, Layer, Layout, Platform};
    use tokio::io::AsyncReadExt as _;

    const LAYER: &[u8] = b"a layer";

    fn image() -> Image {
        let descriptor = Descriptor::of(media_type::OCI_LAYER, LAYER);
        let diff_id = DiffId(descriptor.digest);
        let mut image = Image::scratch(&Platform::new("linux", "amd64"));
        image.append(Layer { descriptor, diff_id }, Default::default());
        image
    }

    /// Opens what `write` writes, and reads the layer of the image `name` back.
    async fn check(name: Option<&str>, write: impl FnOnce(&mut Vec<u8>, &Layout, &[Reference])) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path().join("layout")).unwrap();
        layout.put(LAYER).unwrap();
        let mut bytes = Vec::new();
        write(&mut bytes, &layout, &["reg.local/app:1".parse().unwrap()]);
        let path = directory.path().join("image.tar");
        std::fs::write(&path, bytes).unwrap();
        let archive = ImageArchive::open(&path).unwrap();
        let root = archive.image(name).unwrap();
        let manifest: Raw<Manifest> = Raw::parse(archive.manifest(root).await.unwrap()).unwrap();
        let layer = &manifest.value().layers[0];
        assert_eq!((layer.digest, layer.size), (Digest::of(LAYER), 7));
        let mut read = Vec::new();
        let content = archive.content(layer).await.unwrap();
        content.open(2).await.unwrap().read_to_end(&mut read).await.unwrap();
        assert_eq!(read, LAYER[2..]);
        archive.manifest(&manifest.value().config).await.unwrap();
        assert!(archive.image(Some("other:1")).is_err());
    }

    #[tokio::test]
    async fn layouts_in_archives() {
        for name in [None, Some("reg.local/app:1"), Some("1")] {
            check(name, |out, layout, names| {
                write_oci(out, &image().finish(&BTreeMap::new()), names, layout).unwrap();
            })
            .await;
        }
        check(None, |out, layout, names| {
            write_docker(out, &image().finish_docker(), names, layout).unwrap();
        })
        .await;
    }

    /// What Docker saved before it knew layouts: a directory for each layer, equal ones as links.
    #[tokio::test]
    async fn archives_of_older_dockers() {
        for name in [None, Some("reg.local/app:1")] {
            check(name, |out, _, _| {
                let mut tar = tar::Builder::new(out);
                let mut file = |name: &str, content: &[u8]| {
                    let mut header = tar::Header::new_gnu();
                    header.set_size(content.len() as u64);
                    header.set_mode(0o644);
                    tar.append_data(&mut header, name, content).unwrap();
                };
                file("aa/layer.tar", LAYER);
                file("config.json", image().finish(&BTreeMap::new()).config.bytes());
                file(
                    "manifest.json",
                    br#"[{"Config":"config.json","RepoTags":["reg.local/app:1"],"Layers":["bb/layer.tar"]}]"#,
                );
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, "bb/layer.tar", "../aa/layer.tar").unwrap();
                tar.finish().unwrap();
            })
            .await;
        }
    }

    #[test]
    fn other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert!(matches!(ImageArchive::open(&path), Err(ImageArchiveError::Read { .. })));
        std::fs::write(&path, [0x1f, 0x8b].repeat(512)).unwrap();
        assert!(matches!(ImageArchive::open(&path), Err(ImageArchiveError::Archive { .. })));
        std::fs::write(&path, [0; 1024]).unwrap();
        assert!(matches!(ImageArchive::open(&path), Err(ImageArchiveError::Malformed { .. })));
    }
}
