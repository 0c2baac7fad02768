//! The writer.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rbuild_image::{Digest, Digester};
use thiserror::Error;

use super::header::{self, Block};
use super::{BLOCK, pax};
use crate::change::{Changes, Content, Entry, Opener};
use crate::meta::{Kind, Meta};
use crate::root::RootError;
use crate::whiteout;

/// The largest values of the octal fields of 8 and 12 bytes.
const MAX_8: u64 = 0o777_7777;
const MAX_12: u64 = 0o777_7777_7777;

/// Why a layer could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The content of an entry could not be read.
    #[error("cannot read the content of `{}`", path.display())]
    Content {
        /// The entry.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content of an entry could not be opened.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A file has not the length its attributes say.
    #[error("`{}` changed while it was read: {expected} bytes expected", path.display())]
    Changed {
        /// The entry.
        path: PathBuf,
        /// The length when it was looked at.
        expected: u64,
    },
    /// The name means a whiteout in a layer, so that no file can have it.
    #[error("`{}` cannot be in a layer: names starting with `.wh.` mean removed files there", path.display())]
    Reserved {
        /// The entry.
        path: PathBuf,
    },
    /// A hard link names no file of its own layer. Other programs, which unpack a layer by itself, could not
    /// make it.
    #[error("the hard link `{}` has no file `{}` in its layer", path.display(), target.display())]
    Target {
        /// The entry.
        path: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// The writer below failed.
    #[error("cannot write the layer")]
    Output(#[source] io::Error),
}

/// Writes `changes` as an uncompressed tar stream, end marker included, and returns the writer. Equal changes
/// give equal bytes. Modification times later than `clamp` seconds after the epoch are written as `clamp`.
///
/// Times are written in whole seconds, rounded down, as containerd's and so BuildKit's layers have them. Entries
/// follow the order of [`Changes`], but for a hard link whose target comes later: these are at the end.
///
/// # Errors
/// A content cannot be read or has another length than its attributes say; the writer fails.
pub fn write_changes<W: Write>(changes: &Changes, writer: W, clamp: Option<i64>) -> Result<W, WriteError> {
    write(changes, writer, clamp, Bodies::Written(None))
}

/// Does what [`write_changes`] does, and tells `see` the digest of the bytes of each file that is not empty.
///
/// # Errors
/// As [`write_changes`].
pub(crate) fn write_seeing<W: Write>(
    changes: &Changes,
    writer: W,
    clamp: Option<i64>,
    see: See<'_>,
) -> Result<W, WriteError> {
    write(changes, writer, clamp, Bodies::Written(see))
}

/// Takes the contents that are read, with the digests of their bytes.
pub(crate) type See<'a> = Option<&'a mut dyn FnMut(&Content, Digest)>;

/// Writes all of the stream that [`write_changes`] writes but the bytes of the files, none of which is opened.
///
/// # Errors
/// What cannot stand in an archive; the writer fails.
pub(crate) fn write_headers<W: Write>(
    changes: &Changes,
    writer: W,
    clamp: Option<i64>,
) -> Result<W, WriteError> {
    write(changes, writer, clamp, Bodies::LeftOut)
}

/// What happens to the bytes of files.
enum Bodies<'a> {
    Written(See<'a>),
    LeftOut,
}

fn write<W: Write>(
    changes: &Changes,
    writer: W,
    clamp: Option<i64>,
    bodies: Bodies<'_>,
) -> Result<W, WriteError> {
    let output = BufWriter::with_capacity(128 << 10, writer);
    let mut tar = Writer { output, clamp, bodies, buffer: vec![0; 64 << 10], opener: Opener::default() };
    let mut later = Vec::new();
    for (path, entry) in changes.iter().filter(|(path, _)| !path.as_os_str().is_empty()) {
        let Entry::HardLink(target) = entry else {
            tar.entry(path, entry)?;
            continue;
        };
        let (file, meta) = file_behind(changes, target)
            .ok_or_else(|| WriteError::Target { path: path.to_owned(), target: target.clone() })?;
        // in order, what is less was written
        if file < path {
            tar.hard_link(path, file, meta)?;
        } else {
            later.push((path, file, meta));
        }
    }
    for (path, file, meta) in later {
        tar.hard_link(path, file, meta)?;
    }
    tar.finish()
}

struct Writer<'a, W: Write> {
    output: BufWriter<W>,
    clamp: Option<i64>,
    bodies: Bodies<'a>,
    buffer: Vec<u8>,
    opener: Opener,
}

/// What goes into one header.
struct Header<'a> {
    path: &'a [u8],
    flag: u8,
    link: &'a [u8],
    size: u64,
}

