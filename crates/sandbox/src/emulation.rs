//! Which calls of a step are not left to the kernel, and who answers them.

use std::sync::Arc;

use rustix::process::Pid;

use crate::chroot::{self, Skeleton, Supervisor};
use crate::error::RunError;
use crate::fence::{self, Fence, Fenced};
use crate::isolation::Isolation;
use crate::launch::failed;
use crate::lineage::Lineage;
use crate::mounts::Spec;
use crate::notify::Answer;
use crate::prepare::{Mode, ProcMount};
use crate::process::Network;
use crate::seccomp::{Action, Condition, EPERM, Rules, Test};
use crate::single::{self, Single};
use crate::supervised::{self, Supervised};
use crate::sys::landlock::Abi;

/// For a step that is not in a PID namespace.
static SHARED_PIDS: Rules = Rules { name: "shared-pids", calls: &[("prlimit64", Action::When(&OWN_LIMITS))] };

/// Where a step sees other processes it may set limits of those that share its user id, the builder included, and a
/// limit of processor time kills. No fence against signals keeps it from that.
pub(crate) static OWN_LIMITS: Condition =
    Condition { argument: 0, test: Test::OneOf(&[0]), then: Action::Allow, otherwise: Action::Errno(EPERM) };

/// Returns how the filter of a step departs from the default one.
pub(crate) fn rules(mode: Mode, spec: &Spec) -> Vec<&'static Rules> {
    let abi = Abi::of_this_kernel();
    let mut rules: Vec<&'static Rules> = Vec::new();
    match (mode.isolation, mode.proc) {
        (Isolation::UsernsSingle | Isolation::Supervised, _) => rules.push(&single::RULES),
        (_, ProcMount::Host) => rules.push(&SHARED_PIDS),
        (_, ProcMount::Fresh) => {}
    }
    match mode.isolation {
        Isolation::Chroot => rules.push(&chroot::RULES),
        Isolation::Supervised => rules.push(&supervised::RULES),
        _ => {}
    }
    if mode.isolation.shares_namespaces() {
        rules.extend((!abi.confines_files()).then_some(&chroot::NO_DEBUGGING));
        rules.extend((spec.process.network == Network::None).then_some(&chroot::NO_NETWORK));
    }
    if mode.proc == ProcMount::Host && !abi.has_scopes() {
        rules.push(&fence::SIGNALS);
    }
    rules
}

/// Makes the answers to the calls that [`rules`] has notified; `monitor` is the ancestor of all processes of the step.
pub(crate) fn answers(
    mode: Mode,
    spec: &Spec,
    skeleton: Option<&Skeleton>,
    monitor: Pid,
) -> Result<Box<dyn Answer>, RunError> {
    let lineage = Lineage::of(monitor);
    let fence = Fence::around(lineage);
    match (mode.isolation, &spec.owners, skeleton) {
        (Isolation::UsernsSingle, Some(owners), _) => {
            let step = (mode.proc == ProcMount::Host).then_some(lineage);
            let inner = Single::new(Arc::clone(owners), spec, step);
            Ok(Box::new(Fenced { fence, inner }))
        }
        (isolation @ (Isolation::UsernsSingle | Isolation::Supervised), None, _) => {
            Err(RunError::Invalid(format!("the isolation {isolation} has nowhere to keep owners")))
        }
        (Isolation::Chroot, _, Some(skeleton)) => {
            let supervisor = skeleton.parts().and_then(|parts| Supervisor::new(parts, lineage, spec));
            let inner = supervisor.map_err(failed("get ready to answer for /proc"))?;
            Ok(Box::new(Fenced { fence, inner }))
        }
        (Isolation::Supervised, Some(owners), Some(skeleton)) => {
            let failed = || failed("get ready to answer for all paths");
            let parts = skeleton.parts().map_err(failed())?;
            let (root, programs) = (parts.root.try_clone(), parts.programs.as_ref().map(|fd| fd.try_clone()));
            let single = Single::new(Arc::clone(owners), spec, Some(lineage))
                .in_root(root.map_err(failed())?)
                .map_err(failed())?;
            let programs = programs.ok_or_else(|| failed()(std::io::ErrorKind::NotFound.into()))?;
            let proc = Supervisor::new(parts, lineage, spec).map_err(failed())?;
            let inner = Supervised::new(proc, single, programs.map_err(failed())?);
            Ok(Box::new(Fenced { fence, inner }))
        }
        _ => Ok(Box::new(fence)),
    }
}
