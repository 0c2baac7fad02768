//! What a path means, by its text.

/// What a path below `/proc` or `/dev` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `/proc` itself.
    Processes,
    /// A symlink of `/proc` to the caller's own directory, and what is named below it.
    Own(Own, Vec<Vec<u8>>),
    /// Something of a process: its number, and the names below its directory.
    Process(i32, Vec<Vec<u8>>),
    /// Another file or directory of `/proc`.
    Global(Vec<Vec<u8>>),
    /// The maker of pseudo-terminals.
    Ptmx,
    /// A pseudo-terminal.
    Terminal(u32),
    /// Another file right in `/dev`.
    Device(Vec<u8>),
}

/// The symlinks of `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// `self`.
    Process,
    /// `thread-self`.
    Thread,
    /// `mounts`, which is `self/mounts`.
    Mounts,
    /// `net`, which is `self/net`.
    Net,
    /// None: named by `/dev/fd`.
    Descriptors,
    /// None: named by `/dev/stdin` and the like, which are symlinks.
    Stream,
}

/// Names that a relative path may start with when the working directory is below `/proc` or `/dev`.
const NAMES: &[&[u8]] = &[
    b"attr",
    b"autogroup",
    b"auxv",
    b"buddyinfo",
    b"bus",
    b"cgroup",
    b"cgroups",
    b"children",
    b"cmdline",
    b"comm",
    b"consoles",
    b"coredump_filter",
    b"cpuinfo",
    b"crypto",
    b"cwd",
    b"devices",
    b"diskstats",
    b"dma",
    b"driver",
    b"environ",
    b"exe",
    b"execdomains",
    b"fb",
    b"fd",
    b"fdinfo",
    b"filesystems",
    b"fs",
    b"full",
    b"gid_map",
    b"io",
    b"iomem",
    b"ioports",
    b"irq",
    b"kallsyms",
    b"key-users",
    b"limits",
    b"loadavg",
    b"locks",
    b"loginuid",
    b"maps",
    b"mem",
    b"meminfo",
    b"misc",
    b"modules",
    b"mountinfo",
    b"mounts",
    b"mountstats",
    b"net",
    b"ns",
    b"null",
    b"numa_maps",
    b"oom_adj",
    b"oom_score",
    b"oom_score_adj",
    b"pagemap",
    b"pagetypeinfo",
    b"partitions",
    b"personality",
    b"pressure",
    b"projid_map",
    b"ptmx",
    b"pts",
    b"random",
    b"root",
    b"sched",
    b"schedstat",
    b"self",
    b"sessionid",
    b"setgroups",
    b"slabinfo",
    b"smaps",
    b"smaps_rollup",
    b"softirqs",
    b"stack",
    b"stat",
    b"statm",
    b"status",
    b"stderr",
    b"stdin",
    b"stdout",
    b"swaps",
    b"sys",
    b"syscall",
    b"sysvipc",
    b"task",
    b"thread-self",
    b"timens_offsets",
    b"timers",
    b"timerslack_ns",
    b"tty",
    b"uid_map",
    b"uptime",
    b"urandom",
    b"version",
    b"vmallocinfo",
    b"vmstat",
    b"wchan",
    b"zero",
    b"zoneinfo",
];

/// Tells whether a relative path could name something below `/proc` or `/dev`, so that it is worth finding out what
/// it is relative to.
pub(super) fn is_plausible(path: &[u8]) -> bool {
    let mut names = path.split(|&byte| byte == b'/').filter(|name| !matches!(name, [] | [b'.']));
    let number = |name: &[u8]| name.iter().all(u8::is_ascii_digit);
    match names.next() {
        None | Some([b'.', b'.']) => true,
        Some(first) => {
            number(first) || NAMES.binary_search(&first).is_ok() || is_top(first) || names.any(is_top)
        }
    }
}

fn is_top(name: &[u8]) -> bool {
    matches!(name, b"proc" | b"dev")
}

/// Returns the names of an absolute path without `.`, `..` and empty ones. A `..` after a symlink to a directory is
/// taken by its text: what it misleads is answered for `/proc` by accident, or left to the skeleton.
pub(super) fn names(path: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            [] | [b'.'] => {}
            [b'.', b'.'] => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names
}

/// Returns what an absolute path means; `None` when it is neither below `/proc` nor `/dev`.
pub(super) fn place(path: &[u8]) -> Option<Place> {
    let is_near = |top: &[u8]| path.starts_with(top);
    if !(is_near(b"/proc") || is_near(b"/dev") || path.windows(2).any(|pair| matches!(pair, b"//" | b"/."))) {
        return None;
    }
    match names(path).as_slice() {
        [b"proc", rest @ ..] => Some(below_proc(rest)),
        [b"dev", rest @ ..] => below_dev(rest),
        _ => None,
    }
}

