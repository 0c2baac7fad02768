//! Hiding the attributes that keep the owners, and showing those that they stand for.

use std::ffi::{CStr, CString};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::locate::descriptor_path;
use super::{Follow, Named, Single};
use crate::notify::{Call, Reply, Target};

/// What the names of all records start with.
const OURS: &[u8] = b"user.rbuild.";

/// What stands before the name of an attribute that needed privileges.
pub(crate) const STANDS_FOR: &[u8] = b"user.rbuild.xattr.";

const CAPABILITY_RECORD: &str = "user.rbuild.xattr.security.capability";

/// The most that the value of an attribute, or a list of names, may take.
const XATTR_SIZE_MAX: usize = 64 * 1024;

/// What a call wants of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    List,
    Get,
    Set,
    Remove,
}

impl Single {
    /// The calls about extended attributes.
    pub(super) fn xattr(&mut self, name: &str, call: &Call, target: &Target<'_>) -> Result<Reply, Errno> {
        let wish = match name {
            name if name.contains("list") => Wish::List,
            name if name.contains("get") => Wish::Get,
            name if name.contains("set") => Wish::Set,
            _ => Wish::Remove,
        };
        if wish == Wish::List {
            return self.list_xattrs(name, call, target);
        }
        let first = if name.ends_with("at") { 3 } else { 1 };
        let attribute = read_name(target, call.word(first))?;
        match wish {
            Wish::Set if is_ours(&attribute) => Err(Errno::PERM),
            _ if is_ours(&attribute) => Err(Errno::NODATA),
            Wish::Get | Wish::Remove if !attribute.to_bytes().starts_with(b"user.") => {
                let Some((file, record)) = self.record_of(name, call, target, &attribute)? else {
                    return Ok(Reply::Continue);
                };
                if wish == Wish::Remove {
                    return self.remove(&file, &record);
                }
                let (value, size) = match name.ends_with("at") {
                    true => read_arguments(target, call.word(4))?,
                    false => (call.word(first + 1), call.word(first + 2)),
                };
                give(target, &get(&file, &record)?, value, size)
            }
            _ => Ok(Reply::Continue),
        }
    }

    /// Returns the file a call means and the name of the record that stands for an attribute; `None` when the file has
    /// the attribute itself, or no such record.
    fn record_of(
        &mut self,
        name: &str,
        call: &Call,
        target: &Target<'_>,
        attribute: &CStr,
    ) -> Result<Option<(OwnedFd, CString)>, Errno> {
        let named = named(name, call, target)?;
        let Ok(file) = self.open(call, target, &named) else { return Ok(None) };
        let name = [STANDS_FOR, attribute.to_bytes()].concat();
        let record = CString::new(name).map_err(|_| Errno::INVAL)?;
        let own = rustix::fs::getxattr(descriptor_path(file.as_fd()), attribute, &mut [0; 0]);
        let stands = own.is_err() && get(&file, &record).is_ok();
        Ok(stands.then_some((file, record)))
    }

    fn remove(&self, file: &OwnedFd, record: &CStr) -> Result<Reply, Errno> {
        // The kernel copies a lower file up.
        rustix::fs::chownat(file, c"", Some(self.uid), Some(self.gid), AtFlags::EMPTY_PATH)?;
        rustix::fs::removexattr(descriptor_path(file.as_fd()), record)?;
        Ok(Reply::Value(0))
    }

    fn list_xattrs(&mut self, name: &str, call: &Call, target: &Target<'_>) -> Result<Reply, Errno> {
        let named = named(name, call, target)?;
        let Ok(file) = self.open(call, target, &named) else { return Ok(Reply::Continue) };
        let mut names = vec![0; XATTR_SIZE_MAX];
        let Ok(length) = rustix::fs::listxattr(descriptor_path(file.as_fd()), &mut names) else {
            return Ok(Reply::Continue);
        };
        names.truncate(length);
        let shown = as_shown(&names);
        if shown == names {
            return Ok(Reply::Continue);
        }
        let first = if name.ends_with("at") { 3 } else { 1 };
        give(target, &shown, call.word(first), call.word(first + 1))
    }
}

/// Takes away the record of a capability, which goes with any change of owner.
pub(super) fn forget_capability(file: BorrowedFd<'_>, stat: &Stat) {
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        // Most files have none.
        let _ = rustix::fs::removexattr(descriptor_path(file), CAPABILITY_RECORD);
    }
}

/// Reads which file a call means, whatever it wants of it.
pub(crate) fn named(name: &str, call: &Call, target: &Target<'_>) -> Result<Named, Errno> {
    match name {
        name if name.ends_with("at") => Named::at(target, call.int(0), call.word(1), call.word(2)),
        "fgetxattr" | "fsetxattr" | "flistxattr" | "fremovexattr" => Ok(Named::Descriptor(call.int(0))),
        "lgetxattr" | "lsetxattr" | "llistxattr" | "lremovexattr" => {
            Named::path(target, call.word(0), Follow::No)
        }
        _ => Named::path(target, call.word(0), Follow::Yes),
    }
}

pub(crate) fn is_ours(attribute: &CStr) -> bool {
    attribute.to_bytes().starts_with(OURS)
}

fn get(file: &OwnedFd, attribute: &CStr) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; XATTR_SIZE_MAX];
    let length = rustix::fs::getxattr(descriptor_path(file.as_fd()), attribute, &mut value)?;
    value.truncate(length);
    Ok(value)
}

/// Gives the caller a value or a list: its size is returned, also where there is no room and nothing is written.
pub(crate) fn give(target: &Target<'_>, bytes: &[u8], address: u64, room: u64) -> Result<Reply, Errno> {
    let size = u64::try_from(bytes.len()).map_err(|_| Errno::RANGE)?;
    if room > 0 {
        if room < size {
            return Err(Errno::RANGE);
        }
        target.write(address, bytes)?;
    }
    Ok(Reply::Value(size.cast_signed()))
}

/// Reads `struct xattr_args` of getxattrat(2).
fn read_arguments(target: &Target<'_>, address: u64) -> Result<(u64, u64), Errno> {
    let mut arguments = [0; 12];
    target.read(address, &mut arguments)?;
    let [a, b, c, d, e, f, g, h, size @ ..] = arguments;
    Ok((u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u32::from_ne_bytes(size).into()))
}

pub(crate) fn read_name(target: &Target<'_>, address: u64) -> Result<CString, Errno> {
    // A name that is too long is the kernel's to refuse, and none of ours.
    match target.read_path(address) {
        Err(Errno::NAMETOOLONG) => Ok(CString::default()),
        name => name,
    }
}

/// Leaves the records out of a list of names, but puts in what they stand for.
fn as_shown(names: &[u8]) -> Vec<u8> {
    let all = || names.split_inclusive(|&byte| byte == 0);
    let stood_for = all().filter_map(|name| name.strip_prefix(STANDS_FOR));
    let stood_for = stood_for.filter(|name| all().all(|other| other != *name));
    all().filter(|name| !name.starts_with(OURS)).chain(stood_for).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let check = |names: &[u8], expect: &[u8]| assert_eq!(as_shown(names), expect);
        check(b"", b"");
        check(b"user.rbuild.owner\0", b"");
        check(b"user.a\0user.rbuild.owner\0security.b\0", b"user.a\0security.b\0");
        check(b"user.rbuilder\0", b"user.rbuilder\0");
        check(b"user.rbuild.xattr.security.a\0user.b\0", b"user.b\0security.a\0");
        check(b"user.rbuild.xattr.security.a\0security.a\0", b"security.a\0");
    }
}
