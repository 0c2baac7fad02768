//! A root filesystem, and steps in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rbuild_sandbox::{
    Cancel, Exit, Isolation, Mount, Process, Rootfs, RootfsForm, RunError, Sandbox, Spec, Stream,
};
use tempfile::TempDir;

use crate::records::Records;

const APPLETS: &str = "awk cat chmod chown chroot cp env grep head hostname id ip ln ls mkdir mknod mount ping readlink rm seq \
                       setsid sh sleep stat sync tail test mkfifo mv nc ps su touch true unshare usleep wc";

/// A sandbox, and a tree to run steps on.
pub(crate) struct Lab {
    pub(crate) sandbox: Sandbox,
    pub(crate) dir: TempDir,
    next: AtomicU32,
}

/// What became of a step.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) result: Result<Exit, RunError>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Where its changes are.
    pub(crate) upper: PathBuf,
}

/// Calls `test` for every isolation that works here and mounts.
pub(crate) fn each(test: impl Fn(&Lab)) {
    in_each_of(&[Isolation::Namespaces, Isolation::Userns], test);
}

/// Calls `test` for every isolation that works here.
pub(crate) fn every(test: impl Fn(&Lab)) {
    in_each_of(&[Isolation::Namespaces, Isolation::Userns, Isolation::Chroot], test);
}

fn in_each_of(isolations: &[Isolation], test: impl Fn(&Lab)) {
    let root = rustix::process::geteuid().is_root();
    // Who is not root has one isolation; `single` runs all tests as somebody else.
    let isolations = if root { isolations } else { &[Isolation::UsernsSingle] };
    for &isolation in isolations {
        if let Some(lab) = Lab::new(isolation) {
            test(&lab);
        }
    }
}

impl Lab {
    pub(crate) fn new(isolation: Isolation) -> Option<Self> {
        let Some(busybox) = busybox() else {
            eprintln!("skipped: no static busybox (Debian: busybox-static)");
            return None;
        };
        let dir = scratch();
        let sandbox = match Sandbox::forced(isolation, dir.path()) {
            Ok(sandbox) => sandbox,
            Err(error) => {
                eprintln!("skipped: {error}");
                return None;
            }
        };
        make_rootfs(&dir.path().join("lower"), &busybox);
        Some(Self { sandbox, dir, next: AtomicU32::new(0) })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes an empty directory of a new name.
    pub(crate) fn fresh(&self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&path).unwrap();
        path
    }

    /// Describes a step with a fresh upper directory and the default mounts.
    pub(crate) fn spec(&self, argv: &[&str]) -> Spec {
        let mut process = Process::new(argv.iter().copied());
        process.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let rootfs = match self.sandbox.rootfs_form() {
            RootfsForm::Overlay => Rootfs::Overlay {
                lower: vec![self.path("lower")],
                upper: self.fresh("upper"),
                work: self.fresh("work"),
            },
            RootfsForm::Directory => {
                let root = self.fresh("root");
                copy(&self.path("lower"), &root);
                Rootfs::Directory(root)
            }
        };
        Spec { rootfs, mounts: Mount::defaults(), process, owners: Some(Arc::new(Records::default())) }
    }

    pub(crate) fn shell(&self, script: &str) -> Spec {
        self.spec(&["/bin/sh", "-c", script])
    }

    pub(crate) fn run(&self, spec: &Spec) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut output = |stream, bytes: &[u8]| match stream {
            Stream::Stdout => stdout.extend_from_slice(bytes),
            Stream::Stderr => stderr.extend_from_slice(bytes),
        };
        let result = self.sandbox.run(spec, &mut output, &Cancel::new());
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let upper = match &spec.rootfs {
            Rootfs::Overlay { upper, .. } => upper.clone(),
            Rootfs::Directory(path) => path.clone(),
        };
        Outcome { result, stdout: text(stdout), stderr: text(stderr), upper }
    }

    /// Runs a script that must succeed and print exactly `expect`.
    #[track_caller]
    pub(crate) fn check(&self, script: &str, expect: &str) {
        self.check_spec(&self.shell(script), expect);
    }

    #[track_caller]
    pub(crate) fn check_spec(&self, spec: &Spec, expect: &str) {
        let outcome = self.run(spec);
        let success = matches!(outcome.result, Ok(Exit::Code(0)));
        assert!(success && outcome.stdout == expect, "{}: expected {expect:?}: {outcome:#?}", self.name());
    }

    pub(crate) fn name(&self) -> Isolation {
        self.sandbox.isolation()
    }
}

pub(crate) fn scratch() -> TempDir {
    let volume = Path::new("/scratch");
    let dir = if volume.is_dir() { TempDir::new_in(volume) } else { TempDir::new() }.unwrap();
    // What a user other than root runs must be reachable by it.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Copies a tree, but not what is in its files: those are linked.
fn copy(from: &Path, to: &Path) {
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            // Most is one big program.
            let done = if entry.path().ends_with("bin/busybox") {
                fs::hard_link(entry.path(), &to)
            } else if kind.is_symlink() {
                fs::read_link(entry.path()).and_then(|text| symlink(text, &to))
            } else {
                fs::copy(entry.path(), &to).map(drop)
            };
            done.unwrap();
        }
    }
}

fn busybox() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("busybox")));
    let known = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    beside.into_iter().chain(known).find(|path| path.is_file())
}

fn make_rootfs(root: &Path, busybox: &Path) {
    for directory in ["bin", "usr/bin", "proc", "sys", "dev", "etc", "tmp", "home", "mnt/a", "mnt/b"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(root.join("etc/hosts"), "").unwrap();
    fs::write(root.join("etc/passwd"), "root::0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1001:\n").unwrap();
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in APPLETS.split_ascii_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}

/// Removes a lab of which only the name is left, as its owner.
pub(crate) fn remove(lab: &Path) {
    for entry in fs::read_dir(lab).unwrap().flatten() {
        for closed in ["work", "work/incompat", "work/incompat/volatile"] {
            let _ = fs::set_permissions(entry.path().join(closed), fs::Permissions::from_mode(0o700));
        }
    }
    fs::remove_dir_all(lab).unwrap();
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove(self.dir.path());
        fs::create_dir(self.dir.path()).unwrap();
    }
}

/// Seconds to sleep by which a test's processes are told from others: the tests run as two users at the same time.
pub(crate) fn nap(number: u32) -> String {
    format!("{number}{}", rustix::process::geteuid())
}

/// Counts the processes of this machine that have `argument` among theirs.
pub(crate) fn processes_with(argument: &str) -> usize {
    let has = |path: PathBuf| {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|word| word == argument.as_bytes())
    };
    fs::read_dir("/proc").unwrap().flatten().filter(|entry| has(entry.path())).count()
}