impl<W: Write> Writer<'_, W> {
    fn entry(&mut self, path: &Path, entry: &Entry) -> Result<(), WriteError> {
        let empty = Meta::new(Kind::File, 0);
        match entry {
            Entry::Whiteout => {
                let path = whiteout::file_for(path);
                return self.node(&path, &empty, &Content::None);
            }
            Entry::Node { meta, content } => {
                refuse_reserved(path)?;
                self.node(path, meta, content)?;
            }
            Entry::Opaque(meta) => {
                refuse_reserved(path)?;
                self.node(path, meta, &Content::None)?;
                self.node(&path.join(OsStr::from_bytes(whiteout::OPAQUE)), &empty, &Content::None)?;
            }
            Entry::HardLink(_) => {}
        }
        Ok(())
    }

    /// Writes a further name of a file, with the attributes of the file: containerd and docker set those of a
    /// link's header on what it links to.
    fn hard_link(&mut self, path: &Path, file: &Path, meta: &Meta) -> Result<(), WriteError> {
        refuse_reserved(path)?;
        let link = file.as_os_str().as_bytes();
        let header = Header { path: path.as_os_str().as_bytes(), flag: b'1', link, size: 0 };
        self.header(&header, meta).map_err(WriteError::Output)
    }

    fn node(&mut self, path: &Path, meta: &Meta, content: &Content) -> Result<(), WriteError> {
        let mut name = path.as_os_str().as_bytes().to_vec();
        let (flag, link, size) = match &meta.kind {
            Kind::File => (b'0', &[][..], meta.size),
            Kind::Symlink(target) => (b'2', target.as_bytes(), 0),
            Kind::CharDevice { .. } => (b'3', &[][..], 0),
            Kind::BlockDevice { .. } => (b'4', &[][..], 0),
            Kind::Directory => {
                name.push(b'/');
                (b'5', &[][..], 0)
            }
            Kind::Fifo => (b'6', &[][..], 0),
            Kind::Socket => return Ok(()),
        };
        let header = Header { path: &name, flag, link, size };
        self.header(&header, meta).map_err(WriteError::Output)?;
        if size > 0 && matches!(self.bodies, Bodies::Written(_)) {
            return self.content(path, content, size);
        }
        Ok(())
    }

    fn content(&mut self, path: &Path, content: &Content, size: u64) -> Result<(), WriteError> {
        let changed = || WriteError::Changed { path: path.to_owned(), expected: size };
        let mut reader = self.opener.open(content)?;
        let mut digester = matches!(self.bodies, Bodies::Written(Some(_))).then(Digester::new);
        let mut rest = size;
        loop {
            let count = match reader.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(changed()),
                read => read.map_err(|source| WriteError::Content { path: path.to_owned(), source })?,
            };
            rest = rest.checked_sub(count as u64).ok_or_else(changed)?;
            if count == 0 {
                break;
            }
            let bytes = self.buffer.get(..count).unwrap_or_default();
            self.output.write_all(bytes).map_err(WriteError::Output)?;
            if let Some(digester) = &mut digester {
                digester.update(bytes);
            }
            // a file ends where less is read than there is room for
            if rest == 0 && count < self.buffer.len() {
                break;
            }
        }
        if rest > 0 {
            return Err(changed());
        }
        if let (Some(digester), Bodies::Written(Some(see))) = (digester, &mut self.bodies) {
            see(content, digester.finish());
        }
        self.pad(size).map_err(WriteError::Output)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.output.write_all([0; BLOCK].get(..padding).unwrap_or_default())
    }

    fn header(&mut self, header: &Header<'_>, meta: &Meta) -> io::Result<()> {
        let seconds = self.clamp.map_or(meta.mtime.seconds, |clamp| meta.mtime.seconds.min(clamp));
        let records = records(header, meta, seconds);
        if !records.is_empty() {
            let name = header.path.rsplit(|byte| *byte == b'/').find(|name| !name.is_empty());
            let name = [b"PaxHeaders/", name.unwrap_or_default()].concat();
            let name = name.get(..100).unwrap_or(&name);
            let extended = Header { path: name, flag: b'x', link: &[], size: records.len() as u64 };
            self.block(&extended, &Meta::new(Kind::File, 0o644), 0)?;
            self.output.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.block(header, meta, seconds)
    }

    fn block(&mut self, header: &Header<'_>, meta: &Meta, seconds: i64) -> io::Result<()> {
        let mut block = Block([0; BLOCK]);
        let (prefix, name) =
            split(header.path).unwrap_or_else(|| (&[], header.path.get(..100).unwrap_or_default()));
        put(&mut block, header::NAME, name);
        put(&mut block, header::PREFIX, prefix);
        put(&mut block, header::LINK, header.link.get(..100).unwrap_or(header.link));
        put(&mut block, header::MAGIC, header::USTAR);
        let (major, minor) = match meta.kind {
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => (major, minor),
            _ => (0, 0),
        };
        let mtime = u64::try_from(seconds).unwrap_or(0);
        for (field, value) in [
            (header::MODE, u64::from(meta.mode & 0o7777)),
            (header::UID, fitting(meta.uid.into(), MAX_8)),
            (header::GID, fitting(meta.gid.into(), MAX_8)),
            (header::SIZE, fitting(header.size, MAX_12)),
            (header::MTIME, fitting(mtime, MAX_12)),
            (header::DEV_MAJOR, major.into()),
            (header::DEV_MINOR, minor.into()),
        ] {
            header::octal(block.0.get_mut(field).unwrap_or_default(), value)?;
        }
        if let Some(flag) = block.0.get_mut(header::TYPE) {
            *flag = header.flag;
        }
        let sum = u64::try_from(block.sum()).unwrap_or(0);
        let field = block.0.get_mut(header::CHECKSUM).and_then(<[u8]>::split_last_mut);
        if let Some((space, digits)) = field {
            *space = b' ';
            header::octal(digits, sum)?;
        }
        self.output.write_all(&block.0)
    }

    fn finish(mut self) -> Result<W, WriteError> {
        self.output.write_all(&[0; 2 * BLOCK]).map_err(WriteError::Output)?;
        self.output.into_inner().map_err(|error| WriteError::Output(error.into_error()))
    }
}

