//! Ways out of a RUN step, tried in every isolation that works on this machine: `testdata/redteam`.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Image, Run, World, can_run, have, tool};

/// What every file that a step must not reach holds; `escape.h` has it in two pieces.
const MARK: &str = "escape-bait:";

/// Attempts that need not succeed outside of a sandbox: they depend on the machine, or ask for nothing there.
const MAY_FAIL_ANYWHERE: &[&str] = &[
    "working-directory",
    "own-links",
    "race-for-a-name",
    "mknod-disk",
    "device-of-image",
    "modules",
    "ports",
    "sysctl",
    "sysrq",
    "proc-files",
    "sysfs",
    "terminal",
    "capabilities",
    "odd-sockets",
    "filter",
];

/// Where steps run.
struct Place {
    isolation: &'static str,
    /// Who runs the builder, if it is not root.
    user: Option<u32>,
    /// A shell command in private mount namespaces that `exec "$@"` follows.
    prepare: Option<&'static str>,
    /// What docs/isolation.md says of this place.
    admitted: &'static [&'static str],
}

const MASK: &str = "mount --bind /dev/null /proc/timer_list";

const PLACES: &[Place] = &[
    Place { isolation: "namespaces", user: None, prepare: None, admitted: &[] },
    Place { isolation: "userns", user: None, prepare: None, admitted: &[] },
    Place { isolation: "userns-single", user: Some(1000), prepare: None, admitted: &[] },
    Place { isolation: "chroot", user: None, prepare: None, admitted: &["priorities"] },
    Place { isolation: "supervised", user: Some(1000), prepare: None, admitted: &["priorities"] },
    // As in a pod: where paths of /proc are masked no other can be mounted, so that the step has no PID namespace.
    Place {
        isolation: "userns",
        user: None,
        prepare: Some(MASK),
        admitted: &["proc-writable", "priorities"],
    },
    Place {
        isolation: "userns-single",
        user: Some(1000),
        prepare: Some(MASK),
        admitted: &["proc-writable", "priorities"],
    },
];

/// A shell command that leaves a descriptor open to what follows, as careless parents of builders do.
const LEFT_OPEN: &str = "exec 9< ../token";

/// A world with bait in it.
struct Trap {
    world: World,
    listener: TcpListener,
    socket: String,
    _abstract: UnixListener,
}

impl Trap {
    /// `None` where steps cannot run here; says so.
    fn new() -> Option<Self> {
        let world = World::new();
        if !can_run(&world) || !have("cc") || !have("unshare") {
            return None;
        }
        let escape = compile(&world);
        std::fs::copy(escape, world.file("escape", "")).expect("the program in the context");
        for (name, content) in [
            ("token", format!("{MARK} token\n")),
            ("home/.docker/config.json", format!("{{\"auths\":{{}},\"note\":\"{MARK} config\"}}")),
        ] {
            std::fs::create_dir_all(world.path(name).parent().expect("a parent")).expect("folders");
            std::fs::write(world.path(name), content).expect("bait");
        }
        std::fs::create_dir(world.store()).expect("a store");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = format!("rbuild-redteam-{}-{:p}", std::process::id(), &raw const world);
        let address = SocketAddr::from_abstract_name(&socket).expect("a name");
        let bound = UnixListener::bind_addr(&address).expect("an abstract socket");
        Some(Self { world, listener, socket, _abstract: bound })
    }

    fn outside(&self) -> String {
        self.world.path("").to_str().expect("UTF-8").trim_end_matches('/').to_owned()
    }

    /// The builder, where the user can execute it.
    fn program(&self, user: Option<u32>) -> PathBuf {
        let built = PathBuf::from(self.world.command().get_program());
        let Some(user) = user else { return built };
        let program = self.world.path("rbuild");
        if !program.exists() {
            std::fs::hard_link(&built, &program)
                .or_else(|_| std::fs::copy(&built, &program).map(drop))
                .expect("a copy");
            for path in ["", "out", "store-of-user"] {
                let path = self.world.path(path);
                std::fs::create_dir_all(&path).expect("a folder");
                std::os::unix::fs::chown(&path, Some(user), Some(user)).expect("root may");
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("root may");
            }
        }
        program
    }

    fn store(&self, user: Option<u32>) -> PathBuf {
        self.world.path(if user.is_some() { "store-of-user" } else { "store" })
    }

