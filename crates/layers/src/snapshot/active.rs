//! A tree that one step may change.

use std::path::{Path, PathBuf};

use super::SnapshotError;
use crate::meta::{Kind, Meta};
use crate::root::Root;
use crate::store::Scratch;
use crate::view::{Follow, View};

/// What is going to be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountPoint {
    /// A file: anything but a directory can lie under it.
    File,
    /// A directory.
    Directory,
}

/// The directories of an overlay mount with a fresh upper directory, all on one file system.
///
/// Dropped without a commit, it is removed. overlayfs refuses the work directory of an earlier `volatile`
/// mount, so one of these serves one mount.
#[derive(Debug)]
pub struct Active {
    /// The lower directories, lowest first; never empty.
    pub lower: Vec<PathBuf>,
    /// The upper directory.
    pub upper: PathBuf,
    /// The work directory.
    pub work: PathBuf,
    lower_roots: Vec<Root>,
    stubs: Vec<Stub>,
    scratch: Scratch,
}

/// A path that exists only to be mounted on.
#[derive(Debug)]
struct Stub {
    path: PathBuf,
    meta: Meta,
}

impl Active {
    pub(super) fn new(lower: Vec<PathBuf>, upper: PathBuf, lower_roots: Vec<Root>, scratch: Scratch) -> Self {
        let work = scratch.path().join("work");
        Self { lower, upper, work, lower_roots, stubs: Vec::new(), scratch }
    }

    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Opens the upper directory.
    ///
    /// # Errors
    /// It is gone.
    pub fn upper_root(&self) -> Result<Root, SnapshotError> {
        Ok(Root::open(&self.upper)?)
    }

    /// Returns the tree before the step.
    #[must_use]
    pub fn lower_view(&self) -> View {
        View::overlay(self.lower_roots.clone())
    }

    /// Returns the tree as it is now. Not to be read while it is mounted.
    ///
    /// # Errors
    /// The upper directory is gone.
    pub fn view(&self) -> Result<View, SnapshotError> {
        let mut layers = self.lower_roots.clone();
        layers.push(self.upper_root()?);
        Ok(View::overlay(layers))
    }

    /// Finds where `path` leads inside the tree and makes it a place to mount on: what is missing is made in
    /// the upper directory (mode 0755, owned by 0:0) and remembered for [`Active::remove_stubs`]. Returns the
    /// path without symbolic links, relative to the root.
    ///
    /// # Errors
    /// [`SnapshotError::MountPoint`] when a directory would be mounted on a file or the reverse, or leads
    /// through one; the tree cannot be read or written.
    pub fn mount_point(&mut self, path: &Path, kind: MountPoint) -> Result<PathBuf, SnapshotError> {
        let view = self.view()?;
        let resolved = view.resolve(path, Follow::All)?;
        match resolved.meta {
            Some(meta) => check_kind(&resolved.path, &meta, kind)?,
            None => self.make_stubs(&view, &resolved.path, kind)?,
        }
        Ok(resolved.path)
    }

    fn make_stubs(&mut self, view: &View, path: &Path, kind: MountPoint) -> Result<(), SnapshotError> {
        let upper = self.upper_root()?;
        let mut parent = PathBuf::new();
        let mut parent_meta = view.metadata(&parent)?.unwrap_or_else(Meta::default_directory);
        let last = path.components().count().saturating_sub(1);
        for (index, name) in path.components().enumerate() {
            let child = parent.join(name);
            let existing = view.metadata(&child)?;
            let meta = match &existing {
                Some(meta) => {
                    check_kind(&child, meta, MountPoint::Directory)?;
                    meta.clone()
                }
                None if index == last && kind == MountPoint::File => Meta::new(Kind::File, 0o755),
                None => Meta::default_directory(),
            };
            if upper.metadata(&child)?.is_none() {
                create(&upper, &child, &meta)?;
                upper.set_meta(&parent, &parent_meta)?;
                if existing.is_none() {
                    self.stubs.push(Stub { path: child.clone(), meta: meta.clone() });
                }
            }
            (parent, parent_meta) = (child, meta);
        }
        Ok(())
    }

    /// Takes out what [`Active::mount_point`] made and the step left as it was, restoring the times of the
    /// parents. A stub the step changed or filled stays.
    ///
    /// # Errors
    /// The upper directory cannot be read or written.
    pub fn remove_stubs(&mut self) -> Result<(), SnapshotError> {
        let upper = self.upper_root()?;
        let view = View::directory(upper.clone());
        while let Some(stub) = self.stubs.pop() {
            // A step can rename the parents and leave a symbolic link in their place.
            let in_place = view.resolve(&stub.path, Follow::Parents)?.path == stub.path;
            if !in_place || !is_untouched(&upper, &stub)? {
                continue;
            }
            let parent = stub.path.parent().unwrap_or(Path::new(""));
            let parent_meta = upper.metadata(parent)?;
            upper.remove(&stub.path)?;
            if let Some(meta) = parent_meta {
                upper.set_meta(parent, &meta)?;
            }
        }
        Ok(())
    }
}

fn check_kind(path: &Path, meta: &Meta, kind: MountPoint) -> Result<(), SnapshotError> {
    let expected = match (kind, meta.is_dir()) {
        (MountPoint::Directory, false) => "directory",
        (MountPoint::File, true) => "file",
        _ => return Ok(()),
    };
    Err(SnapshotError::MountPoint { path: path.to_owned(), expected })
}

fn create(upper: &Root, path: &Path, meta: &Meta) -> Result<(), SnapshotError> {
    if meta.is_dir() {
        upper.create_dir(path)?;
    } else {
        upper.create_file(path)?;
    }
    Ok(upper.set_meta(path, meta)?)
}

/// Times do not count: making and removing a mount on a stub, or a stub below it, moves them.
fn is_untouched(upper: &Root, stub: &Stub) -> Result<bool, SnapshotError> {
    let Some(meta) = upper.metadata(&stub.path)? else { return Ok(false) };
    let same = Meta { mtime: stub.meta.mtime, ..meta } == stub.meta;
    Ok(same && (!stub.meta.is_dir() || upper.read_dir(&stub.path)?.is_empty()))
}
