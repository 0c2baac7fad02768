//! `rbuild doctor`: what this host allows, what is used, and what one change would enable.

use std::collections::BTreeMap;
use std::path::Path;

use rbuild_builder::plan::Emulator;
use rbuild_layers::Store;
use rbuild_registry::{CredentialSource, Hosts};
use rbuild_sandbox::{Attempt, Isolation, Mounting, Ownership, RootfsForm, Sandbox, Unavailable, Wall};
use serde::Serialize;

use super::{environment, open_store, print};
use crate::args::{DoctorArgs, Format};
use crate::render;
use crate::settings::{credentials_in_files, isolation};

/// Everything `rbuild doctor` says.
#[derive(Debug, Serialize)]
pub(crate) struct Checkup {
    pub(crate) version: &'static str,
    pub(crate) kernel: String,
    pub(crate) user: User,
    /// The version of Landlock; 0 where there is none.
    pub(crate) landlock_abi: u32,
    pub(crate) run: Run,
    pub(crate) store: Shelf,
    /// Architectures that RUN may be for, and how their programs are found.
    pub(crate) emulators: BTreeMap<String, &'static str>,
    pub(crate) credentials: Vec<Source>,
    /// Names of the proxy variables that are set.
    pub(crate) proxies: Vec<&'static str>,
}

/// Who this process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct User {
    pub(crate) uid: u32,
    /// How many user ids are mapped here.
    pub(crate) ids: u64,
}

/// How RUN is isolated.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) chosen: Option<Chosen>,
    /// What would make RUN possible at all.
    pub(crate) remedy: Option<String>,
    pub(crate) attempts: Vec<Tried>,
    /// What one change would make better.
    pub(crate) improvements: Vec<Improvement>,
}

/// The isolation in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Chosen {
    pub(crate) isolation: &'static str,
    /// `overlay` or `directory`.
    pub(crate) snapshots: &'static str,
    /// `mounted` or `placed`.
    pub(crate) mounts: &'static str,
    /// `native` or `recorded`.
    pub(crate) owners: &'static str,
    /// What should stand between a step and this host, and does not.
    pub(crate) missing_walls: Vec<&'static str>,
}

/// One isolation that was tried.
#[derive(Debug, Serialize)]
pub(crate) struct Tried {
    pub(crate) isolation: &'static str,
    /// The operation that failed; nothing when it works.
    pub(crate) failure: Option<String>,
}

/// A change of the pod, and what it brings.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Improvement {
    pub(crate) change: &'static str,
    pub(crate) brings: &'static str,
}

/// Where the store is.
#[derive(Debug, Serialize)]
pub(crate) struct Shelf {
    pub(crate) path: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) filesystem: Option<String>,
    pub(crate) free: Option<u64>,
    pub(crate) size: Option<u64>,
}

/// A place of credentials.
#[derive(Debug, Serialize)]
pub(crate) struct Source {
    /// A path, `$DOCKER_AUTH_CONFIG` or words.
    pub(crate) path: String,
    /// Registries it names, and programs it asks.
    pub(crate) names: Vec<String>,
    /// Why nothing can be had from it; nothing when it does not exist.
    pub(crate) error: Option<String>,
}

/// Prints the checkup. Fails only when an isolation was asked for that does not work here.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let forced = isolation(args.isolation.as_deref())?;
    let store = open_store(&args.store);
    let (run, unavailable) = match &store {
        Ok(store) => inspect(store, forced)?,
        Err(_) => (Run { chosen: None, remedy: None, attempts: Vec::new(), improvements: Vec::new() }, None),
    };
    let places = credentials_in_files(&args.credentials)?.with_helpers_of(&Hosts::from_env());
    let checkup = Checkup {
        version: env!("CARGO_PKG_VERSION"),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        user: user(),
        landlock_abi: rbuild_sandbox::landlock_abi(),
        run,
        store: shelf(&store),
        emulators: emulators(),
        credentials: places.survey().into_iter().filter_map(source).collect(),
        proxies: proxies(),
    };
    match args.format {
        Format::Text => print(&render::doctor::text(&checkup))?,
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&checkup)?))?,
    }
    match (forced, unavailable) {
        (Some(_), Some(unavailable)) => Err(unavailable.into()),
        _ => Ok(()),
    }
}

