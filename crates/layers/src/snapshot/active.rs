//! A tree that one step may change.

use std::path::{Path, PathBuf};

use super::SnapshotError;
use super::plain::Tree;
use crate::apply::{apply, apply_to_tree};
use crate::change::{Changes, Entry};
use crate::changes::{from_tree, from_upper};
use crate::meta::{Kind, Meta, Time};
use crate::owner::OwnerTable;
use crate::root::Root;
use crate::store::Scratch;
use crate::view::{Follow, View};

/// The name of the work directory of an overlay mount.
pub(super) const WORK: &str = "work";

/// What is going to be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountPoint {
    /// A file: anything but a directory can lie under it.
    File,
    /// A directory.
    Directory,
}

/// A tree that one step may change. Dropped without a commit, it is removed.
#[derive(Debug)]
pub struct Active {
    tree: ActiveTree,
    lower_roots: Vec<Root>,
    stubs: Vec<Stub>,
}

/// What there is on disk.
#[derive(Debug)]
pub(super) enum ActiveTree {
    Overlay { lower: Vec<PathBuf>, upper: Root, scratch: Scratch },
    Directory(Tree),
}

/// Where an active tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActiveRootfs {
    /// The directories of an overlay mount, all on one file system. overlayfs refuses the work directory of an
    /// earlier `volatile` mount, so they serve one mount.
    Overlay {
        /// The lower directories, lowest first; never empty.
        lower: Vec<PathBuf>,
        /// The upper directory.
        upper: PathBuf,
        /// The work directory.
        work: PathBuf,
    },
    /// A directory that is changed in place.
    Directory(PathBuf),
}

/// A path that exists only to be mounted on.
#[derive(Debug)]
struct Stub {
    path: PathBuf,
    meta: Meta,
}

impl Active {
    pub(super) const fn overlay(
        lower: Vec<PathBuf>,
        upper: Root,
        lower_roots: Vec<Root>,
        scratch: Scratch,
    ) -> Self {
        let tree = ActiveTree::Overlay { lower, upper, scratch };
        Self { tree, lower_roots, stubs: Vec::new() }
    }

    pub(super) const fn directory(tree: Tree, lower_roots: Vec<Root>) -> Self {
        Self { tree: ActiveTree::Directory(tree), lower_roots, stubs: Vec::new() }
    }

    pub(super) fn into_tree(self) -> ActiveTree {
        self.tree
    }

    pub(super) const fn scratch(&self) -> &Scratch {
        match &self.tree {
            ActiveTree::Overlay { scratch, .. } | ActiveTree::Directory(Tree { scratch, .. }) => scratch,
        }
    }

    /// Returns where it is.
    #[must_use]
    pub fn rootfs(&self) -> ActiveRootfs {
        match &self.tree {
            ActiveTree::Overlay { lower, upper, scratch } => ActiveRootfs::Overlay {
                lower: lower.clone(),
                upper: upper.path().to_owned(),
                work: scratch.path().join(WORK),
            },
            ActiveTree::Directory(tree) => ActiveRootfs::Directory(tree.root.path().to_owned()),
        }
    }

    /// Returns what the step writes to: the upper directory, or the whole tree.
    #[must_use]
    pub const fn root(&self) -> &Root {
        match &self.tree {
            ActiveTree::Overlay { upper, .. } => upper,
            ActiveTree::Directory(tree) => &tree.root,
        }
    }

    /// Returns where the owners of links, pipes and sockets are recorded; none where files have their owners.
    #[must_use]
    pub fn owners(&self) -> Option<&OwnerTable> {
        self.root().owners()
    }

    /// Changes the tree as the step itself might.
    ///
    /// # Errors
    /// The file system refuses; what was written stays.
    pub fn write(&self, changes: &Changes) -> Result<(), SnapshotError> {
        match &self.tree {
            ActiveTree::Overlay { upper, .. } => apply(changes, upper, &self.lower_view())?,
            ActiveTree::Directory(tree) => apply_to_tree(changes, &tree.root)?,
        }
        Ok(())
    }

    /// Lists what changed, the same whichever form the tree has. Not to be called while it is mounted.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn changes(&mut self) -> Result<Changes, SnapshotError> {
        let lower = self.lower_view();
        match &mut self.tree {
            ActiveTree::Overlay { upper, .. } => Ok(from_upper(upper, &lower)?),
            ActiveTree::Directory(tree) => {
                let (listing, changed) = tree.listing.compare(&tree.root)?;
                let changes = from_tree(&tree.root, &changed, &lower)?;
                tree.listing = listing;
                Ok(changes)
            }
        }
    }

    /// Sets times later than `seconds` after the epoch to that, in `changes` and in the tree they were listed of: later steps
    /// see what the layer says, as they do when it is unpacked.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn clamp(&self, changes: &mut Changes, seconds: i64) -> Result<(), SnapshotError> {
        for (path, entry) in changes.iter_mut() {
            if let Entry::Node { meta, .. } | Entry::Opaque(meta) = entry
                && meta.mtime > Time::seconds(seconds)
            {
                meta.mtime = Time::seconds(seconds);
                self.root().set_meta(path, meta)?;
            }
        }
        Ok(())
    }

    /// Returns the tree before the step.
    #[must_use]
    pub fn lower_view(&self) -> View {
        View::overlay(self.lower_roots.clone())
    }

    /// Returns the tree as it is now. Not to be read while it is mounted.
    #[must_use]
    pub fn view(&self) -> View {
        match &self.tree {
            ActiveTree::Overlay { upper, .. } => self.lower_view().with_layer(upper.clone()),
            ActiveTree::Directory(tree) => View::directory(tree.root.clone()),
        }
    }

    /// Finds where `path` leads inside the tree and makes it a place to mount on: what is missing is made in
    /// the upper directory (mode 0755, owned by 0:0) and remembered for [`Active::remove_stubs`]. Returns the
    /// path without symbolic links, relative to the root.
    ///
    /// # Errors
    /// [`SnapshotError::MountPoint`] when a directory would be mounted on a file or the reverse, or leads
    /// through one; the tree cannot be read or written.
    pub fn mount_point(&mut self, path: &Path, kind: MountPoint) -> Result<PathBuf, SnapshotError> {
        let view = self.view();
        let resolved = view.resolve(path, Follow::All)?;
        match resolved.meta {
            Some(meta) => check_kind(&resolved.path, &meta, kind)?,
            None => self.make_stubs(&view, &resolved.path, kind)?,
        }
        Ok(resolved.path)
    }

    fn make_stubs(&mut self, view: &View, path: &Path, kind: MountPoint) -> Result<(), SnapshotError> {
        let upper = self.root().clone();
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
        let upper = self.root().clone();
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
