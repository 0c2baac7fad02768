//! What one layer says, as a value: [`Changes`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Bound;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::directory::Directory;
use crate::meta::Meta;
use crate::root::{Root, RootError, normal};
use crate::view::View;

/// What a layer says of one path.
#[derive(Clone, Debug)]
pub enum Entry {
    /// The path is this, whatever was there before. A directory keeps the children it had below.
    Node {
        /// Its attributes.
        meta: Meta,
        /// Its bytes; [`Content::None`] for everything but a regular file.
        content: Content,
    },
    /// The path is another name of the file at this path of the same layer or of one below.
    HardLink(PathBuf),
    /// What was at the path below is gone.
    Whiteout,
    /// The path is a directory with these attributes, and everything it held below is gone.
    Opaque(Meta),
}

impl Entry {
    /// Makes the entry of a path without content.
    pub const fn node(meta: Meta) -> Self {
        Self::Node { meta, content: Content::None }
    }

    /// Returns the attributes, if the entry carries any.
    pub const fn meta(&self) -> Option<&Meta> {
        match self {
            Self::Node { meta, .. } | Self::Opaque(meta) => Some(meta),
            Self::HardLink(_) | Self::Whiteout => None,
        }
    }
}

/// Where the bytes of a regular file are. Cloning is cheap, nothing is read before [`Content::open`].
#[derive(Clone, Debug, Default)]
pub enum Content {
    /// No bytes.
    #[default]
    None,
    /// These bytes.
    Bytes(Bytes),
    /// The regular file at `path` below `root`, opened when it is read.
    Path {
        /// The tree.
        root: Root,
        /// The file's path in it, without symbolic links.
        path: PathBuf,
    },
    /// A part of an open file.
    Range {
        /// The file.
        file: Arc<File>,
        /// Where the part starts.
        offset: u64,
        /// Its length.
        length: u64,
    },
    /// Parts of an open file with holes between them: a sparse member of an archive.
    Sparse {
        /// The file.
        file: Arc<File>,
        /// The parts that hold data, in order, without overlap.
        segments: Arc<[Segment]>,
        /// The length with all holes.
        length: u64,
    },
}

/// A part of a sparse file that holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the part belongs in the expanded file.
    pub position: u64,
    /// Where its bytes are in the archive.
    pub offset: u64,
    /// How many they are.
    pub length: u64,
}

impl Content {
    /// Opens the bytes for reading from the start.
    ///
    /// # Errors
    /// The file is gone, is not a regular file any more, or cannot be read.
    pub fn open(&self) -> Result<ContentReader, RootError> {
        self.open_with(&mut Opener::default())
    }

    fn open_with(&self, opener: &mut Opener) -> Result<ContentReader, RootError> {
        let source = match self {
            Self::None => Source::Bytes(Bytes::new()),
            Self::Bytes(bytes) => Source::Bytes(bytes.clone()),
            Self::Path { root, path } => {
                let open = match (path.parent(), path.file_name()) {
                    (Some(parent), Some(name)) => {
                        opener.directory(root, parent).and_then(|directory| directory.open_file(name))
                    }
                    _ => Err(rustix::io::Errno::ISDIR),
                };
                Source::File(open.map_err(RootError::at("open", path))?)
            }
            Self::Range { file, offset, length } => {
                let whole = Segment { position: 0, offset: *offset, length: *length };
                Source::Segments { file: Arc::clone(file), segments: Arc::new([whole]), length: *length }
            }
            Self::Sparse { file, segments, length } => {
                Source::Segments { file: Arc::clone(file), segments: Arc::clone(segments), length: *length }
            }
        };
        Ok(ContentReader { source, position: 0, next: 0 })
    }
}

/// Opens contents one after another. Those that follow each other in the order of [`Changes`] share a directory, which
/// stays open from one to the next.
#[derive(Debug, Default)]
pub struct Opener(Option<(Root, PathBuf, Directory)>);

impl Opener {
    /// Does what [`Content::open`] does.
    ///
    /// # Errors
    /// The same.
    pub fn open(&mut self, content: &Content) -> Result<ContentReader, RootError> {
        content.open_with(self)
    }

