//! Calls that make, move and take away names, and those about extended attributes.

use std::ffi::{CStr, CString};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::{Errno, Result};

use super::{Supervised, path_of, place};
use crate::notify::{Call, Reply, Target};
use crate::single::create::mode;
use crate::single::locate::{Entry, as_root};
use crate::single::symlink::is_symlink;
use crate::single::xattr::{give, named, read_name};
use crate::single::{Follow, Named};

/// What a directory needs for its names to be changed.
const CHANGES: Mode = Mode::WUSR.union(Mode::XUSR);

const XATTR_SIZE_MAX: usize = 64 * 1024;
const CAPABILITY: &CStr = c"security.capability";
const CAPABILITY_RECORD: &CStr = c"user.rbuild.xattr.security.capability";

impl Supervised {
    /// Finds the directory and the last name of a path, a slash behind it included: what that is put behind has to be a
    /// directory. `special` is the error for a path that ends with no name.
    fn entry(
        &mut self,
        (call, target): (&Call, &Target<'_>),
        directory: i32,
        address: u64,
        special: Errno,
    ) -> Result<Entry> {
        let path = target.read_path(address)?;
        let found = self.single.viewer(call, target)?.entry(directory, &path, Follow::No);
        let mut entry = found.map_err(|errno| if errno == Errno::EXIST { special } else { errno })?;
        if path.to_bytes().ends_with(b"/") {
            let name = [entry.name.to_bytes(), b"/"].concat();
            entry.name = CString::new(name).map_err(|_| Errno::INVAL)?;
        }
        Ok(entry)
    }

    /// mkdir(2) and mkdirat(2).
    pub(super) fn make_directory(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let (_, directory, path) = place(call);
        let wish = if call.name == "mkdir" { call.word(1) } else { call.word(2) };
        let entry = self.entry((call, target), directory, path, Errno::EXIST)?;
        let Entry { directory, name } = &entry;
        let mask = self.single.take_umask(call)?;
        as_root(directory.as_fd(), CHANGES, || rustix::fs::mkdirat(directory, name, mode(wish)))?;
        self.single.settle_entry(&entry, mode(wish), mask)?;
        Ok(Reply::Value(0))
    }

    /// mknod(2) and mknodat(2) of what needs no privileges.
    pub(super) fn make_node(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let (_, directory, path) = place(call);
        let wish = if call.name == "mknod" { call.int(1) } else { call.int(2) }.cast_unsigned();
        let kind = match FileType::from_raw_mode(wish) {
            FileType::Unknown => FileType::RegularFile,
            kind => kind,
        };
        if matches!(kind, FileType::BlockDevice | FileType::Directory | FileType::Symlink) {
            return Err(Errno::PERM);
        }
        let entry = self.entry((call, target), directory, path, Errno::EXIST)?;
        let Entry { directory, name } = &entry;
        let mask = self.single.take_umask(call)?;
        let wish = mode(u64::from(wish));
        as_root(directory.as_fd(), CHANGES, || rustix::fs::mknodat(directory, name, kind, wish, 0))?;
        self.single.settle_entry(&entry, wish, mask)?;
        Ok(Reply::Value(0))
    }

    /// symlink(2) and symlinkat(2).
    pub(super) fn make_symlink(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let (directory, path) = match call.name {
            "symlink" => (libc::AT_FDCWD, call.word(1)),
            _ => (call.int(1), call.word(2)),
        };
        let text = target.read_path(call.word(0))?;
        let Entry { directory, name } = self.entry((call, target), directory, path, Errno::EXIST)?;
        as_root(directory.as_fd(), CHANGES, || rustix::fs::symlinkat(&text, &directory, &name))?;
        Ok(Reply::Value(0))
    }

    /// unlink(2), unlinkat and rmdir(2).
    pub(super) fn unlink(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let (_, directory, path) = place(call);
        let flags = match call.name {
            "unlink" => AtFlags::empty(),
            "rmdir" => AtFlags::REMOVEDIR,
            _ => AtFlags::from_bits_retain(call.int(2).cast_unsigned()),
        };
        if !AtFlags::REMOVEDIR.contains(flags) {
            return Err(Errno::INVAL);
        }
        let removes_directory = flags == AtFlags::REMOVEDIR;
        let special = if removes_directory { Errno::INVAL } else { Errno::ISDIR };
        let Entry { directory, name } = self.entry((call, target), directory, path, special)?;
        as_root(directory.as_fd(), CHANGES, || rustix::fs::unlinkat(&directory, &name, flags))?;
        Ok(Reply::Value(0))
    }

    /// rename(2), renameat and renameat2(2).
    pub(super) fn rename(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let here = libc::AT_FDCWD;
        let (from, to, flags) = match call.name {
            "rename" => ((here, call.word(0)), (here, call.word(1)), 0),
            "renameat" => ((call.int(0), call.word(1)), (call.int(2), call.word(3)), 0),
            _ => ((call.int(0), call.word(1)), (call.int(2), call.word(3)), call.int(4)),
        };
        let from = self.entry((call, target), from.0, from.1, Errno::BUSY)?;
        let to = self.entry((call, target), to.0, to.1, Errno::BUSY)?;
        let flags = RenameFlags::from_bits_retain(flags.cast_unsigned());
        let rename =
            || rustix::fs::renameat_with(&from.directory, &from.name, &to.directory, &to.name, flags);
        // A directory that gets another parent has to be open to writing itself.
        let moved = |entry: &Entry| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(&entry.directory, &entry.name, flags, Mode::empty()).ok()
        };
        let of = |directory: Option<OwnedFd>, act: &dyn Fn() -> Result<()>| match directory {
            Some(directory) => as_root(directory.as_fd(), CHANGES, act),
            None => act(),
        };
        match rename() {
            Err(Errno::ACCESS) => as_root(from.directory.as_fd(), CHANGES, || {
                as_root(to.directory.as_fd(), CHANGES, || of(moved(&from), &|| of(moved(&to), &rename)))
            })?,
            done => done?,
        }
        Ok(Reply::Value(0))
    }

