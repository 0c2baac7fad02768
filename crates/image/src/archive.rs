//! Images as one tar file: the OCI layout archive, and the form `docker load` and podman read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};

use bytes::Bytes;
use serde::Serialize;

use crate::digest::{Digest, Verified};
use crate::image::Finished;
use crate::layout::{LAYOUT_FILE, Layout, named};
use crate::manifest::{Descriptor, Index, Raw};
use crate::reference::Reference;

/// Where the layers of an archive are read from.
pub trait Blobs {
    /// Opens the blob of `descriptor`; what is read is verified by the archive writer.
    ///
    /// # Errors
    /// When there is no such blob.
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + '_>>;
}

impl Blobs for Layout {
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(File::open(self.blob_path(&descriptor.digest))?))
    }
}

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A layer cannot be read, or is not what the manifest says.
    #[error("cannot copy blob {digest} into the archive")]
    Blob {
        /// The layer.
        digest: Digest,
        /// Why not.
        source: io::Error,
    },
    /// The archive itself cannot be written.
    #[error("cannot write the archive")]
    Write(#[from] io::Error),
}

/// Writes `image` as an OCI layout in a tar, listed under each of `names`.
///
/// The same image gives the same bytes. Every blob is verified on the way; after an error what was written is no archive.
///
/// # Errors
/// When `out` cannot be written or a blob is missing or corrupt.
///
/// # References
/// - [OCI image layout](https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md)
pub fn write_oci<W: Write>(
    out: W,
    image: &Finished,
    names: &[Reference],
    blobs: &dyn Blobs,
) -> Result<W, ArchiveError> {
    write_oci_tree(out, &Tree::of(image), names, blobs)
}

/// What an archive holds: an image, or an index and the images below it.
#[derive(Debug, Clone)]
pub struct Tree<'a> {
    /// What the names stand for.
    pub root: Descriptor,
    /// Indexes, manifests and configs, each once.
    pub documents: Vec<&'a Bytes>,
    /// The layers of all images, lowest first; those that are there twice are written once.
    pub layers: Vec<&'a Descriptor>,
}

impl<'a> Tree<'a> {
    /// The tree of one image.
    pub fn of(image: &'a Finished) -> Self {
        Self {
            root: image.descriptor(),
            documents: vec![image.manifest.bytes(), image.config.bytes()],
            layers: image.manifest.value().layers.iter().collect(),
        }
    }
}

/// Writes an image or index as [`write_oci`] does.
///
/// # Errors
/// When `out` cannot be written or a blob is missing or corrupt.
pub fn write_oci_tree<W: Write>(
    out: W,
    tree: &Tree<'_>,
    names: &[Reference],
    blobs: &dyn Blobs,
) -> Result<W, ArchiveError> {
    let mut tar = TarWriter { out };
    write_layout(&mut tar, &tree.root, names)?;
    write_blobs(&mut tar, tree, blobs)?;
    Ok(tar.finish()?)
}

/// Writes `image` as [`write_oci`] does, with `manifest.json` and `repositories` beside, which `docker load` reads.
///
/// `image` should come from [`Image::finish_docker`](crate::Image::finish_docker). Layers stay compressed.
///
/// # Errors
/// When `out` cannot be written or a blob is missing or corrupt.
///
/// # References
/// - [Docker image spec v1.2, combined image JSON](https://github.com/moby/moby/blob/v24.0.0/image/spec/v1.2.md)
pub fn write_docker<W: Write>(
    out: W,
    image: &Finished,
    names: &[Reference],
    blobs: &dyn Blobs,
) -> Result<W, ArchiveError> {
    let mut tar = TarWriter { out };
    let tree = Tree::of(image);
    write_layout(&mut tar, &tree.root, names)?;
    let manifest = image.manifest.value();
    let listing = [DockerEntry {
        config: blob_name(&manifest.config.digest),
        repo_tags: names.iter().filter(|name| name.tag().is_some()).map(Reference::familiar).collect(),
        layers: manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
    }];
    tar.file("manifest.json", &to_json(&listing)?)?;
    if let Some(top) = manifest.layers.last() {
        tar.file("repositories", &to_json(&repositories(names, &top.digest))?)?;
    }
    write_blobs(&mut tar, &tree, blobs)?;
    Ok(tar.finish()?)
}

