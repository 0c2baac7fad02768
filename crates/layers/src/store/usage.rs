//! How much of the disk a tree takes.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, statat};

use crate::root::Root;

/// Adds up the blocks of everything below a path, files of several names once. What cannot be looked at counts nothing: this
/// decides what is worth removing, not what is right.
pub(super) fn disk_usage(path: &Path) -> u64 {
    let Ok(root) = Root::open(path) else { return 0 };
    let (mut bytes, mut linked) = (0_u64, HashSet::new());
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let Ok(directory) = root.exact(&path) else { continue };
        let mut count = |name: &OsStr| {
            let Ok(stat) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH) else {
                return;
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_dir || stat.st_nlink < 2 || linked.insert((stat.st_dev, stat.st_ino)) {
                bytes = bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
            }
        };
        if path.as_os_str().is_empty() {
            count(OsStr::new(""));
        }
        for (name, file_type) in directory.list().unwrap_or_default() {
            count(&name);
            if file_type == FileType::Directory {
                pending.push(path.join(name));
            }
        }
    }
    bytes
}
