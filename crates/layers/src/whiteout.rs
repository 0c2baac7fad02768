//! How layers say that something is gone: files whose names start with `.wh.`.
//!
//! # References
//! OCI image specification, `layer.md`, "Whiteouts" and "Opaque Whiteout".

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the name of a whiteout starts with; the rest is the name that is gone.
pub(crate) const PREFIX: &[u8] = b".wh.";

/// What names start with that aufs kept for itself, and [`OPAQUE`] with them.
const META: &[u8] = b".wh..wh.";

/// The name of the file that hides everything its directory holds in lower layers.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the name of a file in a layer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark<'a> {
    /// A file like any other.
    None,
    /// This name of the same directory is gone.
    Whiteout(&'a OsStr),
    /// The directory is opaque.
    Opaque,
    /// A trace of aufs that means nothing.
    Ignored,
    /// A whiteout of no name, or of `.` or `..`.
    Invalid,
}

/// Tells what a name means.
pub(crate) fn mark(name: &OsStr) -> Mark<'_> {
    let name = name.as_bytes();
    if name == OPAQUE {
        return Mark::Opaque;
    }
    if name.starts_with(META) {
        return Mark::Ignored;
    }
    match name.strip_prefix(PREFIX) {
        None => Mark::None,
        Some(b"" | b"." | b"..") => Mark::Invalid,
        Some(gone) => Mark::Whiteout(OsStr::from_bytes(gone)),
    }
}

/// Tells whether a reader of a layer would take a name for something other than a file.
pub(crate) fn is_reserved(name: &OsStr) -> bool {
    mark(name) != Mark::None
}

/// Returns the path of the whiteout of a path.
pub(crate) fn file_for(path: &Path) -> PathBuf {
    let mut name = OsString::from(OsStr::from_bytes(PREFIX));
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_meanings() {
        fn check(name: &str, expect: Mark<'_>) {
            assert_eq!(mark(OsStr::new(name)), expect, "{name}");
        }
        check("file", Mark::None);
        check(".whx", Mark::None);
        check(".wh.file", Mark::Whiteout(OsStr::new("file")));
        check(".wh....", Mark::Whiteout(OsStr::new("...")));
        check(".wh..wh..opq", Mark::Opaque);
        check(".wh..wh.plnk", Mark::Ignored);
        check(".wh.", Mark::Invalid);
        check(".wh..", Mark::Invalid);
        check(".wh...", Mark::Invalid);
    }

    #[test]
    fn whiteouts_stand_beside_what_is_gone() {
        assert_eq!(file_for(Path::new("a/b")), Path::new("a/.wh.b"));
        assert_eq!(file_for(Path::new("b")), Path::new(".wh.b"));
    }
}
