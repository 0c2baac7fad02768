//! From the description of a step to the program that its child executes.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::MountAttrFlags;
use rustix::thread::{CapabilitySet, Gid, Uid};

use crate::capabilities::{DEFAULT, IN_CHANGED_ROOT};
use crate::emulation;
use crate::error::RunError;
use crate::ids::IdRanges;
use crate::isolation::Isolation;
use crate::limits;
use crate::mounts::{Access, Mount, MountKind, Rootfs, RootfsForm, Spec};
use crate::overlay;
use crate::own_program::OwnProgram;
use crate::process::{Confinement, Network, Process};
use crate::program::{
    Action, Credentials, Entry, Executable, Filesystem, Lookup, MemoryFile, Operation, Privileges, Program,
    Root, Supervision,
};
use crate::seccomp::{self, Filter};
use crate::single;
use crate::sys::StringArray;
use crate::sys::landlock::{Abi, Domain};

/// How the steps of a sandbox are made, found by the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) isolation: Isolation,
    pub(crate) proc: ProcMount,
    pub(crate) rootfs: RootfsForm,
}

/// Where a step's `/proc` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcMount {
    /// A new one, showing a PID namespace of the step.
    Fresh,
    /// The host's: a container whose own `/proc` has masked paths may mount no other. No PID namespace then, since
    /// the numbers in it would not be those in `/proc`.
    Host,
}

/// Whether the step's program is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Yes.
    Run,
    /// No: everything up to it is tried, and the overlay too.
    Rehearse,
}

/// The operation whose failure calls for [`ProcMount::Host`].
pub(crate) const MOUNT_NEW_PROC: &str = "mount a new proc on";

/// The name of the lower directory that [`Purpose::Rehearse`] replaces.
pub(crate) const REHEARSAL_DIRECTORY: &CStr = c"replaced";

const HOST_DEVICES: [(&CStr, &CStr); 6] = [
    (c"null", c"/dev/null"),
    (c"zero", c"/dev/zero"),
    (c"full", c"/dev/full"),
    (c"random", c"/dev/random"),
    (c"urandom", c"/dev/urandom"),
    (c"tty", c"/dev/tty"),
];

const DEV_LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

/// What Docker hides below `/proc` and `/sys`.
pub(crate) const MASKED_PROC: [&str; 10] = [
    "asound",
    "acpi",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "scsi",
];
pub(crate) const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// The group of terminals in every distribution's `/etc/group`.
const TTY_GROUP: u32 = 5;

/// Makes the program of a step.
pub(crate) fn program(
    spec: &Spec,
    mode: Mode,
    ids: &IdRanges,
    (purpose, programs): (Purpose, Option<&Path>),
) -> Result<Program, RunError> {
    let process = &spec.process;
    let (operations, root) = match (mode.isolation, &spec.rootfs) {
        (Isolation::Chroot | Isolation::Supervised, Rootfs::Directory(path)) => {
            let path = c_path(&absolute(path)?)?;
            let programs = programs.map(|path| c_path(&absolute(path)?)).transpose()?;
            let root = match programs {
                Some(programs) => Root::Beside { path, programs },
                None => Root::Changed(path),
            };
            (Vec::new(), root)
        }
        (Isolation::Chroot | Isolation::Supervised, Rootfs::Overlay { .. }) => {
            return Err(RunError::Invalid("nothing can be mounted in this isolation: an overlay".to_owned()));
        }
        _ => (operations(spec, mode, ids, purpose)?, Root::Mounted),
    };
    let supervision = match mode.proc {
        ProcMount::Fresh => Supervision::PidNamespace,
        ProcMount::Host => Supervision::Subreaper,
    };
    let walls = Walls::of(mode, spec)?;
    Ok(Program { operations, entry: entry(process, mode.isolation, purpose, root, walls)?, supervision })
}

/// What the step's first process gives up.
struct Walls {
    filter: Option<Arc<Filter>>,
    privileges: Privileges,
    capabilities: Option<CapabilitySet>,
    domain: Option<Domain>,
}

