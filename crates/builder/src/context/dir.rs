//! A local directory as a context: read-only, without what its ignore file excludes, and without its owners.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rbuild_dockerfile::IgnoreFile;
use rbuild_image::Digest;
use rbuild_layers::{Content, FileId, Kind, Meta, Root, RootError, Stamp, Store, Time, View};
use thiserror::Error;

use super::digests::FileDigests;
use super::listings::{Listing, Listings};

/// Bytes an ignore file may have.
const MAX_IGNORE_FILE: u64 = 4 << 20;

/// Why a directory cannot be a context.
#[derive(Debug, Error)]
pub enum ContextError {
    /// It is missing, no directory, or may not be read.
    #[error("cannot use the build context")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: RootError,
    },
    /// The ignore file cannot be read.
    #[error("cannot read {}", path.display())]
    ReadIgnore {
        /// The ignore file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The ignore file is malformed.
    #[error("cannot parse {}: {message}", path.display())]
    ParseIgnore {
        /// The ignore file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// What of the attributes on disk does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Normalise {
    /// Owners are those of whoever has the files: all are 0:0.
    #[default]
    Owners,
    /// Everything counts, as in an unpacked archive.
    Nothing,
    /// Everything but what git records: owner 0:0, mode 0755 for directories and executables, 0444 for what nobody
    /// may write, else 0644.
    Checkout {
        /// The time of everything; `None` leaves those of the checkout.
        mtime: Option<Time>,
    },
}

impl Normalise {
    fn apply(self, meta: Meta) -> Meta {
        match self {
            Self::Nothing => meta,
            Self::Owners => Meta { uid: 0, gid: 0, ..meta },
            Self::Checkout { mtime } => {
                let mode = match meta.kind {
                    Kind::Symlink(_) => meta.mode,
                    // git's own objects, where they are kept
                    Kind::File if meta.mode & 0o333 == 0 => 0o444,
                    Kind::File if meta.mode & 0o111 == 0 => 0o644,
                    _ => 0o755,
                };
                Meta { uid: 0, gid: 0, mode, mtime: mtime.unwrap_or(meta.mtime), ..meta }
            }
        }
    }
}

/// A directory of the host whose excluded paths do not exist and whose owners are all 0:0, unless [`Normalise`] says
/// otherwise.
///
/// Directories are listed when they are first asked for and remembered, so that a build sees one state of each.
/// Excluded directories are entered only if a pattern may take something below them back in. Nothing is written.
#[derive(Debug)]
pub struct ContextDir {
    listings: Listings,
    normalise: Normalise,
    digests: Option<FileDigests>,
}

impl ContextDir {
    /// Opens a directory with the patterns of `ignore`.
    ///
    /// # Errors
    /// [`ContextError::Open`]
    pub fn open(path: &Path, ignore: Option<IgnoreFile>) -> Result<Self, ContextError> {
        let root = Root::open(path).map_err(|source| ContextError::Open { path: path.to_owned(), source })?;
        Ok(Self { listings: Listings::new(root, ignore), normalise: Normalise::Owners, digests: None })
    }

    /// Takes an open directory whose files have the attributes that it says.
    pub fn exact(root: Root) -> Self {
        Self { listings: Listings::new(root, None), normalise: Normalise::Nothing, digests: None }
    }

    /// Gives the files other attributes than a local directory's have.
    pub fn normalised(self, normalise: Normalise) -> Self {
        Self { normalise, ..self }
    }

    /// Remembers digests of files in `store`, and knows those that earlier builds remembered there, where the file system tells whether a
    /// file has changed.
    pub(crate) fn remembering(self, store: Option<&Store>) -> Self {
        Self { digests: store.and_then(|store| FileDigests::open(self.listings.root(), store)), ..self }
    }

    /// The digest of a file's bytes, if an earlier build read them and they have not changed since.
    pub(crate) fn known_digest(&self, content: &Content) -> Option<Digest> {
        let (digests, path) = (self.digests.as_ref()?, self.own_path(content)?);
        digests.get(&self.stamp(path)?)
    }

    /// Takes the digest of bytes that were read, to be kept with others.
    pub(crate) fn learn(&self, content: &Content, digest: Digest) {
        let Some((digests, path)) = self.digests.as_ref().zip(self.own_path(content)) else { return };
        if let Some(stamp) = self.stamp(path) {
            digests.add(path, stamp, digest);
        }
    }

    /// Keeps what was learned for later builds.
    pub(crate) fn keep_digests(&self) {
        if let Some(digests) = &self.digests {
            digests.keep(self.listings.root());
        }
    }

    /// The path of content that is a file of this directory.
    fn own_path<'c>(&self, content: &'c Content) -> Option<&'c Path> {
        match content {
            Content::Path { root, path } if root.path() == self.path() => Some(path),
            _ => None,
        }
    }

    fn stamp(&self, path: &Path) -> Option<Stamp> {
        let (parent, name) = (path.parent()?, path.file_name()?);
        self.listings.get(parent, name, Listing::stamp).ok().flatten()
    }

    /// Reads the first ignore file there is of `candidates`; `None` when there is none.
    ///
    /// # Errors
    /// [`ContextError::ReadIgnore`], [`ContextError::ParseIgnore`]
    pub fn ignore_file(candidates: &[PathBuf]) -> Result<Option<IgnoreFile>, ContextError> {
        for path in candidates {
            let bytes = match read_bounded(path) {
                Ok(bytes) => bytes,
                Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound) => continue,
                Err(source) => return Err(ContextError::ReadIgnore { path: path.clone(), source }),
            };
            let parsed = IgnoreFile::parse(&bytes);
            let failed =
                |error| ContextError::ParseIgnore { path: path.clone(), message: format!("{error}") };
            return parsed.map(Some).map_err(failed);
        }
        Ok(None)
    }

    /// The ignore file, if there is one.
    pub fn ignore(&self) -> Option<&IgnoreFile> {
        self.listings.ignore()
    }

    /// Tells whether the ignore file hides a path, which need not exist.
    pub fn excludes(&self, path: &Path) -> bool {
        self.ignore().is_some_and(|ignore| ignore.is_ignored(&path.to_string_lossy()))
    }

    /// What is at a path, symbolic links not followed; none if it does not exist or is excluded.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn metadata(&self, path: &Path) -> Result<Option<Meta>, RootError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(self.listings.root().metadata(path)?.map(|meta| self.normalise.apply(meta)));
        };
        self.listings.get(parent, name, |listing| self.normalise.apply(listing.meta.clone()))
    }

    /// The names in a directory, sorted by bytes; none if it is missing, excluded or not a directory.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn read_dir(&self, path: &Path) -> Result<Vec<OsString>, RootError> {
        self.listings.names(path)
    }

    /// Lists everything below a directory, several at a time, because it is about to be read as a whole.
    pub(crate) fn read_ahead(&self, path: &Path) {
        self.listings.read_ahead(path);
    }

    /// Where the bytes of a regular file are, to be opened later.
    pub fn content(&self, path: &Path) -> Content {
        Content::Path { root: self.listings.root().clone(), path: path.to_owned() }
    }

    /// The identity of a path; none if it does not exist.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn file_id(&self, path: &Path) -> Result<Option<FileId>, RootError> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => self.listings.get(parent, name, |listing| listing.id),
            _ => self.listings.root().identity(path),
        }
    }

    /// Reads the file a path leads to, symbolic links followed within the directory; none if there is none.
    ///
    /// # Errors
    /// The file is longer than `limit` bytes, is not a regular file, or cannot be read.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, RootError> {
        View::directory(self.listings.root().clone()).read(path, limit)
    }

    /// The directory's own path on the host.
    pub fn path(&self) -> &Path {
        self.listings.root().path()
    }

    /// Tells whether everything below the root is there as it is on disk.
    pub fn is_unfiltered(&self) -> bool {
        self.ignore().is_none()
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_IGNORE_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_IGNORE_FILE {
        return Err(std::io::Error::from(std::io::ErrorKind::FileTooLarge));
    }
    Ok(bytes)
}
