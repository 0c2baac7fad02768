//! execve: set-id programs, and what any program does to an identity.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::locate::descriptor_path;
use super::{Follow, Named, Phase, Single};
use crate::identity::SetId;
use crate::notify::{Call, Reply, Target};
use crate::status::Status;

const S_ISUID: u32 = libc::S_ISUID;
const S_ISGID: u32 = libc::S_ISGID;
const S_IXGRP: u32 = libc::S_IXGRP;
const ANY_EXECUTE: u32 = 0o111;

impl Single {
    /// execve(2) and execveat(2). The identity changes before the kernel executes: a file that it then refuses leaves
    /// the caller with what the file would have given it.
    pub(super) fn exec(&mut self, name: &str, call: &Call, target: &Target<'_>) -> Result<Reply, Errno> {
        self.phase = Phase::Running;
        if let Some(set_id) = self.set_id(name, call, target)? {
            let caller = self.caller(call)?;
            self.transform(call, &caller, caller.identity.exec(set_id))?;
        }
        Ok(Reply::Continue)
    }

    /// Returns the ids that the file to be executed gives; `None` when it cannot be executed.
    fn set_id(&mut self, name: &str, call: &Call, target: &Target<'_>) -> Result<Option<SetId>, Errno> {
        let named = match name {
            "execve" => Named::path(target, call.word(0), Follow::Yes)?,
            _ => Named::at(target, call.int(0), call.word(1), call.word(4))?,
        };
        let Ok(file) = self.open(call, target, &named) else { return Ok(None) };
        let Ok(stat) = rustix::fs::fstat(&file) else { return Ok(None) };
        let mode = stat.st_mode;
        if FileType::from_raw_mode(mode) != FileType::RegularFile || mode & ANY_EXECUTE == 0 {
            return Ok(None);
        }
        let sets_group = mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP;
        if (mode & S_ISUID == 0 && !sets_group) || !is_effective(call, &file, self.within.is_some()) {
            return Ok(Some(SetId::default()));
        }
        let owner = self.recorded(file.as_fd(), &stat);
        let user = (mode & S_ISUID != 0).then_some(owner.uid);
        Ok(Some(SetId { user, group: sets_group.then_some(owner.gid) }))
    }
}

/// Tells whether the set-id bits of a file count: not where the mount or the process says no, nor on scripts. A
/// process whose `no_new_privs` was set before the step, by the pod or by us, is emulated without it.
fn is_effective(call: &Call, file: &OwnedFd, is_set_by_us: bool) -> bool {
    let no_new_privileges = |status: Option<Status>| status.is_some_and(|status| status.no_new_privileges);
    let given_up = !is_set_by_us
        && no_new_privileges(Status::of(super::thread_of(call)))
        && !no_new_privileges(Status::of_this_process());
    let refused = rustix::fs::fstatvfs(file).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NOSUID));
    !given_up && !refused && !is_script(file)
}

fn is_script(file: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(descriptor_path(file.as_fd()), flags, Mode::empty()) else {
        return false;
    };
    let mut start = [0; 2];
    rustix::io::pread(&file, &mut start, 0) == Ok(2) && start == *b"#!"
}
