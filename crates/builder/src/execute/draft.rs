//! A rootfs that is being changed without being written: what COPY, ADD and WORKDIR work on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use rbuild_layers::{Changes, Content, Entry, Follow, Kind, Meta, RootError, Time, View};
use thiserror::Error;

use super::links;

/// Why a path of a rootfs cannot become what a step asks for.
#[derive(Debug, Error)]
pub enum DraftError {
    /// A directory was to be made or merged where something else is.
    #[error("cannot copy to non-directory: `/{}`", .0.display())]
    NotADirectory(PathBuf),
    /// A file was to be written where a directory is.
    #[error("cannot replace directory `/{}` with a file", .0.display())]
    IsADirectory(PathBuf),
    /// The tree cannot be read.
    #[error(transparent)]
    Tree(#[from] RootError),
}

/// The tree below a stage's next step: a view, what earlier steps put on top of it, and what the current one does.
///
/// Nothing is written to disk. All paths but those of [`Draft::resolve`] are free of symbolic links, as it returns
/// them.
#[derive(Debug)]
pub(crate) struct Draft {
    lower: View,
    nodes: BTreeMap<PathBuf, Node>,
    /// Paths at and below which the view does not show through.
    hidden: BTreeSet<PathBuf>,
    step: Changes,
    /// The other names that this step gave to a file, by its first.
    links: BTreeMap<PathBuf, Vec<PathBuf>>,
}

#[derive(Debug, Clone)]
struct Node {
    meta: Meta,
    content: Content,
}

impl Draft {
    /// Starts on an unchanged tree.
    pub(crate) fn new(lower: View) -> Self {
        Self {
            lower,
            nodes: BTreeMap::new(),
            hidden: BTreeSet::new(),
            step: Changes::new(),
            links: BTreeMap::new(),
        }
    }

    /// What is at a path, symbolic links not followed.
    pub(crate) fn metadata(&self, path: &Path) -> Result<Option<Meta>, RootError> {
        if path.as_os_str().is_empty() {
            return Ok(Some(self.lower.metadata(path)?.unwrap_or_else(Meta::default_directory)));
        }
        if let Some(node) = self.nodes.get(path) {
            return Ok(Some(node.meta.clone()));
        }
        if path.ancestors().any(|ancestor| self.hidden.contains(ancestor)) {
            return Ok(None);
        }
        self.lower.metadata(path)
    }

    /// Where a path leads; what does not exist is kept.
    pub(crate) fn resolve(&self, path: &Path, follow: Follow) -> Result<PathBuf, RootError> {
        links::resolve(&|path| self.metadata(path), path, follow)
    }

    /// Where a path leads from `root`, which symbolic links in it cannot leave.
    pub(crate) fn resolve_below(&self, root: &Path, path: &Path) -> Result<PathBuf, RootError> {
        Ok(root.join(links::resolve(&|path| self.metadata(&root.join(path)), path, Follow::All)?))
    }

    /// Puts every entry of a layer that was made without regard to this tree, as if it were unpacked here.
    pub(crate) fn overlay(&mut self, changes: &Changes) -> Result<(), RootError> {
        for (path, entry) in changes.iter() {
            match entry {
                Entry::Node { meta, content } => self.put(path, meta.clone(), content.clone())?,
                Entry::Opaque(meta) => self.put(path, meta.clone(), Content::None)?,
                Entry::HardLink(target) => self.hard_link(path, target),
                Entry::Whiteout => self.clear(path),
            }
        }
        Ok(())
    }

    /// Reads a file's bytes, symbolic links followed; `None` where no regular file of at most `limit` bytes is.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, RootError> {
        let path = self.resolve(path, Follow::All)?;
        let Some(node) = self.nodes.get(&path) else {
            let shown = self.metadata(&path)?.is_some_and(|meta| meta.is_file() && meta.size <= limit);
            return if shown { self.lower.read(&path, limit) } else { Ok(None) };
        };
        if !node.meta.is_file() || node.meta.size > limit {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let failed = |source| RootError::Io { operation: "read", path: path.clone(), source };
        node.content.open()?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }

    /// Makes a directory and its missing parents, mode 0755 and with this owner; existing ones stay as they are.
    pub(crate) fn make_dirs(
        &mut self,
        path: &Path,
        (uid, gid): (u32, u32),
        mtime: Time,
    ) -> Result<(), DraftError> {
        self.make_dirs_like(path, &Meta { uid, gid, mtime, ..Meta::default_directory() })
    }

    /// Makes a directory and its missing parents with these attributes; existing ones stay as they are.
    pub(crate) fn make_dirs_like(&mut self, path: &Path, attributes: &Meta) -> Result<(), DraftError> {
        let mut at = PathBuf::new();
        for component in path.components() {
            at.push(component);
            match self.metadata(&at)? {
                Some(meta) if meta.is_dir() => {}
                Some(_) => return Err(DraftError::NotADirectory(at)),
                None => self.put(&at, attributes.clone(), Content::None)?,
            }
        }
        Ok(())
    }

