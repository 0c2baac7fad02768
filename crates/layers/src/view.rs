//! The tree that layers make when they lie on top of one another, without a mount: [`View`].

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::change::Content;
use crate::meta::Meta;
use crate::root::{FileId, Root, RootError};

/// Which symbolic links [`View::resolve`] follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// All of them, as `stat` does.
    All,
    /// Those in the parents of the last component, as `lstat` does.
    Parents,
}

/// Where a path leads in a view.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The path without symbolic links, relative to the root; empty for the root. What does not exist is kept.
    pub path: PathBuf,
    /// What is there; none if nothing.
    pub meta: Option<Meta>,
}

/// A read-only tree: a plain directory, or the directories of layers merged as overlayfs merges them.
///
/// Only [`View::resolve`] and [`View::read`] follow symbolic links. All other methods take a path as `resolve`
/// returns it; one that leads over a symbolic link does not exist for them.
#[derive(Clone, Debug)]
pub struct View {
    layers: Vec<Root>,
}

impl View {
    /// Makes the view of nothing but an empty root directory.
    pub fn empty() -> Self {
        Self { layers: Vec::new() }
    }

    /// Makes the view of one plain directory, where no file has a special meaning.
    pub fn directory(root: Root) -> Self {
        Self { layers: vec![root] }
    }

    /// Makes the view of layer directories, lowest first, in the form overlayfs keeps them with `userxattr`.
    pub fn overlay(layers: Vec<Root>) -> Self {
        Self { layers }
    }

    /// Reads the attributes of a path; none if it does not exist.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn metadata(&self, _path: &Path) -> Result<Option<Meta>, RootError> {
        unimplemented!()
    }

    /// Finds where a path leads, below the root: absolute links and `..` are clamped there.
    ///
    /// # Errors
    /// [`RootError::TooManyLinks`] after 40 symbolic links; a layer cannot be read.
    pub fn resolve(&self, _path: &Path, _follow: Follow) -> Result<Resolved, RootError> {
        unimplemented!()
    }

    /// Returns the names in a directory, sorted by bytes.
    ///
    /// # Errors
    /// The path is missing or not a directory; a layer cannot be read.
    pub fn read_dir(&self, _path: &Path) -> Result<Vec<OsString>, RootError> {
        unimplemented!()
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// The path is missing, is not a regular file, or may not be read.
    pub fn open(&self, _path: &Path) -> Result<File, RootError> {
        unimplemented!()
    }

    /// Returns where the bytes of a regular file are, to be opened later.
    ///
    /// # Errors
    /// The path is missing or not a regular file; a layer cannot be read.
    pub fn content(&self, _path: &Path) -> Result<Content, RootError> {
        unimplemented!()
    }

    /// Reads at most `limit` bytes of the file a path leads to, symbolic links followed; none if there is none.
    ///
    /// # Errors
    /// The file is longer than `limit` (`EFBIG`), is not a regular file, or cannot be read.
    pub fn read(&self, _path: &Path, _limit: u64) -> Result<Option<Vec<u8>>, RootError> {
        unimplemented!()
    }

    /// Returns the identity of a path; none if it does not exist.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn file_id(&self, _path: &Path) -> Result<Option<FileId>, RootError> {
        unimplemented!()
    }

    /// Visits everything below a directory, itself not included, parents first and names sorted by bytes. The
    /// visitor says whether to go into a directory.
    ///
    /// # Errors
    /// The path is not a directory, or a layer cannot be read; what the visitor returns.
    pub fn walk<E: From<RootError>>(
        &self,
        _path: &Path,
        _visit: &mut dyn FnMut(&Visit<'_>) -> Result<Descend, E>,
    ) -> Result<(), E> {
        unimplemented!()
    }
}

/// One path of a [`View::walk`].
#[derive(Debug)]
pub struct Visit<'a> {
    /// The path from the root of the view.
    pub path: &'a Path,
    /// Its attributes.
    pub meta: &'a Meta,
    /// Its identity, to find hard links.
    pub id: FileId,
    /// Its bytes, if it is a regular file.
    pub content: Content,
}

/// Whether [`View::walk`] goes into a directory. Means nothing for anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descend {
    /// Visit its children.
    Into,
    /// Leave them out.
    Skip,
}
