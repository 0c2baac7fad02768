//! `RUN --mount`: what is mounted into the rootfs for one step.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_layers::{
    Active, ActiveRootfs, Changes, Content, Follow, Kind, Meta, MountPoint, Root, Scratch, Store, Time, View,
};
use rbuild_sandbox::{Access, Mount, MountKind, Mounting, RootfsForm, Secret};

use super::copier::{Attributes, Copier, CopyError};
use super::draft::Draft;
use super::error::{Cause, StepError};
use super::selection::Selection;
use super::tree::Tree;
use super::{Executor, Task};
use crate::cache::mounts::{self as cache, CONTENT};
use crate::plan::{self, BindMount, CacheMount, RunStep, SecretMount, Source, SshMount, StepMount};
use crate::ssh::{Proxy, Socket};

/// The mode of a tmpfs root, as the kernel has it by default.
const TMPFS_MODE: u32 = 0o1777;

/// One mount of a step: where, on what kind of target, and what.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub target: PathBuf,
    pub point: MountPoint,
    pub kind: MountKind,
    pub source: Owner,
}

/// Whose the source of a bind is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The step's alone.
    Step,
    /// The build's: other steps read it too.
    Build,
    /// A cache, which outlives the build.
    Cache,
}

/// What a step mounts, and what has to live until it ends.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub mounts: Vec<Planned>,
    /// Variables that nobody is shown.
    pub secret_env: Vec<(OsString, Secret)>,
    kept: Vec<Kept>,
}

/// What goes when the step has ended.
#[derive(Debug)]
#[expect(dead_code, reason = "kept for its end alone")]
enum Kept {
    Directory(Arc<Scratch>),
    Snapshot(Box<Active>),
    Lock(File),
    Agent(Proxy),
}

/// The tree and the path in it that a mount reads, when its content is part of the step's key.
pub(crate) fn reads(mount: &StepMount) -> Option<(&Source, &str)> {
    match mount {
        StepMount::Bind(BindMount { from, source, .. }) => Some((from, source)),
        StepMount::Cache(CacheMount { from: Some(from), source, .. }) => Some((from, source)),
        StepMount::Cache(_) | StepMount::Tmpfs { .. } | StepMount::Secret(_) | StepMount::Ssh(_) => None,
    }
}

/// The subtree at `path`, or the file, below the name [`CONTENT`].
pub(crate) fn collect(tree: &Tree, path: &str, now: Time) -> Result<Changes, StepError> {
    let failed = |source| StepError::Copy { path: path.to_owned(), source };
    let source =
        tree.resolve(Path::new(path), Follow::All).map_err(|error| failed(CopyError::Source(error)))?;
    let meta = tree.metadata(&source).map_err(|error| failed(CopyError::Source(error)))?;
    let mut draft = Draft::new(View::empty());
    if let Some(meta) = meta.filter(Meta::is_dir) {
        draft.put(Path::new(CONTENT), meta, Content::None)?;
    }
    let attributes = Attributes { owner: None, mode: None, now };
    let selection = Selection::default();
    Copier::new(tree, &mut draft, &attributes, &selection)
        .copy(&source, &format!("/{CONTENT}"))
        .map_err(failed)?;
    Ok(draft.take_changes()?)
}

/// Prepares everything a step mounts beside the defaults.
pub(crate) fn prepare(executor: &Executor, task: Task<'_>, step: &RunStep) -> Result<Prepared, StepError> {
    let mut preparation = Preparation { executor, task, prepared: Prepared::default(), caches: Vec::new() };
    if let Some(size) = step.surroundings.shm_size {
        preparation.tmpfs("/dev/shm", Some(size));
    }
    if !step.files.is_empty() {
        preparation.files("/dev/pipes", &step.files)?;
    }
    // Every step takes the locks of its caches in the same order: none waits for one that waits for it.
    let mut caches: Vec<&CacheMount> = step.mounts.iter().filter_map(cache_of).collect();
    caches.sort_by(|one, other| {
        let key = |mount: &CacheMount| (mount.mode, mount.uid, mount.gid);
        one.id.cmp(&other.id).then_with(|| key(one).cmp(&key(other)))
    });
    caches.into_iter().try_for_each(|mount| preparation.cache(mount))?;
    for mount in &step.mounts {
        match mount {
            StepMount::Bind(mount) => preparation.bind(mount)?,
            StepMount::Cache(_) => {}
            StepMount::Tmpfs { target, size } => preparation.tmpfs(target, *size),
            StepMount::Secret(mount) => preparation.secret(mount),
            StepMount::Ssh(mount) => preparation.ssh(mount)?,
        }
    }
    Ok(preparation.prepared)
}