    /// Builds a Dockerfile of testdata/redteam into a layout.
    fn build(&self, place: &Place, name: &str, file: &Path, more: &[&str]) -> (Run, PathBuf) {
        let dest = self.world.path(name);
        let rbuild = self.world.command();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        command.arg(format!("{}; {LEFT_OPEN}; exec \"$@\"", place.prepare.unwrap_or("true"))).arg("-");
        if let Some(user) = place.user {
            let id = user.to_string();
            command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--no-new-privs"]);
            command.args(["--bounding-set", "-all", "--"]);
        }
        command.arg(self.program(place.user));
        command.env_clear();
        for (name, value) in rbuild.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command.env("BAIT", format!("{MARK} environment")).env("RBUILD_BAIT", "1");
        command.env("RBUILD_ROOT", self.store(place.user)).args(["--secret", "id=bait,env=BAIT"]);
        command.current_dir(self.world.context()).stdin(std::process::Stdio::null());
        command
            .args(["--isolation", place.isolation, "--progress", "plain", "--no-cache", "--file"])
            .arg(file);
        command.args(["--build-context", &self.world.busybox().expect("checked")]);
        let port = self.listener.local_addr().expect("an address").port();
        for (name, value) in
            [("OUTSIDE", self.outside()), ("PORT", port.to_string()), ("SOCKET", self.socket.clone())]
        {
            command.arg("--build-arg").arg(format!("{name}={value}"));
        }
        command.arg("--output").arg(format!("type=oci,dest={},tar=false", dest.display()));
        let output = command.args(more).arg(".").output().expect("rbuild starts");
        (Run::of(output), dest)
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/redteam")
}

fn compile(world: &World) -> PathBuf {
    let program = world.path("escape");
    let mut sources: Vec<String> = std::fs::read_dir(folder())
        .expect("testdata/redteam")
        .map(|entry| entry.expect("an entry").path().display().to_string())
        .filter(|path| path.ends_with(".c"))
        .collect();
    sources.sort();
    let program_name = program.to_str().expect("UTF-8");
    let mut args = vec!["-static", "-O1", "-Wall", "-Werror", "-o", program_name];
    args.extend(sources.iter().map(String::as_str));
    tool("cc", &args);
    program
}

/// What came of each attempt, by name: how it got out, or nothing.
fn attempts(text: &str) -> BTreeMap<String, Option<String>> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
        let how = rest.strip_prefix("OUT ");
        assert!(how.is_some() || rest.starts_with("held "), "{line:?}");
        (name.to_owned(), how.map(str::to_owned))
    };
    text.lines().map(line).collect()
}

/// The content of a file of the highest layer that has it.
fn file(image: &Image, path: &str) -> String {
    let found = (0..image.layers()).rev().find_map(|layer| {
        image.entries(layer).into_iter().find(|entry| entry.path == path).map(|entry| entry.content)
    });
    found.unwrap_or_else(|| panic!("no {path}"))
}

/// Runs the attempts where nothing holds them: in a PID namespace of their own, beside a process to attack.
fn unconfined(trap: &Trap) -> BTreeMap<String, Option<String>> {
    let escape = trap.world.path("escape");
    let port = trap.listener.local_addr().expect("an address").port();
    let script = format!(
        "{LEFT_OPEN}; setsid sleep 60 & {escape} all {outside}; {escape} network {outside} {port} {socket}; kill $!",
        escape = escape.display(),
        outside = trap.outside(),
        socket = trap.socket,
    );
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script])
        .env("BAIT", MARK)
        .current_dir(trap.world.path("context"))
        .output()
        .expect("unshare starts");
    attempts(&String::from_utf8_lossy(&output.stdout))
}

