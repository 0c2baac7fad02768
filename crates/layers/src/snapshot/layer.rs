//! One layer, from its blob into an overlay upper directory.

use std::io::{self, Read};

use rbuild_image::{DiffId, Digester, Layer};

use super::SnapshotError;
use crate::compress::{decompress, read_ahead};
use crate::root::Root;
use crate::unpack::{Limits, unpack_above};
use crate::upper::Lower;

/// Archives end in zero blocks; tools pad to a record of 10 KiB, some to a megabyte.
const MAX_TRAILING: u64 = 64 << 20;

/// Unpacks the blob of a layer into an overlay upper directory, and compares what it decompresses to with the layer's diff ID. See
/// [`unpack`](crate::unpack()) for what is made; `blob` is read to its end, so that a verifying reader has its say.
///
/// `lower` gives what lies below, which may still be unpacked itself: it is asked only for what the archive does not say, as the
/// attributes of a directory that it leaves out, and waits until it can tell.
///
/// # Errors
/// The blob cannot be read, decompressed or unpacked, or is another layer. The upper is of no use then.
pub fn unpack_layer(
    blob: impl Read + Send,
    layer: &Layer,
    (upper, lower): (&Root, Lower<'_>),
    limits: &Limits,
) -> Result<(), SnapshotError> {
    let digest = layer.descriptor.digest;
    let broken = |source| SnapshotError::Decompress { digest, source };
    let left = limits.expanded(layer.descriptor.size);
    let plain = Hashed { reader: decompress(blob).map_err(broken)?, digester: Digester::new(), left };
    let (unpacked, plain) = read_ahead(plain, |plain| {
        unpack_above(&mut *plain, upper, lower, limits)
            .map_err(|source| SnapshotError::Unpack { digest, source })?;
        io::copy(&mut plain.take(MAX_TRAILING + 1), &mut io::sink()).map_err(broken)
    });
    if unpacked? > MAX_TRAILING {
        return Err(SnapshotError::Trailing { digest, limit: MAX_TRAILING });
    }
    let actual = DiffId(plain.digester.finish());
    if actual != layer.diff_id {
        return Err(SnapshotError::DiffId { digest, expected: layer.diff_id, actual });
    }
    Ok(())
}

/// Hashes what is read, and bounds it.
struct Hashed<R> {
    reader: R,
    digester: Digester,
    /// Bytes that may still come.
    left: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "it expands more than a layer may"))?;
        self.digester.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}
