//! What one layer says, as a value: [`Changes`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::meta::Meta;
use crate::root::{Root, RootError};
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
        unimplemented!()
    }
}

/// The bytes of a [`Content`].
#[derive(Debug)]
pub struct ContentReader {}

impl Read for ContentReader {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        unimplemented!()
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

    /// Sets what the layer says of `path`, and returns what it said before. `path` is made relative; `.` and
    /// empty components are dropped.
    ///
    /// # Panics
    /// Never; a path with `..` is stored clamped at the root.
    pub fn insert(&mut self, path: impl AsRef<Path>, entry: Entry) -> Option<Entry> {
        self.entries.insert(path.as_ref().to_owned(), entry)
    }

    /// Returns what the layer says of `path`.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Entry> {
        self.entries.get(path.as_ref())
    }

    /// Takes out what the layer says of `path`.
    pub fn remove(&mut self, path: impl AsRef<Path>) -> Option<Entry> {
        self.entries.remove(path.as_ref())
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
    pub fn with_parents(self, _view: &View) -> Result<Self, RootError> {
        unimplemented!()
    }

    /// Moves every entry, and the targets of hard links, below `destination`.
    #[must_use]
    pub fn rebase(self, _destination: &Path) -> Self {
        unimplemented!()
    }
}