#[test]
fn every_attempt_is_held() {
    let Some(trap) = Trap::new() else { return };
    let control = unconfined(&trap);
    let powerless: Vec<&String> = control
        .iter()
        .filter(|(name, out)| out.is_none() && !MAY_FAIL_ANYWHERE.contains(&name.as_str()))
        .map(|(name, _)| name)
        .collect();
    assert!(powerless.is_empty(), "these succeed nowhere, so that they prove nothing: {powerless:?}");
    nodes(&trap.world.file("nodes.tar", ""));

    for (index, place) in PLACES.iter().enumerate() {
        let (run, layout) = trap.build(place, &format!("out-{index}"), &folder().join("Dockerfile"), &[]);
        let run = run.success();
        assert!(run.stderr.contains("descriptors: held"), "{}", run.stderr);
        assert!(!run.stderr.contains(MARK), "{}", run.stderr);
        let image = Image::open(&layout);
        let (root, user) = (attempts(&file(&image, "attempts")), attempts(&file(&image, "tmp/attempts")));
        let names = root.keys().filter(|name| *name != "previous-secret");
        assert!(names.eq(control.keys()), "{:?}", root.keys());
        assert!(user.len() + 7 == root.len(), "{:?}", user.keys());
        let out: Vec<_> = root
            .iter()
            .chain(&user)
            .filter(|(name, how)| how.is_some() && !place.admitted.contains(&name.as_str()))
            .collect();
        assert!(out.is_empty(), "{} {:?}: {out:#?}", place.isolation, place.prepare);
    }
}

/// An archive with a disk and the memory of the machine in it.
fn nodes(path: &Path) {
    let mut archive = tar::Builder::new(std::fs::File::create(path).expect("an archive"));
    for (name, kind, major, minor) in
        [("nodes/disk", tar::EntryType::Block, 8, 0), ("nodes/memory", tar::EntryType::Char, 1, 1)]
    {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o666);
        header.set_size(0);
        header.set_device_major(major).expect("a number");
        header.set_device_minor(minor).expect("a number");
        archive.append_data(&mut header, name, std::io::empty()).expect("in memory");
    }
    archive.finish().expect("in memory");
}

/// What lies in the folder that must stay as it is, with what the files hold.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                found.insert(entry.clone(), Vec::new());
                left.push(entry);
            } else {
                found.insert(entry.clone(), std::fs::read(entry).expect("a file"));
            }
        }
    }
    found
}

/// A folder of the host to be written to or read from by names that lead to it.
fn victim(trap: &Trap) -> PathBuf {
    let victim = trap.world.path("victim");
    std::fs::create_dir_all(victim.join("work")).expect("a folder");
    std::fs::write(victim.join("secret"), MARK).expect("bait");
    trap.world.file("file", "file");
    trap.world.file("folder/inner", "inner");
    let mut archive =
        tar::Builder::new(std::fs::File::create(trap.world.file("archive.tar", "")).expect("an archive"));
    archive.append_path_with_name(trap.world.path("context/file"), "unpacked").expect("in memory");
    archive.finish().expect("in memory");
    victim
}

#[test]
fn targets_stay_in_the_image() {
    let Some(trap) = Trap::new() else { return };
    let victim = victim(&trap);
    let before = contents(&victim);
    let outside = format!("OUTSIDE={}", victim.display());
    for (index, place) in PLACES.iter().enumerate() {
        let dockerfile = folder().join("Dockerfile.paths");
        let (run, layout) =
            trap.build(place, &format!("out-{index}"), &dockerfile, &["--build-arg", &outside]);
        run.success();
        assert_eq!(contents(&victim), before);
        let image = Image::open(&layout);
        let inside = victim.strip_prefix("/").expect("absolute").display().to_string();
        for name in ["copied", "copied-up", "dotdot", "passwd", "unpacked", "written"] {
            file(&image, &format!("{inside}/{name}"));
        }
    }
}

#[test]
fn what_a_step_puts_in_the_place_of_mounts_is_not_followed() {
    let Some(trap) = Trap::new() else { return };
    let victim = victim(&trap);
    let before = contents(&victim);
    let outside = format!("OUTSIDE={}", victim.display());
    for (index, place) in PLACES.iter().enumerate() {
        let dockerfile = folder().join("Dockerfile.swap");
        let (run, _) = trap.build(place, &format!("out-{index}"), &dockerfile, &["--build-arg", &outside]);
        run.success();
        assert_eq!(contents(&victim), before, "{}", place.isolation);
    }
}

