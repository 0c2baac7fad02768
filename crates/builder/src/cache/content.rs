//! Digests of what steps read, for their keys: names, types, modes, owners, link targets, xattrs and bytes; never
//! times, inodes or the order of directories.

use std::collections::HashMap;
use std::io::{self, Read};

use rbuild_image::{Digest, Digester};
use rbuild_layers::{Changes, Content, Entry, Kind, Meta, Opener, RootError};

use super::key::KeyHasher;
use crate::context::ContextDir;

/// Computes the digest of a tree.
///
/// # Errors
/// A file cannot be read.
pub fn digest(tree: &Changes) -> Result<Digest, RootError> {
    Ok(Reading::default().contents(tree)?.digest)
}

/// What a tree holds.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The digest of everything that counts.
    pub digest: Digest,
    /// The digests of the bytes of its files, in the order of the tree.
    pub files: Vec<Digest>,
}

/// What is known of files that a tree names, so that they need not be read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading<'a> {
    /// What this build has just read, where that is what counts and not what stood there before.
    pub seen: Option<&'a Seen>,
    /// What remembers the files of earlier builds, and of this one for later ones.
    pub context: Option<&'a ContextDir>,
}

/// Digests of the bytes of files that were read already.
#[derive(Debug, Default)]
pub struct Seen(HashMap<Digest, Digest>);

impl Seen {
    /// Remembers the digest of a file's bytes, if the file has a name.
    pub fn add(&mut self, content: &Content, digest: Digest) {
        self.0.extend(place(content).map(|place| (place, digest)));
    }

    fn get(&self, content: &Content) -> Option<Digest> {
        self.0.get(&place(content)?).copied()
    }
}

/// Names a file in 32 bytes.
fn place(content: &Content) -> Option<Digest> {
    let Content::Path { root, path } = content else { return None };
    let mut hasher = KeyHasher::new("rbuild place");
    hasher.bytes(root.path().as_os_str().as_encoded_bytes()).bytes(path.as_os_str().as_encoded_bytes());
    Some(hasher.finish())
}

/// Below both of these a tree is read sooner than something about it is kept on a disk.
const FEW_FILES: usize = 1000;
const FEW_BYTES: u64 = 8 << 20;

/// Computes the digest of everything that [`digest`] counts but the bytes of files, their lengths instead; none for a small
/// tree. Trees of different shapes have different digests.
pub fn shape(tree: &Changes) -> Option<Digest> {
    let mut hasher = KeyHasher::new("rbuild shape");
    let mut bytes = 0_u64;
    hasher.number(tree.len() as u64);
    for (path, entry) in tree.iter() {
        hasher.bytes(path.as_os_str().as_encoded_bytes());
        match entry {
            Entry::Node { meta, .. } => {
                add_meta(hasher.choice(0), meta);
                bytes = bytes.saturating_add(meta.size);
                hasher.number(meta.size);
            }
            Entry::HardLink(target) => {
                hasher.choice(1).bytes(target.as_os_str().as_encoded_bytes());
            }
            Entry::Whiteout => {
                hasher.choice(2);
            }
            Entry::Opaque(meta) => add_meta(hasher.choice(3), meta),
        }
    }
    (tree.len() >= FEW_FILES || bytes >= FEW_BYTES).then(|| hasher.finish())
}

impl Reading<'_> {
    /// Does what [`digest`] does, and reads only the files that are not known.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn contents(self, tree: &Changes) -> Result<Contents, RootError> {
        let mut hasher = KeyHasher::new("rbuild content");
        let mut files = Files { opener: Opener::default(), buffer: vec![0; 64 << 10] };
        let mut digests = Vec::new();
        hasher.number(tree.len() as u64);
        for (path, entry) in tree.iter() {
            hasher.bytes(path.as_os_str().as_encoded_bytes());
            match entry {
                Entry::Node { meta, content } => {
                    add_meta(hasher.choice(0), meta);
                    if meta.is_file() {
                        let bytes = self.file(content, meta.size, &mut files)?;
                        hasher.digest(&bytes);
                        digests.push(bytes);
                    }
                }
                Entry::HardLink(target) => {
                    hasher.choice(1).bytes(target.as_os_str().as_encoded_bytes());
                }
                Entry::Whiteout => {
                    hasher.choice(2);
                }
                Entry::Opaque(meta) => add_meta(hasher.choice(3), meta),
            }
        }
        Ok(Contents { digest: hasher.finish(), files: digests })
    }

    fn file(self, content: &Content, size: u64, files: &mut Files) -> Result<Digest, RootError> {
        let known = match self.seen {
            Some(seen) => seen.get(content),
            None => self.context.and_then(|context| context.known_digest(content)),
        };
        if let (Some(known), None) = (known, self.seen) {
            return Ok(known);
        }
        let digest = match known {
            Some(digest) => digest,
            None => files.digest(content, size)?,
        };
        if let Some(context) = self.context {
            context.learn(content, digest);
        }
        Ok(digest)
    }
}

