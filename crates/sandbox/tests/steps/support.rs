//! A root filesystem, and steps in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rbuild_sandbox::{Cancel, Exit, Isolation, Mount, Process, Rootfs, RunError, Sandbox, Spec, Stream};
use tempfile::TempDir;

const APPLETS: &str = "awk cat chmod chown chroot cp env grep head hostname id ip ln ls mkdir mknod mount ping readlink rm seq \
                       setsid sh sleep stat sync test touch true unshare usleep wc";

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

/// Calls `test` for every isolation that works here.
pub(crate) fn each(test: impl Fn(&Lab)) {
    for isolation in [Isolation::Namespaces, Isolation::Userns] {
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
        let rootfs = Rootfs::Overlay {
            lower: vec![self.path("lower")],
            upper: self.fresh("upper"),
            work: self.fresh("work"),
        };
        Spec { rootfs, mounts: Mount::defaults(), process }
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
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in APPLETS.split_ascii_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}

/// Counts the processes of this machine that have `argument` among theirs.
pub(crate) fn processes_with(argument: &str) -> usize {
    let has = |path: PathBuf| {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|word| word == argument.as_bytes())
    };
    fs::read_dir("/proc").unwrap().flatten().filter(|entry| has(entry.path())).count()
}