    fn directory(&mut self, root: &Root, path: &Path) -> rustix::io::Result<&Directory> {
        let last = self.0.take().filter(|(of, last, _)| of.is(root) && last.as_os_str() == path.as_os_str());
        let open = match last {
            Some(open) => open,
            None => (root.clone(), path.to_owned(), root.exact(path)?),
        };
        Ok(&self.0.insert(open).2)
    }
}

/// The bytes of a [`Content`].
#[derive(Debug)]
pub struct ContentReader {
    source: Source,
    position: u64,
    /// The first segment that does not end before `position`.
    next: usize,
}

#[derive(Debug)]
enum Source {
    Bytes(Bytes),
    File(File),
    Segments { file: Arc<File>, segments: Arc<[Segment]>, length: u64 },
}

impl ContentReader {
    /// Copies all bytes into an empty file, inside the kernel where it can, and returns how many they were. Holes
    /// stay holes.
    pub(crate) fn copy_to(&mut self, target: &mut File) -> io::Result<u64> {
        let Source::File(file) = &mut self.source else { return io::copy(self, target) };
        let attributes = file.metadata()?;
        if attributes.blocks().saturating_mul(512) < attributes.len() {
            return copy_data(file, target, attributes.len());
        }
        // copy_file_range(2), or a reflink by it
        io::copy(file, target)
    }
}

/// Copies the parts of a file that hold data.
fn copy_data(file: &File, target: &File, length: u64) -> io::Result<u64> {
    use rustix::fs::{SeekFrom, seek};
    target.set_len(length)?;
    let mut position = 0;
    while position < length {
        let start = match seek(file, SeekFrom::Data(position)) {
            // nothing but a hole is left
            Err(rustix::io::Errno::NXIO) => break,
            start => start?,
        };
        let end = seek(file, SeekFrom::Hole(start))?;
        seek(file, SeekFrom::Start(start))?;
        seek(target, SeekFrom::Start(start))?;
        if io::copy(&mut file.take(end - start), &mut &*target)? != end - start {
            return Ok(start);
        }
        position = end;
    }
    Ok(length)
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (file, segments, length) = match &mut self.source {
            Source::Bytes(bytes) => {
                let count = bytes.len().min(buffer.len());
                bytes.split_to(count).as_ref().read_exact(buffer.get_mut(..count).unwrap_or_default())?;
                return Ok(count);
            }
            Source::File(file) => return file.read(buffer),
            Source::Segments { file, segments, length } => (file, segments, *length),
        };
        while let Some(segment) = segments.get(self.next) {
            if self.position < segment.position.saturating_add(segment.length) {
                break;
            }
            self.next += 1;
        }
        let (hole_end, data) = match segments.get(self.next) {
            Some(segment) if segment.position <= self.position => (self.position, Some(segment)),
            Some(segment) => (segment.position.min(length), None),
            None => (length, None),
        };
        let count = if let Some(segment) = data {
            let inside = self.position - segment.position;
            let part = buffer.len().min(usize::try_from(segment.length - inside).unwrap_or(usize::MAX));
            let part = buffer.get_mut(..part).unwrap_or_default();
            let count = file.read_at(part, segment.offset.saturating_add(inside))?;
            if count == 0 && !part.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            count
        } else {
            let hole = usize::try_from(hole_end.saturating_sub(self.position)).unwrap_or(usize::MAX);
            let part = buffer.len().min(hole);
            buffer.get_mut(..part).unwrap_or_default().fill(0);
            part
        };
        self.position += count as u64;
        Ok(count)
    }
}

/// The entries of one layer by path. Paths are relative and normal (no `.`, no `..`, no empty component), and
/// iterate in component order: parents first, and everything below a directory right after it.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    entries: BTreeMap<PathBuf, Entry>,
    sockets: Vec<PathBuf>,
}

impl Changes {
    /// Makes an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what the layer says of `path`, and returns what it said before. The path is brought into normal
    /// form, `..` clamped at the root; the empty path is the root itself.
    pub fn insert(&mut self, path: impl AsRef<Path>, entry: Entry) -> Option<Entry> {
        self.entries.insert(normal(path.as_ref()), entry)
    }

