//! The rootfs itself: as files, or as one tar.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use rbuild_layers::view::Descend;
use rbuild_layers::{Changes, Content, Entry, Kind, Meta, Root, RootError, Time, View, apply, tar};

use super::ExportError;

/// Every path of a rootfs as one layer, hard links kept.
pub(super) fn flatten(view: &View) -> Result<Changes, RootError> {
    let mut changes = Changes::new();
    let mut names: HashMap<(usize, u64, u64), PathBuf> = HashMap::new();
    view.walk::<RootError>(Path::new(""), &mut |visit| {
        let linked = visit.meta.is_file() && visit.id.nlink > 1;
        let key = (visit.id.layer, visit.id.dev, visit.id.ino);
        let entry = match names.get(&key).filter(|_| linked) {
            Some(first) => Entry::HardLink(first.clone()),
            None => Entry::Node { meta: visit.meta.clone(), content: visit.content.clone() },
        };
        if linked {
            names.entry(key).or_insert_with(|| visit.path.to_owned());
        }
        if !matches!(visit.meta.kind, Kind::Socket) {
            changes.insert(visit.path, entry);
        }
        Ok(Descend::Into)
    })?;
    Ok(changes)
}

/// Adds a rootfs below a directory of its own, with nobody's attributes.
pub(super) fn add_below(all: &mut Changes, directory: &Path, rootfs: Changes) {
    let meta = Meta {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        size: 0,
        xattrs: BTreeMap::new(),
    };
    all.insert(directory, Entry::Node { meta, content: Content::None });
    for (path, entry) in rootfs.rebase(directory).iter() {
        all.insert(path, entry.clone());
    }
}

/// Writes a rootfs into a directory, which is made when it is missing. As with BuildKit, all files belong to whoever
/// exports them.
pub(super) fn write_directory(mut changes: Changes, dest: &Path) -> Result<(), ExportError> {
    let failed = |source| ExportError::Write { path: dest.to_owned(), source };
    std::fs::create_dir_all(dest).map_err(|error| failed(error.into()))?;
    let root = Root::open(dest).map_err(|error| failed(error.into()))?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for (_, entry) in changes.iter_mut() {
        if let Entry::Node { meta, .. } | Entry::Opaque(meta) = entry {
            (meta.uid, meta.gid) = (uid, gid);
            // file capabilities are root's to give
            meta.xattrs.retain(|name, _| uid == 0 || name.starts_with(b"user."));
        }
    }
    apply(&changes, &root, &View::empty()).map_err(|error| failed(error.into()))
}

/// Writes a rootfs as an uncompressed tar.
pub(super) fn write_tar(
    changes: &Changes,
    out: &mut dyn Write,
    clamp: Option<i64>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    tar::write_changes(changes, out, clamp)?;
    Ok(())
}