impl Walls {
    fn of(mode: Mode, spec: &Spec) -> Result<Self, RunError> {
        let abi = Abi::of_this_kernel();
        let (privileges, capabilities, domain) = match (mode.isolation, mode.proc) {
            // A pod's root has no CAP_SYS_ADMIN, with which a filter could do without no_new_privs.
            (Isolation::Chroot, _) => (Privileges::Fixed, IN_CHANGED_ROOT, Some(abi.everything())),
            // There is nothing to give up where nobody is root.
            (Isolation::Supervised, _) => (Privileges::Fixed, CapabilitySet::empty(), Some(abi.everything())),
            (_, ProcMount::Host) => (Privileges::Gained, DEFAULT, Some(abi.signals())),
            (_, ProcMount::Fresh) => (Privileges::Gained, DEFAULT, None),
        };
        match (spec.process.confinement, mode.isolation) {
            (Confinement::Default, _) => {
                let filter = Some(seccomp::filter(&emulation::rules(mode, spec)));
                let has_some = !capabilities.is_empty() || rustix::process::geteuid().is_root();
                Ok(Self { filter, privileges, capabilities: has_some.then_some(capabilities), domain })
            }
            (Confinement::Lifted, Isolation::Namespaces | Isolation::Userns) => {
                Ok(Self { filter: None, privileges, capabilities: None, domain })
            }
            (Confinement::Lifted, isolation) => {
                Err(RunError::Invalid(format!("the isolation {isolation} cannot do without its filter")))
            }
        }
    }
}

/// What the monitor does where it has namespaces of its own.
fn operations(spec: &Spec, mode: Mode, ids: &IdRanges, purpose: Purpose) -> Result<Vec<Operation>, RunError> {
    let process = &spec.process;
    let mut operations = vec![
        operation(Action::PrivateMounts, "make mounts private", Path::new("/")),
        named(
            Action::Hostname(process.hostname.clone().into_bytes()),
            "set the host name",
            &process.hostname,
        ),
    ];
    if process.network == Network::None {
        let what = "bring up the loopback interface of a network namespace";
        operations.push(named(Action::LoopbackUp, what, ""));
    }
    operations.push(root(&spec.rootfs)?);
    if purpose == Purpose::Rehearse && mode.rootfs == RootfsForm::Overlay {
        let what = "replace a directory of the overlay's lower layer";
        operations.push(named(Action::ReplaceDirectory(REHEARSAL_DIRECTORY), what, ""));
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        push_inner_target(&mut operations, mount, spec.mounts.get(..index).unwrap_or_default())?;
        push_mount(&mut operations, mount, mode, ids, spec)?;
    }
    operations.push(named(Action::EnterRoot, "enter the root filesystem", ""));
    Ok(operations)
}

fn named(action: Action, name: &'static str, target: &str) -> Operation {
    Operation { action, name, target: target.to_owned() }
}

fn operation(action: Action, name: &'static str, target: &Path) -> Operation {
    Operation { action, name, target: target.display().to_string() }
}

fn root(rootfs: &Rootfs) -> Result<Operation, RunError> {
    Ok(match rootfs {
        Rootfs::Overlay { lower, upper, work } => {
            let plan = overlay::plan(lower, upper, work)?;
            operation(Action::RootOverlay(plan), "mount the root overlay with the upper directory", upper)
        }
        Rootfs::Directory(path) => {
            let source = c_path(&absolute(path)?)?;
            operation(Action::RootDirectory(source), "mount the root directory", path)
        }
    })
}

