//! Reads archives into an overlay upper directory ([`unpack`]) or into [`Changes`] ([`read_archive`]).

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::change::{Changes, Entry};
use crate::meta::{Kind, Meta};
use crate::root::{MAX_LINKS, Root, RootError, components, normal};
use crate::tar::{Body, Member, Reader, TarError};
use crate::upper::{Lower, Made, Upper};
use crate::view::View;
use crate::whiteout::{self, Mark};

/// What a layer may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of a path or link target.
    pub path: usize,
    /// Bytes of all files together, holes included.
    pub bytes: u64,
    /// Parts with data of one sparse file. No archive is read with more than 65536.
    pub sparse_parts: usize,
    /// How many times as long as the compressed layer its archive may be, once it is longer than `unrated`.
    pub ratio: u64,
    /// The length in bytes up to which an archive may expand from anything.
    pub unrated: u64,
}

impl Limits {
    /// Returns how long the archive of a compressed layer of `compressed` bytes may be, in bytes.
    pub(crate) fn expanded(&self, compressed: u64) -> u64 {
        compressed.saturating_mul(self.ratio).max(self.unrated)
    }
}

impl Default for Limits {
    /// Five million entries, paths of 4095 bytes (`PATH_MAX` without its zero), 512 GiB, 65536 parts, 1100 times, which is more
    /// than gzip can reach, from 32 GiB on.
    fn default() -> Self {
        Self {
            entries: 5_000_000,
            path: 4095,
            bytes: 512 << 30,
            sparse_parts: 1 << 16,
            ratio: 1100,
            unrated: 32 << 30,
        }
    }
}

/// What was unpacked.
#[derive(Clone, Debug, Default)]
pub struct Unpacked {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of all files together, holes included.
    pub bytes: u64,
    /// Device nodes that are missing because the kernel lets nobody here make them.
    pub refused_devices: Vec<PathBuf>,
}