/// Tries every isolation, and takes the one that a build would.
fn inspect(store: &Store, forced: Option<Isolation>) -> anyhow::Result<(Run, Option<Unavailable>)> {
    let scratch = store.scratch()?;
    let probe = rbuild_sandbox::probe(scratch.path());
    let found = match forced {
        Some(isolation) => Sandbox::forced(isolation, scratch.path()),
        None => Sandbox::detect(scratch.path()),
    };
    let chosen = found.as_ref().ok().map(chosen);
    let facts = chosen.clone().map(|chosen| Facts { chosen, ids: user().ids });
    let run = Run {
        remedy: found.as_ref().err().map(Unavailable::remedy),
        attempts: probe.attempts.iter().map(tried).collect(),
        improvements: facts.as_ref().map(improvements).unwrap_or_default(),
        chosen,
    };
    Ok((run, found.err()))
}

fn tried(attempt: &Attempt) -> Tried {
    let failure = attempt.outcome.as_ref().err().map(ToString::to_string);
    Tried { isolation: attempt.isolation.name(), failure }
}

fn chosen(sandbox: &Sandbox) -> Chosen {
    Chosen {
        isolation: sandbox.isolation().name(),
        snapshots: match sandbox.rootfs_form() {
            RootfsForm::Overlay => "overlay",
            RootfsForm::Directory => "directory",
        },
        mounts: match sandbox.mounting() {
            Mounting::Kernel => "mounted",
            Mounting::Placed => "placed",
        },
        owners: match sandbox.ownership() {
            Ownership::Native => "native",
            Ownership::Recorded => "recorded",
        },
        missing_walls: sandbox.missing_walls().into_iter().map(Wall::absence).collect(),
    }
}

/// What improvements depend on.
#[derive(Debug)]
struct Facts {
    chosen: Chosen,
    /// How many user ids are mapped here: all of them where root is the node's.
    ids: u64,
}

/// The size of the map of a process that is in no user namespace.
const ALL_IDS: u64 = u32::MAX as u64;

/// Lists what one change of the pod would make faster or safer.
fn improvements(facts: &Facts) -> Vec<Improvement> {
    let Facts { chosen, ids } = facts;
    let mut list = Vec::new();
    let mut add = |change, brings| list.push(Improvement { change, brings });
    match chosen.isolation {
        "chroot" => {
            add(
                "securityContext.seccompProfile.type: Unconfined",
                "isolation userns: real mounts and overlay snapshots instead of answered system calls, faster",
            );
            add(
                "hostUsers: false, and securityContext.capabilities.add: [SYS_ADMIN]",
                "isolation namespaces, and root in the pod is nobody on the node: faster and safer",
            );
        }
        "supervised" => add(
            "securityContext.seccompProfile.type: Unconfined",
            "isolation userns-single: real mounts, and paths are the kernel's: several times faster",
        ),
        "userns-single" => add(
            "securityContext.runAsUser: 0, and hostUsers: false",
            "isolation userns or namespaces: the kernel keeps the owners of files, faster; root is nobody on the node",
        ),
        "namespaces" if *ids == ALL_IDS => add(
            "hostUsers: false, and securityContext.capabilities.add: [SYS_ADMIN] instead of privileged: true",
            "the same isolation, and root in the pod is nobody on the node: safer",
        ),
        "userns" if *ids == ALL_IDS => {
            add("hostUsers: false", "the same isolation, and root in the pod is nobody on the node: safer");
        }
        _ => {}
    }
    if chosen.snapshots == "directory" && chosen.mounts == "mounted" {
        add(
            "volumes: an emptyDir, mounted where RBUILD_ROOT points",
            "overlay snapshots instead of comparing whole trees after each step: faster",
        );
    }
    list
}

fn user() -> User {
    // Columns: first id inside, first id outside, count.
    let count = |line: &str| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok();
    let ids = read("/proc/self/uid_map").lines().filter_map(count).fold(0_u64, u64::saturating_add);
    User { uid: rustix::process::geteuid().as_raw(), ids }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn shelf(store: &anyhow::Result<Store>) -> Shelf {
    let store = match store {
        Ok(store) => store,
        Err(error) => {
            let error = Some(format!("{error:#}"));
            return Shelf { path: None, error, filesystem: None, free: None, size: None };
        }
    };
    let space = rustix::fs::statvfs(store.path()).ok();
    let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
        space.as_ref().map(|space| blocks(space).saturating_mul(space.f_frsize))
    };
    Shelf {
        path: Some(store.path().display().to_string()),
        error: None,
        filesystem: filesystem(store.path(), &read("/proc/self/mountinfo")),
        free: bytes(|space| space.f_bavail),
        size: bytes(|space| space.f_blocks),
    }
}