fn push_mount(
    operations: &mut Vec<Operation>,
    mount: &Mount,
    mode: Mode,
    ids: &IdRanges,
    spec: &Spec,
) -> Result<(), RunError> {
    let path = mount.target.as_path();
    let target = inside(path)?;
    let confinement = spec.process.confinement;
    match &mount.kind {
        MountKind::Bind { source, access, recursive } => {
            let source = c_path(&absolute(source)?)?;
            let action = Action::Bind { source, recursive: *recursive, access: *access, target };
            operations.push(operation(action, "bind a host path on", path));
        }
        MountKind::Tmpfs { size, mode } => {
            let filesystem = tmpfs(*size, *mode)?;
            operations.push(operation(Action::Filesystem { filesystem, target }, "mount a tmpfs on", path));
        }
        MountKind::Overlay { lower, upper, work, subpath, access } => {
            let plan = overlay::plan(lower, upper, work)?;
            let subpath = (!subpath.as_os_str().is_empty()).then(|| c_path(subpath)).transpose()?;
            let action = Action::Overlay { plan, subpath, access: *access, target };
            operations.push(operation(action, "mount an overlay on", path));
        }
        MountKind::File { content, uid, gid, mode: permissions } => {
            let (mut uid, mut gid) = (Uid::from_raw(id(*uid)?), Gid::from_raw(id(*gid)?));
            if mode.isolation == Isolation::UsernsSingle {
                // The emulation knows better.
                (uid, gid) = (Uid::ROOT, Gid::ROOT);
            }
            let file = MemoryFile { content: content.clone(), uid, gid, mode: permissions & 0o777 };
            operations.push(operation(Action::File { file, target }, "mount a file in memory on", path));
        }
        MountKind::Proc => push_proc(operations, path, target, mode.proc, confinement)?,
        MountKind::Sysfs => push_sysfs(operations, path, target, confinement)?,
        MountKind::Dev => push_dev(operations, path, target, ids, &spec.mounts)?,
    }
    Ok(())
}

/// Makes the target of a mount within a filesystem that is new, where nobody could make it before.
fn push_inner_target(
    operations: &mut Vec<Operation>,
    mount: &Mount,
    earlier: &[Mount],
) -> Result<(), RunError> {
    let outer = earlier
        .iter()
        .rev()
        .find(|outer| mount.target.starts_with(&outer.target) && mount.target != outer.target);
    let Some(Mount { target: outer, kind: MountKind::Tmpfs { .. } | MountKind::Dev }) = outer else {
        return Ok(());
    };
    let missing = mount.target.ancestors().take_while(|path| *path != outer).collect::<Vec<_>>();
    for path in missing.into_iter().rev() {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let (parent, name) = (inside(parent)?, c_string(name)?);
        operations.push(if path == mount.target && !mount.kind.is_directory() {
            operation(Action::MakeFile { parent, name }, "make the file", path)
        } else {
            operation(Action::MakeDirectory { parent, name }, "make the directory", path)
        });
    }
    Ok(())
}

fn push_sysfs(
    operations: &mut Vec<Operation>,
    path: &Path,
    target: CString,
    confinement: Confinement,
) -> Result<(), RunError> {
    let (access, masked): (_, &[&str]) = match confinement {
        Confinement::Default => (Access::ReadOnly, &MASKED_SYS),
        Confinement::Lifted => (Access::ReadWrite, &[]),
    };
    operations.push(operation(Action::Sysfs { access, target }, "mount sysfs on", path));
    for name in masked {
        let masked = path.join(name);
        operations.push(operation(Action::Mask(inside(&masked)?), "mask", &masked));
    }
    Ok(())
}

fn tmpfs(size: Option<u64>, mode: u32) -> Result<Filesystem, RunError> {
    let mut options = vec![(c"mode", c_string(format!("{mode:o}").as_ref())?)];
    if let Some(size) = size {
        options.push((c"size", c_string(size.to_string().as_ref())?));
    }
    // Not `nodev`, as BuildKit: no device worth hiding can be made in it (`seccomp`).
    Ok(Filesystem { kind: c"tmpfs", options, attributes: MountAttrFlags::MOUNT_ATTR_NOSUID })
}

fn push_proc(
    operations: &mut Vec<Operation>,
    path: &Path,
    target: CString,
    mount: ProcMount,
    confinement: Confinement,
) -> Result<(), RunError> {
    operations.push(match mount {
        ProcMount::Fresh => {
            let attributes = inert();
            let filesystem = Filesystem { kind: c"proc", options: Vec::new(), attributes };
            operation(Action::Filesystem { filesystem, target }, MOUNT_NEW_PROC, path)
        }
        ProcMount::Host => {
            let source = c"/proc".to_owned();
            let action = Action::Bind { source, recursive: true, access: Access::ReadWrite, target };
            operation(action, "bind the host's /proc on", path)
        }
    });
    if confinement == Confinement::Lifted {
        return Ok(());
    }
    for name in READ_ONLY_PROC {
        let inner = path.join(name);
        operations.push(operation(Action::ReadOnly(inside(&inner)?), "make read-only", &inner));
    }
    for name in MASKED_PROC {
        let inner = path.join(name);
        operations.push(operation(Action::Mask(inside(&inner)?), "mask", &inner));
    }
    Ok(())
}

