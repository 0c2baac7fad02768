//! `RUN`: a process in a rootfs, and the layer of what it changed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rbuild_image::Layer;
use rbuild_layers::{Active, ActiveRootfs, Follow, Scratch};
use rbuild_sandbox::{self as sandbox, Exit, Mount, Mounting, Owners, Process, Rootfs, Spec, Stream};

use super::draft::Draft;
use super::error::{Cause, StepError};
use super::mounts::{self, Planned, Prepared};
use super::owners::TreeOwners;
use super::placed::Placed;
use super::user::{Accounts, Identity};
use super::{Executor, Stage, Task, copy};
use crate::event::{Event, OutputStream};
use crate::plan::{Network, RunStep, Security};

/// Lines of output that an error repeats.
const LAST_LINES: usize = 20;

/// Bytes of one line of output that an error repeats.
const LAST_LINE_BYTES: usize = 1024;

/// Runs a step above `stage` and returns its layer, which is also kept as a snapshot.
pub(crate) fn run(
    executor: &Executor,
    task: Task<'_>,
    step: &RunStep,
    stage: &mut Stage,
) -> Result<Layer, StepError> {
    stage.draft = None;
    let mut chain = stage.image.chain();
    executor.fetch(&chain, &stage.bases)?;
    let prepared = mounts::prepare(executor, task, step)?;
    let mut active = executor.prepare(&chain)?;
    let accounts = copy::accounts(&Draft::new(active.lower_view()))?;
    let identity = accounts.identity(&step.user)?;
    make_working_directory(executor, step, &active, &identity)?;

    let wanted = targets(executor, step, &mut active, &prepared)?;
    let process = process(step, &prepared, &accounts, identity);
    let rootfs = match active.rootfs() {
        ActiveRootfs::Overlay { lower, upper, work } => Rootfs::Overlay { lower, upper, work },
        ActiveRootfs::Directory(path) => Rootfs::Directory(path),
    };
    let owners = active.owners().map(|table| Arc::new(TreeOwners(table.clone())) as Arc<dyn Owners>);
    let (mounts, placed) = supply(executor, &rootfs, wanted)?;
    execute(executor, task, step, &Spec { rootfs, mounts, process, owners })?;
    if let Some(mut placed) = placed {
        let taken = placed.placed.take_out();
        taken.map_err(|error| StepError::snapshot("take out what was placed", error))?;
    }
    drop(prepared);

    active.remove_stubs().map_err(|error| StepError::snapshot("take out mount points", error))?;
    let mut changes = active.changes().map_err(|error| StepError::snapshot("read what changed", error))?;
    if let Some(clamp) = executor.clamp() {
        let clamped = active.clamp(&mut changes, clamp);
        clamped.map_err(|error| StepError::snapshot("set times in the rootfs", error))?;
    }
    for socket in changes.sockets() {
        let message = format!("the socket /{} is not part of the image: layers hold none", socket.display());
        executor.emit(Event::Notice { message });
    }
    let layer = executor.write(&changes)?;
    chain.push(layer.clone());
    executor.commit(active, &changes, &chain)?;
    Ok(layer)
}

/// The mounts of a step in the order of their targets, as BuildKit has them, the defaults first; each has a place to be
/// mounted on.
fn targets(
    executor: &Executor,
    step: &RunStep,
    active: &mut Active,
    prepared: &Prepared,
) -> Result<Vec<Planned>, StepError> {
    let mut wanted = prepared.mounts.clone();
    wanted.sort_by(|one, other| one.target.cmp(&other.target));
    let mut mounts = mounts::defaults(executor.hosts(step)?, executor.resolv_conf());
    mounts.extend(wanted);
    for mount in &mut mounts {
        let resolved = active.mount_point(&mount.target, mount.point);
        mount.target = resolved.map_err(|error| StepError::snapshot("make a place to mount on", error))?;
    }
    mounts::make_inner_targets(executor.store(), &mounts)?;
    Ok(mounts)
}

/// What stands in the tree of a step; taken out before its directory goes.
struct InPlace {
    placed: Placed,
    _scratch: Scratch,
}

/// Puts into the tree what cannot be mounted, and returns what the sandbox supplies.
fn supply(
    executor: &Executor,
    rootfs: &Rootfs,
    wanted: Vec<Planned>,
) -> Result<(Vec<Mount>, Option<InPlace>), StepError> {
    let (Rootfs::Directory(root), Mounting::Placed) = (rootfs, executor.mounting()?) else {
        return Ok((wanted.into_iter().map(|mount| Mount::new(mount.target, mount.kind)).collect(), None));
    };
    let failed =
        |error: Cause| StepError::Snapshot { operation: "place what cannot be mounted", source: error };
    let scratch = executor.store().scratch().map_err(|error| failed(error.into()))?;
    let mut placed = Placed::new(root, scratch.path()).map_err(|error| failed(error.into()))?;
    let mounts = placed.place_all(&wanted)?;
    Ok((mounts, Some(InPlace { placed, _scratch: scratch })))
}

