//! Owners of files: the chown and stat families.

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, Stat, Statx, StatxFlags};
use rustix::io::Errno;

use super::symlink::is_symlink;
use super::xattr::forget_capability;
use super::{Follow, Named, Single};
use crate::identity::Identity;
use crate::notify::{Call, Reply, Target};
use crate::owners::{NodeKind, Recorded};
use crate::sys::plain;

/// "Leave it as it is."
const UNCHANGED: u32 = u32::MAX;

impl Single {
    /// stat(2), lstat, fstat, newfstatat and statx(2). Most files have no record, and then the kernel's own answer is
    /// right.
    pub(super) fn stat(&mut self, name: &str, call: &Call, target: &Target<'_>) -> Result<Reply, Errno> {
        let named = match name {
            "stat" => Named::path(target, call.word(0), Follow::Yes)?,
            "lstat" => Named::path(target, call.word(0), Follow::No)?,
            "fstat" => Named::Descriptor(call.int(0)),
            "newfstatat" => Named::at(target, call.int(0), call.word(1), call.word(3))?,
            _ => Named::at(target, call.int(0), call.word(1), call.word(2))?,
        };
        // What we cannot find the kernel looks for itself.
        let Ok(file) = self.open(call, target, &named) else { return Ok(Reply::Continue) };
        let Ok(stat) = rustix::fs::fstat(&file) else { return Ok(Reply::Continue) };
        let recorded = self.recorded(file.as_fd(), &stat);
        if recorded == Recorded::default() {
            return Ok(Reply::Continue);
        }
        if name == "statx" {
            let flags = AtFlags::from_bits_retain(call.int(2).cast_unsigned()) | AtFlags::EMPTY_PATH;
            let mask = StatxFlags::from_bits_retain(call.int(3).cast_unsigned());
            let statx = rustix::fs::statx(&file, c"", flags, mask)?;
            target.write(call.word(4), plain::statx_bytes(&extended_with_record(statx, recorded)))?;
        } else {
            let buffer = if name == "newfstatat" { call.word(2) } else { call.word(1) };
            target.write(buffer, plain::stat_bytes(&with_record(stat, recorded)))?;
        }
        Ok(Reply::Value(0))
    }

    /// chown(2), lchown, fchown and fchownat(2).
    pub(super) fn chown(&mut self, name: &str, call: &Call, target: &Target<'_>) -> Result<Reply, Errno> {
        let (named, first) = match name {
            "chown" => (Named::path(target, call.word(0), Follow::Yes)?, 1),
            "lchown" => (Named::path(target, call.word(0), Follow::No)?, 1),
            "fchown" => (Named::Descriptor(call.int(0)), 1),
            _ => (Named::at(target, call.int(0), call.word(1), call.word(4))?, 2),
        };
        let (uid, gid) = (call.int(first).cast_unsigned(), call.int(first + 1).cast_unsigned());
        let file = match (self.open(call, target, &named), &named) {
            (Err(Errno::NOENT), Named::Path { directory, path, follow }) => {
                self.viewer(call, target)?.walk(*directory, path, *follow)?
            }
            (file, _) => file?,
        };
        let stat = rustix::fs::fstat(&file)?;
        let before = self.recorded(file.as_fd(), &stat);
        let caller = self.caller(call)?;
        may_change(&caller.identity, before, uid, gid)?;
        let choose = |id, before| if id == UNCHANGED { before } else { id };
        let after = Recorded { uid: choose(uid, before.uid), gid: choose(gid, before.gid), ..before };
        if is_symlink(&stat)
            && (after == before || self.replace_symlink((call, target), &named, &stat, &after)?)
        {
            return Ok(Reply::Value(0));
        }
        // To whom it belongs already: the kernel copies a lower file up, clears the set-id bits and the capabilities
        // and moves the change time, as for any chown.
        rustix::fs::chownat(&file, c"", Some(self.uid), Some(self.gid), AtFlags::EMPTY_PATH)?;
        if after != before {
            self.record(file.as_fd(), &after)?;
        }
        forget_capability(file.as_fd(), &stat);
        Ok(Reply::Value(0))
    }
}

/// The checks of chown(2): the group may be changed by the owner, to one it is in.
fn may_change(identity: &Identity, before: Recorded, uid: u32, gid: u32) -> Result<(), Errno> {
    let owns = identity.user.filesystem == before.uid;
    let user = uid == UNCHANGED || (owns && uid == before.uid);
    let group = gid == UNCHANGED || (owns && (gid == before.gid || identity.is_in_group(gid)));
    if identity.may_chown() || (user && group) { Ok(()) } else { Err(Errno::PERM) }
}

/// Returns the `st_mode` that a record makes of a file's own.
fn mode_of(recorded: Recorded, own: u32) -> u32 {
    let kind = match recorded.node.map(|node| node.kind) {
        Some(NodeKind::Character) => libc::S_IFCHR,
        Some(NodeKind::Block) => libc::S_IFBLK,
        None => own & libc::S_IFMT,
    };
    kind | recorded.mode.unwrap_or(own) & 0o7777
}

pub(crate) fn with_record(mut stat: Stat, recorded: Recorded) -> Stat {
    (stat.st_uid, stat.st_gid) = (recorded.uid, recorded.gid);
    stat.st_mode = mode_of(recorded, stat.st_mode);
    if let Some(node) = recorded.node {
        stat.st_rdev = rustix::fs::makedev(node.major, node.minor);
    }
    stat
}

pub(crate) fn extended_with_record(mut statx: Statx, recorded: Recorded) -> Statx {
    (statx.stx_uid, statx.stx_gid) = (recorded.uid, recorded.gid);
    #[expect(clippy::cast_possible_truncation, reason = "a mode has 16 bits")]
    let mode = mode_of(recorded, u32::from(statx.stx_mode)) as u16;
    statx.stx_mode = mode;
    if let Some(node) = recorded.node {
        (statx.stx_rdev_major, statx.stx_rdev_minor) = (node.major, node.minor);
    }
    statx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owners::Node;
    use crate::process::User;

    #[test]
    fn who_may_chown() {
        let app = Identity::of(&User { uid: 1000, gid: 1000, groups: vec![4] });
        let own = Recorded { uid: 1000, gid: 1000, ..Recorded::default() };
        let other = Recorded { gid: 1000, ..Recorded::default() };
        let same = UNCHANGED;
        for (identity, before, uid, gid, expect) in [
            (&Identity::root(), own, 5, 5, Ok(())),
            (&app, own, same, 4, Ok(())),
            (&app, own, 1000, 1000, Ok(())),
            (&app, own, same, 5, Err(Errno::PERM)),
            (&app, own, 1001, same, Err(Errno::PERM)),
            (&app, other, same, 4, Err(Errno::PERM)),
            (&app, other, same, 1000, Err(Errno::PERM)),
            (&app, other, same, same, Ok(())),
        ] {
            assert_eq!(may_change(identity, before, uid, gid), expect, "{before:?} {uid} {gid}");
        }
    }

    #[test]
    fn records_are_shown() {
        let stat = rustix::fs::stat("/dev/null").unwrap();
        let node = Node { kind: NodeKind::Block, major: 7, minor: 300 };
        let shown = with_record(stat, Recorded { uid: 1, gid: 2, node: Some(node), mode: Some(0o4710) });
        assert_eq!((shown.st_uid, shown.st_gid), (1, 2));
        assert_eq!(shown.st_mode, libc::S_IFBLK | 0o4710);
        assert_eq!((rustix::fs::major(shown.st_rdev), rustix::fs::minor(shown.st_rdev)), (7, 300));
    }
}