/// No set-id programs, no devices, no execution.
fn inert() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC
}

fn push_dev(
    operations: &mut Vec<Operation>,
    path: &Path,
    target: CString,
    ids: &IdRanges,
    all: &[Mount],
) -> Result<(), RunError> {
    operations.push(operation(Action::Dev { target }, "mount a tmpfs on", path));
    let inner = |name: &CStr| path.join(OsStr::from_bytes(name.to_bytes()));
    for (name, host) in HOST_DEVICES {
        operations.push(operation(Action::Device { name, host }, "bind the host's device on", &inner(name)));
    }
    let mut pts = vec![(c"ptmxmode", c"0666".to_owned()), (c"mode", c"0620".to_owned())];
    if ids.groups.contains(TTY_GROUP) {
        pts.push((c"gid", c_string(TTY_GROUP.to_string().as_ref())?));
    }
    let shm = vec![(c"mode", c"1777".to_owned()), (c"size", c"65536k".to_owned())];
    let mqueue = Vec::new();
    let no_exec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    for (name, kind, options, attributes) in [
        (c"pts", c"devpts", pts, no_exec),
        (c"shm", c"tmpfs", shm, inert()),
        (c"mqueue", c"mqueue", mqueue, inert()),
    ] {
        // A mount of the step's own takes the place of the default one.
        if all.iter().all(|mount| mount.target != inner(name)) {
            let filesystem = Filesystem { kind, options, attributes };
            let action = Action::DevFilesystem { name, filesystem };
            operations.push(operation(action, "mount a filesystem on", &inner(name)));
        }
    }
    for (name, to) in DEV_LINKS {
        operations.push(operation(Action::DevLink { name, to }, "make the symlink", &inner(name)));
    }
    Ok(())
}

fn id(id: u32) -> Result<u32, RunError> {
    match id {
        u32::MAX => Err(RunError::Invalid(format!("{id} is no user or group id"))),
        id => Ok(id),
    }
}

fn entry(
    process: &Process,
    isolation: Isolation,
    purpose: Purpose,
    root: Root,
    walls: Walls,
) -> Result<Entry, RunError> {
    let user = &process.user;
    let mut rlimits: Vec<_> = process.rlimits.iter().map(limits::in_kernel).collect();
    let credentials = match isolation {
        Isolation::UsernsSingle | Isolation::Supervised => {
            rlimits.retain(|(resource, _)| *resource != single::LIMIT);
            let mut first = single::first_limit(user);
            if isolation == Isolation::Supervised {
                first.maximum = Some(single::new_mark());
            }
            rlimits.push((single::LIMIT, first));
            Credentials::Emulated
        }
        _ => Credentials::Real,
    };
    let groups = user.groups.iter().map(|&group| id(group).map(Gid::from_raw)).collect::<Result<_, _>>()?;
    let program = match purpose {
        Purpose::Run => executable(process)?,
        Purpose::Rehearse => Executable::Nothing,
    };
    let Walls { filter, privileges, capabilities, domain } = walls;
    Ok(Entry {
        uid: Uid::from_raw(id(user.uid)?),
        gid: Gid::from_raw(id(user.gid)?),
        groups,
        credentials,
        cwd: inside(&process.cwd)?,
        umask: process.umask & 0o777,
        rlimits,
        filter,
        privileges,
        capabilities,
        domain,
        root,
        program,
        own_program: OwnProgram::of_this_process(),
    })
}

