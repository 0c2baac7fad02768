//! The reader.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use super::BLOCK;
use super::fields::{Extended, Fields, check_global, read_gnu_parts, set_long};
use super::header::{self, Block};
use super::pax;
use super::sparse::{self, Map};
use crate::change::{Content, Segment};
use crate::meta::{Kind, Meta};

/// The longest extended header or long name, in bytes, as in Go's archive/tar.
const MAX_EXTENDED: u64 = 1 << 20;

/// The size of the buffer in bytes: contents are handed out in pieces of at most this.
const BUFFER: usize = 128 << 10;

/// What a hole of a sparse member reads as.
static ZEROS: [u8; 32 << 10] = [0; 32 << 10];

/// Why a stream is not a sound archive.
#[derive(Debug, Error)]
pub enum TarError {
    /// The stream could not be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The stream ends inside an entry.
    #[error("the archive is cut off at byte {offset}")]
    Truncated {
        /// Where it ends.
        offset: u64,
    },
    /// Something is wrong, or could be read in two ways.
    #[error("the archive is malformed at byte {offset}: {reason}")]
    Malformed {
        /// Where the entry at fault, or its extended header, starts.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// An entry is of a type that has no place in a layer.
    #[error("the archive holds an entry of the unsupported type `{}` at byte {offset}", flag.escape_ascii())]
    Unsupported {
        /// Where the entry starts.
        offset: u64,
        /// The type flag.
        flag: u8,
    },
}

/// One entry of an archive.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its path as written.
    pub path: PathBuf,
    /// Its attributes. For a hard link the kind says nothing.
    pub meta: Meta,
    /// For a hard link, the path it is another name of, as written.
    pub hard_link: Option<PathBuf>,
    /// Where its stored bytes start in the stream.
    offset: u64,
    /// How many they are.
    stored: u64,
    map: Option<Map>,
}

impl Member {
    /// Returns where the bytes of the member are if the archive is `file` from its start.
    pub fn content(&self, file: &Arc<File>) -> Content {
        let file = Arc::clone(file);
        match &self.map {
            None if self.stored == 0 => Content::None,
            None => Content::Range { file, offset: self.offset, length: self.stored },
            Some(map) => {
                let mut offset = self.offset;
                let segments = map.parts.iter().map(|(position, length)| {
                    let segment = Segment { position: *position, offset, length: *length };
                    offset = offset.saturating_add(*length);
                    segment
                });
                Content::Sparse { segments: segments.collect(), file, length: map.length }
            }
        }
    }

    /// Returns how many parts with data a sparse file has; 0 for any other.
    pub fn parts(&self) -> usize {
        self.map.as_ref().map_or(0, |map| map.parts.len())
    }

    /// Tells whether the archive leaves the holes of the file out.
    pub const fn is_sparse(&self) -> bool {
        self.map.is_some()
    }
}

/// Reads an archive from a stream, entry by entry.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    skip: fn(&mut R, u64) -> io::Result<u64>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where `start` is in the stream.
    offset: u64,
    /// Stored bytes of the current member that were not read yet.
    stored: u64,
    padding: u64,
    /// The current member's map, how far it was read in it, and which part comes next.
    map: Map,
    position: u64,
    part: usize,
    done: bool,
}

impl<R: Read> Reader<R> {
    /// Starts at the beginning of an archive. Reads ahead of the entry it is at.
    pub fn new(inner: R) -> Self {
        Self::with_skip(inner, |_, _| Ok(0))
    }

    fn with_skip(inner: R, skip: fn(&mut R, u64) -> io::Result<u64>) -> Self {
        Self {
            inner,
            skip,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            offset: 0,
            stored: 0,
            padding: 0,
            map: Map::default(),
            position: 0,
            part: 0,
            done: false,
        }
    }

