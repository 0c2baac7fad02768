//! What a step read, file by file, in a form that is small enough to be kept: [`FileList`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rbuild_image::Digest;
use rbuild_layers::{Changes, Entry, Kind, Meta};

use super::content::Contents;
use super::key::KeyHasher;

/// Files of one list; of a larger tree none is kept.
const MAX_FILES: usize = 200_000;

/// Bytes of one list.
const MAX_BYTES: usize = 16 << 20;

/// What a list begins with.
const MAGIC: &[u8] = b"rbuild tree 1\n";

/// What of a path counts for a key, each part in a few bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    xattrs: [u8; 8],
    /// Bytes of a file, target of a link.
    content: [u8; 8],
}

/// Bytes of a fingerprint as it is kept.
const FINGERPRINT: usize = 1 + 12 + 16;

/// The paths of a tree and what counts of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FileList(BTreeMap<PathBuf, Fingerprint>);

/// How a path of one tree differs from that of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileChange {
    /// The path.
    pub path: PathBuf,
    /// In a few words: `changed`, `is new`, `is gone`, `has mode 0755, had 0644`.
    pub change: String,
}

impl FileList {
    /// Lists a tree whose files have these digests.
    pub(crate) fn new(tree: &Changes, contents: &Contents) -> Self {
        let mut files = contents.files.iter();
        let fingerprint = |(path, entry): (&Path, &Entry)| {
            let fingerprint = match entry {
                Entry::Node { meta, .. } | Entry::Opaque(meta) => {
                    let bytes = if meta.is_file() { files.next().copied() } else { None };
                    Fingerprint::new(meta, bytes)
                }
                Entry::HardLink(target) => Fingerprint::link(target),
                Entry::Whiteout => Fingerprint::link(Path::new("")),
            };
            (path.to_owned(), fingerprint)
        };
        Self(tree.iter().map(fingerprint).collect())
    }

    /// The form that is kept; none of a tree that is too large.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        if self.0.len() > MAX_FILES {
            return None;
        }
        let mut records = Vec::new();
        for (path, print) in &self.0 {
            let path = path.as_os_str().as_bytes();
            records.extend_from_slice(&u32::try_from(path.len()).ok()?.to_le_bytes());
            records.extend_from_slice(path);
            records.push(print.kind);
            for number in [print.mode, print.uid, print.gid] {
                records.extend_from_slice(&number.to_le_bytes());
            }
            records.extend_from_slice(&print.xattrs);
            records.extend_from_slice(&print.content);
        }
        let kept = [MAGIC, Digest::of(&records).as_bytes(), &records].concat();
        (kept.len() <= MAX_BYTES).then_some(kept)
    }

    /// Reads what was kept; none if anything of it is not as it was written.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (digest, mut rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
        if Digest::of(rest).as_bytes() != digest {
            return None;
        }
        let mut list = BTreeMap::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk()?;
            let (path, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            let (print, after) = after.split_first_chunk::<FINGERPRINT>()?;
            list.insert(OsString::from_vec(path.to_owned()).into(), Fingerprint::decode(print)?);
            rest = after;
        }
        Some(Self(list))
    }

    /// Tells what is different here from what was there before, sorted by path.
    pub(crate) fn changes_since(&self, before: &Self) -> Vec<FileChange> {
        let paths: std::collections::BTreeSet<&PathBuf> = self.0.keys().chain(before.0.keys()).collect();
        let change = |path: &PathBuf| {
            let change = match (before.0.get(path), self.0.get(path)) {
                (Some(old), Some(new)) => new.change_since(old)?,
                (None, _) => "is new".to_owned(),
                (_, None) => "is gone".to_owned(),
            };
            Some(FileChange { path: path.clone(), change })
        };
        paths.into_iter().filter_map(change).collect()
    }
}

impl Fingerprint {
    fn new(meta: &Meta, bytes: Option<Digest>) -> Self {
        let (kind, content) = match &meta.kind {
            Kind::File => (0, bytes.map(short).unwrap_or_default()),
            Kind::Directory => (1, [0; 8]),
            Kind::Symlink(target) => (2, short(Digest::of(target.as_bytes()))),
            Kind::CharDevice { .. } => (3, [0; 8]),
            Kind::BlockDevice { .. } => (4, [0; 8]),
            Kind::Fifo => (5, [0; 8]),
            Kind::Socket => (6, [0; 8]),
        };
        let xattrs = || {
            KeyHasher::name("rbuild xattrs", |hasher| {
                for (name, value) in &meta.xattrs {
                    hasher.bytes(name).bytes(value);
                }
            })
        };
        let xattrs = if meta.xattrs.is_empty() { [0; 8] } else { short(xattrs()) };
        Self { kind, mode: meta.mode, uid: meta.uid, gid: meta.gid, xattrs, content }
    }

