//! A rootfs that is being changed without being written: what COPY, ADD and WORKDIR work on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use rbuild_layers::{Changes, Content, Entry, FileId, Follow, Kind, Meta, RootError, Time, View};
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
    /// What earlier steps put; nodes only.
    earlier: Changes,
    /// Paths at and below which the view does not show through. One that is no directory hides by itself.
    hidden: HashSet<PathBuf>,
    step: Changes,
    /// The other names that this step gave to a file, by its first.
    links: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// Which file a path is a name of that an earlier step put under several, by its place in `names`.
    files: HashMap<PathBuf, usize>,
    /// How many names each of these files has.
    names: Vec<u64>,
    /// What the paths were that this step put though nothing but the other names of their files may differ.
    linked: BTreeMap<PathBuf, Linked>,
}

/// A file with several names.
#[derive(Debug, Clone, Copy)]
struct Linked {
    file: File,
    names: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    /// One of the view.
    Below(FileId),
    /// One of [`Draft::files`].
    Put(usize),
}

impl Draft {
    /// Starts on an unchanged tree.
    pub(crate) fn new(lower: View) -> Self {
        Self {
            lower,
            earlier: Changes::new(),
            hidden: HashSet::new(),
            step: Changes::new(),
            links: BTreeMap::new(),
            files: HashMap::new(),
            names: Vec::new(),
            linked: BTreeMap::new(),
        }
    }

    /// What is at a path, symbolic links not followed.
    pub(crate) fn metadata(&self, path: &Path) -> Result<Option<Meta>, RootError> {
        if path.as_os_str().is_empty() {
            return Ok(Some(self.lower.metadata(path)?.unwrap_or_else(Meta::default_directory)));
        }
        if let Some((meta, _)) = self.node(path) {
            return Ok(Some(meta.clone()));
        }
        if path.ancestors().any(|ancestor| self.hidden.contains(ancestor)) {
            return Ok(None);
        }
        self.lower.metadata(path)
    }

