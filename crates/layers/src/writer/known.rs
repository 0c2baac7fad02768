//! Layers that were written before: what need not be compressed again.

use std::io;
use std::thread;

use rbuild_image::{Descriptor, DiffId, Digest, Layer};

use super::{Hashed, LayerError, LayerOptions};
use crate::change::Changes;
use crate::compress::Encoding;
use crate::store::Store;
use crate::tar::{See, write_headers, write_seeing};

/// Where the store remembers the layer that was last written for certain headers.
///
/// The headers are all of an archive but the bytes of its files. They are made without opening a file, so that a layer
/// of files that were never seen costs nothing; and a layer whose headers are known is likely, though not certain, the
/// one that was written then.
pub(super) struct Record {
    name: String,
}

impl Record {
    /// Finds the place for `changes`, written with `encoding`, no time later than `clamp`.
    pub(super) fn of(changes: &Changes, encoding: &Encoding, clamp: Option<i64>) -> Result<Self, LayerError> {
        let digester = write_headers(changes, Hashed::new(io::sink()), clamp)?.digester;
        Ok(Self::named(encoding, &digester.finish().hex()))
    }

    /// Finds the place for a layer that is converted.
    pub(super) fn of_conversion(diff_id: DiffId, encoding: &Encoding) -> Self {
        Self::named(encoding, &format!("of-{}", diff_id.0.hex()))
    }

    /// The default level goes by its number: a later version with another default does not take what this one wrote for its own.
    fn named(encoding: &Encoding, name: &str) -> Self {
        Self { name: format!("layers/{}-{}/{name}", encoding.compression(), encoding.level()) }
    }

    /// Returns the layer that is remembered here, if its blob is there.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn read(&self, store: &Store, options: &LayerOptions) -> Result<Option<Layer>, LayerError> {
        Ok(self.remembered(store, options)?.filter(|layer| store.has_blob(&layer.descriptor.digest)))
    }

    /// Returns the layer that is remembered here; its blob may be gone.
    fn remembered(&self, store: &Store, options: &LayerOptions) -> Result<Option<Layer>, LayerError> {
        Ok(store.cache_get(&self.name)?.and_then(|text| parse(&text, options)))
    }

    /// Returns the layer that was written before, if it has the very bytes that `changes` have now. They are read for
    /// that, and on another thread those of the blob: a damaged one is not found.
    ///
    /// # Errors
    /// A file of `changes` cannot be read or has not the size announced; the store cannot be read.
    pub(super) fn find(
        &self,
        changes: &Changes,
        store: &Store,
        options: &LayerOptions,
        see: See<'_>,
    ) -> Result<Option<Layer>, LayerError> {
        // Not kept before it turns out to be the one: the room it takes may be needed for another.
        let is_there = |layer: &Layer| store.blob_path(&layer.descriptor.digest).is_file();
        let Some(layer) = self.remembered(store, options)?.filter(is_there) else { return Ok(None) };
        let (sound, archive) = thread::scope(|scope| {
            let sound = scope.spawn(|| store.is_sound(&layer.descriptor));
            let archive = write_seeing(changes, Hashed::new(io::sink()), options.clamp, see);
            (sound.join().unwrap_or(false), archive)
        });
        let same = DiffId(archive?.digester.finish()) == layer.diff_id;
        Ok(Some(layer).filter(|layer| same && sound && store.has_blob(&layer.descriptor.digest)))
    }

    /// Remembers a layer.
    ///
    /// # Errors
    /// The store cannot be written.
    pub(super) fn keep(&self, layer: &Layer, store: &Store) -> Result<(), LayerError> {
        let Descriptor { digest, size, .. } = &layer.descriptor;
        let text = format!("{} {digest} {size}\n", layer.diff_id.0);
        Ok(store.cache_put(&self.name, text.as_bytes())?)
    }
}

/// Reads what [`Record::keep`] wrote; none if it is anything else.
fn parse(text: &[u8], options: &LayerOptions) -> Option<Layer> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let mut words = text.split(' ');
    let (diff_id, digest, size) = (words.next()?, words.next()?, words.next()?);
    let digest: Digest = digest.parse().ok()?;
    let descriptor = Descriptor::new(options.compression.media_type(), digest, size.parse().ok()?);
    Some(Layer { descriptor, diff_id: DiffId(diff_id.parse().ok()?) })
}