#[test]
fn sources_outside_are_not_found() {
    let Some(trap) = Trap::new() else { return };
    let victim = victim(&trap);
    let before = contents(&victim);
    let path = victim.display();
    let up = "../../../../../../../..";
    let traps = format!(
        "FROM busybox AS traps\nRUN ln -s {path} /out && ln -s {up}{path} /up && ln -s /proc/1/root{path} /through-proc\nFROM traps\n"
    );
    std::os::unix::fs::symlink(&victim, trap.world.context().join("soft")).expect("a link");
    std::os::unix::fs::symlink(format!("{up}{path}"), trap.world.context().join("soft-up")).expect("a link");
    hostile_archives(&trap, &victim);
    for instruction in [
        "COPY --from=traps /out/secret /s".to_owned(),
        "COPY --from=traps /up/secret /s".to_owned(),
        "COPY --from=traps /through-proc/secret /s".to_owned(),
        format!("COPY --from=traps {up}{path}/secret /s"),
        format!("COPY {up}{path}/secret /s"),
        "COPY soft/secret /s".to_owned(),
        "COPY soft-up/secret /s".to_owned(),
        "RUN --mount=type=bind,source=soft,target=/m cat /m/secret".to_owned(),
        format!("RUN --mount=type=bind,source={up}{path},target=/m cat /m/secret"),
        "RUN --mount=type=bind,from=traps,source=/out,target=/m cat /m/secret".to_owned(),
        "RUN --mount=type=cache,from=traps,source=/out,target=/m cat /m/secret".to_owned(),
        "RUN cat /out/secret".to_owned(),
        "RUN cat /through-proc/secret".to_owned(),
        "ADD hard-link.tar /\nRUN cat /hard".to_owned(),
    ] {
        trap.world.dockerfile(&format!("{traps}{instruction}\n"));
        let (run, _) = trap.build(&PLACES[0], "refused", Path::new("Dockerfile"), &[]);
        assert_ne!(run.code, 0, "{instruction}: {}", run.stderr);
        assert!(!run.stderr.contains(MARK), "{instruction}: {}", run.stderr);
        assert_eq!(contents(&victim), before, "{instruction}");
    }
    for instruction in ["ADD dotdot.tar /", "ADD absolute.tar /", "ADD through-link.tar /"] {
        trap.world.dockerfile(&format!("{traps}{instruction}\nRUN true\n"));
        trap.build(&PLACES[0], "contained", Path::new("Dockerfile"), &[]);
        assert_eq!(contents(&victim), before, "{instruction}");
    }
}

fn hostile_archives(trap: &Trap, victim: &Path) {
    let absolute = victim.display().to_string();
    let up = format!("../../../../../../../..{absolute}");
    let write = |name: &str, entries: &[(&str, tar::EntryType, &str)]| {
        let path = trap.world.file(name, "");
        let mut archive = tar::Builder::new(std::fs::File::create(path).expect("an archive"));
        for (name, kind, link) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_size(if kind.is_file() { 4 } else { 0 });
            // Not `set_path`, which refuses what a hostile archive has.
            header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_gnu_mut().expect("gnu").linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            archive.append(&header, &b"evil"[..if kind.is_file() { 4 } else { 0 }]).expect("in memory");
        }
        archive.finish().expect("in memory");
    };
    use tar::EntryType::{Link, Regular, Symlink};
    write("dotdot.tar", &[(&format!("{up}/dotdot"), Regular, "")]);
    write("absolute.tar", &[(&format!("{absolute}/absolute"), Regular, "")]);
    write("through-link.tar", &[("soft", Symlink, &absolute), ("soft/through", Regular, "")]);
    write("hard-link.tar", &[("hard", Link, &format!("{up}/secret"))]);
}

/// A descriptor that the first process of a step still holds is a way out for a working directory (CVE-2024-21626).
#[test]
fn no_working_directory_is_a_descriptor_of_the_builder() {
    let Some(trap) = Trap::new() else { return };
    for place in PLACES.iter().filter(|place| place.prepare.is_some()) {
        for descriptor in 3..12 {
            trap.world.dockerfile(&format!(
                "FROM busybox\nARG OUTSIDE\nCOPY escape /bin/\nWORKDIR /proc/self/fd/{descriptor}\nRUN escape files \"$OUTSIDE\" > /attempts\n"
            ));
            let (run, layout) = trap.build(place, &format!("fd-{descriptor}"), Path::new("Dockerfile"), &[]);
            if run.code == 0 {
                let out: Vec<_> = attempts(&file(&Image::open(&layout), "attempts"))
                    .into_iter()
                    .filter(|(_, out)| out.is_some())
                    .collect();
                assert!(out.is_empty(), "{} {descriptor}: {out:?}", place.isolation);
            }
        }
    }
}
