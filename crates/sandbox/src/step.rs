//! One step, from its description to its end.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::cgroup::{Cgroup, CgroupParent};
use crate::chroot::Skeleton;
use crate::emulation;
use crate::error::RunError;
use crate::ids::IdRanges;
use crate::isolation::Isolation;
use crate::launch::{Launcher, Running, failed};
use crate::mounts::{Rootfs, Spec};
use crate::notify::{self, Serving};
use crate::prepare::{self, Mode, Purpose};
use crate::process::{Exit, Stream};
use crate::program::Program;
use crate::supervise::supervise;

/// What all steps of a sandbox have in common.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) launcher: Launcher,
    pub(crate) mode: Mode,
    pub(crate) ids: IdRanges,
    /// A directory on the filesystem of the root filesystems.
    pub(crate) scratch: PathBuf,
    /// Where every step gets a cgroup.
    pub(crate) cgroup: Option<CgroupParent>,
}

impl Setting {
    /// Runs a step to its end.
    pub(crate) fn run(
        &self,
        spec: &Spec,
        purpose: Purpose,
        output: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
    ) -> Result<Exit, RunError> {
        let cgroup = self.cgroup.as_ref().map(CgroupParent::child).transpose()?;
        let skeleton = match (&spec.rootfs, self.mode.isolation) {
            (Rootfs::Directory(root), isolation) if isolation.shares_namespaces() => {
                // What is wrong with a step is said before anything is placed.
                prepare::program(spec, self.mode, &self.ids, (purpose, None))?;
                Some(Skeleton::place(&self.scratch, root, &spec.mounts)?)
            }
            _ => None,
        };
        let programs = match (&skeleton, self.mode.isolation) {
            (Some(skeleton), Isolation::Supervised) => Some(skeleton.make_programs()?),
            _ => None,
        };
        let program = prepare::program(spec, self.mode, &self.ids, (purpose, programs.as_deref()))?;
        let program = Arc::new(program);
        let started = self.start(spec, &program, skeleton.as_ref(), cgroup.as_ref());
        let ended = started.and_then(|(running, serving)| {
            let ended = supervise(running, &program, output, cancel);
            if let Some(serving) = serving {
                serving.join();
            }
            ended
        });
        match skeleton.map(Skeleton::remove) {
            Some(Err(error)) if ended.is_ok() => Err(error),
            _ => ended,
        }
    }

    fn start(
        &self,
        spec: &Spec,
        program: &Arc<Program>,
        skeleton: Option<&Skeleton>,
        cgroup: Option<&Cgroup>,
    ) -> Result<(Running, Option<Serving>), RunError> {
        let Mode { isolation, .. } = self.mode;
        let mut running = self.launcher.start(Arc::clone(program), isolation, spec.process.network)?;
        let serving = match running.pipes.listener.take() {
            Some(socket) => {
                let answer = emulation::answers(self.mode, spec, skeleton, running.monitor())?;
                let serving = notify::serve(socket, answer);
                Some(serving.map_err(failed("start the thread that answers calls"))?)
            }
            None => None,
        };
        if let Some(cgroup) = cgroup {
            cgroup.take(running.monitor())?;
        }
        running.go(isolation, &self.ids)?;
        Ok((running, serving))
    }
}