    fn link(target: &Path) -> Self {
        let content = short(Digest::of(target.as_os_str().as_bytes()));
        Self { kind: 7, mode: 0, uid: 0, gid: 0, xattrs: [0; 8], content }
    }

    fn decode(bytes: &[u8; FINGERPRINT]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (mode, rest) = rest.split_first_chunk()?;
        let (uid, rest) = rest.split_first_chunk()?;
        let (gid, rest) = rest.split_first_chunk()?;
        let (xattrs, rest) = rest.split_first_chunk()?;
        Some(Self {
            kind: *kind,
            mode: u32::from_le_bytes(*mode),
            uid: u32::from_le_bytes(*uid),
            gid: u32::from_le_bytes(*gid),
            xattrs: *xattrs,
            content: rest.try_into().ok()?,
        })
    }

    fn change_since(&self, old: &Self) -> Option<String> {
        if self == old {
            return None;
        }
        let mut said = Vec::new();
        if self.kind != old.kind {
            said.push("is of another type".to_owned());
        } else if self.content != old.content {
            said.push("changed".to_owned());
        }
        if self.mode != old.mode {
            said.push(format!("has mode {:04o}, had {:04o}", self.mode, old.mode));
        }
        if (self.uid, self.gid) != (old.uid, old.gid) {
            said.push(format!("belongs to {}:{}, did to {}:{}", self.uid, self.gid, old.uid, old.gid));
        }
        if self.xattrs != old.xattrs {
            said.push("has other extended attributes".to_owned());
        }
        Some(said.join(", "))
    }
}

fn short(digest: Digest) -> [u8; 8] {
    digest.as_bytes().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rbuild_layers::Content;

    use super::*;
    use crate::cache::content::Reading;

    fn list(nodes: &[(&str, Kind, u32, u32, &'static str)]) -> FileList {
        let mut tree = Changes::new();
        for (path, kind, mode, uid, bytes) in nodes {
            let meta = Meta { uid: *uid, ..Meta::new(kind.clone(), *mode) };
            let content = if meta.is_file() { Content::Bytes((*bytes).into()) } else { Content::None };
            tree.insert(*path, Entry::Node { meta, content });
        }
        FileList::new(&tree, &Reading::default().contents(&tree).expect("readable"))
    }

    #[test]
    fn what_changed_is_named() {
        let file = |path, mode, uid, bytes| (path, Kind::File, mode, uid, bytes);
        let before = list(&[
            file("a", 0o644, 0, "a"),
            file("b", 0o644, 0, "b"),
            file("gone", 0o644, 0, ""),
            ("l", Kind::Symlink("a".into()), 0o777, 0, ""),
        ]);
        let after = list(&[
            file("a", 0o755, 5, "A"),
            file("b", 0o644, 0, "b"),
            file("l", 0o777, 0, ""),
            file("new", 0o644, 0, ""),
        ]);
        let said: Vec<String> = after
            .changes_since(&before)
            .into_iter()
            .map(|FileChange { path, change }| format!("{} {change}", path.display()))
            .collect();
        let expect = [
            "a changed, has mode 0755, had 0644, belongs to 5:0, did to 0:0",
            "gone is gone",
            "l is of another type",
            "new is new",
        ];
        assert_eq!(said, expect);
        assert_eq!(before.changes_since(&before), []);
    }

    #[test]
    fn what_is_kept_comes_back_or_not_at_all() {
        let tree = list(&[("a/b", Kind::File, 0o644, 7, "x"), ("a", Kind::Directory, 0o755, 0, "")]);
        let kept = tree.encode().expect("it is small");
        assert_eq!(FileList::decode(&kept), Some(tree));
        for at in 0..kept.len() {
            let mut damaged = kept.clone();
            damaged[at] ^= 1;
            assert_eq!(FileList::decode(&damaged), None, "byte {at}");
            assert_eq!(FileList::decode(&kept[..at]), None, "{at} bytes");
        }
    }
}
