//! SO_PEERCRED: who is at the other end of a local socket.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use super::Single;
use crate::notify::{Call, Reply, Target};
use crate::status::Status;
use crate::sys::limit;

impl Single {
    /// getsockopt(2) of SO_PEERCRED. The identity is what the peer's process has now; the kernel takes what it had when it
    /// connected or listened.
    pub(super) fn peer(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply, Errno> {
        if call.int(1) != libc::SOL_SOCKET {
            return Ok(Reply::Continue);
        }
        let Some((uid, gid, process)) = self.peer_of(call) else { return Ok(Reply::Continue) };
        let mut length = [0; 4];
        target.read(call.word(4), &mut length)?;
        let room = usize::try_from(i32::from_ne_bytes(length)).map_err(|_| Errno::INVAL)?;
        let bytes: Vec<u8> =
            [process, uid, gid].iter().flat_map(|word| word.to_ne_bytes()).take(room).collect();
        target.write(call.word(3), &bytes)?;
        let written = u32::try_from(bytes.len()).map_err(|_| Errno::INVAL)?;
        target.write(call.word(4), &written.to_ne_bytes())?;
        Ok(Reply::Value(0))
    }

    /// Returns the user, the group and the number of the peer, as its namespace has it; `None` when it is no process
    /// of the step.
    fn peer_of(&self, call: &Call) -> Option<(u32, u32, u32)> {
        let socket = socket_of(call)?;
        let peer = rustix::net::sockopt::socket_peercred(&socket).ok()?;
        if peer.uid != self.uid {
            return None;
        }
        let number = limit::locks(peer.pid).ok()?.current?;
        let identity = self.identities.get(number);
        let process = Status::of(peer.pid.as_raw_nonzero().get())?.inner_process;
        Some((identity.user.effective, identity.group.effective, process))
    }
}

/// Takes a copy of the socket a call is about.
fn socket_of(call: &Call) -> Option<OwnedFd> {
    let leader = Status::of(super::thread_of(call))?.process;
    let process = rustix::process::pidfd_open(Pid::from_raw(leader)?, PidfdFlags::empty()).ok()?;
    rustix::process::pidfd_getfd(&process, call.int(0), PidfdGetfdFlags::empty()).ok()
}