/// Finds the type of the filesystem that holds a path: the last mount on its longest parent.
///
/// # References
/// proc_pid_mountinfo(5)
fn filesystem(path: &Path, mountinfo: &str) -> Option<String> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let point = place.split(' ').nth(4)?.replace("\\040", " ");
        let kind = kind.split(' ').next()?.to_owned();
        path.starts_with(&point).then_some((point.len(), kind))
    };
    // The last of equal ones is on top.
    mountinfo.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

fn emulators() -> BTreeMap<String, &'static str> {
    let found = rbuild_builder::emulators(Path::new(rbuild_builder::REGISTERED));
    let form = |emulator| match emulator {
        Emulator::Fixed => "works in every rootfs",
        Emulator::NotFixed => "registered without the flag F: does not work in a rootfs",
    };
    found.into_iter().map(|(architecture, emulator)| (architecture, form(emulator))).collect()
}

/// Describes a place of credentials that there is.
fn source(source: CredentialSource) -> Option<Source> {
    let path = source.place;
    let entries = match source.entries {
        Ok(entries) => entries,
        Err(error) => {
            let cause =
                std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
            let missing = cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::NotFound);
            let error = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
            return (!missing).then_some(Source { path, names: Vec::new(), error: Some(error) });
        }
    };
    let name = |entry: rbuild_registry::CredentialEntry| {
        let name = entry.name.unwrap_or_else(|| "every registry".to_owned());
        entry.program.map_or_else(|| name.clone(), |program| format!("{name} (asks {program})"))
    };
    // Credential programs of clouds that are not installed are no place.
    let is_file = path.starts_with(['/', '$', '.']);
    if entries.is_empty() && !is_file {
        return None;
    }
    Some(Source { path, names: entries.into_iter().map(name).collect(), error: None })
}

fn proxies() -> Vec<&'static str> {
    let is_set = |name: &&str| environment(name).is_some_and(|value| !value.is_empty());
    rbuild_registry::PROXY_VARIABLES.into_iter().filter(is_set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems_are_those_of_the_nearest_mount() {
        let mountinfo = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                         30 22 0:25 / /var/lib/r\\040b rw - xfs /dev/vdb rw\n\
                         31 30 0:26 / /var/lib/r\\040b rw - tmpfs tmpfs rw\n";
        let check = |path: &str, expect: &str| {
            assert_eq!(filesystem(Path::new(path), mountinfo).as_deref(), Some(expect), "{path}");
        };
        check("/var/lib/rbuild", "ext4");
        check("/var/lib/r b/x", "tmpfs");
        assert_eq!(filesystem(Path::new("/x"), ""), None);
    }

    #[test]
    fn one_change_makes_it_better() {
        let check = |isolation: &'static str, snapshots: &'static str, ids: u64, expect: &[&str]| {
            let mounts = if isolation == "chroot" { "placed" } else { "mounted" };
            let chosen = Chosen { isolation, snapshots, mounts, owners: "native", missing_walls: Vec::new() };
            let found = improvements(&Facts { chosen, ids });
            let changes: Vec<&str> = found.iter().map(|improvement| improvement.change).collect();
            assert_eq!(changes.len(), expect.len(), "{changes:?}");
            for (change, expect) in changes.iter().zip(expect) {
                assert!(change.contains(expect), "{change}");
            }
        };
        check("namespaces", "overlay", 65536, &[]);
        check("namespaces", "overlay", ALL_IDS, &["instead of privileged"]);
        check("userns", "overlay", ALL_IDS, &["hostUsers: false"]);
        check("userns", "directory", 65536, &["emptyDir"]);
        check("userns-single", "overlay", 1, &["runAsUser: 0"]);
        check("chroot", "directory", ALL_IDS, &["seccompProfile.type: Unconfined", "SYS_ADMIN"]);
    }
}
