//! `RUN --mount`: what is bound into the rootfs for one step.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rbuild_layers::{
    Changes, Content, Follow, Kind, Meta, MountPoint, Root, Scratch, Store, Time, View, apply,
};
use rbuild_sandbox::{Access, Mount, MountKind};

use super::copier::{Attributes, Copier, CopyError};
use super::draft::Draft;
use super::error::StepError;
use super::selection::Selection;
use super::tree::Tree;
use crate::cache::content;
use crate::cache::key::KeyHasher;
use crate::plan::{self, BindMount, CacheMount, Sharing, Source, StepMount};

/// The name under which a copied source stands in its scratch directory.
const COPIED: &str = "source";

/// Private copies of one cache directory that may be in use at the same time.
const MAX_PRIVATE: usize = 64;

/// The mode of a tmpfs root, as the kernel has it by default.
const TMPFS_MODE: u32 = 0o1777;

/// What a step mounts, and what has to live until it ends.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// Mounts and the kind of their targets, in order.
    pub mounts: Vec<(PathBuf, MountPoint, MountKind)>,
    copies: Vec<Scratch>,
    locks: Vec<File>,
}

/// The tree and the path in it that a mount reads, when its content is part of the step's key.
pub(crate) fn reads(mount: &StepMount) -> Option<(&Source, &str)> {
    match mount {
        StepMount::Bind(BindMount { from, source, .. }) => Some((from, source)),
        StepMount::Cache(CacheMount { from: Some(from), source, .. }) => Some((from, source)),
        StepMount::Cache(_) | StepMount::Tmpfs { .. } | StepMount::Secret(_) | StepMount::Ssh(_) => None,
    }
}

/// The subtree at `path`, or the file, below the name `source`.
pub(crate) fn collect(tree: &Tree, path: &str, now: Time) -> Result<Changes, StepError> {
    let failed = |source| StepError::Copy { path: path.to_owned(), source };
    let source =
        tree.resolve(Path::new(path), Follow::All).map_err(|error| failed(CopyError::Source(error)))?;
    let meta = tree.metadata(&source).map_err(|error| failed(CopyError::Source(error)))?;
    let mut draft = Draft::new(View::empty());
    if let Some(meta) = meta.filter(rbuild_layers::Meta::is_dir) {
        draft.put(Path::new(COPIED), meta, rbuild_layers::Content::None)?;
    }
    let attributes = Attributes { owner: None, mode: None, now };
    let selection = Selection::default();
    Copier::new(tree, &mut draft, &attributes, &selection)
        .copy(&source, &format!("/{COPIED}"))
        .map_err(failed)?;
    Ok(draft.take_changes()?)
}

impl Prepared {
    /// Mounts a copy of a subtree: what the step writes goes with it, and owners are those of the source tree.
    pub(crate) fn bind(
        &mut self,
        store: &Store,
        mount: &BindMount,
        content: &Changes,
    ) -> Result<(), StepError> {
        let failed = |source| mount_error(&mount.target, source);
        let scratch = copied(store, content).map_err(failed)?;
        let source = scratch.path().join(COPIED);
        let kind = if source.is_dir() { MountPoint::Directory } else { MountPoint::File };
        self.copies.push(scratch);
        self.push(&mount.target, kind, source, mount.access);
        Ok(())
    }

    /// Mounts a directory that outlives the build; `content` is what a new one starts with.
    pub(crate) fn cache(
        &mut self,
        store: &Store,
        mount: &CacheMount,
        content: Option<&Changes>,
    ) -> Result<(), StepError> {
        let failed = |source| mount_error(&mount.target, source);
        let (directory, lock) = cache_directory(store, mount, content).map_err(failed)?;
        self.locks.extend(lock);
        self.push(&mount.target, MountPoint::Directory, directory, mount.access);
        Ok(())
    }

    /// Mounts an empty memory file system.
    pub(crate) fn tmpfs(&mut self, target: &str, size: Option<u64>) {
        let kind = MountKind::Tmpfs { size, mode: TMPFS_MODE };
        self.mounts.push((PathBuf::from(target), MountPoint::Directory, kind));
    }

    /// Mounts files of the builder, by name, as a read-only directory.
    pub(crate) fn files(
        &mut self,
        store: &Store,
        target: &str,
        files: &[plan::ScriptFile],
    ) -> Result<(), StepError> {
        let scratch = store.scratch().map_err(|error| mount_error(target, error))?;
        for file in files {
            let path = scratch.path().join(&file.name);
            let written = std::fs::write(&path, &file.content)
                .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(file.mode)));
            written.map_err(|source| StepError::Write { path, source })?;
        }
        let open = std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755));
        open.map_err(|source| StepError::Write { path: scratch.path().to_owned(), source })?;
        self.push(target, MountPoint::Directory, scratch.path().to_owned(), plan::Access::ReadOnly);
        self.copies.push(scratch);
        Ok(())
    }

    /// The mounts, once their targets exist at `resolved` paths.
    pub(crate) fn push(&mut self, target: &str, kind: MountPoint, source: PathBuf, access: plan::Access) {
        let access = match access {
            plan::Access::ReadOnly => Access::ReadOnly,
            plan::Access::ReadWrite => Access::ReadWrite,
        };
        let bind = MountKind::Bind { source, access, recursive: false };
        self.mounts.push((PathBuf::from(target), kind, bind));
    }
}

