//! Making the caller make other calls than the one that waits.

use std::hash::{BuildHasher, RandomState};

use rustix::fd::BorrowedFd;
use rustix::io::{Errno, Result};
use rustix::process::Pid;

use crate::notify::{Call, Reply, Target};
use crate::sys::notification;
use crate::sys::trace::Driven;

/// Where our memory in a process is, if it is free there: far from heaps, stacks and libraries.
const PREFERRED: u64 = if cfg!(target_arch = "aarch64") { 0x30_0000_0000 } else { 0x6f00_0000_0000 };

/// Its size. Pages that are never written take no room.
pub(super) const SIZE: u64 = 1 << 20;

/// What of it is not for addresses of sockets.
pub(super) const STRINGS: u64 = 4096;

/// Memory of ours in a process. It starts with a seal: a child shares or inherits that of its parent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) start: u64,
}

/// Makes a number that no process has in its memory by accident.
pub(super) fn seal() -> [u8; 16] {
    let mut seal = [0; 16];
    let (one, other) = seal.split_at_mut(8);
    one.copy_from_slice(&RandomState::new().hash_one(1).to_ne_bytes());
    other.copy_from_slice(&RandomState::new().hash_one(2).to_ne_bytes());
    seal
}

/// Stops the caller. Its call is over then, but for what it returns.
pub(super) fn take(call: &Call, target: &Target<'_>) -> Result<Driven> {
    Driven::take(call.thread, || target.release())
}

/// Finds our memory in a driven process, or makes it.
pub(super) fn memory(driven: &mut Driven, thread: Pid, seal: &[u8; 16]) -> Result<Memory> {
    let mut found = [0; 16];
    let read = notification::read_memory(thread, PREFERRED, &mut found);
    if read == Ok(found.len()) && found == *seal {
        return Ok(Memory { start: PREFERRED });
    }
    let start = match map(driven, PREFERRED, libc::MAP_FIXED_NOREPLACE) {
        Err(Errno::EXIST) => map(driven, 0, 0)?,
        mapped => mapped?,
    };
    write(thread, start, seal)?;
    Ok(Memory { start })
}

fn map(driven: &mut Driven, address: u64, flags: libc::c_int) -> Result<u64> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let none = u64::MAX;
    let arguments = [address, SIZE, word(protection), word(flags), none, 0];
    let mapped = checked(driven.call(libc::SYS_mmap, arguments)?)?;
    if address != 0 && mapped != address {
        return Err(Errno::EXIST);
    }
    Ok(mapped)
}

fn word(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

/// Reads what a call returned.
pub(super) fn checked(result: i64) -> Result<u64> {
    match u64::try_from(result) {
        Ok(value) => Ok(value),
        Err(_) => Err(Errno::from_raw_os_error(i32::try_from(result.saturating_neg()).unwrap_or(libc::EIO))),
    }
}

/// Writes all of the bytes.
pub(super) fn write(thread: Pid, address: u64, bytes: &[u8]) -> Result<()> {
    match notification::write_memory(thread, address, bytes)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(Errno::FAULT),
    }
}

/// Makes a directory the caller's working directory.
pub(super) fn enter(call: &Call, target: &Target<'_>, directory: BorrowedFd<'_>) -> Result<Reply> {
    let number = target.give(directory)?;
    let mut driven = take(call, target)?;
    let number = word(number);
    let entered = driven.call(libc::SYS_fchdir, [number, 0, 0, 0, 0, 0])?;
    driven.call(libc::SYS_close, [number, 0, 0, 0, 0, 0])?;
    driven.finish(entered)?;
    Ok(Reply::Elsewhere)
}