    /// link(2) and linkat(2).
    pub(super) fn link(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let here = libc::AT_FDCWD;
        let (from, to, flags) = match call.name {
            "link" => ((here, call.word(0)), (here, call.word(1)), 0),
            _ => ((call.int(0), call.word(1)), (call.int(2), call.word(3)), call.word(4)),
        };
        let follows = flags & libc::AT_SYMLINK_FOLLOW as u64 != 0;
        let nofollow = if follows { 0 } else { libc::AT_SYMLINK_NOFOLLOW as u64 };
        let source = self.look_at(call, target, flags & libc::AT_EMPTY_PATH as u64 | nofollow)?;
        let stat = rustix::fs::fstat(&source)?;
        let to = self.entry((call, target), to.0, to.1, Errno::EXIST)?;
        let Entry { directory, name } = &to;
        if is_symlink(&stat) {
            let from = self.entry((call, target), from.0, from.1, Errno::PERM)?;
            as_root(directory.as_fd(), CHANGES, || {
                rustix::fs::linkat(&from.directory, &from.name, directory, name, AtFlags::empty())
            })?;
        } else {
            let from = path_of(&source);
            as_root(directory.as_fd(), CHANGES, || {
                rustix::fs::linkat(CWD, &from, directory, name, AtFlags::SYMLINK_FOLLOW)
            })?;
        }
        Ok(Reply::Value(0))
    }

    /// The calls about extended attributes that have a path.
    pub(super) fn xattr(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let named = named(call.name, call, target)?;
        let file = self.look(call, target, &named, crate::chroot::PATH_FIRST)?;
        let is_link = is_symlink(&rustix::fs::fstat(&file)?);
        let wish = call.name.trim_start_matches('l');
        match wish {
            "istxattr" | "listxattr" if is_link => Ok(Reply::Value(0)),
            "istxattr" | "listxattr" => {
                let mut names = vec![0; XATTR_SIZE_MAX];
                let length = rustix::fs::listxattr(path_of(&file), &mut names)?;
                names.truncate(length);
                give(target, &names, call.word(1), call.word(2))
            }
            "getxattr" if is_link => Err(Errno::NODATA),
            "getxattr" => {
                let name = read_name(target, call.word(1))?;
                let mut value = vec![0; XATTR_SIZE_MAX];
                let length = rustix::fs::getxattr(path_of(&file), &name, &mut value)?;
                value.truncate(length);
                give(target, &value, call.word(2), call.word(3))
            }
            _ if is_link => Err(Errno::PERM),
            "removexattr" => {
                let name = read_name(target, call.word(1))?;
                rustix::fs::removexattr(path_of(&file), &name)?;
                Ok(Reply::Value(0))
            }
            _ => set_xattr(call, target, &file),
        }
    }

    /// The calls about extended attributes that have a descriptor: the kernel's, but for the one that needs privileges.
    pub(super) fn own_xattr(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        if call.name != "fsetxattr" || read_name(target, call.word(1))?.as_c_str() != CAPABILITY {
            return Ok(Reply::Continue);
        }
        let file = self.single.open(call, target, &Named::Descriptor(call.int(0)))?;
        set_xattr(call, target, &file)
    }
}

/// Sets an attribute; file capabilities are recorded.
fn set_xattr(call: &Call, target: &Target<'_>, file: &OwnedFd) -> Result<Reply> {
    let name = read_name(target, call.word(1))?;
    let size = usize::try_from(call.word(3)).ok().filter(|&size| size <= XATTR_SIZE_MAX);
    let mut value = vec![0; size.ok_or(Errno::TOOBIG)?];
    if !value.is_empty() {
        target.read(call.word(2), &mut value)?;
    }
    let flags = XattrFlags::from_bits_retain(call.int(4).cast_unsigned());
    let name = if name.as_c_str() == CAPABILITY { CAPABILITY_RECORD } else { name.as_c_str() };
    rustix::fs::setxattr(path_of(file), name, &value, flags)?;
    Ok(Reply::Value(0))
}