fn below_proc(names: &[&[u8]]) -> Place {
    let owned = |names: &[&[u8]]| names.iter().map(|name| name.to_vec()).collect::<Vec<_>>();
    match names {
        [] => Place::Processes,
        // A process that changed its directory to `/proc/self` is in the fallback.
        [b"self" | b".self", rest @ ..] => Place::Own(Own::Process, owned(rest)),
        [b"thread-self", rest @ ..] => Place::Own(Own::Thread, owned(rest)),
        [b"mounts", rest @ ..] => Place::Own(Own::Mounts, owned(rest)),
        [b"net", rest @ ..] => Place::Own(Own::Net, owned(rest)),
        [first, rest @ ..] => match number(first) {
            Some(pid) => Place::Process(pid, owned(rest)),
            None => Place::Global(owned(names)),
        },
    }
}

fn below_dev(names: &[&[u8]]) -> Option<Place> {
    let descriptor = |own: Own, names: &[&[u8]]| {
        let names = [b"fd".as_slice()].into_iter().chain(names.iter().copied());
        Some(Place::Own(own, names.map(<[u8]>::to_vec).collect()))
    };
    match names {
        [b"fd", rest @ ..] => descriptor(Own::Descriptors, rest),
        [b"stdin"] => descriptor(Own::Stream, &[b"0"]),
        [b"stdout"] => descriptor(Own::Stream, &[b"1"]),
        [b"stderr"] => descriptor(Own::Stream, &[b"2"]),
        [b"ptmx"] | [b"pts", b"ptmx"] => Some(Place::Ptmx),
        [b"pts", name] => number(name).and_then(|number| u32::try_from(number).ok()).map(Place::Terminal),
        [name] => Some(Place::Device(name.to_vec())),
        _ => None,
    }
}

/// Parses a number as the kernel writes it.
fn number(name: &[u8]) -> Option<i32> {
    let text =
        std::str::from_utf8(name).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok().filter(|_| text == "0" || !text.starts_with('0'))
}

/// Returns what a symlink at an absolute path leads to.
pub(super) fn join(link: &[u8], text: &[u8]) -> Vec<u8> {
    if text.starts_with(b"/") {
        return text.to_vec();
    }
    let parent = link.iter().rposition(|&byte| byte == b'/').and_then(|end| link.get(..end));
    [parent.unwrap_or_default(), b"/", text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn places() {
        let check = |path: &str, expect| assert_eq!(place(path.as_bytes()), expect, "{path}");
        let own = |own, names: &[&str]| Some(Place::Own(own, owned(names)));
        let global = |names: &[&str]| Some(Place::Global(owned(names)));
        check("/proc", Some(Place::Processes));
        check("//proc/./", Some(Place::Processes));
        check("/proc/meminfo", global(&["meminfo"]));
        check("/proc/sys/kernel/pid_max", global(&["sys", "kernel", "pid_max"]));
        check("/proc/self/fd/3", own(Own::Process, &["fd", "3"]));
        check("/proc/.self/comm", own(Own::Process, &["comm"]));
        check("/proc/thread-self", own(Own::Thread, &[]));
        check("/proc/mounts", own(Own::Mounts, &[]));
        check("/proc/net/tcp", own(Own::Net, &["tcp"]));
        check("/proc/12/stat", Some(Place::Process(12, owned(&["stat"]))));
        check("/proc/012", global(&["012"]));
        check("/proc/99999999999", global(&["99999999999"]));
        check("/etc/../proc/1", Some(Place::Process(1, vec![])));
        check("/dev/fd/63", own(Own::Descriptors, &["fd", "63"]));
        check("/dev/stdin", own(Own::Stream, &["fd", "0"]));
        check("/dev/ptmx", Some(Place::Ptmx));
        check("/dev/pts/7", Some(Place::Terminal(7)));
        check("/dev/null", Some(Place::Device(b"null".to_vec())));
        for path in ["/", "/dev", "/dev/shm/x", "/process", "/devel", "/usr/proc", "/proc/../etc"] {
            check(path, None);
        }
    }

    #[test]
    fn relative_paths_that_are_looked_into() {
        let check = |path: &str, expect| assert_eq!(is_plausible(path.as_bytes()), expect, "{path}");
        for path in
            ["", ".", "./meminfo", "12/stat", "self/fd", "../proc/self", "../x.c", "proc/self", "a/proc/b"]
        {
            check(path, true);
        }
        for path in ["main.c", "src/lib.rs", "usr/bin", "a.proc"] {
            check(path, false);
        }
    }

    #[test]
    fn names_are_sorted_for_the_search() {
        assert!(NAMES.is_sorted());
    }

    #[test]
    fn joins() {
        let check = |link: &str, text: &str, expect: &str| {
            assert_eq!(join(link.as_bytes(), text.as_bytes()), expect.as_bytes());
        };
        check("/etc/mtab", "../proc/self/mounts", "/etc/../proc/self/mounts");
        check("/mtab", "x", "/x");
        check("/var/log/access.log", "/dev/stdout", "/dev/stdout");
    }
}
