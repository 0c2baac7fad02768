//! Changes in, a stored layer out, in one pass.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use rbuild_image::{Descriptor, DiffId, Digester, Layer};

use crate::change::Changes;
use crate::compress::{Compression, CompressionError, Encoding, compress};
use crate::store::{Store, StoreDirError};
use crate::tar::{WriteError, write_changes};

/// How a layer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerOptions {
    /// The format.
    pub compression: Compression,
    /// The format's level; its default when `None`.
    pub level: Option<u32>,
    /// Modification times later than this many seconds after the epoch become this (rewrite-timestamp).
    pub clamp: Option<i64>,
    /// How many threads compress; all processors when `None`. Never changes the result.
    pub threads: Option<NonZeroUsize>,
}

/// Why a layer could not be written.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The compression asked for does not exist.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A file could not be read, or changed while it was.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The blob could not be written.
    #[error("cannot write the layer")]
    Output(#[from] io::Error),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreDirError),
}

/// Writes `changes` as a layer blob into `store` and returns its descriptor and diff ID.
///
/// Each byte passes once: archive and diff ID on this thread, compression on others, digest and file on one
/// more. Equal changes and options give equal bytes. When it fails, nothing is stored.
///
/// # Errors
/// A file of `changes` cannot be read or has not the size announced; the level does not exist; the blob cannot
/// be written.
pub fn write_layer(changes: &Changes, store: &Store, options: &LayerOptions) -> Result<Layer, LayerError> {
    let encoding = Encoding::new(options.compression, options.level, options.threads)?;
    let mut blob = store.blob_writer()?;
    let diff_id = compress(&encoding, &mut blob, |sink| -> Result<DiffId, LayerError> {
        let archive = Hashed { sink, digester: Digester::new() };
        let archive = write_changes(changes, archive, options.clamp)?;
        Ok(DiffId(archive.digester.finish()))
    })?;
    let (digest, size) = blob.finish(None)?;
    let descriptor = Descriptor::new(options.compression.media_type(), digest, size);
    Ok(Layer { descriptor, diff_id })
}

/// Passes bytes on and hashes them.
struct Hashed<'a> {
    sink: &'a mut dyn Write,
    digester: Digester,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.digester.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests;