    /// Makes a path this node. A directory onto a directory keeps the children; everything else replaces what is
    /// there, subtrees included. What is the same already is no change.
    pub(crate) fn put(&mut self, path: &Path, meta: Meta, content: Content) -> Result<(), RootError> {
        let present = self.metadata(path)?;
        if let Some(present) = &present
            && !self.is_linked(path)
            && self.is_same(path, present, &meta, &content)?
        {
            return Ok(());
        }
        let merges = meta.is_dir() && present.is_some_and(|present| present.is_dir());
        if !merges {
            self.clear(path);
        }
        self.nodes.insert(path.to_owned(), Node { meta: meta.clone(), content: content.clone() });
        self.step.insert(path, Entry::Node { meta, content });
        Ok(())
    }

    /// Compares as BuildKit's overlay differ does: a directory's time does not count, and the bytes of files count
    /// only where times are too coarse to tell.
    fn is_same(
        &self,
        path: &Path,
        present: &Meta,
        meta: &Meta,
        content: &Content,
    ) -> Result<bool, RootError> {
        if meta.is_dir() {
            return Ok(Meta { mtime: meta.mtime, ..present.clone() } == *meta);
        }
        if present != meta || !meta.is_file() || meta.mtime.nanos != 0 || meta.size == 0 {
            return Ok(present == meta);
        }
        let below = match self.nodes.get(path) {
            Some(node) => node.content.clone(),
            None => self.lower.content(path)?,
        };
        equal_bytes(&below, content).map_err(|source| RootError::Io {
            operation: "compare",
            path: path.to_owned(),
            source,
        })
    }

    /// Tells whether this step gave a file several names: putting one of them again parts it from the others.
    fn is_linked(&self, path: &Path) -> bool {
        self.links.contains_key(path) || matches!(self.step.get(path), Some(Entry::HardLink(_)))
    }

    /// Ends a step without a layer of its own: its changes only stand for later steps.
    pub(crate) fn keep_changes(&mut self) {
        self.links.clear();
        self.step = Changes::new();
    }

    /// Makes a path another name of a file that this step has put.
    pub(crate) fn hard_link(&mut self, path: &Path, target: &Path) {
        let Some(node) = self.nodes.get(target).cloned() else { return };
        self.clear(path);
        self.nodes.insert(path.to_owned(), node);
        self.step.insert(path, Entry::HardLink(target.to_owned()));
        self.links.entry(target.to_owned()).or_default().push(path.to_owned());
    }

    /// Lets the next name of a file stand for it, now that its first is gone.
    fn promote_link(&mut self, gone: &Path) {
        let names = self.links.remove(gone).unwrap_or_default();
        let linked =
            |name: &PathBuf| matches!(self.step.get(name), Some(Entry::HardLink(target)) if target == gone);
        let mut names = names.into_iter().filter(linked).collect::<Vec<_>>().into_iter();
        let Some(first) = names.next() else { return };
        if let Some(Node { meta, content }) = self.nodes.get(&first).cloned() {
            self.step.insert(&first, Entry::Node { meta, content });
        }
        for name in names {
            self.step.insert(&name, Entry::HardLink(first.clone()));
            self.links.entry(first.clone()).or_default().push(name);
        }
    }

    /// Ends the step: its changes with every ancestor directory, and a clean slate for the next.
    pub(crate) fn take_changes(&mut self) -> Result<Changes, RootError> {
        let mut ancestors = BTreeSet::new();
        for (path, _) in self.step.iter() {
            ancestors
                .extend(path.ancestors().skip(1).filter(|a| !a.as_os_str().is_empty()).map(Path::to_owned));
        }
        for ancestor in ancestors {
            if self.step.get(&ancestor).is_none() {
                let meta = self.metadata(&ancestor)?.unwrap_or_else(Meta::default_directory);
                self.step.insert(&ancestor, Entry::node(meta));
            }
        }
        self.links.clear();
        Ok(std::mem::take(&mut self.step))
    }

    /// Takes out everything at and below a path. Other names of a file that goes keep it.
    fn clear(&mut self, path: &Path) {
        let below: Vec<PathBuf> = self
            .nodes
            .range(path.to_owned()..)
            .map(|(p, _)| p)
            .take_while(|p| p.starts_with(path))
            .cloned()
            .collect();
        for path in below {
            self.step.remove(&path);
            self.nodes.remove(&path);
            self.promote_link(&path);
        }
        self.hidden.insert(path.to_owned());
    }
}

fn equal_bytes(one: &Content, other: &Content) -> io::Result<bool> {
    let open = |content: &Content| content.open().map(io::BufReader::new).map_err(io::Error::other);
    let (mut one, mut other) = (open(one)?, open(other)?);
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if left.get(..length) != right.get(..length) {
            return Ok(false);
        }
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        one.consume(length);
        other.consume(length);
    }
}

/// Tells whether a node of this kind can stand in a layer.
pub(crate) fn is_archivable(kind: &Kind) -> bool {
    !matches!(kind, Kind::Socket)
}
