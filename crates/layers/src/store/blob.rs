//! Content-addressed files.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rbuild_image::{Descriptor, Digest, Digester, Verified, VerifyError};
use tempfile::NamedTempFile;

use super::space::{PIECE, Reservation};
use super::{Store, StoreDirError, failed, read_bounded, scratch};

impl Store {
    /// Returns the path a blob has or would have.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    /// Tells whether a blob is there; its content is not looked at. It stays for as long as this store is open.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_size(digest).is_some()
    }

    /// Returns the size of a blob that is there, in bytes; its content is not looked at. It stays for as long as this
    /// store is open.
    #[must_use]
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        let file = self.keep(&self.blob_path(digest)).ok().flatten()?;
        file.is_file().then_some(file.len())
    }

    /// Opens a blob for reading; the reader returns an error in place of its end if size or digest are wrong.
    ///
    /// # Errors
    /// [`StoreDirError::Missing`]; the file cannot be opened.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<Verified<File>, StoreDirError> {
        let file = self.open_blob_file(&descriptor.digest)?;
        Ok(Verified::new(file, descriptor.digest, descriptor.size))
    }

    fn open_blob_file(&self, digest: &Digest) -> Result<File, StoreDirError> {
        let path = self.blob_path(digest);
        self.keep(&path)?;
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreDirError::Missing(*digest),
            _ => failed("open", &path)(error),
        })
    }

    /// Tells whether a blob is there and has its digest and size. It is not kept for that.
    pub(crate) fn is_sound(&self, descriptor: &Descriptor) -> bool {
        let file = File::open(self.blob_path(&descriptor.digest));
        let read =
            |file| io::copy(&mut Verified::new(file, descriptor.digest, descriptor.size), &mut io::sink());
        file.and_then(read).is_ok()
    }

    /// Reads a blob through and checks it against its name and size.
    ///
    /// # Errors
    /// [`StoreDirError::Missing`], [`StoreDirError::Corrupt`]; the file cannot be read.
    pub fn verify_blob(&self, descriptor: &Descriptor) -> Result<(), StoreDirError> {
        let mut blob = self.open_blob(descriptor)?;
        match io::copy(&mut blob, &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.read_failure(&descriptor.digest, error)),
        }
    }

    fn read_failure(&self, digest: &Digest, error: io::Error) -> StoreDirError {
        match VerifyError::of(&error) {
            Some(found) => StoreDirError::Corrupt { digest: *digest, source: Box::new(found.clone()) },
            None => failed("read", &self.blob_path(digest))(error),
        }
    }

    /// Reads a whole blob of at most `limit` bytes, verified.
    ///
    /// # Errors
    /// [`StoreDirError::Missing`], [`StoreDirError::Corrupt`], [`StoreDirError::TooLong`]; the file cannot
    /// be read.
    pub fn read_bytes(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreDirError> {
        let bytes = read_bounded(self.open_blob_file(digest)?, &self.blob_path(digest), limit)?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            let source = Box::new(VerifyError::Mismatch { expected: *digest, actual });
            return Err(StoreDirError::Corrupt { digest: *digest, source });
        }
        Ok(bytes)
    }

    /// Stores `bytes` as a blob.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreDirError> {
        let digest = Digest::of(bytes);
        if self.read_bytes(&digest, u64::try_from(bytes.len()).unwrap_or(u64::MAX)).is_ok() {
            return Ok(digest);
        }
        let mut file = scratch::temporary_file(&self.tmp_path())?;
        file.write_all(bytes).map_err(failed("write", file.path()))?;
        persist(file, &self.blob_path(&digest))?;
        Ok(digest)
    }

    /// Starts a blob whose digest is not known yet.
    ///
    /// # Errors
    /// The temporary file cannot be made.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreDirError> {
        let file = scratch::temporary_file(&self.tmp_path())?;
        Ok(BlobWriter { store: self.clone(), file, digester: Digester::new(), size: 0, room: Vec::new() })
    }
}

/// A blob being written; dropped without [`BlobWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    file: NamedTempFile,
    digester: Digester,
    size: u64,
    /// Of [`PIECE`] bytes each.
    room: Vec<Reservation>,
}

impl BlobWriter {
    /// Stores what was written under its digest, synced to the disk, and returns digest and size. A blob of
    /// that digest that was there before is replaced, so that a corrupt one is healed.
    ///
    /// # Errors
    /// [`StoreDirError::Unexpected`] when the bytes are not the `expected` ones, and nothing is stored; the file
    /// cannot be synced or renamed.
    pub fn finish(mut self, expected: Option<(Digest, u64)>) -> Result<(Digest, u64), StoreDirError> {
        let (actual, seen) = (self.digester.finish(), self.size);
        if let Some((expected, size)) = expected {
            let wrong = match seen.cmp(&size) {
                std::cmp::Ordering::Less => Some(VerifyError::Short { expected, size, actual: seen }),
                std::cmp::Ordering::Greater => Some(VerifyError::Long { expected, size }),
                std::cmp::Ordering::Equal => {
                    (actual != expected).then_some(VerifyError::Mismatch { expected, actual })
                }
            };
            if let Some(wrong) = wrong {
                return Err(StoreDirError::Unexpected(Box::new(wrong)));
            }
        }
        persist(self.file, &self.store.blob_path(&actual))?;
        self.room.clear();
        self.store.count(seen);
        Ok((actual, seen))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while self.room.len() as u64 * PIECE < self.size + bytes.len() as u64 {
            self.room.last_mut().into_iter().for_each(Reservation::filled);
            self.room.push(self.store.reserve(PIECE).map_err(io::Error::other)?);
        }
        let written = self.file.write(bytes)?;
        self.digester.update(bytes.get(..written).unwrap_or(bytes));
        self.size = self.size.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Syncs a file and gives it its final name, durably: the name must not outlive a crash that the bytes did not.
///
/// # References
/// - [rename(2)](https://man7.org/linux/man-pages/man2/rename.2.html), [fsync(2)](https://man7.org/linux/man-pages/man2/fsync.2.html)
pub(super) fn persist(file: NamedTempFile, path: &Path) -> Result<(), StoreDirError> {
    file.as_file().sync_data().map_err(failed("sync", file.path()))?;
    file.persist(path).map_err(|error| failed("rename to", path)(error.error))?;
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed("sync", parent))
}
