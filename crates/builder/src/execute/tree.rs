//! Where COPY, ADD and bind mounts read from: the build context, a stage or an image.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rbuild_layers::{Content, FileId, Follow, Meta, RootError, View};

use super::{links, pattern};
use crate::context::ContextDir;

/// A tree to read from. Paths are relative to its root and, but for [`Tree::resolve`], free of symbolic links.
#[derive(Debug, Clone)]
pub(crate) enum Tree {
    /// A local directory without what its ignore file excludes; everything belongs to 0:0.
    Context(Arc<ContextDir>),
    /// The rootfs of a stage or an image, with its own owners.
    Rootfs(View),
}

impl Tree {
    pub(crate) fn metadata(&self, path: &Path) -> Result<Option<Meta>, RootError> {
        match self {
            Self::Context(context) => context.metadata(path),
            Self::Rootfs(view) => view.metadata(path),
        }
    }

    pub(crate) fn resolve(&self, path: &Path, follow: Follow) -> Result<PathBuf, RootError> {
        match self {
            Self::Context(context) => links::resolve(&|path| context.metadata(path), path, follow),
            Self::Rootfs(view) => Ok(view.resolve(path, follow)?.path),
        }
    }

    pub(crate) fn read_dir(&self, path: &Path) -> Result<Vec<OsString>, RootError> {
        match self {
            Self::Context(context) => context.read_dir(path),
            Self::Rootfs(view) => view.read_dir(path),
        }
    }

    /// The directory, if this is one: it may change while a build reads it.
    pub(crate) fn context(&self) -> Option<&ContextDir> {
        match self {
            Self::Context(context) => Some(context),
            Self::Rootfs(_) => None,
        }
    }

    /// Gets ready for a walk of everything below a directory.
    pub(crate) fn read_ahead(&self, path: &Path) {
        if let Self::Context(context) = self {
            context.read_ahead(path);
        }
    }

    pub(crate) fn content(&self, path: &Path) -> Result<Content, RootError> {
        match self {
            Self::Context(context) => Ok(context.content(path)),
            Self::Rootfs(view) => view.content(path),
        }
    }

    pub(crate) fn file_id(&self, path: &Path) -> Result<Option<FileId>, RootError> {
        match self {
            Self::Context(context) => context.file_id(path),
            Self::Rootfs(view) => view.file_id(path),
        }
    }

    /// The paths a COPY source stands for, in walk order; a source without wildcards is itself, existing or not.
    ///
    /// The components before the first wildcard are followed, those matched by wildcards are not: a match that is a
    /// symbolic link is followed when it is copied, but not on the way to deeper matches.
    pub(crate) fn expand(&self, source: &str) -> Result<Vec<PathBuf>, RootError> {
        let components = clean(Path::new(source));
        let Some(first) = components.iter().position(|name| pattern::has_wildcard(name.as_bytes())) else {
            return Ok(vec![components.iter().collect()]);
        };
        let (literal, wild) = components.split_at(first);
        let start = self.resolve(&literal.iter().collect::<PathBuf>(), Follow::All)?;
        let mut found = Vec::new();
        if self.metadata(&start)?.is_some_and(|meta| meta.is_dir()) {
            self.expand_below(&start, wild, &mut found)?;
        }
        Ok(found)
    }

    fn expand_below(&self, at: &Path, wild: &[OsString], found: &mut Vec<PathBuf>) -> Result<(), RootError> {
        let Some((first, rest)) = wild.split_first() else { return Ok(()) };
        for name in self.read_dir(at)? {
            // A malformed pattern matches nothing, as in BuildKit.
            if !pattern::matches(first.as_bytes(), name.as_bytes()).unwrap_or(false) {
                continue;
            }
            let path = at.join(&name);
            if rest.is_empty() {
                found.push(path);
            } else if self.metadata(&path)?.is_some_and(|meta| meta.is_dir()) {
                self.expand_below(&path, rest, found)?;
            }
        }
        Ok(())
    }
}

/// The components of a path with `.` dropped and `..` taken back, never above the root.
pub(crate) fn clean(path: &Path) -> Vec<OsString> {
    let mut components = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => components.push(name.to_owned()),
            Component::ParentDir => {
                components.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    components
}