/// The default mounts of every step and the two network files.
pub(crate) fn defaults(hosts: PathBuf, resolv_conf: PathBuf) -> Vec<(PathBuf, MountPoint, MountKind)> {
    let read_only = |source| MountKind::Bind { source, access: Access::ReadOnly, recursive: false };
    let mut mounts: Vec<_> = Mount::defaults()
        .into_iter()
        .map(|mount| (mount.target, MountPoint::Directory, mount.kind))
        .collect();
    mounts.push((PathBuf::from("etc/hosts"), MountPoint::File, read_only(hosts)));
    mounts.push((PathBuf::from("etc/resolv.conf"), MountPoint::File, read_only(resolv_conf)));
    mounts
}

fn mount_error(target: &str, source: impl Into<super::error::Cause>) -> StepError {
    StepError::Mount { target: target.to_owned(), source: source.into() }
}

fn copied(store: &Store, content: &Changes) -> Result<Scratch, super::error::Cause> {
    let scratch = store.scratch()?;
    apply(content, &Root::open(scratch.path())?, &View::empty())?;
    Ok(scratch)
}

/// Lets the targets of inner mounts exist: a mount that lies in another one has its target made in the outer's source,
/// where that is a directory of the builder's.
pub(crate) fn make_inner_targets(mounts: &[(PathBuf, MountPoint, MountKind)]) -> Result<(), StepError> {
    for (at, (target, point, _)) in mounts.iter().enumerate() {
        let outer =
            mounts.iter().take(at).rev().find(|(outer, ..)| target.starts_with(outer) && target != outer);
        let Some((outer, _, MountKind::Bind { source, .. })) = outer else { continue };
        let failed = |error| mount_error(&target.to_string_lossy(), error);
        let root = Root::open(source).map_err(failed)?;
        let inside = target.strip_prefix(outer).unwrap_or(target);
        let mut draft = Draft::new(View::directory(root.clone()));
        let path = draft.resolve(inside, Follow::All)?;
        let directory = match point {
            MountPoint::Directory => Some(path.as_path()),
            MountPoint::File => path.parent(),
        };
        draft.make_dirs(directory.unwrap_or(&path), (0, 0), Time::default())?;
        if *point == MountPoint::File && draft.metadata(&path)?.is_none() {
            draft.put(&path, Meta::new(Kind::File, 0o644), Content::None)?;
        }
        for (path, entry) in draft.take_changes()?.iter() {
            match entry.meta() {
                Some(meta) if root.metadata(path).map_err(failed)?.is_none() => {
                    if meta.is_dir() { root.create_dir(path) } else { root.create_file(path).map(drop) }
                        .and_then(|()| root.set_meta(path, meta))
                        .map_err(failed)?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The name of a cache directory: its id, what a new one would look like, and what it would hold.
fn cache_name(mount: &CacheMount, content: Option<&Changes>) -> Result<String, super::error::Cause> {
    let mut hasher = KeyHasher::new("rbuild cache mount");
    hasher
        .text(&mount.id)
        .number(u64::from(mount.mode))
        .number(u64::from(mount.uid))
        .number(u64::from(mount.gid));
    let content = content.map(content::digest).transpose()?;
    hasher.option(content, |hasher, digest| {
        hasher.digest(&digest);
    });
    Ok(hasher.finish().hex())
}

/// Finds or makes the directory of a cache mount, and takes the lock its sharing asks for.
fn cache_directory(
    store: &Store,
    mount: &CacheMount,
    content: Option<&Changes>,
) -> Result<(PathBuf, Option<File>), super::error::Cause> {
    let name = cache_name(mount, content)?;
    let base = store.mounts_path();
    let lock_file =
        |name: &str| File::options().create(true).append(true).open(base.join(format!("{name}.lock")));
    let (name, lock) = match mount.sharing {
        Sharing::Shared => (name, None),
        Sharing::Locked => {
            let lock = lock_file(&name)?;
            lock.lock()?;
            (name, Some(lock))
        }
        Sharing::Private => {
            let mut candidates = (0..MAX_PRIVATE).map(|number| format!("{name}-{number}"));
            let free = candidates.find_map(|name| {
                let lock = lock_file(&name).ok()?;
                lock.try_lock().ok().map(|()| (name, Some(lock)))
            });
            free.ok_or_else(|| io::Error::from(io::ErrorKind::ResourceBusy))?
        }
    };
    let directory = base.join(&name);
    if !directory.is_dir() {
        // Made aside and renamed: another process sees it with its owner, mode and first content, or not at all.
        let scratch = match content {
            Some(content) => copied(store, content)?,
            None => store.scratch()?,
        };
        let source = scratch.path().join(COPIED);
        if content.is_none() {
            std::fs::create_dir(&source)?;
        }
        std::os::unix::fs::chown(&source, Some(mount.uid), Some(mount.gid))?;
        std::fs::set_permissions(&source, PermissionsExt::from_mode(mount.mode))?;
        match std::fs::rename(&source, &directory) {
            Err(_) if directory.is_dir() => {}
            renamed => renamed?,
        }
    }
    Ok((directory, lock))
}
