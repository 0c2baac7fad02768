//! Where images come from and go to: two small traits that registries, layouts and memory share.

use std::fmt;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncSeekExt as _};

use crate::digest::{Digest, VerifyError};
use crate::manifest::Descriptor;
use crate::reference::Reference;

/// Bytes that can be read again, from any offset, so that an upload can be resumed.
pub trait Content: Send + Sync {
    /// Opens the content for reading from `offset` bytes on.
    fn open(&self, offset: u64) -> BoxFuture<'_, io::Result<Box<dyn AsyncRead + Send + Unpin>>>;

    /// Returns the file that holds exactly this content, when there is one.
    fn path(&self) -> Option<&Path> {
        None
    }
}

impl fmt::Debug for dyn Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// Content that is in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BytesContent(pub Bytes);

impl Content for BytesContent {
    fn open(&self, offset: u64) -> BoxFuture<'_, io::Result<Box<dyn AsyncRead + Send + Unpin>>> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let rest = io::Cursor::new(self.0.slice(start..));
        Box::pin(async move { Ok(Box::new(rest) as Box<dyn AsyncRead + Send + Unpin>) })
    }
}

/// Content that is a whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileContent {
    path: PathBuf,
}

impl FileContent {
    /// Names the file; it is opened when the content is read.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Content for FileContent {
    fn open(&self, offset: u64) -> BoxFuture<'_, io::Result<Box<dyn AsyncRead + Send + Unpin>>> {
        Box::pin(async move {
            let mut file = tokio::fs::File::open(&self.path).await?;
            // The default of 2 MiB would be allocated for every small blob.
            file.set_max_buf_size(256 << 10);
            file.seek(SeekFrom::Start(offset)).await?;
            Ok(Box::new(file) as Box<dyn AsyncRead + Send + Unpin>)
        })
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

/// Content that is a part of a file, as a member of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePart {
    path: PathBuf,
    offset: u64,
    length: u64,
}

impl FilePart {
    /// Names the `length` bytes of a file from `offset` on; it is opened when the content is read.
    pub fn new(path: impl Into<PathBuf>, offset: u64, length: u64) -> Self {
        Self { path: path.into(), offset, length }
    }
}

impl Content for FilePart {
    fn open(&self, offset: u64) -> BoxFuture<'_, io::Result<Box<dyn AsyncRead + Send + Unpin>>> {
        Box::pin(async move {
            let file = FileContent::new(&self.path);
            let reader = file.open(self.offset.saturating_add(offset)).await?;
            let rest = tokio::io::AsyncReadExt::take(reader, self.length.saturating_sub(offset));
            Ok(Box::new(rest) as Box<dyn AsyncRead + Send + Unpin>)
        })
    }
}

/// What a name stands for: a manifest or an index, its bytes checked against the descriptor.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Describes the bytes.
    pub descriptor: Descriptor,
    /// The manifest or index.
    pub bytes: Bytes,
}

/// Where images come from.
pub trait Source: Send + Sync {
    /// Finds the manifest or index that `name` stands for.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`] when there is no such name; [`StoreErrorKind::Corrupt`] when the bytes are not what
    /// they are named after.
    fn resolve<'a>(&'a self, name: &'a Reference) -> BoxFuture<'a, Result<Resolved, StoreError>>;

    /// Reads a manifest, an index or a config whole, verified against `descriptor`.
    ///
    /// # Errors
    /// As [`Source::resolve`]; content above 8 MiB is refused.
    fn manifest<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<Bytes, StoreError>>;

    /// Finds a blob to be read as a stream. The bytes are **not** verified: the reader verifies them, as [`Sink::push`]
    /// does.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`] when there is no such blob; a source may also find out when the content is opened.
    fn content<'a>(
        &'a self,
        descriptor: &'a Descriptor,
    ) -> BoxFuture<'a, Result<Arc<dyn Content>, StoreError>>;

    /// Names repositories that hold a blob as far as is known, for mounts from there, the best first.
    fn origins(&self, _blob: &Descriptor) -> Vec<Reference> {
        Vec::new()
    }
}

/// Where images go to. Whatever is pushed becomes visible whole or not at all, and pushing it again changes nothing.
pub trait Sink: Send + Sync {
    /// Tells whether the content is there already, so that it need not be sent.
    ///
    /// # Errors
    /// When the sink cannot be asked.
    fn exists<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Stores a blob, verified against size and digest of `descriptor` on the way.
    ///
    /// # Errors
    /// [`StoreErrorKind::Corrupt`] when the content is another; nothing is stored then.
    fn push<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: Arc<dyn Content>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Stores a manifest or an index without giving it a name. What it points to must be there already.
    ///
    /// # Errors
    /// [`StoreErrorKind::Corrupt`] when `bytes` are not what `descriptor` says.
    fn push_manifest<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Takes a blob over from another repository of the same registry; `false` when that did not work and the blob has to
    /// be pushed.
    ///
    /// # Errors
    /// When the sink cannot be asked.
    fn mount<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        from: &'a Reference,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let _ = (descriptor, from);
        Box::pin(async { Ok(false) })
    }

    /// Stores a manifest or an index and lets `name` stand for it from now on. Always the last act of a copy.
    ///
    /// # Errors
    /// [`StoreErrorKind::Corrupt`] when `bytes` are not what `descriptor` says.
    fn tag<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
        name: &'a Reference,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// What kind of failure a [`StoreError`] is: what a caller can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// No such name or content.
    NotFound,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// The credentials do not allow this.
    Denied,
    /// The content is not what it is named after.
    Corrupt {
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came; `None` when its size is wrong.
        actual: Option<Digest>,
    },
    /// The store cannot be reached, or said that it cannot serve now.
    Unavailable,
    /// Reading or writing locally failed.
    Io,
    /// Anything else.
    Other,
}

/// A failure of a [`Source`] or a [`Sink`].
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// Makes an error of `kind`; `message` says what could not be done, as in "cannot read blob sha256:…".
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the cause, which the message does not repeat.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Makes an error of a failed local read or write; missing files and failed verification keep their kind.
    pub fn io(message: impl Into<String>, source: io::Error) -> Self {
        let kind = match VerifyError::of(&source) {
            Some(VerifyError::Mismatch { expected, actual }) => {
                StoreErrorKind::Corrupt { expected: *expected, actual: Some(*actual) }
            }
            Some(VerifyError::Short { expected, .. } | VerifyError::Long { expected, .. }) => {
                StoreErrorKind::Corrupt { expected: *expected, actual: None }
            }
            None if source.kind() == io::ErrorKind::NotFound => StoreErrorKind::NotFound,
            None => StoreErrorKind::Io,
        };
        Self::new(kind, message).with_source(source)
    }

    /// Returns what kind of failure this is.
    pub fn kind(&self) -> &StoreErrorKind {
        &self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}
