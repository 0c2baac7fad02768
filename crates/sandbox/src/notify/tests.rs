//! A filter on a thread of this process, served by another.

#![expect(unsafe_code, reason = "system calls that the C library does not make by themselves")]

use std::fs::File;
use std::io::Read;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::fd::{AsFd, FromRawFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::*;
use crate::seccomp::{Action, Rules, filter};
use crate::sys;

/// Calls that are rare enough to be trapped in a test's thread.
static RULES: Rules = Rules {
    name: "notify-tests",
    calls: &[
        ("getpriority", Action::Notify),
        ("chdir", Action::Notify),
        ("uname", Action::Notify),
        ("eventfd2", Action::Notify),
        ("sched_get_priority_max", Action::Notify),
    ],
};

struct Tiny(Sender<String>);

impl Answer for Tiny {
    fn answer(&mut self, call: &Call, target: &Target<'_>) -> Reply {
        match call.name {
            "getpriority" => Reply::Value(i64::from(call.int(1)) + 1),
            "sched_get_priority_max" => Reply::Continue,
            "chdir" => match target.read_path(call.word(0)) {
                Ok(path) => {
                    self.0.send(path.into_string().unwrap()).unwrap();
                    Reply::Errno(Errno::NOTDIR)
                }
                Err(errno) => errno.into(),
            },
            "uname" => match target.write(call.word(0), b"written\0") {
                Ok(()) => Reply::Value(0),
                Err(errno) => errno.into(),
            },
            "eventfd2" => {
                let (read, write) = rustix::pipe::pipe().unwrap();
                rustix::io::write(&write, b"injected").unwrap();
                Reply::Descriptor { fd: read, close_on_exec: true }
            }
            name => panic!("{name}"),
        }
    }
}

fn last_error() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

#[test]
fn calls_are_answered() {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let (paths, read) = channel();
    let serving = serve(ours, Box::new(Tiny(paths))).unwrap();
    let caller = thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        let listener = sys::install_notifying_filter(&filter(&[&RULES]).program).unwrap();
        send_listener(theirs.as_fd(), listener.as_fd()).unwrap();
        drop(listener);
        make_calls();
        drop(theirs);
    });
    let outcome = caller.join();
    serving.join();
    outcome.unwrap();
    let long = "/".repeat(4095);
    assert_eq!(read.into_iter().collect::<Vec<_>>(), ["", "/some/path", long.as_str()]);
}

fn make_calls() {
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::syscall(libc::SYS_getpriority, 0, 41) }, 42);
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::syscall(libc::SYS_sched_get_priority_max, libc::SCHED_RR) }, 99);

    // SAFETY: the path is a C string, or not read at all.
    let chdir = |path: *const libc::c_char| (unsafe { libc::chdir(path) }, last_error());
    assert_eq!(chdir(c"".as_ptr()), (-1, libc::ENOTDIR));
    assert_eq!(chdir(c"/some/path".as_ptr()), (-1, libc::ENOTDIR));
    let long = std::ffi::CString::new("/".repeat(4095)).unwrap();
    assert_eq!(chdir(long.as_ptr()), (-1, libc::ENOTDIR));
    let too_long = std::ffi::CString::new("/".repeat(4096)).unwrap();
    assert_eq!(chdir(too_long.as_ptr()), (-1, libc::ENAMETOOLONG));
    assert_eq!(chdir(std::ptr::without_provenance(8)), (-1, libc::EFAULT));

    let mut name = [0u8; 512];
    // SAFETY: the buffer is larger than a utsname.
    assert_eq!(unsafe { libc::syscall(libc::SYS_uname, name.as_mut_ptr()) }, 0);
    assert!(name.starts_with(b"written\0"));
    // SAFETY: the string is not changed: it is in memory that cannot be written.
    let refused = unsafe { libc::syscall(libc::SYS_uname, c"read only".as_ptr()) };
    assert_eq!((refused, last_error()), (-1, libc::EFAULT));

    // SAFETY: no memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_eventfd2, 0, 0) };
    // SAFETY: the descriptor was made for this call and nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) };
    assert_eq!(rustix::io::fcntl_getfd(&fd).unwrap(), rustix::io::FdFlags::CLOEXEC);
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    assert_eq!(text, "injected");
}

#[test]
fn nobody_waits_for_a_server_that_is_gone() {
    let caller = thread::spawn(|| {
        rustix::thread::set_no_new_privs(true).unwrap();
        drop(sys::install_notifying_filter(&filter(&[&RULES]).program).unwrap());
        // SAFETY: no memory is passed.
        let value = unsafe { libc::syscall(libc::SYS_getpriority, 0, 41) };
        (value, last_error())
    });
    assert_eq!(caller.join().unwrap(), (-1, libc::ENOSYS));
}
