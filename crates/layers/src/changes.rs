//! Finds what changed in an overlay upper directory: [`from_upper`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::change::{Changes, Content, Entry};
use crate::directory::{Directory, Status};
use crate::meta::{Kind, Meta};
use crate::root::{FileId, Root, RootError};
use crate::snapshot::Changed;
use crate::view::{Found, Stack, View};

/// Lists what `upper`, an overlay upper directory, changes of `lower`, as BuildKit's overlay differ does, but for links.
///
/// - What was copied up and is as it was below is left out. Directories are compared without their time; files
///   by time, and by content where neither time has nanoseconds, since those may have been cut off.
/// - A directory that replaced another is listed with a whiteout for each child that is gone, never as opaque.
/// - Names of one inode are hard links of the first of them. All are listed as soon as one is a change, or they were
///   not one file below: a layer with the new names alone would make them another file, as BuildKit's differ does and
///   docker's archive of the upper directory does not.
/// - Every ancestor of a change is listed; the root itself and sockets are not.
///
/// # Errors
/// Either tree cannot be read.
pub fn from_upper(upper: &Root, lower: &View) -> Result<Changes, RootError> {
    let mut diff = Diff { upper, lower, changes: Changes::new(), links: HashMap::new() };
    let below = lower.stack(Path::new("")).map_err(RootError::at("read the directory", Path::new("")))?;
    let mut pending =
        vec![Pair { path: PathBuf::new(), below: below.map(|stack| stack.layers()), replaced: Replaced::No }];
    while let Some(pair) = pending.pop() {
        diff.directory(&pair, &mut pending)?;
    }
    diff.link();
    diff.changes.with_parents(&View::directory(upper.clone()))
}

/// Lists what `tree`, which began as a copy of `lower`, changes of it, given where something changed at all.
///
/// The result is that of [`from_upper`] for the same step, but for files that had several names below: what changes one of
/// them in place, or gives it another name, does so to all, where overlayfs parts the name from the others.
///
/// # Errors
/// Either tree cannot be read.
pub(crate) fn from_tree(tree: &Root, changed: &[Changed], lower: &View) -> Result<Changes, RootError> {
    let mut diff = Diff { upper: tree, lower, changes: Changes::new(), links: HashMap::new() };
    for changed in changed {
        diff.changed(changed)?;
    }
    diff.link();
    diff.changes.with_parents(&View::directory(tree.clone()))
}

/// Whether a directory of the upper hides the one below it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replaced {
    No,
    Yes,
}

/// A directory of the upper and the layers that make up the directory of the same path below.
struct Pair {
    path: PathBuf,
    below: Option<Vec<usize>>,
    replaced: Replaced,
}

/// A name of an inode with several.
struct Name {
    path: PathBuf,
    /// What it is without the others.
    entry: Entry,
    is_change: bool,
    /// The file that has the name below.
    below: Option<FileId>,
}

struct Diff<'a> {
    upper: &'a Root,
    lower: &'a View,
    changes: Changes,
    /// By device and inode, what has several names.
    links: HashMap<(u64, u64), Vec<Name>>,
}