    /// Returns the next entry, whose bytes [`Reader::body`] gives then; none at the end of the archive.
    ///
    /// # Errors
    /// [`TarError`]; the reader is at its end then.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        if self.done {
            return Ok(None);
        }
        self.done = true;
        let member = self.read_member()?;
        self.done = member.is_none();
        Ok(member)
    }

    /// Returns the bytes of the current entry, holes filled with zeros.
    pub const fn body(&mut self) -> Body<'_, R> {
        Body { reader: self }
    }

    /// Returns the stream, which stands anywhere behind the last entry read.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn read_member(&mut self) -> Result<Option<Member>, TarError> {
        self.discard(self.stored)?;
        self.stored = 0;
        self.discard(self.padding)?;
        self.padding = 0;
        let mut extended = Extended::default();
        loop {
            let start = self.offset;
            let malformed = |reason| TarError::Malformed { offset: start, reason };
            let Some(block) = self.block()?.filter(|block| !block.is_zero()) else {
                if extended.any() {
                    return Err(TarError::Truncated { offset: start });
                }
                // the second zero block, which some programs leave out
                return match self.block()? {
                    Some(block) if !block.is_zero() => Err(malformed("a header follows the end mark")),
                    _ => Ok(None),
                };
            };
            let sum = block.number(header::CHECKSUM);
            if sum != Some(block.sum()) && sum != Some(block.signed_sum()) {
                return Err(malformed("the checksum of a header does not match"));
            }
            let stored = block.number(header::SIZE).and_then(|size| u64::try_from(size).ok());
            let stored = stored.ok_or_else(|| malformed("the size in a header is not a number"))?;
            match block.byte(header::TYPE) {
                b'x' => extended.add_records(&self.extended(stored, start)?).map_err(malformed)?,
                b'g' => check_global(&self.extended(stored, start)?).map_err(malformed)?,
                b'L' => set_long(&mut extended.path, &self.extended(stored, start)?).map_err(malformed)?,
                b'K' => set_long(&mut extended.link, &self.extended(stored, start)?).map_err(malformed)?,
                // the name of the archive
                b'V' => drop(self.extended(stored, start)?),
                _ => return self.member(&block, &extended, start).map(Some),
            }
        }
    }

    fn member(&mut self, block: &Block, extended: &Extended, start: u64) -> Result<Member, TarError> {
        let malformed = |reason| TarError::Malformed { offset: start, reason };
        let fields = Fields { block, extended };
        let path = fields.path().map_err(malformed)?;
        let flag = block.byte(header::TYPE);
        let is_dir = path.ends_with(b"/");
        let kind = match flag {
            // before POSIX a directory was a file whose name ends in a slash
            b'0' | b'\0' | b'7' if is_dir => Kind::Directory,
            b'0' | b'\0' | b'7' | b'1' | b'S' => Kind::File,
            b'2' => Kind::Symlink(OsString::from_vec(fields.link().map_err(malformed)?)),
            b'3' | b'4' => fields.device(flag).map_err(malformed)?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(TarError::Unsupported { offset: start, flag }),
        };
        let mut meta = fields.meta(kind).map_err(malformed)?;
        let mut member = Member {
            path: PathBuf::from(OsString::from_vec(path)),
            meta: meta.clone(),
            hard_link: None,
            offset: 0,
            stored: 0,
            map: None,
        };
        let stored = fields.stored().map_err(malformed)?;
        if flag == b'1' {
            let target = fields.link().map_err(malformed)?;
            member.hard_link = Some(PathBuf::from(OsString::from_vec(target)));
        }
        if !meta.is_file() || member.hard_link.is_some() {
            // programs differ in whether they skip such bytes
            if stored != 0 {
                return Err(malformed("an entry that is no file has content"));
            }
            member.offset = self.offset;
            member.meta = meta;
            return Ok(member);
        }
        self.stored = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
        let map = self.sparse_map(&fields, flag, start)?;
        self.map = match &map {
            Some(map) => map.clone(),
            None => Map { parts: if stored == 0 { Vec::new() } else { vec![(0, stored)] }, length: stored },
        };
        (self.position, self.part) = (0, 0);
        meta.size = self.map.length;
        Ok(Member { meta, offset: self.offset, stored: self.stored, map, ..member })
    }

    /// Reads the map of a sparse member: in the header and blocks behind it (old GNU), in pax records (0.0 and
    /// 0.1), or before the content (1.0).
    fn sparse_map(&mut self, fields: &Fields<'_>, flag: u8, start: u64) -> Result<Option<Map>, TarError> {
        let malformed = |reason| TarError::Malformed { offset: start, reason };
        let records = &fields.extended.records;
        let number = |key: &[u8]| records.as_ref().map_or(Ok(None), |records| records.number(key));
        let (parts, length) = if flag == b'S' {
            let length = fields.block.number(header::GNU_REAL_SIZE).and_then(|size| u64::try_from(size).ok());
            (self.gnu_map(fields.block, start)?, length)
        } else if number(b"GNU.sparse.major").map_err(malformed)? == Some(1) {
            if number(b"GNU.sparse.minor").map_err(malformed)? != Some(0) {
                return Err(malformed("unknown sparse format"));
            }
            let length = number(b"GNU.sparse.realsize").map_err(malformed)?;
            (self.leading_map(start)?, length)
        } else if let Some(length) = number(b"GNU.sparse.size").map_err(malformed)? {
            let records = records.as_ref().ok_or_else(|| malformed("malformed sparse map"))?;
            let parts = match records.get(b"GNU.sparse.map") {
                Some(text) => Map::from_commas(text).map_err(malformed)?,
                None => sparse::pairs(&records.sparse_pairs).map_err(malformed)?,
            };
            let count = number(b"GNU.sparse.numblocks").map_err(malformed)?;
            if count.is_some_and(|count| count != parts.len() as u64) {
                return Err(malformed("malformed sparse map"));
            }
            (parts, Some(length))
        } else if records
            .as_ref()
            .is_some_and(|records| records.keys().any(|key| key.starts_with(pax::SPARSE)))
        {
            return Err(malformed("unknown sparse format"));
        } else {
            return Ok(None);
        };
        let length = length.ok_or_else(|| malformed("a sparse file without its size"))?;
        Map::new(parts, length, self.stored).map(Some).map_err(malformed)
    }

    fn gnu_map(&mut self, block: &Block, start: u64) -> Result<Vec<(u64, u64)>, TarError> {
        let malformed = |reason| TarError::Malformed { offset: start, reason };
        if block.field(header::MAGIC) != header::GNU {
            return Err(malformed("an old sparse file outside of GNU tar's format"));
        }
        let mut parts = Vec::new();
        let mut extended = block.byte(header::GNU_EXTENDED);
        read_gnu_parts(block.field(header::GNU_SPARSE), &mut parts).map_err(malformed)?;
        while extended != 0 {
            let more = self.block()?.ok_or(TarError::Truncated { offset: self.offset })?;
            read_gnu_parts(more.field(0..504), &mut parts).map_err(malformed)?;
            extended = more.byte(504);
        }
        Ok(parts)
    }

    /// Reads the map of format 1.0: decimal lines, padded to whole blocks, counted in the stored size.
    fn leading_map(&mut self, start: u64) -> Result<Vec<(u64, u64)>, TarError> {
        let malformed = |reason| TarError::Malformed { offset: start, reason };
        let mut numbers = Vec::new();
        let mut wanted = 1;
        let mut line = Vec::new();
        while numbers.len() < wanted {
            self.stored =
                self.stored.checked_sub(BLOCK as u64).ok_or_else(|| malformed("malformed sparse map"))?;
            let block = self.block()?.ok_or(TarError::Truncated { offset: self.offset })?;
            for byte in block.0 {
                if byte != b'\n' {
                    line.push(byte);
                } else if numbers.len() < wanted {
                    let number = pax::decimal(&line).ok_or_else(|| malformed("malformed sparse map"))?;
                    if numbers.is_empty() {
                        let count = usize::try_from(number).ok().filter(|count| *count <= sparse::MAX_PARTS);
                        wanted += 2 * count.ok_or_else(|| malformed("sparse map too large"))?;
                    }
                    numbers.push(number);
                    line.clear();
                }
            }
            if line.len() > BLOCK && numbers.len() < wanted {
                return Err(malformed("malformed sparse map"));
            }
        }
        sparse::pairs(numbers.get(1..).unwrap_or_default()).map_err(malformed)
    }

    /// Reads the content of an extended header, and its padding.
    fn extended(&mut self, size: u64, start: u64) -> Result<Vec<u8>, TarError> {
        let length = usize::try_from(size).ok().filter(|_| size <= MAX_EXTENDED);
        let too_large = TarError::Malformed { offset: start, reason: "extended header too large" };
        let mut content = vec![0; length.ok_or(too_large)?];
        if self.read_full(&mut content)? < content.len() {
            return Err(TarError::Truncated { offset: self.offset });
        }
        self.discard(size.wrapping_neg() % BLOCK as u64)?;
        Ok(content)
    }

    /// Reads a block; none at the end of the stream.
    fn block(&mut self) -> Result<Option<Block>, TarError> {
        let mut block = [0; BLOCK];
        match self.read_full(&mut block)? {
            0 => Ok(None),
            BLOCK => Ok(Some(Block(block))),
            _ => Err(TarError::Truncated { offset: self.offset }),
        }
    }

    fn read_full(&mut self, mut target: &mut [u8]) -> Result<usize, TarError> {
        let mut total = 0;
        while !target.is_empty() {
            let available = self.fill().map_err(TarError::Read)?;
            let count = available.len().min(target.len());
            let (filled, rest) = target.split_at_mut(count);
            filled.copy_from_slice(available.get(..count).unwrap_or_default());
            if count == 0 {
                break;
            }
            target = rest;
            total += count;
            self.advance(count);
        }
        Ok(total)
    }

    fn discard(&mut self, mut count: u64) -> Result<(), TarError> {
        while count > 0 {
            if self.start == self.end {
                let skipped = (self.skip)(&mut self.inner, count).map_err(TarError::Read)?;
                self.offset += skipped;
                count -= skipped;
                if count == 0 {
                    break;
                }
            }
            let available = self.fill().map_err(TarError::Read)?.len();
            if available == 0 {
                return Err(TarError::Truncated { offset: self.offset });
            }
            let part = available.min(usize::try_from(count).unwrap_or(usize::MAX));
            self.advance(part);
            count -= part as u64;
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<&[u8]> {
        while self.start == self.end {
            match self.inner.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => (self.start, self.end) = (0, count.min(self.buffer.len())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn advance(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        self.offset += count as u64;
    }
}

impl Reader<File> {
    /// Starts at the beginning of an archive that is a file; contents that nobody reads are passed over.
    ///
    /// # Errors
    /// The file cannot be positioned.
    pub fn seeking(mut file: File) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        Ok(Self::with_skip(file, |file, count| {
            let (length, position) = (file.metadata()?.len(), file.stream_position()?);
            // a cut-off archive must still be found out by reading
            let count = count.min(length.saturating_sub(position));
            let distance = i64::try_from(count).map_err(|_| io::ErrorKind::InvalidInput)?;
            file.seek_relative(distance)?;
            Ok(count)
        }))
    }
}

/// The bytes of the current entry of a [`Reader`]. Dropped early, the rest is passed over.
#[derive(Debug)]
pub struct Body<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: Read> BufRead for Body<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let reader = &mut *self.reader;
        let part = reader.map.parts.get(reader.part).copied();
        let (position, length) = part.unwrap_or((reader.map.length, 0));
        if reader.position < position {
            let hole = usize::try_from(position - reader.position).unwrap_or(usize::MAX);
            return Ok(ZEROS.get(..hole).unwrap_or(&ZEROS));
        }
        if length == 0 {
            return Ok(&[]);
        }
        let rest = (position + length).saturating_sub(reader.position);
        let available = reader.fill()?;
        if available.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        let count = available.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        Ok(available.get(..count).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        let reader = &mut *self.reader;
        let part = reader.map.parts.get(reader.part).copied();
        let count_64 = count as u64;
        if let Some((position, length)) = part.filter(|(position, _)| *position <= reader.position) {
            reader.advance(count);
            reader.stored = reader.stored.saturating_sub(count_64);
            if reader.position + count_64 >= position + length {
                reader.part += 1;
            }
        }
        reader.position += count_64;
    }
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        let (filled, _) = buffer.split_at_mut(count);
        filled.copy_from_slice(available.get(..count).unwrap_or_default());
        self.consume(count);
        Ok(count)
    }
}