/// Why an archive could not be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The stream is not a sound archive.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// The bytes of an entry could not be read.
    #[error("cannot read the content of the entry `{}`", path.display())]
    Content {
        /// The entry.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An entry could not be written.
    #[error("cannot unpack the entry `{}`", path.display())]
    Entry {
        /// The entry.
        path: PathBuf,
        /// Why.
        source: RootError,
    },
    /// An entry says something that no sound archive says.
    #[error("the archive's entry `{}` is refused: {reason}", path.display())]
    Refused {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The archive costs more than it may.
    #[error("the archive has more than {limit} {what}")]
    Limit {
        /// What there are too many of, as `entries` or `bytes in a path`.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The tree could not be read or written.
    #[error(transparent)]
    Root(#[from] RootError),
}

/// Unpacks the uncompressed tar stream `reader` into `upper`, the overlay upper directory that lies on `lower`,
/// and reads the stream to its end, so that a verifying reader has seen all of it.
///
/// Whiteouts become character devices 0:0 and opaque directories `user.overlay.opaque`; neither removes what the
/// same layer writes. Missing parents, and the root if it is not listed, get the attributes they have in `lower`.
/// Nothing is synced to disk. After an error the upper is of no use.
///
/// # Errors
/// The stream is not a sound archive, exceeds `limits`, or the file system refuses.
///
/// # References
/// OCI image specification, `layer.md`, "Applying Changesets".
pub fn unpack(
    reader: impl Read,
    upper: &Root,
    lower: &View,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    unpack_above(reader, upper, &|| Ok(lower.clone()), limits)
}

/// Does what [`unpack`] does on layers that may still be unpacked themselves.
pub(crate) fn unpack_above(
    reader: impl Read,
    upper: &Root,
    lower: Lower<'_>,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let mut archive = Reader::new(reader);
    let mut upper = Upper::new(upper, lower);
    let mut unpacked = Unpacked::default();
    while let Some(member) = archive.next_member()? {
        unpacked.count(&member, limits)?;
        let path = normal(&member.path);
        match entry(&mut upper, &path, &member, archive.body()) {
            Ok(Made::Yes) => {}
            Ok(Made::Refused) => unpacked.refused_devices.push(path),
            Err(UnpackError::Root(source)) => {
                return Err(UnpackError::Entry { path: member.path, source });
            }
            Err(error) => return Err(error),
        }
    }
    upper.inherit_root()?;
    upper.finish()?;
    let limit = limits.bytes.saturating_add(1);
    let behind = io::copy(&mut archive.into_inner().take(limit), &mut io::sink());
    if behind.map_err(TarError::Read)? == limit {
        return Err(UnpackError::Limit { what: "bytes behind its end", limit: limits.bytes });
    }
    Ok(unpacked)
}

impl Unpacked {
    fn count(&mut self, member: &Member, limits: &Limits) -> Result<(), UnpackError> {
        let check = |what, value: u64, limit: u64| {
            if value > limit { Err(UnpackError::Limit { what, limit }) } else { Ok(()) }
        };
        let target = match &member.meta.kind {
            Kind::Symlink(target) => target.len(),
            _ => member.hard_link.as_ref().map_or(0, |target| target.as_os_str().len()),
        };
        let longest = member.path.as_os_str().len().max(target);
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(member.meta.size);
        check("entries", self.entries, limits.entries)?;
        check("bytes in a path", longest as u64, limits.path as u64)?;
        check("parts in a sparse file", member.parts() as u64, limits.sparse_parts as u64)?;
        check("bytes of content", self.bytes, limits.bytes)
    }
}

fn entry<R: Read>(
    upper: &mut Upper<'_>,
    path: &Path,
    member: &Member,
    mut body: Body<'_, R>,
) -> Result<Made, UnpackError> {
    let refused = |reason| UnpackError::Refused { path: member.path.clone(), reason };
    let parent = path.parent().unwrap_or(Path::new(""));
    for name in parent.iter() {
        match whiteout::mark(name) {
            Mark::None => {}
            Mark::Ignored => return Ok(Made::Yes),
            _ => return Err(refused("it is below a whiteout")),
        }
    }
    match path.file_name().map_or(Mark::None, whiteout::mark) {
        Mark::None => {}
        Mark::Whiteout(name) => upper.whiteout(&parent.join(name))?,
        Mark::Opaque => upper.opaque(parent)?,
        Mark::Ignored => {}
        Mark::Invalid => return Err(refused("it is a whiteout of no file")),
    }
    if path.file_name().is_some_and(whiteout::is_reserved) {
        return Ok(Made::Yes);
    }
    if path.as_os_str().is_empty() && (!member.meta.is_dir() || member.hard_link.is_some()) {
        return Err(refused("the root can only be a directory"));
    }
    if let Some(target) = &member.hard_link {
        upper.hard_link(path, &normal(target))?;
        return Ok(Made::Yes);
    }
    match member.meta.kind {
        Kind::Directory => upper.directory(path, &member.meta)?,
        Kind::File => upper.file(path, &member.meta, |file| copy(member, &mut body, file))?,
        Kind::CharDevice { major: 0, minor: 0 } => {
            return Err(refused("the character device 0:0 would hide a file"));
        }
        _ => return Ok(upper.node(path, &member.meta)?),
    }
    Ok(Made::Yes)
}

/// Writes the bytes of an entry, holes left out as the archive leaves them out.
fn copy(member: &Member, body: &mut impl BufRead, file: &mut File) -> Result<(), UnpackError> {
    let write = |error: io::Error| UnpackError::from(RootError::at("write", &member.path)(error));
    loop {
        let piece = body.fill_buf();
        let piece = piece.map_err(|source| UnpackError::Content { path: member.path.clone(), source })?;
        let length = piece.len();
        if length == 0 {
            break;
        }
        if member.is_sparse() && piece.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Current(i64::try_from(length).unwrap_or(0))).map_err(write)?;
        } else {
            file.write_all(piece).map_err(write)?;
        }
        body.consume(length);
    }
    if member.is_sparse() { file.set_len(member.meta.size).map_err(write) } else { Ok(()) }
}

/// Reads an uncompressed archive as changes whose contents stay in `file`. Names have no meaning here: what would
/// be a whiteout in a layer is a file. A later entry of a path replaces an earlier one; a hard link's own mode and owner
/// become those of the file, as when Docker extracts it.
///
/// # Errors
/// The file is not a sound archive or exceeds `limits`; an entry lies below something that the archive itself
/// makes neither a directory nor a symbolic link; a hard link names nothing of the archive.
pub fn read_archive(file: &Arc<File>, limits: &Limits) -> Result<Changes, UnpackError> {
    let mut archive = Reader::seeking(file.try_clone().map_err(TarError::Read)?).map_err(TarError::Read)?;
    let mut changes = Changes::new();
    let mut unpacked = Unpacked::default();
    while let Some(member) = archive.next_member()? {
        unpacked.count(&member, limits)?;
        let refused = |reason| UnpackError::Refused { path: member.path.clone(), reason };
        let below_no_directory = || refused("it is below an entry that is no directory");
        let path = followed(&changes, &member.path).ok_or_else(below_no_directory)?;
        let entry = match &member.hard_link {
            None => Entry::Node { meta: member.meta.clone(), content: member.content(file) },
            Some(target) => {
                let target = followed(&changes, target).unwrap_or_default();
                match changes.get(&target) {
                    Some(Entry::HardLink(first)) => Entry::HardLink(first.clone()),
                    Some(Entry::Node { meta, .. }) if !meta.is_dir() => Entry::HardLink(target),
                    _ => return Err(refused("it is a hard link to no file of the archive")),
                }
            }
        };
        let is_dir = entry.meta().is_some_and(|meta| meta.is_dir());
        // Docker passes over an entry that would put a file in the place of the destination itself.
        let is_destination = path.as_os_str().is_empty() && !is_dir;
        if is_destination || matches!(&entry, Entry::HardLink(target) if *target == path) {
            continue;
        }
        if !is_dir {
            keep_linked(&mut changes, &path);
            changes.remove_tree(&path);
        }
        if let Entry::HardLink(first) = &entry {
            change_file(&mut changes, first, &member.meta);
        }
        changes.insert(path, entry);
    }
    Ok(changes)
}

/// Where a path of an archive comes to lie: symbolic links that earlier entries made of its parents are followed below
/// the root, as when Docker extracts it. `None` below anything else that is no directory, and after too many links.
fn followed(changes: &Changes, path: &Path) -> Option<PathBuf> {
    let (mut real, mut links) = (PathBuf::new(), 0);
    let mut pending = components(&normal(path));
    while let Some(name) = pending.pop() {
        match name.as_bytes() {
            b"/" => real.clear(),
            b".." => drop(real.pop()),
            _ => real.push(&name),
        }
        let entry = if pending.is_empty() { None } else { changes.get(&real) };
        match entry.map(Entry::meta) {
            None => {}
            Some(Some(meta)) if meta.is_dir() => {}
            Some(Some(Meta { kind: Kind::Symlink(target), .. })) if links < MAX_LINKS => {
                links += 1;
                real.pop();
                pending.extend(components(Path::new(target)));
            }
            Some(_) => return None,
        }
    }
    Some(real)
}

/// Gives a file the mode and owner of another header.
fn change_file(changes: &mut Changes, path: &Path, header: &Meta) {
    if let Some(Entry::Node { meta, content }) = changes.get(path).cloned() {
        let Meta { mode, uid, gid, .. } = *header;
        changes.insert(path, Entry::Node { meta: Meta { mode, uid, gid, ..meta }, content });
    }
}

/// Hands the file at a path that is about to go on to the first of its other names.
fn keep_linked(changes: &mut Changes, path: &Path) {
    let mut gone = changes.below(path);
    gone.retain(|gone| matches!(changes.get(gone), Some(Entry::Node { meta, .. }) if !meta.is_dir()));
    for gone in gone {
        let links = changes.iter().filter(|(link, entry)| {
            !link.starts_with(path) && matches!(entry, Entry::HardLink(target) if *target == gone)
        });
        let links: Vec<_> = links.map(|(link, _)| link.to_owned()).collect();
        let Some((first, others)) = links.split_first() else { continue };
        let node = changes.get(&gone).cloned();
        changes.extend(node.map(|node| (first.clone(), node)));
        changes.extend(others.iter().map(|other| (other.clone(), Entry::HardLink(first.clone()))));
    }
}