impl Diff<'_> {
    fn directory(&mut self, pair: &Pair, pending: &mut Vec<Pair>) -> Result<(), RootError> {
        let error = |errno: Errno| RootError::at("read the directory", &pair.path)(errno);
        let directory = self.upper.exact(&pair.path).map_err(error)?;
        let below = pair.below.as_ref().map(|layers| self.lower.open_stack(&pair.path, layers));
        let below = below.transpose().map_err(error)?;
        let listed = directory.list().map_err(error)?;
        for (name, file_type) in &listed {
            self.name((&directory, below.as_ref()), pair, (name, *file_type), pending)?;
        }
        if let (Replaced::Yes, Some(below)) = (pair.replaced, &below) {
            self.removed(&pair.path, &listed, (&directory, below)).map_err(error)?;
        }
        Ok(())
    }

    fn changed(&mut self, changed: &Changed) -> Result<(), RootError> {
        let error = |errno: Errno| RootError::at("read the directory", &changed.path)(errno);
        let directory = self.upper.exact(&changed.path).map_err(error)?;
        let below = self.lower.stack(&changed.path).map_err(error)?;
        let replaced = if changed.is_replaced { Replaced::Yes } else { Replaced::No };
        let pair = Pair { path: changed.path.clone(), below: None, replaced };
        for (name, file_type) in &changed.present {
            // the directories below are in the list themselves
            self.name((&directory, below.as_ref()), &pair, (name, *file_type), &mut Vec::new())?;
        }
        for name in &changed.gone {
            let found = below.as_ref().map(|below| below.lookup(name)).transpose().map_err(error)?;
            if found.flatten().is_some() {
                self.changes.insert(changed.path.join(name), Entry::Whiteout);
            }
        }
        Ok(())
    }

    fn name(
        &mut self,
        (directory, below): (&Directory, Option<&Stack>),
        pair: &Pair,
        (name, file_type): (&OsStr, FileType),
        pending: &mut Vec<Pair>,
    ) -> Result<(), RootError> {
        let path = pair.path.join(name);
        if file_type == FileType::Socket {
            self.changes.leave_out_socket(path);
            return Ok(());
        }
        let error = |errno: Errno| RootError::at("look at", &path)(errno);
        let status = directory.status(name).map_err(error)?.ok_or(Errno::NOENT).map_err(error)?;
        let found = below.map(|below| below.lookup(name)).transpose().map_err(error)?.flatten();
        if status.is_whiteout() {
            if found.is_some() && pair.replaced == Replaced::No {
                self.changes.insert(&path, Entry::Whiteout);
            }
            return Ok(());
        }
        if status.file_type() == FileType::Socket {
            self.changes.leave_out_socket(path);
            return Ok(());
        }
        if let (Some(found), Some(below)) = (&found, below) {
            inherit(directory, name, &status, (below, found)).map_err(error)?;
        }
        let meta = directory.meta(name, &status).map_err(error)?;
        let same = match (&found, below) {
            (Some(found), Some(below)) => {
                let sides = Sides { directory, below, name, path: &path };
                sides.same((&status, &meta), found)?
            }
            _ => false,
        };
        if status.is_dir() {
            let replaced = match (pair.replaced, &found) {
                (Replaced::No, Some(_)) => {
                    let child = directory.open_dir(name).map_err(error)?;
                    if child.is_opaque().map_err(error)? { Replaced::Yes } else { Replaced::No }
                }
                (replaced, _) => replaced,
            };
            let below = found.filter(|found| found.status.is_dir()).map(|found| found.layers);
            pending.push(Pair { path: path.clone(), below, replaced });
            if !same {
                self.changes.insert(path, Entry::node(meta));
            }
            return Ok(());
        }
        let content = match meta.kind {
            Kind::File if meta.size > 0 => Content::Path { root: self.upper.clone(), path: path.clone() },
            _ => Content::None,
        };
        let entry = Entry::Node { meta, content };
        if status.nlink > 1 {
            let name = Name { path, entry, is_change: !same, below: found.map(|found| found.id()) };
            self.links.entry((status.dev, status.ino)).or_default().push(name);
        } else if !same {
            self.changes.insert(path, entry);
        }
        Ok(())
    }

    /// Lists the children of a replaced directory that its replacement does not have.
    fn removed(
        &mut self,
        path: &Path,
        listed: &[(OsString, FileType)],
        (directory, below): (&Directory, &Stack),
    ) -> rustix::io::Result<()> {
        for name in below.names()? {
            let kept = listed.binary_search_by(|(listed, _)| listed.cmp(&name)).is_ok()
                && directory.status(&name)?.is_some_and(|status| !status.is_whiteout());
            if !kept {
                self.changes.insert(path.join(name), Entry::Whiteout);
            }
        }
        Ok(())
    }

    /// Lists the names of each inode, unless they are what they were below.
    fn link(&mut self) {
        for mut names in std::mem::take(&mut self.links).into_values() {
            let were_one = names.iter().all(|name| name.below == names.first().and_then(|first| first.below));
            if were_one && names.iter().all(|name| !name.is_change) {
                continue;
            }
            names.sort_unstable_by(|one, other| one.path.cmp(&other.path));
            let mut names = names.into_iter();
            let Some(first) = names.next() else { continue };
            for name in names {
                self.changes.insert(name.path, Entry::HardLink(first.path.clone()));
            }
            self.changes.insert(first.path, first.entry);
        }
    }
}

/// Gives a symbolic link or pipe that overlayfs copied up the owner recorded below: the copy is another inode, and only
/// the step's own changes of owner are recorded of it.
fn inherit(
    directory: &Directory,
    name: &OsStr,
    status: &Status,
    (below, found): (&Stack, &Found),
) -> rustix::io::Result<()> {
    let old = &found.status;
    let copied = !status.carries_xattrs() && (status.mode, status.mtime) == (old.mode, old.mtime);
    if !directory.is_recorded() || !copied {
        return Ok(());
    }
    let old = below.meta(name, found)?;
    directory.adopt(name, (old.uid, old.gid))
}

/// One name in both trees.
struct Sides<'a> {
    directory: &'a Directory,
    below: &'a Stack,
    name: &'a OsStr,
    path: &'a Path,
}

impl Sides<'_> {
    /// Compares as BuildKit's `sameDirent` does, all attributes that travel in place of file capabilities alone.
    fn same(&self, (status, meta): (&Status, &Meta), found: &Found) -> Result<bool, RootError> {
        let error = |errno: Errno| RootError::at("look at", self.path)(errno);
        let old = &found.status;
        if (status.mode, status.rdev) != (old.mode, old.rdev) {
            return Ok(false);
        }
        if !status.is_dir() && (status.size != old.size || status.mtime != old.mtime) {
            return Ok(false);
        }
        let old_meta = self.below.meta(self.name, found).map_err(error)?;
        if (meta.uid, meta.gid, &meta.kind, &meta.xattrs)
            != (old_meta.uid, old_meta.gid, &old_meta.kind, &old_meta.xattrs)
        {
            return Ok(false);
        }
        if status.is_file() && status.size > 0 && status.mtime.nanos == 0 {
            let new = self.directory.open_file(self.name).map_err(error)?;
            let old = self.below.open_file(self.name, found).map_err(error)?;
            return same_content(new, old).map_err(RootError::at("compare", self.path));
        }
        Ok(true)
    }
}

fn same_content(new: File, old: File) -> io::Result<bool> {
    let mut buffers = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let (mut new, mut old) = (new, old);
    loop {
        let count = new.read(&mut buffers.0)?;
        let part = buffers.1.get_mut(..count).unwrap_or_default();
        if count == 0 {
            return Ok(old.read(&mut buffers.1)? == 0);
        }
        match old.read_exact(part) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            result => result?,
        }
        if buffers.0.get(..count) != buffers.1.get(..count) {
            return Ok(false);
        }
    }
}
