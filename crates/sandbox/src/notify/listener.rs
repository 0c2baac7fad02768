//! Passing a listener on, and the thread that serves it.

use std::io;
use std::mem::MaybeUninit;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::process::Pid;

use super::{Answer, Call, Reply, Target};
use crate::seccomp;
use crate::sys::notification;

/// Room for one descriptor.
const SPACE: usize = rustix::cmsg_space!(ScmRights(1));

/// Sends a listener to who will serve it. Allocates nothing.
pub(crate) fn send_listener(socket: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [listener];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    loop {
        // NOSIGNAL: a builder that is gone is no reason to die of SIGPIPE before that is reported.
        match rustix::net::sendmsg(socket, &[IoSlice::new(b"l")], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return sent.map(drop),
        }
    }
}

/// Waits for a listener; `None` when every process that could send it is gone.
fn receive_listener(socket: BorrowedFd<'_>) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8];
    loop {
        let buffers = &mut [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    let received = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(received)
}

/// The thread that serves a step.
#[derive(Debug)]
pub(crate) struct Serving(JoinHandle<()>);

impl Serving {
    /// Waits until the thread has ended, which it does when the step's last process or its monitor has.
    pub(crate) fn join(self) {
        // A panic in an emulation was reported by the panic hook; its listener is closed, and the step has failed.
        let _ = self.0.join();
    }
}

/// Starts the thread that answers a step's calls. It waits for the listener at `socket`, whose other end the step's
/// monitor holds, and ends when nobody can call any more.
pub(crate) fn serve(socket: OwnedFd, mut answer: Box<dyn Answer>) -> io::Result<Serving> {
    let serve = move || {
        answer.start();
        if let Ok(Some(listener)) = receive_listener(socket.as_fd()) {
            let _ = notification::wake_synchronously(listener.as_fd());
            serve_listener(listener.as_fd(), socket.as_fd(), &mut *answer);
        }
    };
    Ok(Serving(thread::Builder::new().name("rbuild-notify".to_owned()).spawn(serve)?))
}

/// Answers until no process is left that has the filter, or `end` is hung up. (Before Linux 6.11 a process that has not
/// been reaped counts as one that has the filter.)
fn serve_listener(listener: BorrowedFd<'_>, end: BorrowedFd<'_>, answer: &mut dyn Answer) {
    loop {
        let mut polled = [
            PollFd::from_borrowed_fd(listener, PollFlags::IN),
            PollFd::from_borrowed_fd(end, PollFlags::RDHUP),
        ];
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        let [calls, end] = &polled;
        if calls.revents().contains(PollFlags::IN) {
            // What is received may be gone again by now.
            let Ok(notification) = notification::receive(listener) else { continue };
            respond(listener, &notification, answer);
        } else if !calls.revents().is_empty() || !end.revents().is_empty() {
            return;
        }
    }
}

fn respond(listener: BorrowedFd<'_>, notification: &libc::seccomp_notif, answer: &mut dyn Answer) {
    let reply = reply(listener, notification, answer);
    let id = notification.id;
    let mut response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
    match reply {
        Reply::Continue => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        Reply::Value(value) => response.val = value,
        Reply::Errno(errno) => response.error = -errno.raw_os_error(),
        Reply::Elsewhere => return,
        Reply::Descriptor { fd, close_on_exec } => {
            match notification::respond_with_descriptor(listener, id, fd.as_fd(), close_on_exec) {
                Ok(()) => return,
                Err(errno) => response.error = -errno.raw_os_error(),
            }
        }
    }
    // It fails when the caller has died, and then nobody waits.
    let _ = notification::respond(listener, &response);
}

fn reply(listener: BorrowedFd<'_>, notification: &libc::seccomp_notif, answer: &mut dyn Answer) -> Reply {
    let data = &notification.data;
    // 0: a process outside our PID namespace. None such is in a step.
    let thread = i32::try_from(notification.pid).ok().and_then(Pid::from_raw);
    let name = seccomp::call_name(data.arch, data.nr.cast_unsigned());
    let (Some(thread), Some((name, width))) = (thread, name) else { return Reply::Errno(Errno::NOSYS) };
    let call = Call { name, arguments: data.args, width, thread };
    answer.answer(&call, &Target { listener, id: notification.id, thread })
}
