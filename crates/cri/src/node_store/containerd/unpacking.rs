//! Layers, unpacked into snapshots of containerd's.

use std::io::Read;
use std::path::{Path, PathBuf};

use rbuild_image::Layer;
use rbuild_layers::{Limits, Lower, Root, RootError, SnapshotError, View, unpack_layer};

use super::Places;
use crate::error::Error;
use crate::messages::containerd::Mount;

/// Where a layer is unpacked to, as the snapshotter's mount says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) upper: PathBuf,
    /// The uppermost first.
    lower: Vec<PathBuf>,
    pub(super) user_xattrs: bool,
}

impl Target {
    /// Reads the mounts of a prepared snapshot.
    pub(super) fn of(mounts: &[Mount], places: &Places) -> Result<Self, Error> {
        let unknown =
            || Error::Request("the overlayfs snapshotter gives mounts that are not understood".to_owned());
        let mount = mounts.last().filter(|mount| !has(mount, "ro")).ok_or_else(unknown)?;
        let lower = directories(mounts, places);
        match mount.kind.as_str() {
            "bind" => {
                let upper = places.here(mount.source.as_ref());
                Ok(Self { upper, lower: Vec::new(), user_xattrs: false })
            }
            "overlay" if !lower.is_empty() => {
                let upper = places.here(value(mount, "upperdir=").ok_or_else(unknown)?.as_ref());
                Ok(Self { upper, lower, user_xattrs: has(mount, "userxattr") })
            }
            _ => Err(unknown()),
        }
    }
}

fn has(mount: &Mount, option: &str) -> bool {
    mount.options.iter().any(|has| has == option)
}

fn value<'a>(mount: &'a Mount, key: &str) -> Option<&'a str> {
    mount.options.iter().find_map(|option| option.strip_prefix(key))
}

/// Reads which directories the mounts of a snapshot to look at show, the uppermost first.
pub(super) fn directories(mounts: &[Mount], places: &Places) -> Vec<PathBuf> {
    let Some(mount) = mounts.last() else { return Vec::new() };
    let here = |path: &str| places.here(path.as_ref());
    match mount.kind.as_str() {
        "bind" => vec![here(&mount.source)],
        _ => value(mount, "lowerdir=").into_iter().flat_map(|paths| paths.split(':')).map(here).collect(),
    }
}

/// Opens the directory of a layer as the snapshotter's mounts would.
pub(super) fn open(path: &Path, user_xattrs: bool) -> Result<Root, RootError> {
    if user_xattrs { Root::open(path) } else { Root::trusted(path) }
}

/// Unpacks a blob and returns the tree; `lower` goes before what the target says of what lies below.
pub(super) fn run(
    blob: impl Read + Send,
    layer: &Layer,
    target: &Target,
    lower: Option<Lower<'_>>,
) -> Result<Root, Error> {
    let open = |path: &PathBuf| open(path, target.user_xattrs);
    let upper = open(&target.upper).map_err(SnapshotError::Root)?;
    let below = target.lower.iter().rev().map(open).collect::<Result<Vec<_>, _>>();
    let below = View::overlay(below.map_err(SnapshotError::Root)?);
    unpack_layer(blob, layer, (&upper, lower.unwrap_or(&|| Ok(below.clone()))), &Limits::default())?;
    Ok(upper)
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
        let check = |mount: Mount, upper: &str, lower: &[&str], user_xattrs: bool| {
            let lower = lower.iter().map(PathBuf::from).collect();
            let expect = Target { upper: upper.into(), lower, user_xattrs };
            assert_eq!(Target::of(&[mount], &places).unwrap(), expect);
        };
        check(mount("bind", "/s/1/fs", &["rw", "rbind"]), "/host/s/1/fs", &[], false);
        assert!(Target::of(&[mount("bind", "/s/1/fs", &["ro", "rbind"])], &places).is_err());
        let options = ["index=off", "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs"];
        check(
            mount("overlay", "overlay", &options),
            "/host/s/3/fs",
            &["/host/s/2/fs", "/host/s/1/fs"],
            false,
        );
        let options = ["userxattr", "upperdir=/s/3/fs", "lowerdir=/s/1/fs"];
        check(mount("overlay", "overlay", &options), "/host/s/3/fs", &["/host/s/1/fs"], true);
        assert!(Target::of(&[mount("erofs", "/x", &[])], &places).is_err());
        assert!(Target::of(&[], &places).is_err());
    }
}