/// An element of `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Makes the content of `repositories`: repository to tag to the top layer.
fn repositories(names: &[Reference], top: &Digest) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for name in names {
        let familiar = name.familiar();
        if let Some((repository, tag)) = name.tag().and_then(|_| familiar.rsplit_once(':')) {
            repositories.entry(repository.to_owned()).or_default().insert(tag.to_owned(), top.hex());
        }
    }
    repositories
}

fn to_json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn write_layout<W: Write>(tar: &mut TarWriter<W>, root: &Descriptor, names: &[Reference]) -> io::Result<()> {
    let manifests = match names {
        [] => vec![root.clone()],
        names => names.iter().map(|name| named(root, Some(name))).collect(),
    };
    tar.file("oci-layout", LAYOUT_FILE)?;
    tar.file("index.json", Raw::from_value(Index::new(manifests)).bytes())?;
    tar.directory("blobs/")?;
    tar.directory("blobs/sha256/")
}

fn write_blobs<W: Write>(
    tar: &mut TarWriter<W>,
    tree: &Tree<'_>,
    blobs: &dyn Blobs,
) -> Result<(), ArchiveError> {
    for document in &tree.documents {
        tar.file(&blob_name(&Digest::of(document)), document)?;
    }
    let mut written = BTreeSet::new();
    for layer in &tree.layers {
        if !written.insert(layer.digest) {
            continue;
        }
        let failed = |source| ArchiveError::Blob { digest: layer.digest, source };
        let mut blob = Verified::new(blobs.open(layer).map_err(failed)?, layer.digest, layer.size);
        tar.header(&blob_name(&layer.digest), Entry::File { size: layer.size })?;
        io::copy(&mut blob, &mut tar.out).map_err(failed)?;
        tar.pad(layer.size)?;
    }
    Ok(())
}

const BLOCK: usize = 512;

enum Entry {
    File { size: u64 },
    Directory,
}

/// Writes the few entries of an archive: names below 100 bytes, owner 0:0, time 0.
///
/// # References
/// - POSIX.1-2024, pax, "ustar Interchange Format"
struct TarWriter<W> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let size = content.len() as u64;
        self.header(name, Entry::File { size })?;
        self.out.write_all(content)?;
        self.pad(size)
    }

    fn directory(&mut self, name: &str) -> io::Result<()> {
        self.header(name, Entry::Directory)
    }

    fn header(&mut self, name: &str, entry: Entry) -> io::Result<()> {
        let (kind, mode, size) = match entry {
            Entry::File { size } => (b'0', 0o644, size),
            Entry::Directory => (b'5', 0o755, 0),
        };
        let mut header = Vec::with_capacity(BLOCK);
        let mut field = |bytes: &[u8], width: usize| {
            let end = header.len() + width;
            header.extend(bytes.iter().take(width));
            header.resize(end, 0);
        };
        let octal = |value: u64, digits: usize| format!("{value:0digits$o}").into_bytes();
        field(name.as_bytes(), 100);
        field(&octal(mode, 7), 8);
        field(&octal(0, 7), 8);
        field(&octal(0, 7), 8);
        field(&size_field(size), 12);
        field(&octal(0, 11), 12);
        field(b"        ", 8);
        field(&[kind], 1);
        field(b"", 100);
        field(b"ustar\x0000", 8);
        field(b"", 64);
        field(&octal(0, 7), 8);
        field(&octal(0, 7), 8);
        field(b"", 167);
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header.splice(148..156, format!("{sum:06o}\0 ").into_bytes());
        self.out.write_all(&header)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        match over {
            0 => Ok(()),
            over => self.out.write_all(&[0; BLOCK][over..]),
        }
    }

    fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Makes the size field: eleven octal digits, or GNU's base-256 form from 8 GiB on, which Go, Python and libarchive read.
