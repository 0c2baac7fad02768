//! Which extended attributes travel in layers, and how they are read and written.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use crate::owner::proc_path;

/// The kernel's bound on a list of names (`XATTR_LIST_MAX`) and on one value (`XATTR_SIZE_MAX`).
const LIMIT: usize = 65536;

/// The attribute by which overlayfs, mounted with `userxattr`, marks a directory that hides what is below it.
pub(crate) const OVERLAY_OPAQUE: &str = "user.overlay.opaque";

/// The same where it is mounted without that.
pub(crate) const TRUSTED_OPAQUE: &str = "trusted.overlay.opaque";

/// The same where overlayfs is not going to look.
pub(crate) const OPAQUE: &str = "user.rbuild.opaque";

/// Marks an empty file that says that a path is gone.
pub(crate) const WHITEOUT: &str = "user.rbuild.whiteout";

/// File capabilities, `struct vfs_cap_data`.
const CAPABILITY: &[u8] = b"security.capability";

/// Tells whether an extended attribute of this name is part of an image: file capabilities and `user.*`, but
/// not what overlayfs and this program keep there.
///
/// `trusted.*` belongs to the host, `security.*` labels and POSIX ACLs name its policy and users; BuildKit
/// carries none of them either.
pub fn travels(name: &[u8]) -> bool {
    name == CAPABILITY
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && !name.starts_with(OURS))
}

/// What the names of attributes start with that this program keeps for itself.
const OURS: &[u8] = b"user.rbuild.";

/// Brings a value into the form that layers carry: file capabilities of revision 3 become revision 2, which
/// names no user namespace.
///
/// # References
/// `capabilities(7)`, "File capability extended attribute versioning"; `struct vfs_ns_cap_data`.
pub(crate) fn portable(name: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    if name == CAPABILITY
        && value.len() == 24
        && let Some(revision) = value.get_mut(3).filter(|revision| **revision == 3)
    {
        *revision = 2;
        value.truncate(20);
    }
    value
}

/// Reads the attributes of an open file or directory that travel or are ours.
pub(crate) fn read(fd: impl AsFd) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let fd = fd.as_fd();
    collect(
        |buffer| rustix::fs::flistxattr(fd, buffer),
        |name, buffer| rustix::fs::fgetxattr(fd, name, buffer),
    )
}

/// Reads the attributes of a path, which is followed, that travel or are ours.
pub(crate) fn read_path(path: &str) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    collect(
        |buffer| rustix::fs::listxattr(path, buffer),
        |name, buffer| rustix::fs::getxattr(path, name, buffer),
    )
}

fn collect(
    list: impl Fn(&mut [u8]) -> Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize>,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let names = match fill(list) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut xattrs = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| travels(name) || name.starts_with(OURS)) {
        match fill(|buffer| get(name, buffer)) {
            Ok(value) => drop(xattrs.insert(name.to_vec(), portable(name, value))),
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(xattrs)
}

/// Calls `read` with a small buffer, and with the largest the kernel may need if that is too small.
fn fill(read: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut small = [0; 1024];
    match read(&mut small) {
        Ok(length) => Ok(small.get(..length).unwrap_or_default().to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; LIMIT];
            let length = read(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(error) => Err(error),
    }
}

/// Tells whether a mark is set on an open directory or file; a descriptor opened for its path alone will do.
pub(crate) fn is_set(fd: impl AsFd, mark: &str) -> Result<bool> {
    let mut value = [0; 8];
    match rustix::fs::getxattr(proc_path(fd.as_fd()), mark, &mut value[..]) {
        Ok(length) => Ok(value.get(..length) == Some(b"y")),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sets a mark on an open directory or file.
pub(crate) fn set(fd: impl AsFd, mark: &str) -> Result<()> {
    rustix::fs::fsetxattr(fd, mark, b"y", XattrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_image_attributes_travel() {
        fn check(name: &str, expect: bool) {
            assert_eq!(travels(name.as_bytes()), expect, "{name}");
        }
        check("security.capability", true);
        check("user.mime_type", true);
        check("user.overlay", true);
        check("user.overlay.opaque", false);
        check("user.rbuild.owner", false);
        check("trusted.overlay.opaque", false);
        check("trusted.note", false);
        check("security.selinux", false);
        check("system.posix_acl_access", false);
        check("", false);
    }

    #[test]
    fn namespaced_capabilities_lose_their_root_id() {
        let mut v3 = vec![1, 0, 0, 3];
        v3.extend([0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xdc, 5, 0, 0]);
        let mut v2 = v3[..20].to_vec();
        v2[3] = 2;
        assert_eq!(portable(CAPABILITY, v3.clone()), v2);
        assert_eq!(portable(CAPABILITY, v2.clone()), v2);
        assert_eq!(portable(b"user.x", v3.clone()), v3);
    }
}
