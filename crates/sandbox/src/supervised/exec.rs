//! execve(2) and execveat(2).

use std::ffi::CString;
use std::fs;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use rustix::process::Pid;

use super::drive::{self, Memory};
use super::files::open_again;
use super::programs::may_execute;
use super::rules::OURS;
use super::{Supervised, elf, path_of, place};
use crate::notify::{Call, Reply, Target};
use crate::single::{Follow, Named};
use crate::sys::notification;
use crate::sys::trace::Driven;

/// How many interpreters of interpreters the kernel follows.
const INTERPRETERS: usize = 5;

/// What the kernel reads of a file to recognise a script (BINPRM_BUF_SIZE, linux/binfmts.h).
const FIRST_LINE: usize = 256;

const WORD: u64 = 8;
const AT_EXECFN: u64 = 31;

/// A program that is about to be executed.
#[derive(Debug)]
struct Execution {
    /// What the kernel executes.
    path: Vec<u8>,
    /// What the caller called it.
    named: Vec<u8>,
    /// What takes the place of the first argument, if the program is the interpreter of a script.
    first: Vec<Vec<u8>>,
    /// The address of the arguments.
    arguments: u64,
}

impl Supervised {
    pub(super) fn execute(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let (_, directory, path) = place(call);
        let (arguments, environment, flags) = match call.name {
            "execve" => (call.word(1), call.word(2), 0),
            _ => (call.word(2), call.word(3), call.word(4)),
        };
        let file = self.look_at(call, target, flags)?;
        let named = match Named::at(target, directory, path, flags)? {
            Named::Descriptor(descriptor) => format!("/dev/fd/{descriptor}").into_bytes(),
            Named::Path { path, .. } if directory == libc::AT_FDCWD || path.to_bytes().starts_with(b"/") => {
                path.into_bytes()
            }
            Named::Path { path, .. } => {
                [format!("/dev/fd/{directory}/").as_bytes(), path.to_bytes()].concat()
            }
        };
        let (file, first) = self.through_scripts(call, target, file, &named)?;
        let path = self.executable(call, target, &file)?;
        let path = self.programs.called(path, &named)?;
        let execution = Execution { path, named, first, arguments };
        let memory = self.lay_out(call, target, &execution)?;
        let mut driven = drive::take(call, target)?;
        match place_in(&mut driven, call.thread, &self.seal, &execution, memory) {
            Ok([path, arguments]) => {
                let arguments = [path, arguments, environment, 0, 0, u64::from(OURS)];
                // What happens to it now, it is told by its kernel.
                let _ = driven.execute(libc::SYS_execve, arguments, |process| show_name(process, &execution));
            }
            Err(errno) => driven.finish(-i64::from(errno.raw_os_error()))?,
        }
        Ok(Reply::Elsewhere)
    }

    /// Follows scripts to their interpreters, as the kernel does; returns what takes the place of the first argument too.
    fn through_scripts(
        &mut self,
        call: &Call,
        target: &Target<'_>,
        mut file: OwnedFd,
        named: &[u8],
    ) -> Result<(OwnedFd, Vec<Vec<u8>>)> {
        let mut first: Vec<Vec<u8>> = Vec::new();
        let mut shown = named.to_vec();
        for _ in 0..=INTERPRETERS {
            if !may_execute(&rustix::fs::fstat(&file)?) {
                return Err(Errno::ACCESS);
            }
            let content = open_again(&file, OFlags::RDONLY)?;
            let mut line = [0; FIRST_LINE];
            let length = rustix::io::pread(&content, &mut line, 0)?;
            let Some(script) = script(line.get(..length).unwrap_or_default())? else {
                return Ok((file, first));
            };
            let (interpreter, argument) = script;
            let rest = first.drain(..).skip(1).collect::<Vec<_>>();
            first = [Some(interpreter.clone()), argument, Some(shown)]
                .into_iter()
                .flatten()
                .chain(rest)
                .collect();
            let path = CString::new(interpreter.clone()).map_err(|_| Errno::NOEXEC)?;
            let viewer = self.single.viewer(call, target)?;
            file = viewer.locate(libc::AT_FDCWD, &path, Follow::Yes)?;
            shown = interpreter;
        }
        Err(Errno::LOOP)
    }

    /// Returns a path that makes the kernel execute a program with the interpreter it has in the root.
    fn executable(&mut self, call: &Call, target: &Target<'_>, file: &OwnedFd) -> Result<Vec<u8>> {
        const OWNER: u32 = 0o500;
        let content = open_again(file, OFlags::RDONLY)?;
        let stat = rustix::fs::fstat(file)?;
        let real = rustix::fs::readlink(path_of(file), Vec::new())?.into_bytes();
        let inside = match self.proc.inside(&real) {
            Some(path) => path.to_vec(),
            None if real.starts_with(b"/memfd:") => b"/memfd".to_vec(),
            None => return Err(Errno::ACCESS),
        };
        if self.programs.has(&real) {
            return Ok(real);
        }
        let interpreter = elf::interpreter(content.as_fd())?;
        let Some(interpreter) = interpreter else {
            let is_reached = stat.st_mode & OWNER == OWNER && stat.st_nlink > 0 && real.len() < 4000;
            if is_reached && rustix::fs::stat(real.as_slice()).is_ok_and(|found| found.st_ino == stat.st_ino)
            {
                return Ok(real);
            }
            return self.programs.copy((content.as_fd(), &stat), &inside, None);
        };
        let path = CString::new(interpreter.path.as_slice()).map_err(|_| Errno::NOEXEC)?;
        let loader = self.single.viewer(call, target)?.locate(libc::AT_FDCWD, &path, Follow::Yes)?;
        if !may_execute(&rustix::fs::fstat(&loader)?) {
            return Err(Errno::ACCESS);
        }
        let loader = rustix::fs::readlink(path_of(&loader), Vec::new())?.into_bytes();
        if self.proc.inside(&loader).is_none() {
            return Err(Errno::ACCESS);
        }
        self.programs.copy((content.as_fd(), &stat), &inside, Some((&interpreter, &loader)))
    }

