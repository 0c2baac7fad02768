//! The same layer in another compression.

use std::io;

use rbuild_image::{Descriptor, DiffId, Layer};

use super::known::Record;
use super::{Hashed, LayerError, LayerOptions};
use crate::compress::{Compression, Encoding, compress, decompress, read_ahead};
use crate::store::Store;

/// Returns `layer`, whose blob is in `store`, in the compression of `options`: itself when its media type is of that
/// compression already, whatever the level, else a new blob with the same diff ID. A layer that was converted before
/// and is still there is not converted again.
///
/// # Errors
/// The blob is missing, damaged or of another diff ID; the new one cannot be written.
pub fn recompress(layer: &Layer, store: &Store, options: &LayerOptions) -> Result<Layer, LayerError> {
    if Compression::of_layer(&layer.descriptor.media_type) == Some(options.compression) {
        return Ok(layer.clone());
    }
    let encoding = Encoding::new(options.compression, options.level, options.threads)?;
    let record = Record::of_conversion(layer.diff_id, &encoding);
    if let Some(known) = record.read(store, options)?
        && known.diff_id == layer.diff_id
        && store.verify_blob(&known.descriptor).is_ok()
    {
        return Ok(known);
    }
    let digest = layer.descriptor.digest;
    let broken = |source| LayerError::Recompress { digest, source };
    let plain = decompress(store.open_blob(&layer.descriptor)?).map_err(broken)?;
    let mut blob = store.blob_writer()?;
    let (converted, _) = read_ahead(plain, |plain| {
        compress(&encoding, &mut blob, |sink| -> Result<DiffId, LayerError> {
            let mut archive = Hashed::new(sink);
            io::copy(plain, &mut archive).map_err(broken)?;
            Ok(DiffId(archive.digester.finish()))
        })
    });
    let actual = converted?;
    if actual != layer.diff_id {
        return Err(LayerError::DiffId { digest, expected: layer.diff_id, actual });
    }
    let (digest, size) = blob.finish(None)?;
    let descriptor = Descriptor::new(options.compression.media_type(), digest, size);
    let converted = Layer { descriptor, diff_id: actual };
    record.keep(&converted, store)?;
    Ok(converted)
}
