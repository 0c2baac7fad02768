//! Changes in, a stored layer out, in one pass.

mod known;
mod recompress;

use std::io::{self, Write};
use std::num::NonZeroUsize;

use rbuild_image::{Descriptor, DiffId, Digest, Digester, Layer};

pub use recompress::recompress;

use crate::change::{Changes, Content};
use crate::compress::{Compression, CompressionError, Encoding, compress};
use crate::store::{Store, StoreDirError};
use crate::tar::{See, WriteError, write_seeing};

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
    /// A layer that was to be converted cannot be read.
    #[error("cannot read layer {digest} to recompress it")]
    Recompress {
        /// The layer's digest.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// A layer that was to be converted is not the one its image's config speaks of.
    #[error("layer {digest} unpacks to {}, the image's config says {}", actual.0, expected.0)]
    DiffId {
        /// The layer's digest.
        digest: Digest,
        /// The diff ID of the config.
        expected: DiffId,
        /// The diff ID of the blob.
        actual: DiffId,
    },
}

/// Writes `changes` as a layer blob into `store` and returns its descriptor and diff ID.
///
/// Each byte passes once: archive and diff ID on this thread, compression on others, digest and file on one
/// more. Equal changes and options give equal bytes. A layer whose blob is there already, as its bytes tell, is not
/// compressed again. When it fails, nothing is stored.
///
/// # Errors
/// A file of `changes` cannot be read or has not the size announced; the level does not exist; the blob cannot
/// be written.
pub fn write_layer(changes: &Changes, store: &Store, options: &LayerOptions) -> Result<Layer, LayerError> {
    write(changes, store, options, None)
}

/// Does what [`write_layer`] does, and tells `see` the digest of the bytes of each file that is not empty: whoever wants
/// these need not read the files again.
///
/// # Errors
/// As [`write_layer`].
pub fn write_layer_seeing(
    changes: &Changes,
    store: &Store,
    options: &LayerOptions,
    see: &mut dyn FnMut(&Content, Digest),
) -> Result<Layer, LayerError> {
    write(changes, store, options, Some(see))
}

fn write(
    changes: &Changes,
    store: &Store,
    options: &LayerOptions,
    mut see: See<'_>,
) -> Result<Layer, LayerError> {
    let encoding = Encoding::new(options.compression, options.level, options.threads)?;
    let record = known::Record::of(changes, &encoding, options.clamp)?;
    if let Some(layer) = record.find(changes, store, options, reborrow(&mut see))? {
        return Ok(layer);
    }
    let mut blob = store.blob_writer()?;
    let diff_id = compress(&encoding, &mut blob, |sink| -> Result<DiffId, LayerError> {
        let archive = write_seeing(changes, Hashed::new(sink), options.clamp, see)?;
        Ok(DiffId(archive.digester.finish()))
    })?;
    let (digest, size) = blob.finish(None)?;
    let descriptor = Descriptor::new(options.compression.media_type(), digest, size);
    let layer = Layer { descriptor, diff_id };
    record.keep(&layer, store)?;
    Ok(layer)
}

/// Lends what sees the contents for one of several passes.
fn reborrow<'a>(see: &'a mut See<'_>) -> See<'a> {
    match see {
        Some(see) => Some(&mut **see),
        None => None,
    }
}

/// Passes bytes on and hashes them.
struct Hashed<W> {
    sink: W,
    digester: Digester,
}

impl<W> Hashed<W> {
    fn new(sink: W) -> Self {
        Self { sink, digester: Digester::new() }
    }
}

impl<W: Write> Write for Hashed<W> {
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