    /// Returns the addresses of the arguments that are kept.
    fn lay_out(&self, _: &Call, target: &Target<'_>, execution: &Execution) -> Result<Vec<u64>> {
        let mut kept = Vec::new();
        if execution.first.is_empty() || execution.arguments == 0 {
            return Ok(kept);
        }
        let mut at = execution.arguments;
        loop {
            let mut word = [0; 8];
            target.read(at, &mut word)?;
            match u64::from_ne_bytes(word) {
                0 => break,
                pointer => kept.push(pointer),
            }
            if kept.len() as u64 > drive::SIZE / WORD {
                return Err(Errno::TOOBIG);
            }
            at = at.checked_add(WORD).ok_or(Errno::FAULT)?;
        }
        Ok(kept)
    }
}

/// Writes what an execution needs into the process; returns the addresses of the path and the arguments.
fn place_in(
    driven: &mut Driven,
    thread: Pid,
    seal: &[u8; 16],
    execution: &Execution,
    kept: Vec<u64>,
) -> Result<[u64; 2]> {
    let Memory { start } = drive::memory(driven, thread, seal)?;
    let path = start + drive::STRINGS;
    let mut bytes = [execution.path.as_slice(), b"\0"].concat();
    let mut pointers = Vec::new();
    for text in &execution.first {
        pointers.push(path + bytes.len() as u64);
        bytes.extend_from_slice(text);
        bytes.push(0);
    }
    if pointers.is_empty() {
        drive::write(thread, path, &bytes)?;
        return Ok([path, execution.arguments]);
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let arguments = path + bytes.len() as u64;
    // The first argument is the one that the script's path takes the place of.
    for pointer in pointers.into_iter().chain(kept.into_iter().skip(1)).chain([0]) {
        bytes.extend_from_slice(&pointer.to_ne_bytes());
    }
    if bytes.len() as u64 + drive::STRINGS > drive::SIZE {
        return Err(Errno::TOOBIG);
    }
    drive::write(thread, path, &bytes)?;
    Ok([path, arguments])
}

/// Lets a new program find the name it was called by (AT_EXECFN) where the kernel has put ours.
fn show_name(process: Pid, execution: &Execution) {
    let Ok(vector) = fs::read(format!("/proc/{}/auxv", process.as_raw_nonzero())) else { return };
    let words: Vec<u64> =
        vector.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_ne_bytes).collect();
    let entry = words.chunks_exact(2).find(|entry| entry.first() == Some(&AT_EXECFN));
    let Some(&[_, address]) = entry else { return };
    if execution.named.len() <= execution.path.len() {
        let name = [execution.named.as_slice(), b"\0"].concat();
        let _ = notification::write_memory(process, address, &name);
    }
}

/// An interpreter, and the argument for it.
type Script = (Vec<u8>, Option<Vec<u8>>);

/// Reads the first line of a script.
fn script(line: &[u8]) -> Result<Option<Script>> {
    let Some(rest) = line.strip_prefix(b"#!") else { return Ok(None) };
    let end = rest.iter().position(|&byte| byte == b'\n');
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let text = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let start = text.iter().position(|byte| !is_blank(byte)).ok_or(Errno::NOEXEC)?;
    let text = text.get(start..).unwrap_or_default();
    let length = text.iter().position(is_blank);
    // A path that is cut off is none.
    if end.is_none() && length.is_none() && line.len() == FIRST_LINE {
        return Err(Errno::NOEXEC);
    }
    let (interpreter, rest) = text.split_at_checked(length.unwrap_or(text.len())).ok_or(Errno::NOEXEC)?;
    let first = rest.iter().position(|byte| !is_blank(byte));
    let last = rest.iter().rposition(|byte| !is_blank(byte));
    let argument = match (first, last) {
        (Some(first), Some(last)) => rest.get(first..=last).map(<[u8]>::to_vec),
        _ => None,
    };
    Ok(Some((interpreter.to_vec(), argument)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines() {
        let check = |line: &[u8], expect: Result<Option<(&str, Option<&str>)>>| {
            let text = |text: &str| text.as_bytes().to_vec();
            let expect = expect.map(|found| found.map(|(path, argument)| (text(path), argument.map(text))));
            assert_eq!(script(line), expect, "{}", line.escape_ascii());
        };
        check(b"\x7fELF", Ok(None));
        check(b"", Ok(None));
        check(b"#!/bin/sh\necho", Ok(Some(("/bin/sh", None))));
        check(b"#! /bin/sh -e \t-x \n", Ok(Some(("/bin/sh", Some("-e \t-x")))));
        check(b"#!/bin/sh", Ok(Some(("/bin/sh", None))));
        check(b"#!sh\targument\n", Ok(Some(("sh", Some("argument")))));
        check(b"#!\n", Err(Errno::NOEXEC));
        check(b"#! \t\n", Err(Errno::NOEXEC));
        check(&[b"#!", &[b'x'; FIRST_LINE - 2][..]].concat(), Err(Errno::NOEXEC));
    }
}
