//! A real server of OpenSSH, and an agent.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{World, have, tool};

/// An ssh server with a key of its own, and an agent that holds the user's.
pub(crate) struct Ssh {
    pub(crate) port: u16,
    pub(crate) agent: PathBuf,
    running: Vec<Child>,
}

impl Drop for Ssh {
    fn drop(&mut self) {
        for process in &mut self.running {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Ssh {
    /// Serves root with the key `user` of the world, which the agent has too; `None` where there is no server.
    pub(crate) fn start(world: &World) -> Option<Self> {
        if !have("/usr/sbin/sshd") || !have("ssh-agent") {
            return None;
        }
        let path = |name: &str| world.path(name).display().to_string();
        for name in ["host", "user"] {
            tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path(name)]);
        }
        // The folder its unprivileged process changes into.
        std::fs::create_dir_all("/run/sshd").expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let (host, user, agent) = (path("host"), path("user.pub"), world.path("agent"));
        let settings = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {user}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
        );
        std::fs::write(world.path("sshd_config"), settings).expect("a file");
        let start = |command: &str, args: &[&str]| {
            let mut command = Command::new(command);
            command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
        };
        let running = vec![
            start("/usr/sbin/sshd", &["-D", "-f", &path("sshd_config")]),
            start("ssh-agent", &["-D", "-a", &path("agent")]),
        ];
        let ready = || TcpStream::connect(("127.0.0.1", port)).is_ok() && agent.exists();
        let mut tries = 0..500;
        while !ready() && tries.next().is_some() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let mut add = Command::new("ssh-add");
        let added = add.args(["-q", &path("user")]).env("SSH_AUTH_SOCK", &agent).status();
        assert!(added.expect("ssh-add starts").success());
        Some(Self { port, agent, running })
    }
}