/// Refuses names that a reader would take for a whiteout.
fn refuse_reserved(path: &Path) -> Result<(), WriteError> {
    if path.iter().any(whiteout::is_reserved) {
        return Err(WriteError::Reserved { path: path.to_owned() });
    }
    Ok(())
}

/// Follows hard links to the entry that is a file; none if there is no such in the same layer.
fn file_behind<'a>(changes: &'a Changes, mut target: &'a Path) -> Option<(&'a Path, &'a Meta)> {
    for _ in 0..changes.len() {
        match changes.get(target)? {
            Entry::HardLink(next) => target = next,
            Entry::Node { meta, .. } if !meta.is_dir() => return Some((target, meta)),
            _ => return None,
        }
    }
    None
}

/// Makes the records for what the header block cannot say, sorted by key.
fn records(header: &Header<'_>, meta: &Meta, seconds: i64) -> Vec<u8> {
    let mut records = std::collections::BTreeMap::new();
    let mut add = |key: &[u8], value: &[u8]| drop(records.insert(key.to_vec(), value.to_vec()));
    if split(header.path).is_none() {
        add(b"path", header.path);
    }
    if header.link.len() > header::LINK.len() {
        add(b"linkpath", header.link);
    }
    if header.size > MAX_12 {
        add(b"size", header.size.to_string().as_bytes());
    }
    if u64::from(meta.uid) > MAX_8 {
        add(b"uid", meta.uid.to_string().as_bytes());
    }
    if u64::from(meta.gid) > MAX_8 {
        add(b"gid", meta.gid.to_string().as_bytes());
    }
    if !u64::try_from(seconds).is_ok_and(|seconds| seconds <= MAX_12) {
        add(b"mtime", seconds.to_string().as_bytes());
    }
    for (name, value) in &meta.xattrs {
        add(&[pax::XATTR, name].concat(), value);
    }
    let mut bytes = Vec::new();
    for (key, value) in &records {
        pax::append(&mut bytes, key, value);
    }
    bytes
}

/// Returns the number, or 0 where a record says it.
const fn fitting(number: u64, max: u64) -> u64 {
    if number > max { 0 } else { number }
}

fn put(block: &mut Block, field: std::ops::Range<usize>, bytes: &[u8]) {
    if let Some(target) = block.0.get_mut(field).and_then(|field| field.get_mut(..bytes.len())) {
        target.copy_from_slice(bytes);
    }
}

/// Splits a path into prefix and name as ustar has room for; none if it does not fit.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= header::NAME.len() {
        return Some((&[], path));
    }
    // the slash between them is in neither, and a directory's last one stays with its name
    let last = path.len().checked_sub(2)?.min(header::PREFIX.len());
    let slash = path.get(..=last)?.iter().rposition(|byte| *byte == b'/')?;
    let (prefix, name) = (path.get(..slash)?, path.get(slash + 1..)?);
    (!prefix.is_empty() && name.len() <= header::NAME.len()).then_some((prefix, name))
}
