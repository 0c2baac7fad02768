//! The files of a cache mount without their bytes.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rbuild_layers::{Kind, Meta, Time};
use serde::{Deserialize, Serialize};

/// More files than these are not kept.
const MAX_FILES: usize = 4_000_000;

/// One path of the tree; the first is the directory itself, with an empty path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    /// Bytes that are not printable ASCII, and `%`, as `%XX`.
    path: String,
    kind: ListedKind,
    mode: u32,
    uid: u32,
    gid: u32,
    /// Seconds since 1970 and nanoseconds.
    mtime: (i64, u32),
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ListedKind {
    Directory,
    /// So many bytes of the stream.
    File(u64),
    /// Where it leads.
    Symlink(String),
}

impl Listed {
    /// Describes a path; none for what no cache keeps: devices, pipes and sockets.
    pub(super) fn new(path: &Path, meta: &Meta) -> Option<Self> {
        let kind = match &meta.kind {
            Kind::File => ListedKind::File(meta.size),
            Kind::Directory => ListedKind::Directory,
            Kind::Symlink(target) => ListedKind::Symlink(escaped(target.as_bytes())),
            _ => return None,
        };
        let xattrs = meta.xattrs.iter().map(|(name, value)| (escaped(name), escaped(value)));
        Some(Self {
            path: escaped(path.as_os_str().as_bytes()),
            kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: (meta.mtime.seconds, meta.mtime.nanos),
            xattrs: xattrs.collect(),
        })
    }

    fn meta(&self) -> Option<Meta> {
        let (kind, size) = match &self.kind {
            ListedKind::Directory => (Kind::Directory, 0),
            ListedKind::File(size) => (Kind::File, *size),
            ListedKind::Symlink(target) => (Kind::Symlink(OsStr::from_bytes(&plain(target)?).into()), 0),
        };
        let xattrs = self.xattrs.iter().map(|(name, value)| Some((plain(name)?, plain(value)?)));
        let (seconds, nanos) = self.mtime;
        Some(Meta {
            kind,
            mode: self.mode & 0o7777,
            uid: self.uid,
            gid: self.gid,
            mtime: Time { seconds, nanos: nanos.min(999_999_999) },
            size,
            xattrs: xattrs.collect::<Option<_>>()?,
        })
    }
}

/// Reads a list that may come from anybody: the tree's paths, parents first, each below a directory of the list; none if it is
/// anything else. The lengths of its files are `bytes` together.
pub(super) fn tree(list: &[Listed], bytes: u64) -> Option<Vec<(PathBuf, Meta)>> {
    let mut directories = HashSet::new();
    let mut total = 0_u64;
    let mut tree = Vec::with_capacity(list.len().min(MAX_FILES));
    for (number, listed) in list.iter().enumerate() {
        let path = PathBuf::from(OsStr::from_bytes(&plain(&listed.path)?));
        let meta = listed.meta()?;
        let is_normal = path.components().all(|component| matches!(component, Component::Normal(_)));
        // Written as its components, without a doubled or a final slash.
        let is_plain = path.components().collect::<PathBuf>().as_os_str() == path.as_os_str();
        let has_place = match path.parent() {
            None => number == 0 && meta.is_dir(),
            Some(parent) => directories.contains(parent),
        };
        if !is_normal || !is_plain || !has_place || number > MAX_FILES {
            return None;
        }
        if meta.is_dir() {
            directories.insert(path.clone());
        }
        total = total.checked_add(meta.size)?;
        tree.push((path, meta));
    }
    (total == bytes && !tree.is_empty()).then_some(tree)
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b' '..=b'~' if *byte != b'%' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn plain(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(path: &str, kind: ListedKind) -> Listed {
        let (path, xattrs) = (path.to_owned(), BTreeMap::new());
        Listed { path, kind, mode: 0o755, uid: 1, gid: 2, mtime: (3, 4), xattrs }
    }

    #[test]
    fn attributes_survive() {
        let name = OsStr::from_bytes(b"a%\xff \n");
        let meta = Meta {
            mode: 0o4755,
            uid: 7,
            gid: 8,
            mtime: Time { seconds: -5, nanos: 6 },
            size: 9,
            xattrs: BTreeMap::from([(b"user.a".to_vec(), vec![0, 255])]),
            ..Meta::new(Kind::File, 0)
        };
        let link = Meta::new(Kind::Symlink("../x".into()), 0o777);
        let list = [
            Listed::new(Path::new(""), &Meta::default_directory()),
            Listed::new(Path::new(name), &meta),
            Listed::new(Path::new("link"), &link),
        ];
        let list: Vec<Listed> = list.into_iter().flatten().collect();
        let text = serde_json::to_string(&list).expect("JSON");
        let list: Vec<Listed> = serde_json::from_str(&text).expect("JSON");
        let expect = vec![
            (PathBuf::new(), Meta::default_directory()),
            (PathBuf::from(name), meta),
            (PathBuf::from("link"), link),
        ];
        assert_eq!(tree(&list, 9), Some(expect));
        assert_eq!(Listed::new(Path::new("pipe"), &Meta::new(Kind::Fifo, 0o644)), None);
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let top = || listed("", ListedKind::Directory);
        let check = |list: Vec<Listed>, bytes: u64| assert_eq!(tree(&list, bytes), None, "{list:?}");
        check(vec![], 0);
        check(vec![listed("", ListedKind::File(0))], 0);
        check(vec![top(), listed("a", ListedKind::File(2))], 1);
        check(vec![top(), listed("a", ListedKind::File(u64::MAX)), listed("b", ListedKind::File(1))], 0);
        for path in ["/a", "..", "a/..", "./a", "a/", "a//b", "", "%", "%4", "%zz", "b/c"] {
            check(vec![top(), listed("a", ListedKind::Directory), listed(path, ListedKind::File(0))], 0);
        }
        let link = listed("a", ListedKind::Symlink("/etc".into()));
        check(vec![top(), link, listed("a/passwd", ListedKind::File(0))], 0);
    }
}
