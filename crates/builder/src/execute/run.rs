//! `RUN`: a process in a rootfs, and the layer of what it changed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rbuild_image::Layer;
use rbuild_layers::{Active, Follow, apply, from_upper};
use rbuild_sandbox::{self as sandbox, Exit, Mount, Process, Rootfs, Spec, Stream};

use super::draft::Draft;
use super::error::StepError;
use super::mounts::{self, Prepared};
use super::user::{Accounts, Identity};
use super::{Executor, Stage, Task, copy};
use crate::event::{Event, OutputStream};
use crate::plan::{Network, RunStep, Security, StepMount};

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
    refuse(step)?;
    stage.draft = None;
    let mut chain = stage.image.chain();
    executor.fetch(&chain, &stage.bases)?;
    let prepared = prepare_mounts(executor, task, step)?;
    let mut active = executor.prepare(&chain)?;
    let accounts = copy::accounts(&Draft::new(active.lower_view()))?;
    let identity = accounts.identity(&step.user)?;
    make_working_directory(executor, step, &active, &identity)?;

    let mounts = place_mounts(executor, &mut active, &prepared)?;
    let process = process(step, &accounts, identity);
    let rootfs = Rootfs::Overlay {
        lower: active.lower.clone(),
        upper: active.upper.clone(),
        work: active.work.clone(),
    };
    execute(executor, task, step, &Spec { rootfs, mounts, process })?;
    drop(prepared);

    active.remove_stubs().map_err(|error| StepError::snapshot("take out mount points", error))?;
    let upper = active.upper_root().map_err(|error| StepError::snapshot("read what changed", error))?;
    let changes = from_upper(&upper, &active.lower_view())?;
    let layer = executor.write(&changes)?;
    chain.push(layer.clone());
    executor.commit(active, &chain)?;
    Ok(layer)
}

/// The mounts of a step in the order of their targets, as BuildKit has them; the defaults come first.
fn place_mounts(
    executor: &Executor,
    active: &mut Active,
    prepared: &Prepared,
) -> Result<Vec<Mount>, StepError> {
    let mut wanted = prepared.mounts.clone();
    wanted.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    let mut placed = Vec::new();
    for (target, point, kind) in
        mounts::defaults(executor.hosts(), executor.resolv_conf()).into_iter().chain(wanted)
    {
        let resolved = active.mount_point(&target, point);
        let resolved = resolved.map_err(|error| StepError::snapshot("make a place to mount on", error))?;
        placed.push((resolved, point, kind));
    }
    mounts::make_inner_targets(&placed)?;
    Ok(placed.into_iter().map(|(target, _, kind)| Mount::new(target, kind)).collect())
}

/// What no isolation gives yet.
fn refuse(step: &RunStep) -> Result<(), StepError> {
    if step.security == Security::Insecure {
        return Err(StepError::Unsupported("RUN --security=insecure".to_owned()));
    }
    if let Some(device) = step.devices.first() {
        return Err(StepError::Unsupported(format!("RUN --device={device}")));
    }
    Ok(())
}

fn prepare_mounts(executor: &Executor, task: Task<'_>, step: &RunStep) -> Result<Prepared, StepError> {
    let mut prepared = Prepared::default();
    let (store, now) = (executor.store(), executor.clock().time());
    if !step.files.is_empty() {
        prepared.files(store, "/dev/pipes", &step.files)?;
    }
    for mount in &step.mounts {
        let content = mounts::reads(mount)
            .map(|(source, path)| mounts::collect(&executor.tree(source, task.done)?, path, now))
            .transpose()?;
        match (mount, &content) {
            (StepMount::Bind(mount), Some(content)) => prepared.bind(store, mount, content)?,
            (StepMount::Bind(_), None) => {}
            (StepMount::Cache(mount), content) => prepared.cache(store, mount, content.as_ref())?,
            (StepMount::Tmpfs { target, size }, _) => prepared.tmpfs(target, *size),
            // Required ones are refused by the plan; a missing optional one is no file at all.
            (StepMount::Secret(_) | StepMount::Ssh(_), _) => {}
        }
    }
    Ok(prepared)
}

/// A working directory that is missing is made, owned by the user, and stays in the layer.
fn make_working_directory(
    executor: &Executor,
    step: &RunStep,
    active: &Active,
    identity: &Identity,
) -> Result<(), StepError> {
    let lower = active.lower_view();
    let resolved = lower.resolve(Path::new(&step.cwd), Follow::All)?;
    if resolved.meta.is_some_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    let mut draft = Draft::new(lower.clone());
    draft.make_dirs(&resolved.path, (identity.uid, identity.gid), executor.clock().time())?;
    let upper =
        active.upper_root().map_err(|error| StepError::snapshot("make the working directory", error))?;
    Ok(apply(&draft.take_changes()?, &upper, &lower)?)
}

fn process(step: &RunStep, accounts: &Accounts, identity: Identity) -> Process {
    let mut env: Vec<(OsString, OsString)> =
        step.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    if !step.env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".into(), accounts.home(identity.uid).into()));
    }
    let network = match step.network {
        Network::None => sandbox::Network::None,
        Network::Default | Network::Host => sandbox::Network::Host,
    };
    Process {
        env,
        cwd: PathBuf::from(&step.cwd),
        user: sandbox::User { uid: identity.uid, gid: identity.gid, groups: identity.groups },
        hostname: step.hostname.clone(),
        network,
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