fn executable(process: &Process) -> Result<Executable, RunError> {
    let Some(program) = process.argv.first().filter(|program| !program.is_empty()) else {
        return Err(RunError::Invalid("no program to run".to_owned()));
    };
    let (lookup, files) = if program.as_bytes().contains(&b'/') {
        (Lookup::Path, vec![PathBuf::from(program)])
    } else {
        (Lookup::SearchPath, search_path(process).map(|directory| directory.join(program)).collect())
    };
    let public = process.env.iter().map(|(name, value)| variable(name, value.as_bytes()));
    let secret = process.secret_env.iter().map(|(name, value)| variable(name, value.expose()));
    Ok(Executable::Files {
        candidates: files.iter().map(|file| c_path(file)).collect::<Result<_, _>>()?,
        lookup,
        argv: StringArray::new(process.argv.iter().map(|a| c_string(a)).collect::<Result<_, _>>()?),
        env: StringArray::new(public.chain(secret).collect::<Result<_, _>>()?),
    })
}

/// Makes the text of a variable; a value is not shown, whatever is wrong with it.
fn variable(name: &OsStr, value: &[u8]) -> Result<CString, RunError> {
    let text = [name.as_bytes(), b"=", value].concat();
    CString::new(text).map_err(|error| {
        drop(zeroize::Zeroizing::new(error.into_vec()));
        RunError::Invalid(format!("the variable {name:?} contains a null byte"))
    })
}

/// Returns the directories of `PATH`; the last setting counts, as for `getenv` after runc has set them in turn, and
/// an empty name is the working directory.
fn search_path(process: &Process) -> impl Iterator<Item = PathBuf> {
    let path = process.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_bytes());
    path.into_iter().flat_map(|path| path.split(|&byte| byte == b':')).map(|directory| match directory {
        [] => PathBuf::from("."),
        directory => PathBuf::from(OsStr::from_bytes(directory)),
    })
}

/// Makes a path absolute: the child changes its working directory on the way.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, RunError> {
    std::path::absolute(path)
        .map_err(|error| RunError::Invalid(format!("cannot make {path:?} absolute: {error}")))
}

/// Returns a path inside the root as the kernel wants it: an empty one is the root itself.
fn inside(path: &Path) -> Result<CString, RunError> {
    if path.as_os_str().is_empty() { Ok(c".".to_owned()) } else { c_path(path) }
}

pub(crate) fn c_path(path: &Path) -> Result<CString, RunError> {
    c_string(path.as_os_str())
}

fn c_string(text: &OsStr) -> Result<CString, RunError> {
    CString::new(text.as_bytes()).map_err(|_| RunError::Invalid(format!("{text:?} contains a null byte")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_searched_in_path() {
        let check = |env: &[(&str, &str)], expect: &[&str]| {
            let mut process = Process::new(["true"]);
            process.env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
            let found: Vec<PathBuf> = search_path(&process).collect();
            assert_eq!(found, expect.iter().map(PathBuf::from).collect::<Vec<_>>());
        };
        check(&[("PATH", "/bin:/usr/bin")], &["/bin", "/usr/bin"]);
        check(&[("PATH", "/a"), ("PATH", "/b::/c")], &["/b", ".", "/c"]);
        check(&[("HOME", "/root")], &[]);
    }

    #[test]
    fn impossible_processes_are_refused() {
        let check = |change: &dyn Fn(&mut Process)| {
            let mut process = Process::new(["/bin/true"]);
            change(&mut process);
            let (rootfs, mounts) = (Rootfs::Directory("/".into()), Vec::new());
            let spec = Spec { rootfs, mounts, process, owners: None };
            let mode =
                Mode { isolation: Isolation::Chroot, proc: ProcMount::Host, rootfs: RootfsForm::Directory };
            let ids = IdRanges::of_this_process().unwrap();
            let made = program(&spec, mode, &ids, (Purpose::Run, None));
            assert!(matches!(made, Err(RunError::Invalid(_))), "{spec:?}");
        };
        check(&|process| process.argv.clear());
        check(&|process| process.argv = vec!["".into()]);
        check(&|process| process.argv = vec!["a\0b".into()]);
        check(&|process| process.env = vec![("A".into(), "a\0b".into())]);
        check(&|process| process.cwd = "a\0b".into());
        check(&|process| process.user.uid = u32::MAX);
        check(&|process| process.user.groups = vec![0, u32::MAX]);
    }
}
