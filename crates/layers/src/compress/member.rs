//! One gzip member that says how long it is.
//!
//! Every member holds at most [`MEMBER_INPUT`] bytes of input and starts with these 20 bytes:
//!
//! ```text
//! 1f 8b 08   gzip, deflate
//! 04         FLG: FEXTRA only
//! 00 × 4     MTIME: none
//! 00 ff      XFL: none, OS: unknown
//! 08 00      XLEN: one subfield follows
//! 52 42      SI1 SI2: "RB"
//! 04 00      length of the subfield's data
//! u32        length of this whole member in bytes, header and trailer included, little endian
//! ```
//!
//! Other readers skip the subfield (RFC 1952, section 2.3.1.1) and see an ordinary multi-member file. Ours
//! finds the next member without inflating this one. BGZF does the same under the name "BC", but its 16 bits
//! bound a member to 64 KiB, which costs ratio.

use std::io;

use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::{CompressionLvl, Compressor, crc32};

/// Bytes of input per gzip member: 1 MiB.
///
/// Changing it changes every layer digest.
pub const MEMBER_INPUT: usize = 1 << 20;

/// Length of the header of a member, in bytes.
pub(super) const HEADER: usize = 20;
const TRAILER: usize = 8;
const FIXED: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 8, 0, b'R', b'B', 4, 0];
/// Stored deflate blocks add 5 bytes to every 65535: a longer member was not made of [`MEMBER_INPUT`] bytes.
const MAX_MEMBER: usize = MEMBER_INPUT + (MEMBER_INPUT >> 8) + HEADER + TRAILER;

/// Makes members. What it makes of a block depends on the block and the level alone.
pub(super) struct Deflater {
    chosen: Compressor,
    /// Finds out on samples whether a block is worth the time.
    fast: Compressor,
    stored: Compressor,
}

impl Deflater {
    /// A compressor for blocks; `level` is 0 to 9.
    pub(super) fn new(level: u32) -> Self {
        let level = i32::try_from(level).ok().and_then(|level| CompressionLvl::new(level).ok());
        let at = |level: i32| Compressor::new(CompressionLvl::new(level).unwrap_or_default());
        Self { chosen: Compressor::new(level.unwrap_or_default()), fast: at(1), stored: at(0) }
    }

    /// Makes one member of `block`, of [`MEMBER_INPUT`] bytes at most.
    pub(super) fn deflate(&mut self, block: &[u8]) -> Vec<u8> {
        let is_hopeless =
            is_flat(block) && samples(block).all(|sample| hardly_shrinks(&mut self.fast, sample));
        let deflater = if is_hopeless { &mut self.stored } else { &mut self.chosen };
        let bound = deflater.deflate_compress_bound(block.len());
        let mut member = vec![0; HEADER + bound + TRAILER];
        let (header, body) = member.split_at_mut(HEADER);
        let length = compressed(deflater, block, body);
        let total = HEADER + length + TRAILER;
        let (fixed, announced) = header.split_at_mut(FIXED.len());
        fixed.copy_from_slice(&FIXED);
        announced.copy_from_slice(&le32(total));
        member.truncate(HEADER + length);
        member.extend_from_slice(&crc32(block).to_le_bytes());
        member.extend_from_slice(&le32(block.len()));
        member
    }
}

/// Compresses into a buffer of libdeflate's own bound and returns the length.
fn compressed(deflater: &mut Compressor, bytes: &[u8], into: &mut [u8]) -> usize {
    let length = deflater.deflate_compress(bytes, into);
    length.unwrap_or_else(|_| unreachable!("the buffer has libdeflate's own bound"))
}

/// Bytes of one sample: as far as deflate looks back.
const SAMPLE: usize = 32 << 10;

/// Beginning, middle and end of a block; shorter ones are one sample.
fn samples(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let last = block.len().saturating_sub(SAMPLE);
    [0, last / 2, last].into_iter().map(move |start| {
        let end = (start + SAMPLE).min(block.len());
        block.get(start..end).unwrap_or(block)
    })
}

/// Tells whether all bytes come about equally often, as in what is compressed or encrypted already: the sum of the
/// squares of their counts is less than an eighth above its least.
fn is_flat(block: &[u8]) -> bool {
    let (mut counts, mut total) = ([0_u64; 256], 0_u64);
    for byte in samples(block).flatten() {
        total += 1;
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let squares: u64 = counts.iter().map(|count| count * count).sum();
    squares * 256 < total * total / 8 * 9
}

/// Tells whether less than a fiftieth can be saved.
fn hardly_shrinks(deflater: &mut Compressor, sample: &[u8]) -> bool {
    let mut buffer = vec![0; deflater.deflate_compress_bound(sample.len())];
    compressed(deflater, sample, &mut buffer) >= sample.len() / 50 * 49
}

/// Blocks are of 1 MiB, so that lengths always fit.
fn le32(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// Returns the length a member announces for itself, when `header` is exactly one of ours.
pub(super) fn announced_length(header: &[u8]) -> Option<usize> {
    let rest = header.strip_prefix(&FIXED)?;
    let length = usize::try_from(u32::from_le_bytes(rest.try_into().ok()?)).ok()?;
    (HEADER + TRAILER..=MAX_MEMBER).contains(&length).then_some(length)
}

/// Inflates one whole member whose header [`announced_length`] accepted.
///
/// The deflate stream must end exactly where the trailer begins: a reader that ignores the subfield must not
/// find other content.
///
/// # Errors
/// `InvalidData` for a corrupt stream, a wrong checksum or lengths that do not agree.
pub(super) fn inflate(inflater: &mut Decompress, member: &[u8]) -> io::Result<Vec<u8>> {
    let body = member.get(HEADER..).ok_or_else(|| corrupt("header"))?;
    let (body, trailer) = body.split_last_chunk::<TRAILER>().ok_or_else(|| corrupt("trailer"))?;
    let [c0, c1, c2, c3, s0, s1, s2, s3] = *trailer;
    let size = usize::try_from(u32::from_le_bytes([s0, s1, s2, s3])).unwrap_or(usize::MAX);
    if size > MEMBER_INPUT {
        return Err(corrupt("length"));
    }
    inflater.reset(false);
    // One byte to spare: a stream that goes on is noticed, and zlib takes no empty output buffer.
    let mut block = Vec::with_capacity(size + 1);
    let status = inflater.decompress_vec(body, &mut block, FlushDecompress::Finish).map_err(io::Error::other);
    if !matches!(status, Ok(Status::StreamEnd)) {
        return Err(corrupt("deflate stream"));
    }
    if inflater.total_in() != u64::try_from(body.len()).unwrap_or(u64::MAX) || block.len() != size {
        return Err(corrupt("length"));
    }
    if crc32(&block) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(corrupt("checksum"));
    }
    Ok(block)
}

fn corrupt(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("corrupt gzip member: wrong {what}"))
}
