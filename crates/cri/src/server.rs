//! The socket: made here, or handed over by systemd, and served until somebody says stop.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use crate::error::{Error, failed};
use crate::grpc::answered;
use crate::service::Service;

/// The first descriptor that systemd hands over.
const FIRST: i32 = 3;
/// Calls at once on one connection.
const MAX_STREAMS: u32 = 256;

/// A socket that is listened on.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// The file to remove at the end; systemd's belongs to systemd.
    path: Option<PathBuf>,
}

impl Listener {
    /// Makes a socket that only its owner may connect to, in place of one that nobody listens on any more.
    ///
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// The path is taken by something else, or cannot be written.
    pub fn bind(path: &Path) -> Result<Self, Error> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed("make directory", parent))?;
        }
        let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        if is_socket {
            match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed("remove", path))?;
                }
                _ => return Err(failed("listen on", path)(io::Error::from(io::ErrorKind::AddrInUse))),
            }
        }
        let listen = || -> io::Result<UnixListener> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
            // Before anybody can connect.
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            rustix::net::listen(&socket, 128)?;
            UnixListener::from_std(socket.into())
        };
        let socket = listen().map_err(failed("listen on", path))?;
        Ok(Self { socket, path: Some(path.to_owned()) })
    }

    /// Takes the socket that systemd made for this process; `None` when it made none.
    ///
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// What was handed over is no listening socket.
    ///
    /// # References
    /// sd_listen_fds(3)
    #[expect(clippy::disallowed_methods, reason = "a constructor named from_env")]
    pub fn from_env() -> Result<Option<Self>, Error> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let own = std::process::id();
        if number("LISTEN_PID") != Some(own) || number("LISTEN_FDS").unwrap_or(0) == 0 {
            return Ok(None);
        }
        let failed = failed("use the socket that was handed over as", Path::new("LISTEN_FDS"));
        Self::inherited(FIRST).map(Some).map_err(failed)
    }

    /// Takes over a listening socket by its number.
    ///
    /// Nothing says that the number is a descriptor which nobody else owns, so it is duplicated through a pidfd of this
    /// process: the kernel checks, and whatever owns the number keeps it.
    fn inherited(number: i32) -> io::Result<Self> {
        let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap_or(0));
        let own = own.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        let process = rustix::process::pidfd_open(own, PidfdFlags::empty())?;
        let socket: OwnedFd = rustix::process::pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
        rustix::io::ioctl_fionbio(socket.as_fd(), true)?;
        Ok(Self { socket: UnixListener::from_std(socket.into())?, path: None })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// Serves until `stop` is ready; calls that are under way then are dropped, and with them what they pull.
///
/// # Errors
/// The socket fails.
pub async fn serve(listener: &Listener, service: Service, stop: impl Future<Output = ()>) -> io::Result<()> {
    let mut stop = pin!(stop);
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = &mut stop => return Ok(()),
            Some(_) = connections.join_next() => continue,
            accepted = listener.socket.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The one who called has gone, or descriptors are short: the next may fare better.
                Err(error) if is_passing(&error) => { tokio::task::yield_now().await; continue; }
                Err(error) => return Err(error),
            },
        };
        let service = service.clone();
        connections.spawn(async move {
            let answer = service_fn(move |request| {
                let service = service.clone();
                async move { answered(service.answer(request).await) }
            });
            let mut http = http2::Builder::new(TokioExecutor::new());
            // A connection that breaks is its client's to notice.
            let _ =
                http.max_concurrent_streams(MAX_STREAMS).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::CONNABORTED | Errno::INTR | Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[tokio::test]
    async fn sockets_are_private_and_replace_dead_ones_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/cri.sock");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Listener::bind(&path).is_err(), "somebody listens");
        drop(listener);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(Listener::bind(&path).unwrap());
        fs::write(&path, "").unwrap();
        assert!(Listener::bind(&path).is_err(), "a file is not a socket");
    }

    #[tokio::test]
    async fn a_socket_is_taken_over_by_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cri.sock");
        let made = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let taken = match Listener::inherited(made.as_raw_fd()) {
            Ok(taken) => taken,
            Err(error) => panic!("{error}"),
        };
        let connecting = tokio::net::UnixStream::connect(&path);
        let (accepted, connected) = tokio::join!(taken.socket.accept(), connecting);
        accepted.unwrap();
        connected.unwrap();
        drop(taken);
        assert!(path.exists(), "it is not ours to remove");
    }
}
