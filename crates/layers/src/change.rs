//! What one layer says, as a value: [`Changes`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

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
        let source = match self {
            Self::None => Source::Bytes(Bytes::new()),
            Self::Bytes(bytes) => Source::Bytes(bytes.clone()),
            Self::Path { root, path } => {
                let open = match (path.parent(), path.file_name()) {
                    (Some(parent), Some(name)) => {
                        root.exact(parent).and_then(|directory| directory.open_file(name))
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
    /// Copies all bytes into a file, inside the kernel where it can, and returns how many they were.
    pub(crate) fn copy_to(&mut self, target: &mut File) -> io::Result<u64> {
        match &mut self.source {
            // copy_file_range(2), or a reflink by it
            Source::File(file) => io::copy(file, target),
            _ => io::copy(self, target),
        }
    }
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
        let mut missing = BTreeMap::new();
        for path in self.entries.keys() {
            for parent in path.ancestors().skip(1) {
                if parent.as_os_str().is_empty()
                    || self.entries.contains_key(parent)
                    || missing.contains_key(parent)
                {
                    // the ancestors of an entry are listed when it is its own turn
                    break;
                }
                let meta = view.metadata(parent)?.filter(Meta::is_dir);
                let meta = meta.unwrap_or_else(Meta::default_directory);
                missing.insert(parent.to_owned(), Entry::node(meta));
            }
        }
        self.entries.extend(missing);
        Ok(self)
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
        Self { entries: moved.collect() }
    }
}

/// Joins two normal paths. [`Path::join`] alone would end in a slash for an empty second path.
fn join(parent: &Path, child: &Path) -> PathBuf {
    if child.as_os_str().is_empty() { parent.to_owned() } else { parent.join(child) }
}

impl FromIterator<(PathBuf, Entry)> for Changes {
    fn from_iter<I: IntoIterator<Item = (PathBuf, Entry)>>(entries: I) -> Self {
        Self { entries: entries.into_iter().map(|(path, entry)| (normal(&path), entry)).collect() }
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
