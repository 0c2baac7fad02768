//! File systems that only a test sees.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A mount namespace, kept by a process that waits in it; gone with the value.
pub(crate) struct Mounted {
    holder: Child,
}

impl Mounted {
    /// Makes one and runs a shell script in it; `None` where that fails.
    pub(crate) fn new(script: &str) -> Option<Self> {
        let script = format!("({script}) >/dev/null 2>&1 && echo ready && exec cat");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let holder =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut mounted = Self { holder };
        let mut line = String::new();
        BufReader::new(mounted.holder.stdout.take()?).read_line(&mut line).ok()?;
        (line == "ready\n").then_some(mounted)
    }

    /// A program in it, run by a user from the root directory, with nothing of this process's environment but the PATH.
    pub(crate) fn command(&self, user: u32, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        command.arg(format!("--setuid={user}")).arg(format!("--setgid={user}")).arg("--").arg(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
        command
    }

    /// Where a path of it is from outside.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