fn cache_of(mount: &StepMount) -> Option<&CacheMount> {
    match mount {
        StepMount::Cache(mount) => Some(mount),
        _ => None,
    }
}

struct Preparation<'a> {
    executor: &'a Executor,
    task: Task<'a>,
    prepared: Prepared,
    /// Caches that the step has.
    caches: Vec<PathBuf>,
}

impl Preparation<'_> {
    /// Mounts part of a tree: what the step writes goes with it, and owners are those of the tree.
    ///
    /// A rootfs is mounted as it lies in the store. What is no rootfs is copied, once in a build: it may change under
    /// the step, belongs to somebody, and holds files that the ignore file hides.
    fn bind(&mut self, mount: &BindMount) -> Result<(), StepError> {
        let (kind, point) = match self.executor.rootfs_form()? {
            RootfsForm::Directory => self.bind_copy(mount)?,
            RootfsForm::Overlay => match self.executor.active_tree(&mount.from, self.task.done)? {
                Some(active) => self.bind_rootfs(mount, active)?,
                None => self.bind_files(mount)?,
            },
        };
        self.push(&mount.target, point, kind, Owner::Step);
        Ok(())
    }

    fn bind_rootfs(
        &mut self,
        mount: &BindMount,
        active: Active,
    ) -> Result<(MountKind, MountPoint), StepError> {
        let found = active.lower_view().resolve(Path::new(&mount.source), Follow::All)?;
        let missing = || CopyError::NotFound(PathBuf::from(&mount.source));
        let missing = || StepError::Copy { path: mount.source.clone(), source: missing() };
        let point = point(found.meta.ok_or_else(missing)?.is_dir());
        let access = access(mount.access);
        let kind = match active.rootfs() {
            ActiveRootfs::Overlay { lower, upper, work } => {
                MountKind::Overlay { lower, upper, work, subpath: found.path, access }
            }
            ActiveRootfs::Directory(root) => {
                MountKind::Bind { source: root.join(found.path), access, recursive: false }
            }
        };
        self.prepared.kept.push(Kept::Snapshot(Box::new(active)));
        Ok((kind, point))
    }

    /// Mounts a copy that the whole build shares, below a directory of the step's own for what it writes.
    fn bind_files(&mut self, mount: &BindMount) -> Result<(MountKind, MountPoint), StepError> {
        let failed = |source: Cause| mount_error(&mount.target, source);
        let copy = self.executor.copied_tree(&mount.from, &mount.source, self.task.done)?;
        let point = point(copy.path().join(CONTENT).is_dir());
        let scratch = self.executor.store().scratch().map_err(|error| failed(error.into()))?;
        let (upper, work) = (scratch.path().join("upper"), scratch.path().join("work"));
        for directory in [&upper, &work] {
            std::fs::create_dir(directory).map_err(|error| failed(error.into()))?;
        }
        let (lower, subpath) = (vec![copy.path().to_owned()], PathBuf::from(CONTENT));
        self.prepared.kept.extend([Kept::Directory(copy), Kept::Directory(Arc::new(scratch))]);
        Ok((MountKind::Overlay { lower, upper, work, subpath, access: access(mount.access) }, point))
    }

    /// Mounts or places a copy; only one that nobody can write is shared.
    fn bind_copy(&mut self, mount: &BindMount) -> Result<(MountKind, MountPoint), StepError> {
        let (from, source, done) = (&mount.from, &mount.source, self.task.done);
        let copy = match (self.executor.mounting()?, mount.access) {
            (Mounting::Kernel, plan::Access::ReadOnly) => self.executor.copied_tree(from, source, done)?,
            _ => Arc::new(self.executor.private_copy(from, source, done)?),
        };
        let source = copy.path().join(CONTENT);
        let point = point(source.is_dir());
        self.prepared.kept.push(Kept::Directory(copy));
        Ok((MountKind::Bind { source, access: access(mount.access), recursive: false }, point))
    }

    /// Mounts a directory that outlives the build.
    fn cache(&mut self, mount: &CacheMount) -> Result<(), StepError> {
        let now = self.executor.clock().time();
        let content = mount
            .from
            .as_ref()
            .map(|from| collect(&self.executor.tree(from, self.task.done)?, &mount.source, now));
        let content = content.transpose()?;
        let (mounting, access) = (self.executor.mounting()?, access(mount.access));
        let is_copied = mounting == Mounting::Placed && access == Access::ReadOnly;
        let request = cache::Request {
            store: self.executor.store(),
            access: match mounting {
                Mounting::Placed if !is_copied => cache::Access::Moved,
                _ => cache::Access::Mounted,
            },
            held: &self.caches,
            now,
            cancel: self.executor.cancel(),
            saved: self.executor.saved_mounts(),
        };
        let opened = cache::open(&request, mount, content.as_ref());
        let directory = opened.map_err(|error| mount_error(&mount.target, error))?;
        self.prepared.kept.extend(directory.lock.map(Kept::Lock));
        if is_copied {
            // Nothing enforces that it is only read: what is written goes with the copy.
            let root = self.executor.store().root(&directory.path);
            let root = root.map_err(|error| mount_error(&mount.target, error))?;
            let tree = Tree::Rootfs(View::directory(root));
            let copy = cache::copied(self.executor.store(), &collect(&tree, "/", now)?);
            let copy = copy.map_err(|error| mount_error(&mount.target, error))?;
            let kind = MountKind::Bind { source: copy.path().join(CONTENT), access, recursive: false };
            self.prepared.kept.push(Kept::Directory(Arc::new(copy)));
            self.push(&mount.target, MountPoint::Directory, kind, Owner::Step);
            return Ok(());
        }
        self.caches.push(directory.path.clone());
        let kind = MountKind::Bind { source: directory.path, access, recursive: false };
        self.push(&mount.target, MountPoint::Directory, kind, Owner::Cache);
        Ok(())
    }

    /// Mounts an empty memory file system.
    fn tmpfs(&mut self, target: &str, size: Option<u64>) {
        let kind = MountKind::Tmpfs { size, mode: TMPFS_MODE };
        self.push(target, MountPoint::Directory, kind, Owner::Step);
    }

    /// Mounts a secret as a file, or sets a variable; one that nobody gave is neither, as in BuildKit.
    fn secret(&mut self, mount: &SecretMount) {
        let Some(value) = self.executor.secret(&mount.id) else { return };
        if let Some(name) = &mount.env {
            self.prepared.secret_env.push((name.into(), value.clone()));
        }
        if let Some(target) = &mount.target {
            let kind =
                MountKind::File { content: value.clone(), uid: mount.uid, gid: mount.gid, mode: mount.mode };
            self.push(target, MountPoint::File, kind, Owner::Step);
        }
    }

    /// Mounts a socket that passes requests on to an agent, for this step alone.
    fn ssh(&mut self, mount: &SshMount) -> Result<(), StepError> {
        let Some(agent) = self.executor.agent(&mount.id) else { return Ok(()) };
        let failed = |source: Cause| mount_error(&mount.target, source);
        let scratch = self.executor.store().scratch().map_err(|error| failed(error.into()))?;
        let socket = Socket { mode: mount.mode & 0o777, uid: mount.uid, gid: mount.gid };
        let proxy = Proxy::start(agent, scratch.path(), socket).map_err(|error| failed(error.into()))?;
        let source = proxy.path().to_owned();
        self.prepared.kept.extend([Kept::Agent(proxy), Kept::Directory(Arc::new(scratch))]);
        let kind = MountKind::Bind { source, access: Access::ReadWrite, recursive: false };
        self.push(&mount.target, MountPoint::File, kind, Owner::Step);
        Ok(())
    }

    /// Mounts files of the builder, by name, as a read-only directory.
    fn files(&mut self, target: &str, files: &[plan::ScriptFile]) -> Result<(), StepError> {
        let scratch = self.executor.store().scratch().map_err(|error| mount_error(target, error))?;
        let source = scratch.path().join("files");
        let write = |path: &Path, made: std::io::Result<()>, mode| {
            let done = made.and_then(|()| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)));
            done.map_err(|source| StepError::Write { path: path.to_owned(), source })
        };
        write(&source, std::fs::create_dir(&source), 0o755)?;
        for file in files {
            let path = source.join(&file.name);
            write(&path, std::fs::write(&path, &file.content), file.mode)?;
        }
        self.prepared.kept.push(Kept::Directory(Arc::new(scratch)));
        let kind = MountKind::Bind { source, access: Access::ReadOnly, recursive: false };
        self.push(target, MountPoint::Directory, kind, Owner::Step);
        Ok(())
    }

    fn push(&mut self, target: &str, point: MountPoint, kind: MountKind, source: Owner) {
        self.prepared.mounts.push(Planned { target: PathBuf::from(target), point, kind, source });
    }
}