    /// Returns what the layer says of `path`.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Entry> {
        self.entries.get(path.as_ref())
    }

    /// Takes out what the layer says of `path`.
    pub fn remove(&mut self, path: impl AsRef<Path>) -> Option<Entry> {
        self.entries.remove(path.as_ref())
    }

    /// Takes out what the layer says of `path` and of everything below it, and returns it in order.
    pub fn remove_below(&mut self, path: &Path) -> Vec<(PathBuf, Entry)> {
        let below = self.entries.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
        let below: Vec<_> = below.map(|(at, _)| at).take_while(|at| at.starts_with(path)).cloned().collect();
        let taken = below.into_iter().filter_map(|at| self.entries.remove_entry(&at));
        taken.collect()
    }

    /// Takes out what the layer says of a path and of everything below it.
    pub(crate) fn remove_tree(&mut self, path: &Path) {
        for path in self.below(path) {
            self.entries.remove(&path);
        }
    }

    /// Returns the paths of the entries at a path and below it.
    pub(crate) fn below(&self, path: &Path) -> Vec<PathBuf> {
        let from_path = self.entries.range(path.to_owned()..).map(|(below, _)| below);
        from_path.take_while(|below| below.starts_with(path)).cloned().collect()
    }

    /// Returns the sockets that were found where these changes come from: a layer holds none.
    pub fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    pub(crate) fn leave_out_socket(&mut self, path: PathBuf) {
        self.sockets.push(path);
    }

    /// Returns all entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_path(), entry))
    }

    /// Returns all entries in order, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Path, &mut Entry)> {
        self.entries.iter_mut().map(|(path, entry)| (path.as_path(), entry))
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lists every ancestor directory that has no entry yet, with the attributes it has in `view`, or
    /// [`Meta::default_directory`]. The root itself is not listed.
    ///
    /// # Errors
    /// The view cannot be read.
    pub fn with_parents(mut self, view: &View) -> Result<Self, RootError> {
        for parent in self.missing_parents() {
            let meta = view.metadata(&parent)?.filter(Meta::is_dir);
            self.entries.insert(parent, Entry::node(meta.unwrap_or_else(Meta::default_directory)));
        }
        Ok(self)
    }

    /// Returns every ancestor directory that has no entry, in order. The root itself is not one.
    pub fn missing_parents(&self) -> BTreeSet<PathBuf> {
        let mut missing = BTreeSet::new();
        let mut last = Path::new("");
        for path in self.entries.keys() {
            let parent = path.parent().unwrap_or(last);
            if parent.as_os_str() == last.as_os_str() {
                continue;
            }
            last = parent;
            for parent in path.ancestors().skip(1) {
                // the ancestors of an entry are listed when it is its own turn
                if parent.as_os_str().is_empty()
                    || self.entries.contains_key(parent)
                    || !missing.insert(parent.to_owned())
                {
                    break;
                }
            }
        }
        missing
    }

    /// Moves every entry, and the targets of hard links, below `destination`.
    #[must_use]
    pub fn rebase(self, destination: &Path) -> Self {
        let destination = normal(destination);
        let moved = self.entries.into_iter().map(|(path, entry)| {
            let entry = match entry {
                Entry::HardLink(target) => Entry::HardLink(join(&destination, &target)),
                entry => entry,
            };
            (join(&destination, &path), entry)
        });
        Self { entries: moved.collect(), sockets: self.sockets }
    }
}

/// Joins two normal paths. [`Path::join`] alone would end in a slash for an empty second path.
fn join(parent: &Path, child: &Path) -> PathBuf {
    if child.as_os_str().is_empty() { parent.to_owned() } else { parent.join(child) }
}

impl FromIterator<(PathBuf, Entry)> for Changes {
    fn from_iter<I: IntoIterator<Item = (PathBuf, Entry)>>(entries: I) -> Self {
        let entries = entries.into_iter().map(|(path, entry)| (normal(&path), entry)).collect();
        Self { entries, sockets: Vec::new() }
    }
}

impl Extend<(PathBuf, Entry)> for Changes {
    fn extend<I: IntoIterator<Item = (PathBuf, Entry)>>(&mut self, entries: I) {
        self.entries.extend(entries.into_iter().map(|(path, entry)| (normal(&path), entry)));
    }
}

