//! A git repository for one test.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{World, have};

/// When its commits were made: 1994-11-06 08:49:37 UTC.
pub(crate) const SOME_TIME: u64 = 784_111_777;

/// A repository with a branch, tags, an executable, a symbolic link and a subdirectory, served over git://.
pub(crate) struct Repository {
    pub(crate) world: World,
    daemon: Option<Child>,
    port: u16,
}

impl Drop for Repository {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl Repository {
    /// `None` without git.
    pub(crate) fn new() -> Option<Self> {
        if !have("git") {
            return None;
        }
        let world = World::new();
        std::fs::create_dir_all(world.path("work/sub/deep")).expect("folders");
        let repository = Self { world, daemon: None, port: 0 };
        let write = |name: &str, text: &str| {
            std::fs::write(repository.world.path("work").join(name), text).expect("a file");
        };
        repository.git(&["init", "-q", "-b", "main", "."]);
        write("Dockerfile", "FROM scratch\nCOPY . /x/\n");
        write("sub/Dockerfile", "FROM scratch\nCOPY . /sub/\n");
        write("sub/deep/g", "deep\n");
        write("run.sh", "#!/bin/sh\n");
        write(".dockerignore", "sub\n");
        std::os::unix::fs::symlink("run.sh", repository.world.path("work/link")).expect("a link");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o775);
        std::fs::set_permissions(repository.world.path("work/run.sh"), executable).expect("a mode");
        repository.git(&["add", "."]);
        repository.git(&["commit", "-q", "-m", "one"]);
        repository.git(&["tag", "-a", "-m", "first", "v1"]);
        write("second", "2\n");
        repository.git(&["add", "."]);
        repository.git(&["commit", "-q", "-m", "two"]);
        repository.git(&["update-ref", "refs/pull/1/head", "HEAD"]);
        repository.git(&["checkout", "-q", "-b", "side", "v1"]);
        write("side", "s\n");
        repository.git(&["add", "."]);
        repository.git(&["commit", "-q", "-m", "side"]);
        repository.git(&["checkout", "-q", "main"]);
        Some(repository)
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=n", "-c", "user.email=e@x", "-c", "protocol.file.allow=always"])
            .args(args)
            .current_dir(self.world.path("work"))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_DATE", format!("{SOME_TIME} +0000"))
            .env("GIT_COMMITTER_DATE", format!("{SOME_TIME} +0000"))
            .output()
            .expect("git starts");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn file_url(&self, rest: &str) -> String {
        format!("file://{}{rest}", self.world.path("work").display())
    }

    /// Starts `git daemon`, and gives a URL that a Dockerfile may name.
    pub(crate) fn served(&mut self, rest: &str) -> String {
        if self.daemon.is_none() {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port");
            self.port = free.local_addr().expect("an address").port();
            drop(free);
            let base =
                format!("--base-path={}", self.world.path("work").parent().expect("a parent").display());
            let port = format!("--port={}", self.port);
            // Not by way of `git`, which would leave it behind when killed.
            let daemon = Command::new(Path::new(&self.git(&["--exec-path"])).join("git-daemon"))
                .args(["--export-all", "--reuseaddr", "--listen=127.0.0.1", &base, &port])
                .env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", "safe.directory")
                .env("GIT_CONFIG_VALUE_0", "*")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            self.daemon = Some(daemon.expect("git daemon starts"));
            for _ in 0..500 {
                if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        format!("git://127.0.0.1:{}/work{rest}", self.port)
    }
}