    /// What a step put at a path.
    fn node(&self, path: &Path) -> Option<(&Meta, &Content)> {
        match self.step.get(path) {
            Some(Entry::HardLink(target)) => node(self.step.get(target)),
            None => node(self.earlier.get(path)),
            entry => node(entry),
        }
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
                Entry::HardLink(target) => self.hard_link(path, target)?,
                Entry::Whiteout => self.clear(path),
            }
        }
        Ok(())
    }

    /// Reads a file's bytes, symbolic links followed; `None` where no regular file of at most `limit` bytes is.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, RootError> {
        let path = self.resolve(path, Follow::All)?;
        let Some((meta, content)) = self.node(&path) else {
            let shown = self.metadata(&path)?.is_some_and(|meta| meta.is_file() && meta.size <= limit);
            return if shown { self.lower.read(&path, limit) } else { Ok(None) };
        };
        if !meta.is_file() || meta.size > limit {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let failed = |source| RootError::Io { operation: "read", path: path.clone(), source };
        content.open()?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
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
    /// there, subtrees included. What is the same already is no change, unless it has other names: these part from it.
    pub(crate) fn put(&mut self, path: &Path, meta: Meta, content: Content) -> Result<(), RootError> {
        let present = self.metadata(path)?;
        self.put_over(present, path, meta, content)
    }

    /// Makes a path this node, which is no directory, unless a directory is there.
    pub(crate) fn put_file(&mut self, path: &Path, meta: Meta, content: Content) -> Result<(), DraftError> {
        let present = self.refuse_directory(path)?;
        Ok(self.put_over(present, path, meta, content)?)
    }

    /// Looks at what a file is about to replace.
    pub(crate) fn refuse_directory(&self, path: &Path) -> Result<Option<Meta>, DraftError> {
        let present = self.metadata(path)?;
        if present.as_ref().is_some_and(Meta::is_dir) {
            return Err(DraftError::IsADirectory(path.to_owned()));
        }
        Ok(present)
    }

    fn put_over(
        &mut self,
        present: Option<Meta>,
        path: &Path,
        meta: Meta,
        content: Content,
    ) -> Result<(), RootError> {
        let mut linked = None;
        if let Some(present) = &present
            && !self.is_linked(path)
            && self.is_same(path, present, &meta, &content)?
        {
            linked = self.file_before(path, present)?.filter(|file| file.names > 1);
            if linked.is_none() {
                return Ok(());
            }
        }
        match present {
            Some(present) if meta.is_dir() && present.is_dir() => {}
            Some(_) => self.clear(path),
            None if meta.is_dir() => drop(self.hidden.insert(path.to_owned())),
            None => {}
        }
        self.linked.extend(linked.map(|linked| (path.to_owned(), linked)));
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
        let below = match self.node(path) {
            Some((_, content)) => content.clone(),
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

    /// Returns which file a path was a name of before this step, if that has, or had, several.
    fn file_before(&self, path: &Path, present: &Meta) -> Result<Option<Linked>, RootError> {
        if present.is_dir() || self.step.get(path).is_some() {
            return Ok(None);
        }
        if let Some(file) = self.files.get(path) {
            let names = self.names.get(*file).copied().unwrap_or_default();
            return Ok(Some(Linked { file: File::Put(*file), names }));
        }
        if self.earlier.get(path).is_some() {
            return Ok(None);
        }
        let file = self.lower.file_id(path)?;
        Ok(file.map(|file| Linked { file: File::Below(file), names: file.nlink }))
    }

    /// Has the changes that a step took, and wrote, stand for later steps.
    pub(crate) fn keep(&mut self, changes: Changes) {
        for (path, entry) in changes.iter() {
            if let Entry::HardLink(target) = entry {
                self.add_name(path, target);
            }
        }
        let linked = |(path, entry): (&Path, &Entry)| match entry {
            Entry::HardLink(target) => Some((path.to_owned(), changes.get(target)?.clone())),
            _ => None,
        };
        let linked: Vec<_> = changes.iter().filter_map(linked).collect();
        let (mut newer, mut into) = (changes, std::mem::take(&mut self.earlier));
        newer.extend(linked);
        if newer.len() > into.len() {
            std::mem::swap(&mut newer, &mut into);
            newer = newer.into_iter().filter(|(path, _)| into.get(path).is_none()).collect();
        }
        into.extend(newer);
        self.earlier = into;
    }

    /// Remembers two names of a file that is put.
    fn add_name(&mut self, path: &Path, first: &Path) {
        let file = self.files.get(first).copied().unwrap_or(self.names.len());
        if file == self.names.len() {
            self.names.push(1);
            self.files.insert(first.to_owned(), file);
        }
        if let Some(names) = self.names.get_mut(file) {
            *names += 1;
        }
        self.files.insert(path.to_owned(), file);
    }

    /// Forgets that a path is one name of several.
    fn drop_name(&mut self, path: &Path) {
        let file = self.files.remove(path);
        if let Some(names) = file.and_then(|file| self.names.get_mut(file)) {
            *names -= 1;
        }
    }

    /// Makes a path another name of a file that this step has put. One that was no change becomes one: a link in a layer
    /// leads to a file of that layer.
    pub(crate) fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), RootError> {
        let target = match self.step.get(target) {
            Some(Entry::HardLink(first)) => first.clone(),
            _ => target.to_owned(),
        };
        if target == path {
            return Ok(());
        }
        if self.step.get(&target).is_none() {
            let Some((meta, content)) = self.file(&target)? else { return Ok(()) };
            self.drop_name(&target);
            self.step.insert(&target, Entry::Node { meta, content });
        }
        let present = self.metadata(path)?;
        let linked = present.map(|present| self.file_before(path, &present)).transpose()?.flatten();
        self.clear(path);
        self.linked.extend(linked.map(|linked| (path.to_owned(), linked)));
        self.step.insert(path, Entry::HardLink(target.clone()));
        self.links.entry(target).or_default().push(path.to_owned());
        Ok(())
    }

    /// What is at a path, with its content.
    fn file(&self, path: &Path) -> Result<Option<(Meta, Content)>, RootError> {
        if let Some((meta, content)) = self.node(path) {
            return Ok(Some((meta.clone(), content.clone())));
        }
        let Some(meta) = self.metadata(path)? else { return Ok(None) };
        Ok(Some((meta, self.lower.content(path)?)))
    }

    /// Returns the names that this step gave to a file, its first not included.
    fn names_in_step(&self, first: &Path) -> Vec<PathBuf> {
        let is_link =
            |name: &&PathBuf| matches!(self.step.get(name), Some(Entry::HardLink(target)) if target == first);
        let mut names: Vec<_> =
            self.links.get(first).into_iter().flatten().filter(is_link).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Lets the next name of a file stand for it, now that its first is gone.
    fn promote_link(&mut self, gone: &Path, file: Entry) {
        let mut names = self.names_in_step(gone).into_iter();
        self.links.remove(gone);
        let Some(first) = names.next() else { return };
        self.step.insert(&first, file);
        for name in names {
            self.step.insert(&name, Entry::HardLink(first.clone()));
            self.links.entry(first.clone()).or_default().push(name);
        }
    }

    /// Takes the files out of the step that were put as they had been, under all the names they had.
    fn settle_links(&mut self) {
        let linked = std::mem::take(&mut self.linked);
        for (first, was) in &linked {
            let names = self.names_in_step(first);
            let is_name = |name| linked.get(name).is_some_and(|linked: &Linked| linked.file == was.file);
            let is_whole = was.names > 1 && names.len() as u64 + 1 == was.names;
            if !is_whole || !names.iter().all(is_name) {
                continue;
            }
            let Some(file) = self.step.remove(first) else { continue };
            for name in names {
                self.step.remove(&name);
                self.add_name(&name, first);
                self.earlier.insert(&name, file.clone());
            }
            self.earlier.insert(first, file);
        }
    }

    /// Ends the step: its changes with every ancestor directory, and a clean slate for the next.
    pub(crate) fn take_changes(&mut self) -> Result<Changes, RootError> {
        self.settle_links();
        for ancestor in self.step.missing_parents() {
            let meta = self.metadata(&ancestor)?.unwrap_or_else(Meta::default_directory);
            self.step.insert(&ancestor, Entry::node(meta));
        }
        self.links.clear();
        Ok(std::mem::take(&mut self.step))
    }

    /// Takes out everything at and below a path. Other names of a file that goes keep it.
    fn clear(&mut self, path: &Path) {
        for (path, _) in self.earlier.remove_below(path) {
            self.drop_name(&path);
        }
        for (path, entry) in self.step.remove_below(path) {
            self.linked.remove(&path);
            self.promote_link(&path, entry);
        }
        self.hidden.insert(path.to_owned());
    }
}

fn node(entry: Option<&Entry>) -> Option<(&Meta, &Content)> {
    match entry? {
        Entry::Node { meta, content } => Some((meta, content)),
        Entry::HardLink(_) | Entry::Whiteout | Entry::Opaque(_) => None,
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