fn add_meta(hasher: &mut KeyHasher, meta: &Meta) {
    match &meta.kind {
        Kind::File => hasher.choice(0),
        Kind::Directory => hasher.choice(1),
        Kind::Symlink(target) => hasher.choice(2).bytes(target.as_encoded_bytes()),
        Kind::CharDevice { major, minor } => {
            hasher.choice(3).number(u64::from(*major)).number(u64::from(*minor))
        }
        Kind::BlockDevice { major, minor } => {
            hasher.choice(4).number(u64::from(*major)).number(u64::from(*minor))
        }
        Kind::Fifo => hasher.choice(5),
        Kind::Socket => hasher.choice(6),
    };
    hasher.number(u64::from(meta.mode)).number(u64::from(meta.uid)).number(u64::from(meta.gid));
    hasher.number(meta.xattrs.len() as u64);
    for (name, value) in &meta.xattrs {
        hasher.bytes(name).bytes(value);
    }
}

/// What the files of one tree are read with.
struct Files {
    opener: Opener,
    buffer: Vec<u8>,
}

impl Files {
    fn digest(&mut self, content: &Content, size: u64) -> Result<Digest, RootError> {
        let mut digester = Digester::new();
        let mut reader = self.opener.open(content)?;
        let mut total = 0;
        loop {
            let read = match reader.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(RootError::Io { operation: "read", path: content_path(content), source });
                }
                Ok(read) => read,
            };
            digester.update(self.buffer.get(..read).unwrap_or_default());
            total += read as u64;
            // a file of its announced length ends where less is read than there is room for
            if read == 0 || (total == size && read < self.buffer.len()) {
                return Ok(digester.finish());
            }
        }
    }
}

