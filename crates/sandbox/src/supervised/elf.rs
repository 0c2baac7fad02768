//! What the kernel reads of a program: enough of ELF to find and replace the interpreter.
//!
//! # References
//! elf(5)

use rustix::fd::BorrowedFd;
use rustix::io::{Errno, Result};

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_INTERP: u32 = 3;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
/// The most program headers the kernel takes: 64 KiB.
const MOST_HEADERS: u16 = 1170;
const PATH_MAX: u64 = 4096;

/// The interpreter that a program names, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interpreter {
    pub(super) path: Vec<u8>,
    /// Where the program header is in the file.
    header: u64,
}

/// Finds the interpreter of a program.
///
/// # Errors
/// ENOEXEC when it is no program of this machine.
pub(super) fn interpreter(file: BorrowedFd<'_>) -> Result<Option<Interpreter>> {
    let mut header = [0; HEADER];
    if rustix::io::pread(file, &mut header, 0)? != HEADER || !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(Errno::NOEXEC);
    }
    let kind = half(&header, 16)?;
    let (start, size, count) = (long(&header, 32)?, half(&header, 54)?, half(&header, 56)?);
    let is_ours = half(&header, 18)? == MACHINE && (kind == ET_EXEC || kind == ET_DYN);
    if !is_ours || usize::from(size) != PROGRAM_HEADER || count > MOST_HEADERS {
        return Err(Errno::NOEXEC);
    }
    for index in 0..u64::from(count) {
        let at = start.checked_add(index * PROGRAM_HEADER as u64).ok_or(Errno::NOEXEC)?;
        let mut entry = [0; PROGRAM_HEADER];
        if rustix::io::pread(file, &mut entry, at)? != PROGRAM_HEADER {
            return Err(Errno::NOEXEC);
        }
        let kind = entry.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        if kind == Some(PT_INTERP) {
            let (offset, length) = (long(&entry, 8)?, long(&entry, 32)?);
            let length = usize::try_from(length).ok().filter(|_| (2..=PATH_MAX).contains(&length));
            let mut path = vec![0; length.ok_or(Errno::NOEXEC)?];
            if rustix::io::pread(file, &mut path, offset)? != path.len() || path.pop() != Some(0) {
                return Err(Errno::NOEXEC);
            }
            let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
            path.truncate(end);
            return Ok(Some(Interpreter { path, header: at }));
        }
    }
    Ok(None)
}

impl Interpreter {
    /// Makes a copy of the program name another interpreter, by a text behind its end.
    pub(super) fn replace(&self, copy: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        let end = u64::try_from(rustix::fs::fstat(copy)?.st_size).map_err(|_| Errno::FBIG)?;
        let text = [path, b"\0"].concat();
        let length = u64::try_from(text.len()).map_err(|_| Errno::NAMETOOLONG)?;
        write(copy, &text, end)?;
        write(copy, &end.to_ne_bytes(), self.header + 8)?;
        write(copy, &length.to_ne_bytes(), self.header + 32)
    }
}

fn write(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<()> {
    if rustix::io::pwrite(file, bytes, offset)? == bytes.len() { Ok(()) } else { Err(Errno::IO) }
}

fn half(bytes: &[u8], at: usize) -> Result<u16> {
    let bytes = bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u16::from_ne_bytes).ok_or(Errno::NOEXEC)
}

fn long(bytes: &[u8], at: usize) -> Result<u64> {
    let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_ne_bytes).ok_or(Errno::NOEXEC)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    /// A program of one header, which names an interpreter right behind it.
    fn program(machine: u16, path: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + PROGRAM_HEADER];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16..18].copy_from_slice(&ET_DYN.to_ne_bytes());
        bytes[18..20].copy_from_slice(&machine.to_ne_bytes());
        bytes[32..40].copy_from_slice(&(HEADER as u64).to_ne_bytes());
        bytes[54..56].copy_from_slice(&(PROGRAM_HEADER as u16).to_ne_bytes());
        bytes[56..58].copy_from_slice(&1u16.to_ne_bytes());
        bytes[HEADER..HEADER + 4].copy_from_slice(&PT_INTERP.to_ne_bytes());
        let offset = bytes.len() as u64;
        bytes[HEADER + 8..HEADER + 16].copy_from_slice(&offset.to_ne_bytes());
        bytes[HEADER + 32..HEADER + 40].copy_from_slice(&(path.len() as u64).to_ne_bytes());
        bytes.extend_from_slice(path);
        bytes
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn interpreters_are_replaced() {
        let file = file(&program(MACHINE, b"/lib/ld.so\0"));
        let found = interpreter(file.as_fd()).unwrap().unwrap();
        assert_eq!(found.path, b"/lib/ld.so");
        found.replace(file.as_fd(), b"/a/longer/path/lib/ld.so").unwrap();
        assert_eq!(interpreter(file.as_fd()).unwrap().unwrap().path, b"/a/longer/path/lib/ld.so");
    }

    #[test]
    fn what_is_no_program_of_this_machine_is_refused() {
        let check = |bytes: &[u8]| {
            assert_eq!(interpreter(file(bytes).as_fd()), Err(Errno::NOEXEC), "{}", bytes.escape_ascii());
        };
        check(b"");
        check(b"#!/bin/sh\n");
        check(&program(3, b"/lib/ld.so\0"));
        check(&program(MACHINE, b"no end"));
        check(&program(MACHINE, b""));
        check(&program(MACHINE, b"/lib/ld.so\0")[..100]);
    }
}
