//! The socket of one step: requests come in, an agent answers.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use rustix::fs::{Gid, Mode, OFlags, Uid};

use super::{Conversation, SshAgent, read_message, write_message};

/// Connections that are served at the same time; more wait for nothing and are closed.
const MAX_CONNECTIONS: usize = 64;

/// How a socket looks to the step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Socket {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// A listening socket and the thread that serves it; both go when this is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    path: PathBuf,
    listener: Arc<UnixListener>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens in `directory`, which only this process may enter.
    ///
    /// # Errors
    /// The socket cannot be made, given its owner, or served.
    pub(crate) fn start(agent: &SshAgent, directory: &Path, socket: Socket) -> io::Result<Self> {
        let path = directory.join("agent");
        let listener = Arc::new(listen(directory)?);
        // Ids that this process cannot give away: the step runs as this process's own.
        match rustix::fs::chown(&path, Some(Uid::from_raw(socket.uid)), Some(Gid::from_raw(socket.gid))) {
            Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => {}
            owned => owned?,
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(socket.mode))?;
        let (accepting, agent) = (Arc::clone(&listener), agent.clone());
        let thread = thread::Builder::new()
            .name("rbuild-agent".to_owned())
            .spawn(move || accept(&accepting, &agent))?;
        Ok(Self { path, listener, thread: Some(thread) })
    }

    /// Where the socket is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Wakes accept(2), which says EINVAL from then on.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds the name `agent` in a directory, whose path may be longer than the 107 bytes that an address holds.
fn listen(directory: &Path) -> io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    UnixListener::bind(format!("/proc/self/fd/{}/agent", directory.as_raw_fd()))
}

fn accept(listener: &UnixListener, agent: &SshAgent) {
    let connections = Arc::new(AtomicUsize::new(0));
    while let Ok((stream, _)) = listener.accept() {
        if connections.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            continue;
        }
        connections.fetch_add(1, Ordering::Relaxed);
        let (agent, count) = (agent.clone(), Arc::clone(&connections));
        // It ends when the step's side does: at the latest when the step is dead.
        let served = thread::Builder::new().name("rbuild-agent".to_owned()).spawn(move || {
            // The step sees a closed connection; nobody else needs to know.
            let _ = serve(stream, &agent);
            count.fetch_sub(1, Ordering::Relaxed);
        });
        if served.is_err() {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn serve(mut stream: UnixStream, agent: &SshAgent) -> io::Result<()> {
    let mut conversation = Conversation::start(agent)?;
    while let Some(request) = read_message(&mut stream)? {
        write_message(&mut stream, &conversation.answer(&request)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that answers every request with its bytes after a 1.
    fn echoing(path: &Path) -> thread::JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while let Some(request) = read_message(&mut stream).unwrap() {
                write_message(&mut stream, &[&[1], request.as_slice()].concat()).unwrap();
            }
        })
    }

    #[test]
    fn signatures_pass_and_changes_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let upstream = dir.path().join("upstream");
        let agent = echoing(&upstream);
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let socket = Socket { mode: 0o640, uid: rustix::process::geteuid().as_raw(), gid: 0 };
        let proxy = Proxy::start(&SshAgent::socket(upstream), &deep, socket).unwrap();
        assert_eq!(std::fs::metadata(proxy.path()).unwrap().permissions().mode() & 0o777, 0o640);

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&deep, &link).unwrap();
        let mut step = UnixStream::connect(link.join("agent")).unwrap();
        let mut ask = |request: &[u8]| {
            write_message(&mut step, request).unwrap();
            read_message(&mut step).unwrap().unwrap()
        };
        assert_eq!(ask(&[11]), [1, 11]);
        assert_eq!(ask(&[13, 7, 7]), [1, 13, 7, 7]);
        for change in [17, 18, 19, 22, 23, 25, 27] {
            assert_eq!(ask(&[change]), [5], "{change}");
        }
        assert_eq!(ask(&[]), [5]);
        drop(step);
        agent.join().unwrap();
        let path = proxy.path().to_owned();
        drop(proxy);
        assert!(!path.exists());
    }
}
