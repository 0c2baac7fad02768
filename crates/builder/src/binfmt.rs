//! Which foreign programs the kernel runs: the handlers registered with binfmt_misc.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::plan::Emulator;

/// Where the kernel lists its handlers.
pub const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// Bytes of a handler's description that are read; the kernel's are shorter than a page.
const MAX_ENTRY: u64 = 64 << 10;

/// A handler matches within the first bytes of a file; 20 of them tell an ELF header's machine.
const HEADER: usize = 20;

/// Architectures by Go's names, with ELF class (1: 32 bits, 2: 64 bits), byte order (1: little, 2: big) and machine.
///
/// # References
/// elf(5), <https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html>
const MACHINES: &[(&str, u8, u8, u16)] = &[
    ("386", 1, 1, 3),
    ("amd64", 2, 1, 62),
    ("arm", 1, 1, 40),
    ("arm64", 2, 1, 183),
    ("loong64", 2, 1, 258),
    ("mips", 1, 2, 8),
    ("mips64", 2, 2, 8),
    ("mips64le", 2, 1, 8),
    ("mipsle", 1, 1, 8),
    ("ppc64", 2, 2, 21),
    ("ppc64le", 2, 1, 21),
    ("riscv64", 2, 1, 243),
    ("s390x", 2, 2, 22),
];

/// Reads the handlers that are enabled; none where binfmt_misc is not mounted or switched off.
pub fn emulators(registered: &Path) -> BTreeMap<String, Emulator> {
    let mut found = BTreeMap::new();
    let read = |path: &Path| -> Option<String> {
        let mut bytes = Vec::new();
        std::fs::File::open(path).ok()?.take(MAX_ENTRY).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    if read(&registered.join("status")).is_none_or(|status| status.trim() != "enabled") {
        return found;
    }
    for entry in std::fs::read_dir(registered).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name == "status" || name == "register" {
            continue;
        }
        let Some(handler) = read(&entry.path()).as_deref().and_then(Handler::parse) else { continue };
        for (architecture, ..) in MACHINES.iter().filter(|machine| handler.takes(machine)) {
            let emulator = found.entry((*architecture).to_owned()).or_insert(Emulator::NotFixed);
            if handler.fixed {
                *emulator = Emulator::Fixed;
            }
        }
    }
    found
}

/// What a description says that matters here.
#[derive(Debug, PartialEq, Eq)]
struct Handler {
    /// Whether the interpreter was opened when the handler was registered (flag F), so that a rootfs need not hold it.
    fixed: bool,
    offset: usize,
    magic: Vec<u8>,
    mask: Option<Vec<u8>>,
}

impl Handler {
    /// Reads a description; none when the handler is disabled or goes by file extension.
    ///
    /// # References
    /// Linux, Documentation/admin-guide/binfmt-misc.rst, and fs/binfmt_misc.c, `entry_status`
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != "enabled" {
            return None;
        }
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        Some(Self {
            fixed: value("flags:")?.contains('F'),
            offset: value("offset ")?.parse().ok()?,
            magic: hex(value("magic ")?)?,
            mask: value("mask ").map(hex).map_or(Some(None), |mask| mask.map(Some))?,
        })
    }

    /// Whether the handler is given executables, or position-independent ones, of a machine.
    fn takes(&self, &(_, class, order, machine): &(&str, u8, u8, u16)) -> bool {
        let header = |kind: u16| {
            let number = |number: u16| if order == 1 { number.to_le_bytes() } else { number.to_be_bytes() };
            let mut header = [0; HEADER];
            header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, order, 1]);
            header[16..18].copy_from_slice(&number(kind));
            header[18..].copy_from_slice(&number(machine));
            header
        };
        // A handler whose magic ends before the machine does not tell one from another.
        let tells = self.offset.checked_add(self.magic.len()).is_some_and(|end| end >= HEADER);
        tells && [2, 3].iter().any(|kind| self.matches(&header(*kind)))
    }

    fn matches(&self, header: &[u8]) -> bool {
        self.magic.iter().enumerate().all(|(index, wanted)| {
            let mask = self.mask.as_ref().map_or(0xff, |mask| mask.get(index).copied().unwrap_or(0xff));
            let byte = header.get(self.offset + index).copied().unwrap_or(0);
            byte & mask == wanted & mask
        })
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "magic 7f454c460201010000000000000000000200b700\n\
                         mask ffffffffffffff00fffffffffffffffffeffffff\n";
    const S390X: &str = "magic 7f454c4602020100000000000000000000020016\n\
                         mask ffffffffffffff00fffffffffffffffffffeffff\n";

    #[test]
    fn descriptions_say_what_is_emulated() {
        let check = |text: &str, expect: &[&str]| {
            let handler = Handler::parse(text);
            let takes = |machine: &&(&'static str, u8, u8, u16)| {
                handler.as_ref().is_some_and(|handler| handler.takes(machine))
            };
            let got: Vec<_> = MACHINES.iter().filter(takes).map(|(name, ..)| *name).collect();
            assert_eq!(got, expect, "{text}");
        };
        let entry = |body: &str| format!("enabled\ninterpreter /q\nflags: OCF\noffset 0\n{body}");
        check(&entry(ARM64), &["arm64"]);
        check(&entry(S390X), &["s390x"]);
        check(&entry(ARM64).replace("enabled", "disabled"), &[]);
        check("enabled\ninterpreter /q\nflags: \nextension .exe\n", &[]);
        check(&entry("magic 7f454c46\n"), &[]);
        check(&entry("magic 7f454c4\n"), &[]);
        check(&entry("magic \u{e9}\u{e9}\n"), &[]);
        check(&entry(ARM64).replace("offset 0", "offset 18446744073709551615"), &[]);
        check("", &[]);
    }

    #[test]
    fn the_kernels_list_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file");
        write("register", "");
        write("qemu-aarch64", &format!("enabled\ninterpreter /q\nflags: OCF\noffset 0\n{ARM64}"));
        write("qemu-s390x", &format!("enabled\ninterpreter /q\nflags: OC\noffset 0\n{S390X}"));
        assert_eq!(emulators(dir.path()), BTreeMap::new(), "there is no status");
        write("status", "enabled\n");
        let expect = [("arm64".to_owned(), Emulator::Fixed), ("s390x".to_owned(), Emulator::NotFixed)].into();
        assert_eq!(emulators(dir.path()), expect);
        write("status", "disabled\n");
        assert_eq!(emulators(dir.path()), BTreeMap::new());
    }
}
