//! Archives, found by content: a tar, plain or compressed with gzip, bzip2, xz or zstd.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use rbuild_layers::{Changes, Content, Limits, read_archive};

/// A boxed cause from a crate below.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Bytes an archive may become when it is decompressed.
const MAX_UNPACKED: u64 = 512 << 30;

/// Reads a file as an archive: a tar, plain or compressed with gzip, bzip2, xz or zstd. `None` when it is not one.
///
/// The decompressed archive is a nameless file in `scratch`. Like BuildKit, a file counts as an archive when its first header is one.
///
/// # Errors
/// It begins as an archive and cannot be read to its end.
pub(crate) fn archive(content: &Content, scratch: &Path) -> Result<Option<Changes>, Cause> {
    let mut head = [0; 512];
    let length = fill(&mut *decompressed(content)?, &mut head);
    if !length.is_ok_and(|length| length == head.len() && is_header(&head)) {
        return Ok(None);
    }
    let mut file = tempfile::tempfile_in(scratch)?;
    let mut stream = decompressed(content)?.take(MAX_UNPACKED + 1);
    if io::copy(&mut stream, &mut file)? > MAX_UNPACKED {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(Some(read_archive(&Arc::new(file), &Limits::default())?))
}

/// Opens a content with whatever compression its first bytes name undone.
fn decompressed(content: &Content) -> Result<Box<dyn Read>, Cause> {
    let mut magic = [0; 6];
    let length = fill(&mut content.open()?, &mut magic)?;
    let reader = BufReader::with_capacity(256 << 10, content.open()?);
    Ok(match magic.get(..length).unwrap_or_default() {
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::read::MultiBzDecoder::new(reader)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new(reader, true)),
        _ => Box::new(rbuild_layers::compress::decompress(reader)?),
    })
}

fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Tells whether a block is a tar header: its checksum fits.
///
/// # References
/// POSIX.1-2024 pax, "ustar Interchange Format": the checksum field counts as spaces
fn is_header(block: &[u8; 512]) -> bool {
    let field = block.get(148..156).unwrap_or_default();
    let text: String = field.iter().map(|byte| char::from(*byte)).collect();
    let text = text.trim_matches(['\0', ' ']);
    let Ok(stated) = u32::from_str_radix(text, 8) else { return false };
    let unsigned: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = field.iter().map(|byte| u32::from(*byte)).sum();
    unsigned - own + 8 * u32::from(b' ') == stated
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn tells_archives_from_files() {
        let check = |bytes: &'static [u8]| {
            let found = archive(&Content::Bytes(Bytes::from_static(bytes)), Path::new("/nonexistent"))
                .expect("readable");
            assert!(found.is_none(), "{bytes:?}");
        };
        check(b"");
        check(b"plain text");
        check(&[0; 1024]);
        check(b"BZh9 but nothing of bzip2 follows here");
        check(b"\xfd7zXZ\0 nor of xz");
        check(b"\x1f\x8b nor of gzip");
    }
}
