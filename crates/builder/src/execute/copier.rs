//! Copies a subtree into a draft: `cp -a` with the rules of Dockerfiles.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rbuild_layers::{Content, Follow, Meta, RootError, Time};
use thiserror::Error;

use super::draft::{Draft, DraftError, is_archivable};
use super::mode::{ModeChange, Target};
use super::selection::Selection;
use super::tree::Tree;

/// Why a source cannot be copied.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The source names nothing.
    #[error("`{}` not found", .0.display())]
    NotFound(PathBuf),
    /// The destination does not allow it.
    #[error(transparent)]
    Destination(#[from] DraftError),
    /// The source cannot be read.
    #[error("cannot read the source")]
    Source(#[source] RootError),
}

/// What happens to the attributes of what is copied.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    /// `--chown`; otherwise the source's owner stays.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`; otherwise the source's mode stays.
    pub mode: Option<ModeChange>,
    /// The time of directories that nothing in the source stands for.
    pub now: Time,
}

impl Attributes {
    /// What a directory gets that nothing in the source stands for: the destination and its parents.
    ///
    /// BuildKit makes them with mkdir(2): an octal `--chmod` gives the permission bits, a symbolic one nothing.
    pub(crate) fn made_directory(&self) -> Meta {
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let made = Meta { uid, gid, mtime: self.now, ..Meta::default_directory() };
        let octal = self.mode.as_ref().and_then(ModeChange::octal);
        Meta { mode: octal.map_or(made.mode, |bits| bits & 0o777), ..made }
    }
}

/// One copy of one source. Hard links within the source stay hard links.
#[derive(Debug)]
pub(crate) struct Copier<'a> {
    tree: &'a Tree,
    draft: &'a mut Draft,
    attributes: &'a Attributes,
    selection: &'a Selection,
    /// The first copy of every file with several names, by device and inode.
    names: HashMap<(usize, u64, u64), PathBuf>,
    /// The directories between the source and what is being copied, outermost first.
    parents: Vec<Parent>,
}

#[derive(Debug)]
struct Parent {
    meta: Meta,
    destination: PathBuf,
    present: bool,
}

/// What to do with the attributes of a directory that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    /// They stay: the directory was there before the source came.
    Keep,
    /// Only the mode becomes the source's: the directory merely leads to something that is copied.
    Chmod,
    /// They become the source's.
    Overwrite,
}

impl<'a> Copier<'a> {
    pub(crate) fn new(
        tree: &'a Tree,
        draft: &'a mut Draft,
        attributes: &'a Attributes,
        selection: &'a Selection,
    ) -> Self {
        Self { tree, draft, attributes, selection, names: HashMap::new(), parents: Vec::new() }
    }

    /// Copies `source`, a symbolic link followed, to `destination`: into it when it ends in `/` or is a directory,
    /// else under its name. The contents of a source directory are merged.
    pub(crate) fn copy(&mut self, source: &Path, destination: &str) -> Result<(), CopyError> {
        let made = self.attributes.made_directory();
        let ensured =
            destination.rfind('/').map_or("", |slash| destination.get(..=slash).unwrap_or_default());
        let ensured = self.resolve_destination(Path::new(ensured))?;
        self.draft.make_dirs_like(&ensured, &made)?;
        let mut target = self.resolve_destination(Path::new(destination))?;

        let followed = self.tree.resolve(source, Follow::All).map_err(CopyError::Source)?;
        let meta = self.tree.metadata(&followed).map_err(CopyError::Source)?;
        let meta = meta.ok_or_else(|| CopyError::NotFound(source.to_owned()))?;
        if meta.is_dir() {
            self.tree.read_ahead(&followed);
        }
        let present = self.draft.metadata(&target).map_err(DraftError::from)?;
        let goes_into = present.as_ref().is_some_and(Meta::is_dir);
        if !meta.is_dir()
            && goes_into
            && let Some(name) = source.file_name()
        {
            target.push(name);
        }
        if let Some(parent) = target.parent() {
            let parent = parent.to_owned();
            self.draft.make_dirs_like(&parent, &made)?;
        }
        if meta.is_dir() && present.is_none() {
            self.draft.make_dirs_like(&target, &made)?;
        }
        self.node(&followed, Path::new(""), &target, Existing::Keep)
    }

