//! A layer of containerd's content store, unpacked into a snapshot of containerd's.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_image::{Descriptor, Layer, Verified};
use rbuild_layers::{Limits, Root, View, unpack_layer};
use tokio::task::spawn_blocking;

use super::Places;
use super::api::Api;
use crate::error::{Error, failed};
use crate::messages::containerd::Mount;
use crate::partial::Sync;
use crate::pull::Progress;

/// A layer's blob.
pub(super) struct Blob(File);

impl Blob {
    /// Opens the file that containerd keeps the blob in.
    pub(super) async fn open(_: &Api, places: &Places, blob: &Descriptor) -> Result<Self, Error> {
        let root = places
            .content
            .clone()
            .unwrap_or_else(|| "/var/lib/containerd/io.containerd.content.v1.content".into());
        let path = places.here(&root.join("blobs/sha256").join(blob.digest.hex()));
        File::open(&path).map(Self).map_err(failed("open", &path))
    }
}

/// Where a layer is unpacked to, as the snapshotter's mount says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `None` when the snapshotter holds the content already.
    upper: Option<PathBuf>,
    /// The uppermost first.
    lower: Vec<PathBuf>,
    user_xattrs: bool,
}

impl Target {
    /// Reads the mounts of a prepared snapshot.
    pub(super) fn of(mounts: &[Mount], places: &Places) -> Result<Self, Error> {
        let unknown =
            || Error::Request("the overlayfs snapshotter gives mounts that are not understood".to_owned());
        let mount = mounts.last().ok_or_else(unknown)?;
        let has = |option: &str| mount.options.iter().any(|has| has == option);
        let value = |key: &str| mount.options.iter().find_map(|option| option.strip_prefix(key));
        let here = |path: &str| places.here(path.as_ref());
        if has("ro") {
            return Ok(Self { upper: None, lower: Vec::new(), user_xattrs: false });
        }
        match mount.kind.as_str() {
            "bind" => Ok(Self { upper: Some(here(&mount.source)), lower: Vec::new(), user_xattrs: false }),
            "overlay" => {
                let upper = here(value("upperdir=").ok_or_else(unknown)?);
                let lower = value("lowerdir=").ok_or_else(unknown)?.split(':').map(here).collect();
                Ok(Self { upper: Some(upper), lower, user_xattrs: has("userxattr") })
            }
            _ => Err(unknown()),
        }
    }
}

/// Unpacks a blob. Waits for the disk at the end, if that is wanted.
pub(super) async fn run(
    blob: Blob,
    target: Target,
    layer: Layer,
    (sync, progress): (Sync, Arc<Progress>),
) -> Result<(), Error> {
    let work = move || {
        let Some(path) = &target.upper else { return Ok(()) };
        let open = |path: &PathBuf| match target.user_xattrs {
            true => Root::open(path),
            false => Root::trusted(path),
        };
        let unpackable = rbuild_layers::SnapshotError::Root;
        let upper = open(path).map_err(unpackable)?;
        let lower = target.lower.iter().rev().map(open).collect::<Result<Vec<_>, _>>().map_err(unpackable)?;
        let lower = View::overlay(lower);
        let blob = Watched { file: blob.0, progress };
        let blob = Verified::new(blob, layer.descriptor.digest, layer.descriptor.size);
        unpack_layer(blob, &layer, (&upper, &lower), &Limits::default())?;
        if sync == Sync::Yes {
            let directory = File::open(path).map_err(failed("open", path))?;
            rustix::fs::syncfs(&directory).map_err(failed("sync", path))?;
        }
        Ok(())
    };
    spawn_blocking(work).await.map_err(|_| Error::Interrupted)?
}

/// Tells the watchdog that something moves.
struct Watched {
    file: File,
    progress: Arc<Progress>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.progress.step();
        self.file.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_snapshotter() {
        let places = Places { content: None, snapshots: "/s".into(), prefix: Some("/host".into()) };
        let mount = |kind: &str, source: &str, options: &[&str]| Mount {
            kind: kind.into(),
            source: source.into(),
            target: String::new(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let check = |mount: Mount, upper: Option<&str>, lower: &[&str], user_xattrs: bool| {
            let lower = lower.iter().map(PathBuf::from).collect();
            let expect = Target { upper: upper.map(PathBuf::from), lower, user_xattrs };
            assert_eq!(Target::of(&[mount], &places).unwrap(), expect);
        };
        check(mount("bind", "/s/1/fs", &["rw", "rbind"]), Some("/host/s/1/fs"), &[], false);
        check(mount("bind", "/s/1/fs", &["ro", "rbind"]), None, &[], false);
        let options = ["index=off", "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs"];
        check(
            mount("overlay", "overlay", &options),
            Some("/host/s/3/fs"),
            &["/host/s/2/fs", "/host/s/1/fs"],
            false,
        );
        let options = ["userxattr", "upperdir=/s/3/fs", "lowerdir=/s/1/fs"];
        check(mount("overlay", "overlay", &options), Some("/host/s/3/fs"), &["/host/s/1/fs"], true);
        assert!(Target::of(&[mount("erofs", "/x", &[])], &places).is_err());
        assert!(Target::of(&[], &places).is_err());
    }
}
