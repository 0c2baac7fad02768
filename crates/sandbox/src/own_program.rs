//! Keeps a step from executing the program its builder is.
//!
//! Until the first execve of a step has succeeded, `/proc/self/exe` is the builder's own file on the host, behind any
//! root directory. Executed from there it is a file the step can open, and with the user id of its owner change: its
//! mode, its owner, and its content as soon as the builder has ended (CVE-2019-5736). It is reached by naming it, or by
//! naming it in the first line of a script.

use std::ffi::CStr;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// How many interpreters of interpreters the kernel follows (`bprm_execve`, fs/exec.c).
const INTERPRETERS: usize = 5;

/// What the kernel reads of a file to recognise a script (BINPRM_BUF_SIZE, linux/binfmts.h).
const FIRST_LINE: usize = 256;

/// A file, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnProgram {
    device: u64,
    inode: u64,
}

impl OwnProgram {
    /// Finds the file of this process's program; `None` where there is no `/proc`, and so no way to it.
    pub(crate) fn of_this_process() -> Option<Self> {
        let stat = rustix::fs::stat(c"/proc/self/exe").ok()?;
        Some(Self { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Tells whether executing `file` would execute this one. Fit for a cloned child: allocates nothing.
    pub(crate) fn is_executed_by(self, file: &CStr) -> bool {
        if self.is(file) {
            return true;
        }
        let mut line = [0; FIRST_LINE + 1];
        if !read_start(file, &mut line) {
            return false;
        }
        for _ in 0..INTERPRETERS {
            let mut next = [0; FIRST_LINE + 1];
            let Some(interpreter) = interpreter(&mut line) else { return false };
            if self.is(interpreter) {
                return true;
            }
            if !read_start(interpreter, &mut next) {
                return false;
            }
            line = next;
        }
        false
    }

    fn is(self, file: &CStr) -> bool {
        rustix::fs::statat(CWD, file, AtFlags::empty())
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (self.device, self.inode))
    }
}

/// Reads what the kernel looks at; the last byte stays 0. A file that may be executed but not read passes unseen: whoever
/// meets one is not root, and may do nothing to root's builder.
fn read_start(file: &CStr, line: &mut [u8; FIRST_LINE + 1]) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(fd) = rustix::fs::open(file, flags, Mode::empty()) else { return false };
    let Some(room) = line.get_mut(..FIRST_LINE) else { return false };
    rustix::io::read(&fd, room).is_ok()
}

/// Returns the path after `#!`, made a C string in place.
fn interpreter(line: &mut [u8; FIRST_LINE + 1]) -> Option<&CStr> {
    let rest = line.strip_prefix(b"#!")?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = 2 + rest.iter().take_while(|byte| blank(byte)).count();
    let length =
        line.get(start..)?.iter().take_while(|byte| !blank(byte) && !matches!(byte, b'\n' | 0)).count();
    *line.get_mut(start + length)? = 0;
    CStr::from_bytes_until_nul(line.get(start..)?).ok().filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn interpreters_are_found_as_the_kernel_finds_them() {
        let check = |text: &[u8], expect: Option<&CStr>| {
            let mut line = [0; FIRST_LINE + 1];
            line[..text.len()].copy_from_slice(text);
            assert_eq!(interpreter(&mut line), expect, "{}", text.escape_ascii());
        };
        check(b"#!/bin/sh\n", Some(c"/bin/sh"));
        check(b"#! \t/bin/sh -e\n", Some(c"/bin/sh"));
        check(b"#!/bin/sh", Some(c"/bin/sh"));
        check(b"#!sh\targument\n", Some(c"sh"));
        check(b"#!\n", None);
        check(b"# !/bin/sh\n", None);
        check(b"\x7fELF", None);
        check(b"", None);
        check(
            &[b"#!", &[b'x'; FIRST_LINE - 2][..]].concat(),
            Some(&CString::new([b'x'; FIRST_LINE - 2]).unwrap()),
        );
    }

    #[test]
    fn every_name_of_the_file_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let own = OwnProgram::of_this_process().unwrap();
        let path = |name: &str| CString::new(dir.path().join(name).to_str().unwrap()).unwrap();
        let check = |name: &str, expect: bool| assert_eq!(own.is_executed_by(&path(name)), expect, "{name}");
        std::os::unix::fs::symlink("/proc/self/exe", dir.path().join("link")).unwrap();
        for (name, text) in [
            ("script", "#!/proc/self/exe\n".to_owned()),
            ("through-script", format!("#! {}/script x\n", dir.path().display())),
            ("through-link", format!("#!{}/link\n", dir.path().display())),
            ("loop", format!("#!{}/loop\n", dir.path().display())),
            ("shell", "#!/bin/sh\n".to_owned()),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        assert!(own.is_executed_by(c"/proc/self/exe"));
        for (name, expect) in [
            ("link", true),
            ("script", true),
            ("through-script", true),
            ("through-link", true),
            ("loop", false),
            ("shell", false),
            ("missing", false),
        ] {
            check(name, expect);
        }
    }
}