fn content_path(content: &Content) -> std::path::PathBuf {
    match content {
        Content::Path { path, .. } => path.clone(),
        _ => std::path::PathBuf::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use rbuild_layers::Time;

    use super::*;

    fn tree(path: &str, meta: Meta, bytes: &'static [u8]) -> Digest {
        let mut changes = Changes::new();
        let content = if meta.is_file() { Content::Bytes(Bytes::from_static(bytes)) } else { Content::None };
        changes.insert(path, Entry::Node { meta, content });
        digest(&changes).expect("readable")
    }

    #[test]
    fn what_was_seen_is_not_read_and_gives_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = rbuild_layers::Root::open(directory.path()).expect("the directory");
        let mut tree = Changes::new();
        let mut seen = Seen::default();
        for (name, length) in [("a", 0_usize), ("b", FEW_BYTES as usize)] {
            std::fs::write(directory.path().join(name), vec![7; length]).expect("a file");
            let meta = Meta { size: length as u64, ..Meta::new(Kind::File, 0o644) };
            let content = Content::Path { root: root.clone(), path: name.into() };
            seen.add(&content, Digest::of(&vec![7; length]));
            tree.insert(name, Entry::Node { meta, content });
        }
        let read = digest(&tree).expect("readable");
        let of_shape = shape(&tree);
        std::fs::write(directory.path().join("b"), vec![8; FEW_BYTES as usize]).expect("a file");
        let reading = Reading { seen: Some(&seen), context: None };
        assert_eq!(reading.contents(&tree).expect("not read").digest, read);
        assert_ne!(digest(&tree).expect("readable"), read);
        assert!(of_shape.is_some() && shape(&tree) == of_shape, "bytes are no part of the shape");
        let Some(Entry::Node { meta, .. }) = tree.iter_mut().last().map(|(_, entry)| entry) else {
            panic!("a file")
        };
        meta.size += 1;
        assert_ne!(shape(&tree), of_shape);
        tree.remove("b");
        assert_eq!(shape(&tree), None);
    }

    /// Whatever of a tree of three files and a link is changed in one place, byte by byte and bit by bit, changes the digest.
    #[test]
    fn every_byte_and_every_bit_counts() {
        type Node = (&'static str, Kind, u32, [u32; 2], Vec<u8>);
        let nodes: Vec<Node> = vec![
            ("a", Kind::File, 0o644, [0, 0], (0..=255).collect()),
            ("a-b", Kind::File, 0o4755, [1, 2], vec![0; 70_000]),
            ("ab", Kind::File, 0o600, [0, 7], Vec::new()),
            ("l", Kind::Symlink("a-b".into()), 0o777, [0, 0], Vec::new()),
        ];
        let digest_of = |nodes: &[Node]| {
            let mut changes = Changes::new();
            for (path, kind, mode, [uid, gid], bytes) in nodes {
                let size = bytes.len() as u64;
                let meta = Meta { uid: *uid, gid: *gid, size, ..Meta::new(kind.clone(), *mode) };
                let content =
                    if meta.is_file() { Content::Bytes(bytes.clone().into()) } else { Content::None };
                changes.insert(*path, Entry::Node { meta, content });
            }
            digest(&changes).expect("readable")
        };
        let mut seen = std::collections::BTreeSet::from([digest_of(&nodes)]);
        let mut expected = 1;
        let mut check = |change: &dyn Fn(&mut Node), at: usize| {
            let mut changed = nodes.clone();
            change(&mut changed[at]);
            expected += 1;
            seen.insert(digest_of(&changed));
            assert_eq!(seen.len(), expected, "{:?}", changed[at].0);
        };
        for byte in 0..256 {
            check(&|node| node.4[byte] ^= 1, 0);
        }
        for byte in [0, 1, 35_000, 65_535, 65_536, 69_999] {
            check(&|node| node.4[byte] = 1, 1);
        }
        for at in 0..4 {
            for bit in 0..12 {
                check(&|node| node.2 ^= 1 << bit, at);
            }
            for (owner, bit) in (0..2).flat_map(|owner| (0..32).map(move |bit| (owner, bit))) {
                check(&|node| node.3[owner] ^= 1 << bit, at);
            }
            check(&|node| node.0 = "a_", at);
        }
        check(&|node| node.4.push(0), 0);
        check(&|node| node.4.truncate(69_999), 1);
        check(&|node| node.4.push(0), 2);
        check(&|node| node.1 = Kind::Symlink("a-c".into()), 3);
        check(&|node| node.1 = Kind::Symlink("a".into()), 3);
        check(&|node| node.1 = Kind::Directory, 2);
    }

    /// Framed by length: no name that looks like the end of one entry and the beginning of another (kaniko's fork, issue 911).
    #[test]
    fn entries_do_not_run_together() {
        let empty = Digest::of(b"").to_string();
        let two = |first: &str, second: &str| {
            let mut changes = Changes::new();
            for path in [first, second] {
                let entry = Entry::Node { meta: Meta::new(Kind::File, 0o644), content: Content::None };
                changes.insert(path, entry);
            }
            digest(&changes).expect("readable")
        };
        let (one, other) = (two("a", &format!("b{empty}c")), two(&format!("a{empty}b"), "c"));
        assert_ne!(one, other);
    }

    #[test]
    fn tells_trees_apart() {
        let plain = Meta::new(Kind::File, 0o644);
        let base = tree("a", plain.clone(), b"x");
        let xattrs = BTreeMap::from([(b"user.a".to_vec(), b"b".to_vec())]);
        let different = [
            tree("b", plain.clone(), b"x"),
            tree("a", plain.clone(), b"y"),
            tree("a", Meta { mode: 0o600, ..plain.clone() }, b"x"),
            tree("a", Meta { uid: 1, ..plain.clone() }, b"x"),
            tree("a", Meta { gid: 1, ..plain.clone() }, b"x"),
            tree("a", Meta { xattrs, ..plain.clone() }, b"x"),
            tree("a", Meta::new(Kind::Symlink("x".into()), 0o644), b""),
            tree("a", Meta::new(Kind::Directory, 0o644), b""),
        ];
        for other in &different {
            assert_ne!(base, *other);
        }
        for (name, value) in [(&b"user.b"[..], &b"b"[..]), (b"user.a", b"c"), (b"user.", b"ab")] {
            let xattrs = BTreeMap::from([(name.to_vec(), value.to_vec())]);
            assert_ne!(tree("a", Meta { xattrs, ..plain.clone() }, b"x"), different[5], "{name:?}");
        }
        let later = Meta { mtime: Time::seconds(9), ..plain };
        assert_eq!(base, tree("a", later, b"x"), "times are no part of it");
    }
}