impl IntoIterator for Changes {
    type Item = (PathBuf, Entry);
    type IntoIter = std::collections::btree_map::IntoIter<PathBuf, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Kind;
    use std::io::Write;

    fn paths(changes: &Changes) -> Vec<&str> {
        changes.iter().map(|(path, _)| path.to_str().unwrap()).collect()
    }

    #[test]
    fn paths_are_normal_and_in_component_order() {
        let mut changes = Changes::new();
        for path in ["/a/b", "a.txt", "a", "./x//y/.", "../../up/../z", "/"] {
            changes.insert(path, Entry::Whiteout);
        }
        assert_eq!(paths(&changes), ["", "a", "a/b", "a.txt", "x/y", "z"]);
    }

    #[test]
    fn ancestors_take_the_attributes_of_the_view() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("a/b")).unwrap();
        let view = View::directory(Root::open(tree.path()).unwrap());
        let mut changes = Changes::new();
        changes.insert("a/b/c", Entry::node(Meta::new(Kind::File, 0o644)));
        changes.insert("n/m", Entry::Whiteout);
        let changes = changes.with_parents(&view).unwrap();
        assert_eq!(paths(&changes), ["a", "a/b", "a/b/c", "n", "n/m"]);
        assert_eq!(changes.get("a/b").unwrap().meta(), view.metadata(Path::new("a/b")).unwrap().as_ref());
        assert_eq!(changes.get("n").unwrap().meta(), Some(&Meta::default_directory()));
    }

    #[test]
    fn subtrees_are_taken_out_whole() {
        let mut changes: Changes = ["a", "a/b", "a/b/c", "a.txt", "ab"]
            .map(|path| (path.into(), Entry::Whiteout))
            .into_iter()
            .collect();
        let taken: Vec<_> = changes.remove_below(Path::new("a")).into_iter().map(|(path, _)| path).collect();
        assert_eq!(taken, ["a", "a/b", "a/b/c"].map(PathBuf::from));
        assert_eq!(paths(&changes), ["a.txt", "ab"]);
    }

    #[test]
    fn an_opener_tells_directories_and_trees_apart() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut opener = Opener::default();
        for (tree, path) in [(&one, "d/f"), (&one, "d/g"), (&other, "d/f"), (&other, "f"), (&one, "d/f")] {
            let at = tree.path().join(path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(&at, at.as_os_str().as_encoded_bytes()).unwrap();
            let root = Root::open(tree.path()).unwrap();
            for root in [root.clone(), root] {
                let mut read = Vec::new();
                let content = Content::Path { root, path: path.into() };
                opener.open(&content).unwrap().read_to_end(&mut read).unwrap();
                assert_eq!(read, at.as_os_str().as_encoded_bytes());
            }
        }
    }

    #[test]
    fn rebasing_moves_link_targets() {
        let mut changes = Changes::new();
        changes.insert("", Entry::Opaque(Meta::default_directory()));
        changes.insert("l", Entry::HardLink("f".into()));
        let changes = changes.rebase(Path::new("/to/./here/"));
        assert_eq!(paths(&changes), ["to/here", "to/here/l"]);
        assert!(
            matches!(changes.get("to/here/l"), Some(Entry::HardLink(to)) if to == Path::new("to/here/f"))
        );
    }

    #[test]
    fn content_is_read_wherever_it_is() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let file = Arc::new(file);
        let segment = |position, offset, length| Segment { position, offset, length };
        let check = |content: Content, expect: &[u8]| {
            let mut read = Vec::new();
            content.open().unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, expect);
        };
        check(Content::None, b"");
        check(Content::Bytes(Bytes::from_static(b"abc")), b"abc");
        check(Content::Range { file: Arc::clone(&file), offset: 3, length: 4 }, b"3456");
        let segments = [segment(2, 0, 2), segment(4, 8, 1), segment(6, 5, 1)];
        check(
            Content::Sparse { file: Arc::clone(&file), segments: segments.into(), length: 8 },
            &[0, 0, b'0', b'1', b'8', 0, b'5', 0],
        );
        let cut = Content::Range { file, offset: 8, length: 4 };
        assert!(cut.open().unwrap().read_to_end(&mut Vec::new()).is_err());
    }
}