/// A working directory that is missing is made, owned by the user, and stays in the layer; so are, owned by root, the
/// directories that `..` in it leads through, as runc makes them.
fn make_working_directory(
    executor: &Executor,
    step: &RunStep,
    active: &Active,
    identity: &Identity,
) -> Result<(), StepError> {
    let lower = active.lower_view();
    let cwd = Path::new(&step.cwd);
    let through = passed_through(cwd);
    let resolved = lower.resolve(cwd, Follow::All)?;
    let is_there = resolved.meta.is_some_and(|meta| meta.is_dir());
    if is_there && through.is_empty() {
        return Ok(());
    }
    let mut draft = Draft::new(lower);
    let now = executor.clock().time();
    if !is_there {
        draft.make_dirs(&resolved.path, (identity.uid, identity.gid), now)?;
    }
    for path in through {
        let path = draft.resolve(&path, Follow::All)?;
        draft.make_dirs(&path, (0, 0), now)?;
    }
    let made = active.write(&draft.take_changes()?);
    made.map_err(|error| StepError::snapshot("make the working directory", error))
}

/// The directories that a path leaves by `..`.
fn passed_through(path: &Path) -> Vec<PathBuf> {
    let (mut at, mut passed) = (PathBuf::new(), Vec::new());
    for component in path.components() {
        if component == Component::ParentDir {
            passed.push(at.clone());
        }
        at.push(component);
    }
    passed
}

fn process(step: &RunStep, prepared: &Prepared, accounts: &Accounts, identity: Identity) -> Process {
    let secret_env = prepared.secret_env.clone();
    let is_public = |(name, _): &&(String, String)| !secret_env.iter().any(|(secret, _)| *secret == **name);
    let mut env: Vec<(OsString, OsString)> =
        step.env.iter().filter(is_public).map(|(name, value)| (name.into(), value.into())).collect();
    if !step.env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".into(), accounts.home(identity.uid).into()));
    }
    let network = match step.network {
        Network::None => sandbox::Network::None,
        Network::Default | Network::Host => sandbox::Network::Host,
    };
    Process {
        env,
        secret_env,
        cwd: PathBuf::from(&step.cwd),
        user: sandbox::User { uid: identity.uid, gid: identity.gid, groups: identity.groups },
        hostname: step.hostname.clone(),
        network,
        rlimits: step.surroundings.rlimits.clone(),
        confinement: match step.security {
            Security::Sandbox => sandbox::Confinement::Default,
            Security::Insecure => sandbox::Confinement::Lifted,
        },
        ..Process::new(&step.argv)
    }
}

fn execute(executor: &Executor, task: Task<'_>, step: &RunStep, spec: &Spec) -> Result<(), StepError> {
    let command = || step.argv.join(" ");
    let sandbox =
        executor.sandbox().map_err(|error| StepError::snapshot("find an isolation for RUN", error))?;
    let mut tail = Tail::default();
    let exit = sandbox.run(
        spec,
        &mut |stream, bytes| {
            tail.push(bytes);
            let stream = match stream {
                Stream::Stdout => OutputStream::Stdout,
                Stream::Stderr => OutputStream::Stderr,
            };
            executor.emit(Event::StepOutput { id: task.id, stream, bytes: bytes.to_vec() });
        },
        executor.cancel(),
    );
    if executor.cancel().is_cancelled() {
        return Err(StepError::Cancelled);
    }
    let exit = exit.map_err(|source| StepError::Run { command: command(), source: Box::new(source) })?;
    if exit.is_success() {
        return Ok(());
    }
    let signal = match exit {
        Exit::Signal(signal) => Some(signal),
        Exit::Code(_) => None,
    };
    Err(StepError::Exit { command: command(), code: exit.shell_code(), signal, output: tail.lines() })
}

/// The last lines of a stream, whatever its length.
#[derive(Debug, Default)]
struct Tail {
    complete: VecDeque<Vec<u8>>,
    open: Vec<u8>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LAST_LINE_BYTES.saturating_sub(self.open.len());
            let (text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            self.open.extend_from_slice(text.get(..room.min(text.len())).unwrap_or_default());
            if ended {
                self.complete.push_back(std::mem::take(&mut self.open));
                if self.complete.len() > LAST_LINES {
                    self.complete.pop_front();
                }
            }
        }
    }

    fn lines(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.complete.push_back(std::mem::take(&mut self.open));
        }
        let skipped = self.complete.len().saturating_sub(LAST_LINES);
        self.complete.iter().skip(skipped).map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_pass_through_directories() {
        let check = |path: &str, expect: &[&str]| {
            let expect: Vec<PathBuf> = expect.iter().map(PathBuf::from).collect();
            assert_eq!(passed_through(Path::new(path)), expect, "{path}");
        };
        check("/a/b", &[]);
        check("/w/../v", &["/w"]);
        check("/a/b/../../c/../d", &["/a/b", "/a/b/..", "/a/b/../../c"]);
    }

    #[test]
    fn keeps_the_last_lines() {
        let check = |pieces: &[&str], expect: &[&str]| {
            let mut tail = Tail::default();
            pieces.iter().for_each(|piece| tail.push(piece.as_bytes()));
            assert_eq!(tail.lines(), expect, "{pieces:?}");
        };
        check(&[], &[]);
        check(&["a\nb"], &["a", "b"]);
        check(&["a", "b\n", "c\n"], &["ab", "c"]);
        let many: Vec<String> = (0..30).map(|line| format!("{line}\n")).collect();
        let pieces: Vec<&str> = many.iter().map(String::as_str).collect();
        let expect: Vec<String> = (10..30).map(|line| line.to_string()).collect();
        check(&pieces, &expect.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn bounds_long_lines() {
        let mut tail = Tail::default();
        tail.push(&[b'x'; 5000]);
        assert_eq!(tail.lines().first().map(String::len), Some(LAST_LINE_BYTES));
    }
}
