//! Digests of what steps read, for their keys: names, types, modes, owners, link targets, xattrs and bytes; never
//! times, inodes or the order of directories.

use std::io::{self, Read};

use rbuild_image::{Digest, Digester};
use rbuild_layers::{Changes, Content, Entry, Kind, Meta, Opener, RootError};

use super::key::KeyHasher;

/// Computes the digest of a tree.
///
/// # Errors
/// A file cannot be read.
pub fn digest(tree: &Changes) -> Result<Digest, RootError> {
    let mut hasher = KeyHasher::new("rbuild content");
    let mut files = Files { opener: Opener::default(), buffer: vec![0; 64 << 10] };
    hasher.number(tree.len() as u64);
    for (path, entry) in tree.iter() {
        hasher.bytes(path.as_os_str().as_encoded_bytes());
        match entry {
            Entry::Node { meta, content } => {
                add_meta(hasher.choice(0), meta);
                if meta.is_file() {
                    hasher.digest(&files.digest(content, meta.size)?);
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
    Ok(hasher.finish())
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
        for other in different {
            assert_ne!(base, other);
        }
        let later = Meta { mtime: Time::seconds(9), ..plain };
        assert_eq!(base, tree("a", later, b"x"), "times are no part of it");
    }
}
