//! Debian's docker-registry on a free port of the loopback interface, with or without a password.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `tester` with the password `secret` (bcrypt, as htpasswd -B writes it).
const HTPASSWD: &str = "tester:$2y$05$rngne2/hNjmRynYQhxY0dOWZsaylrSKna33lviTkTM6bjftOawJeK\n";

/// A running registry; it ends with the value.
pub(crate) struct Registry {
    process: Child,
    port: u16,
}

impl Registry {
    /// Starts a registry that anybody may use, with its files below `dir`; `None` where docker-registry is missing.
    pub(crate) fn open(dir: &Path) -> Option<Self> {
        Self::start(dir, "")
    }

    /// Starts a registry that only `tester` with the password `secret` may use.
    pub(crate) fn with_password(dir: &Path) -> Option<Self> {
        std::fs::create_dir_all(dir).expect("a folder");
        let file = dir.join("htpasswd");
        std::fs::write(&file, HTPASSWD).expect("htpasswd");
        Self::start(dir, &format!("auth:\n  htpasswd:\n    realm: tests\n    path: {}\n", file.display()))
    }

    fn start(dir: &Path, auth: &str) -> Option<Self> {
        if !super::have("docker-registry") {
            return None;
        }
        std::fs::create_dir_all(dir).expect("a folder");
        // The port is free when asked for; a rare loser of the race is seen below and tried again.
        for _ in 0..5 {
            let port =
                TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
            let config = dir.join("config.yml");
            let text = format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
                 rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
                dir.join("data").display()
            );
            std::fs::write(&config, text).expect("config.yml");
            let process = Command::new("docker-registry")
                .args(["serve".as_ref(), config.as_os_str()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry starts");
            let mut registry = Self { process, port };
            if registry.answers() {
                return Some(registry);
            }
        }
        panic!("docker-registry does not answer");
    }

    fn answers(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if self.process.try_wait().expect("a child").is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The full name of an image here.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