fn access(access: plan::Access) -> Access {
    match access {
        plan::Access::ReadOnly => Access::ReadOnly,
        plan::Access::ReadWrite => Access::ReadWrite,
    }
}

fn point(directory: bool) -> MountPoint {
    if directory { MountPoint::Directory } else { MountPoint::File }
}

/// The default mounts of every step and the two network files.
pub(crate) fn defaults(hosts: PathBuf, resolv_conf: PathBuf) -> Vec<Planned> {
    let read_only = |source| MountKind::Bind { source, access: Access::ReadOnly, recursive: false };
    let plan = |target: PathBuf, point, kind| Planned { target, point, kind, source: Owner::Build };
    let mut mounts: Vec<_> = Mount::defaults()
        .into_iter()
        .map(|mount| plan(mount.target, MountPoint::Directory, mount.kind))
        .collect();
    mounts.push(plan("etc/hosts".into(), MountPoint::File, read_only(hosts)));
    mounts.push(plan("etc/resolv.conf".into(), MountPoint::File, read_only(resolv_conf)));
    mounts
}

pub(crate) fn mount_error(target: &str, source: impl Into<Cause>) -> StepError {
    StepError::Mount { target: target.to_owned(), source: source.into() }
}

/// Lets the targets of inner mounts exist: a mount that lies in another one has its target made in the outer's source,
/// or in what the step would write there. (The sandbox makes those in a new file system.)
pub(crate) fn make_inner_targets(store: &Store, mounts: &[Planned]) -> Result<(), StepError> {
    for (at, inner) in mounts.iter().enumerate() {
        let is_outer =
            |outer: &&Planned| inner.target.starts_with(&outer.target) && inner.target != outer.target;
        let Some(outer) = mounts.iter().take(at).rev().find(is_outer) else { continue };
        let failed = |error| mount_error(&inner.target.to_string_lossy(), error);
        let (view, root, below) = match &outer.kind {
            MountKind::Bind { source, .. } => {
                let root = store.root(source).map_err(failed)?;
                (View::directory(root.clone()), root, Path::new(""))
            }
            MountKind::Overlay { lower, upper, subpath, .. } => {
                let layers = lower.iter().chain([upper]).map(|path| store.root(path));
                let layers = layers.collect::<Result<Vec<_>, _>>().map_err(failed)?;
                (View::overlay(layers), store.root(upper).map_err(failed)?, subpath.as_path())
            }
            _ => continue,
        };
        let inside = inner.target.strip_prefix(&outer.target).unwrap_or(&inner.target);
        make_target(&root, Draft::new(view), &below.join(inside), inner.point)?;
    }
    Ok(())
}

/// Writes to `root` what a target needs that `draft`, a tree with `root` on top, lacks.
fn make_target(root: &Root, mut draft: Draft, path: &Path, point: MountPoint) -> Result<(), StepError> {
    let path = draft.resolve(path, Follow::All)?;
    let directory = match point {
        MountPoint::Directory => Some(path.as_path()),
        MountPoint::File => path.parent(),
    };
    draft.make_dirs(directory.unwrap_or(&path), (0, 0), Time::default())?;
    if point == MountPoint::File && draft.metadata(&path)?.is_none() {
        draft.put(&path, Meta::new(Kind::File, 0o644), Content::None)?;
    }
    for (path, entry) in draft.take_changes()?.iter() {
        if let Some(meta) = entry.meta()
            && root.metadata(path)?.is_none()
        {
            if meta.is_dir() {
                root.create_dir(path)?;
            } else {
                drop(root.create_file(path)?);
            }
            root.set_meta(path, meta)?;
        }
    }
    Ok(())
}