    fn resolve_destination(&self, path: &Path) -> Result<PathBuf, CopyError> {
        Ok(self.draft.resolve(path, Follow::All).map_err(DraftError::from)?)
    }

    /// Copies one path; `inside` is its path within the source, empty for the source itself.
    fn node(
        &mut self,
        source: &Path,
        inside: &Path,
        target: &Path,
        existing: Existing,
    ) -> Result<(), CopyError> {
        let Some(meta) = self.tree.metadata(source).map_err(CopyError::Source)? else {
            return Err(CopyError::NotFound(source.to_owned()));
        };
        let selected = inside.as_os_str().is_empty() || self.selection.selects(inside);
        if selected {
            self.make_parents()?;
        }
        if meta.is_dir() {
            return self.directory(Subtree { source, inside, target, meta }, selected, existing);
        }
        if !selected || !is_archivable(&meta.kind) {
            return Ok(());
        }
        self.file(source, target, meta)
    }

    fn file(&mut self, source: &Path, target: &Path, meta: Meta) -> Result<(), CopyError> {
        if !meta.is_file() {
            return Ok(self.draft.put_file(target, self.dressed(meta), Content::None)?);
        }
        let id = self.tree.file_id(source).map_err(CopyError::Source)?;
        if let Some(id) = id.filter(|id| id.nlink > 1) {
            let key = (id.layer, id.dev, id.ino);
            if let Some(first) = self.names.get(&key) {
                self.draft.refuse_directory(target)?;
                self.draft.hard_link(target, first).map_err(DraftError::from)?;
                return Ok(());
            }
            self.names.insert(key, target.to_owned());
        }
        let content = self.tree.content(source).map_err(CopyError::Source)?;
        Ok(self.draft.put_file(target, self.dressed(meta), content)?)
    }

    fn directory(
        &mut self,
        subtree: Subtree<'_>,
        selected: bool,
        existing: Existing,
    ) -> Result<(), CopyError> {
        let Subtree { source, inside, target, meta } = subtree;
        if selected {
            self.put_directory(target, &meta, existing)?;
        }
        self.parents.push(Parent { meta, destination: target.to_owned(), present: selected });
        for name in self.tree.read_dir(source).map_err(CopyError::Source)? {
            self.node(&source.join(&name), &inside.join(&name), &target.join(&name), Existing::Overwrite)?;
        }
        self.parents.pop();
        Ok(())
    }

    /// Makes the directories that lead to something selected but are not selected themselves.
    fn make_parents(&mut self) -> Result<(), CopyError> {
        for at in 0..self.parents.len() {
            let Some(parent) = self.parents.get_mut(at).filter(|parent| !parent.present) else { continue };
            parent.present = true;
            let (meta, destination) = (parent.meta.clone(), parent.destination.clone());
            self.put_directory(&destination, &meta, Existing::Chmod)?;
        }
        Ok(())
    }

    fn put_directory(&mut self, target: &Path, meta: &Meta, existing: Existing) -> Result<(), CopyError> {
        match self.draft.metadata(target).map_err(DraftError::from)? {
            Some(present) if !present.is_dir() => Err(DraftError::NotADirectory(target.to_owned()).into()),
            Some(_) if existing == Existing::Keep => Ok(()),
            Some(present) if existing == Existing::Chmod => {
                let dressed = Meta { mode: meta.mode, ..present };
                Ok(self.draft.put(target, dressed, Content::None).map_err(DraftError::from)?)
            }
            _ => {
                let dressed = self.dressed(meta.clone());
                Ok(self.draft.put(target, dressed, Content::None).map_err(DraftError::from)?)
            }
        }
    }

    fn dressed(&self, mut meta: Meta) -> Meta {
        if let Some((uid, gid)) = self.attributes.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if let Some(change) = &self.attributes.mode
            && !meta.is_symlink()
        {
            let target = if meta.is_dir() { Target::Directory } else { Target::File };
            meta.mode = change.apply(meta.mode, target);
        }
        meta
    }
}

#[derive(Debug)]
struct Subtree<'p> {
    source: &'p Path,
    inside: &'p Path,
    target: &'p Path,
    meta: Meta,
}
