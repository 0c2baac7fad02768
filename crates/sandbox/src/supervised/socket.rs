//! Local sockets that have a path.

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType};
use rustix::io::{Errno, Result};

use super::drive::{self, Memory};
use super::rules::OURS;
use super::{Supervised, path_of};
use crate::notify::{Call, Reply, Target};
use crate::single::Follow;
use crate::single::locate::Entry;

/// The most that an address of a local socket takes, `struct sockaddr_un`.
const ADDRESS: usize = 110;
const FAMILY: usize = 2;
/// Addresses have places of their own, since the kernel may not have read one when the next is written.
const PLACES: u64 = 16;
const PLACE: u64 = 128;
const FIRST_PLACE: u64 = 1024;

impl Supervised {
    /// bind(2), connect(2), sendto(2) and getsockname(2), of which the first two are made to work with a path.
    pub(super) fn socket(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let (address, length) = match call.name {
            "getsockname" => return Ok(Reply::Continue),
            "sendto" => (call.word(4), call.int(5)),
            _ => (call.word(1), call.int(2)),
        };
        let length = usize::try_from(length).map_err(|_| Errno::INVAL)?;
        let mut bytes = vec![0; length.min(ADDRESS)];
        if bytes.len() <= FAMILY {
            return Ok(Reply::Continue);
        }
        target.read(address, &mut bytes)?;
        let family = bytes.first_chunk().map_or(0, |family| u16::from_ne_bytes(*family));
        let name = bytes.get(FAMILY..).unwrap_or_default();
        // Without a path, or with an abstract name.
        if i32::from(family) != libc::AF_UNIX || name.first() == Some(&0) {
            return Ok(Reply::Continue);
        }
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let path = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
        match call.name {
            "connect" => self.connect(call, target, &path),
            "bind" => self.bind(call, target, &path),
            // A datagram to a path: nobody has made this work yet.
            _ => Err(Errno::PERM),
        }
    }

    fn connect(&mut self, call: &Call, target: &Target<'_>, path: &std::ffi::CStr) -> Result<Reply> {
        let file = self.single.viewer(call, target)?.locate(libc::AT_FDCWD, path, Follow::Yes)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
            return Err(Errno::CONNREFUSED);
        }
        let real = rustix::fs::readlink(path_of(&file), Vec::new())?.into_bytes();
        self.with_address(call, target, &real, libc::SYS_connect)
    }

    fn bind(&mut self, call: &Call, target: &Target<'_>, path: &std::ffi::CStr) -> Result<Reply> {
        let Entry { directory, name } =
            self.single.viewer(call, target)?.entry(libc::AT_FDCWD, path, Follow::No)?;
        if rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(Errno::ADDRINUSE);
        }
        let real = rustix::fs::readlink(path_of(&directory.as_fd()), Vec::new())?.into_bytes();
        self.with_address(call, target, &[&real, b"/".as_slice(), name.to_bytes()].concat(), libc::SYS_bind)
    }

    /// Makes the caller make the call with another path, and does not wait for its end: who listens may have to be
    /// answered first.
    fn with_address(
        &mut self,
        call: &Call,
        target: &Target<'_>,
        path: &[u8],
        number: libc::c_long,
    ) -> Result<Reply> {
        #[expect(clippy::cast_possible_truncation, reason = "it is 1")]
        let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(path);
        bytes.push(0);
        if bytes.len() > ADDRESS {
            return Err(Errno::NAMETOOLONG);
        }
        let mut driven = drive::take(call, target)?;
        let placed = drive::memory(&mut driven, call.thread, &self.seal).and_then(|Memory { start }| {
            let turn = u64::from(call.thread.as_raw_nonzero().get().cast_unsigned()) % PLACES;
            let at = start + FIRST_PLACE + turn * PLACE;
            drive::write(call.thread, at, &bytes)?;
            Ok(at)
        });
        match placed {
            Ok(at) => {
                let arguments = [call.word(0), at, bytes.len() as u64, 0, 0, u64::from(OURS)];
                let _ = driven.leave_in(number, arguments);
            }
            Err(errno) => driven.finish(-i64::from(errno.raw_os_error()))?,
        }
        Ok(Reply::Elsewhere)
    }
}