fn size_field(size: u64) -> Vec<u8> {
    if size < 1 << 33 {
        return format!("{size:011o}").into_bytes();
    }
    let mut field = vec![0x80, 0, 0, 0];
    field.extend(size.to_be_bytes());
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DiffId, History, Image, Layer, Platform, media_type};
    use std::process::Command;

    struct OneBlob(&'static [u8]);

    impl Blobs for OneBlob {
        fn open(&self, _: &Descriptor) -> io::Result<Box<dyn Read + '_>> {
            Ok(Box::new(self.0))
        }
    }

    fn image() -> Image {
        let descriptor = Descriptor::of(media_type::OCI_LAYER_GZIP, b"layer");
        let mut image = Image::scratch(&Platform::new("linux", "amd64"));
        for _ in 0..2 {
            let diff_id = DiffId(Digest::of(b"tar"));
            image.append(Layer { descriptor: descriptor.clone(), diff_id }, History::default());
        }
        image
    }

    /// Reads back with a few lines that trust the writer: name → content.
    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut entries = BTreeMap::new();
        let mut rest = archive;
        while rest[0] != 0 {
            let text = |range: std::ops::Range<usize>| {
                String::from_utf8(rest[range].to_vec()).unwrap().trim_end_matches('\0').to_owned()
            };
            let size = usize::from_str_radix(&text(124..136), 8).unwrap();
            let old = entries.insert(text(0..100), rest[BLOCK..BLOCK + size].to_vec());
            assert_eq!(old, None, "an entry is there twice");
            rest = &rest[BLOCK + size.next_multiple_of(BLOCK)..];
        }
        assert_eq!(rest, [0; 2 * BLOCK]);
        entries
    }

    #[test]
    fn oci_archives_hold_a_layout() {
        let finished = image().finish(&BTreeMap::new());
        let names = ["app:1".parse().unwrap(), "reg.local/app:2".parse().unwrap()];
        let archive = write_oci(Vec::new(), &finished, &names, &OneBlob(b"layer")).unwrap();
        let again = write_oci(Vec::new(), &finished, &names, &OneBlob(b"layer")).unwrap();
        assert_eq!(archive, again);
        let entries = entries(&archive);
        assert_eq!(entries["oci-layout"], LAYOUT_FILE);
        assert_eq!(entries[&blob_name(&Digest::of(b"layer"))], b"layer");
        let index: Index = serde_json::from_slice(&entries["index.json"]).unwrap();
        assert_eq!(index.manifests.len(), 2);
        assert_eq!(index.manifests[1].annotations["io.containerd.image.name"], "reg.local/app:2");
        for entry in &index.manifests {
            assert_eq!(Digest::of(&entries[&blob_name(&entry.digest)]), entry.digest);
        }
        assert!(!entries.contains_key("manifest.json"));
    }

    #[test]
    fn docker_archives_say_what_docker_load_reads() {
        let finished = image().finish_docker();
        let names = ["app:1".parse().unwrap(), "reg.local:5000/app:2".parse().unwrap()];
        let archive = write_docker(Vec::new(), &finished, &names, &OneBlob(b"layer")).unwrap();
        let entries = entries(&archive);
        let layer = blob_name(&Digest::of(b"layer"));
        let manifest: serde_json::Value = serde_json::from_slice(&entries["manifest.json"]).unwrap();
        let expect = serde_json::json!([{
            "Config": blob_name(&finished.config.digest()),
            "RepoTags": ["app:1", "reg.local:5000/app:2"],
            "Layers": [layer, layer],
        }]);
        assert_eq!(manifest, expect);
        let hex = Digest::of(b"layer").hex();
        let repositories: serde_json::Value = serde_json::from_slice(&entries["repositories"]).unwrap();
        assert_eq!(repositories, serde_json::json!({"app": {"1": hex}, "reg.local:5000/app": {"2": hex}}));
    }

    #[test]
    fn a_wrong_blob_is_refused() {
        let finished = image().finish(&BTreeMap::new());
        for content in [&b"LAYER"[..], b"laye", b"layers"] {
            let result = write_oci(Vec::new(), &finished, &[], &OneBlob(content));
            assert!(matches!(result, Err(ArchiveError::Blob { .. })), "{content:?}");
        }
    }

    #[test]
    fn large_sizes_leave_octal() {
        assert_eq!(size_field((1 << 33) - 1), b"77777777777");
        assert_eq!(size_field(1 << 33), [0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    }

    #[test]
    fn tar_lists_an_archive() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.tar");
        let archive =
            write_oci(Vec::new(), &image().finish(&BTreeMap::new()), &[], &OneBlob(b"layer")).unwrap();
        std::fs::write(&path, archive).unwrap();
        let Ok(output) = Command::new("tar").arg("-tf").arg(&path).output() else {
            eprintln!("skipped: no tar on this machine");
            return;
        };
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 7);
    }
}
