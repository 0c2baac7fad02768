//! Who an emulated process is, and what the identity calls make of it.
//!
//! Where a single id is mapped, the kernel knows one identity only, and every call that would change it is answered
//! here instead: pure functions from an [`Identity`] and arguments to a new one or an errno, in the order of checks
//! the kernel has. What they read of "capable" is the emulated effective set.
//!
//! # References
//! Linux 6.18 kernel/sys.c, kernel/groups.c, security/commoncap.c; credentials(7), capabilities(7)

mod capability;
mod table;

use rustix::io::Errno;

pub(crate) use capability::{AmbientChange, Capabilities, Sets};
pub(crate) use table::Table;

use crate::capabilities;
use crate::process::User;

/// "Leave it as it is", in the calls that take several ids; an invalid id everywhere.
const UNCHANGED: u32 = u32::MAX;

/// The most supplementary groups a process may have.
pub(crate) const MOST_GROUPS: usize = 65536;

const SETGID: u64 = capabilities::SETGID;
const SETUID: u64 = capabilities::SETUID;

/// The four ids of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
    /// Owns what the process creates.
    pub(crate) filesystem: u32,
}

/// An identity, as far as a step can see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) user: Ids,
    pub(crate) group: Ids,
    /// Supplementary groups, ascending, as the kernel keeps them.
    pub(crate) groups: Vec<u32>,
    pub(crate) capabilities: Capabilities,
}

/// A set-id program that is about to be executed: the ids it gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetId {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

impl Ids {
    pub(crate) const fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, filesystem: id }
    }

    const fn has(self, id: u32) -> bool {
        self.real == id || self.effective == id || self.saved == id
    }

    /// setuid(2), setgid(2).
    fn set(self, id: u32, privileged: bool) -> Result<Self, Errno> {
        match id {
            UNCHANGED => Err(Errno::INVAL),
            id if privileged => Ok(Self::all(id)),
            id if id == self.real || id == self.saved => Ok(Self { effective: id, filesystem: id, ..self }),
            _ => Err(Errno::PERM),
        }
    }

    /// setreuid(2), setregid(2).
    fn set_two(self, real: u32, effective: u32, privileged: bool) -> Result<Self, Errno> {
        let mut new = self;
        if real != UNCHANGED {
            if real != self.real && real != self.effective && !privileged {
                return Err(Errno::PERM);
            }
            new.real = real;
        }
        if effective != UNCHANGED {
            if !self.has(effective) && !privileged {
                return Err(Errno::PERM);
            }
            new.effective = effective;
        }
        if real != UNCHANGED || (effective != UNCHANGED && effective != self.real) {
            new.saved = new.effective;
        }
        new.filesystem = new.effective;
        Ok(new)
    }

    /// setresuid(2), setresgid(2).
    fn set_three(self, ids: [u32; 3], privileged: bool) -> Result<Self, Errno> {
        if !privileged && ids.iter().any(|&id| id != UNCHANGED && !self.has(id)) {
            return Err(Errno::PERM);
        }
        let [real, effective, saved] = ids;
        let choose = |id, before| if id == UNCHANGED { before } else { id };
        let effective = choose(effective, self.effective);
        Ok(Self {
            real: choose(real, self.real),
            effective,
            saved: choose(saved, self.saved),
            filesystem: effective,
        })
    }

    /// setfsuid(2), setfsgid(2): what is not allowed changes nothing.
    const fn set_filesystem(self, id: u32, privileged: bool) -> Self {
        let allowed = self.has(id) || self.filesystem == id || privileged;
        if id != UNCHANGED && allowed { Self { filesystem: id, ..self } } else { self }
    }

    /// What execve does: the saved id becomes the effective one.
    const fn after_exec(self, effective: u32) -> Self {
        Self { real: self.real, effective, saved: effective, filesystem: effective }
    }
}

impl Identity {
    /// The identity a step of user 0 starts with.
    pub(crate) fn root() -> Self {
        Self::of(&User::default())
    }

    /// The identity a step of `user` starts with.
    pub(crate) fn of(user: &User) -> Self {
        Self {
            user: Ids::all(user.uid),
            group: Ids::all(user.gid),
            groups: sorted(user.groups.clone()),
            capabilities: if user.uid == 0 { Capabilities::ROOT } else { Capabilities::NONE },
        }
    }

    fn may(&self, capability: u64) -> bool {
        self.capabilities.effective & capability != 0
    }

    /// Tells whether the identity may give files away.
    pub(crate) fn may_chown(&self) -> bool {
        self.may(capabilities::CHOWN)
    }

    /// Tells whether the identity is in a group, for access to files.
    pub(crate) fn is_in_group(&self, group: u32) -> bool {
        self.group.filesystem == group || self.groups.binary_search(&group).is_ok()
    }

    /// setuid(2)
    pub(crate) fn setuid(&self, id: u32) -> Result<Self, Errno> {
        Ok(self.with_user(self.user.set(id, self.may(SETUID))?))
    }

    /// setreuid(2)
    pub(crate) fn setreuid(&self, real: u32, effective: u32) -> Result<Self, Errno> {
        Ok(self.with_user(self.user.set_two(real, effective, self.may(SETUID))?))
    }

    /// setresuid(2), of the real, effective and saved id
    pub(crate) fn setresuid(&self, ids: [u32; 3]) -> Result<Self, Errno> {
        Ok(self.with_user(self.user.set_three(ids, self.may(SETUID))?))
    }

    /// setfsuid(2)
    pub(crate) fn setfsuid(&self, id: u32) -> Self {
        let user = self.user.set_filesystem(id, self.may(SETUID));
        let capabilities = self.capabilities.after_setfsuid(self.user.filesystem, user.filesystem);
        Self { user, capabilities, ..self.clone() }
    }

    /// setgid(2)
    pub(crate) fn setgid(&self, id: u32) -> Result<Self, Errno> {
        Ok(Self { group: self.group.set(id, self.may(SETGID))?, ..self.clone() })
    }

    /// setregid(2)
    pub(crate) fn setregid(&self, real: u32, effective: u32) -> Result<Self, Errno> {
        Ok(Self { group: self.group.set_two(real, effective, self.may(SETGID))?, ..self.clone() })
    }

    /// setresgid(2), of the real, effective and saved id
    pub(crate) fn setresgid(&self, ids: [u32; 3]) -> Result<Self, Errno> {
        Ok(Self { group: self.group.set_three(ids, self.may(SETGID))?, ..self.clone() })
    }

    /// setfsgid(2)
    pub(crate) fn setfsgid(&self, id: u32) -> Self {
        Self { group: self.group.set_filesystem(id, self.may(SETGID)), ..self.clone() }
    }

    /// Tells whether setgroups(2) may be called at all, which the kernel asks before it reads the list.
    pub(crate) fn may_setgroups(&self) -> Result<(), Errno> {
        if self.may(SETGID) { Ok(()) } else { Err(Errno::PERM) }
    }

    /// setgroups(2)
    pub(crate) fn setgroups(&self, groups: Vec<u32>) -> Result<Self, Errno> {
        self.may_setgroups()?;
        if groups.len() > MOST_GROUPS || groups.contains(&UNCHANGED) {
            return Err(Errno::INVAL);
        }
        Ok(Self { groups: sorted(groups), ..self.clone() })
    }

    /// capset(2), of the calling thread
    pub(crate) fn capset(&self, sets: Sets) -> Result<Self, Errno> {
        Ok(Self { capabilities: self.capabilities.set(sets)?, ..self.clone() })
    }

    /// prctl(2), PR_SET_KEEPCAPS
    pub(crate) fn keep_capabilities(&self, keep: bool) -> Self {
        Self { capabilities: Capabilities { keep, ..self.capabilities }, ..self.clone() }
    }

    /// prctl(2), PR_CAP_AMBIENT
    pub(crate) fn change_ambient(&self, change: AmbientChange) -> Result<Self, Errno> {
        Ok(Self { capabilities: self.capabilities.change_ambient(change)?, ..self.clone() })
    }

    /// execve(2), of a file with these set-id bits
    pub(crate) fn exec(&self, set_id: SetId) -> Self {
        let user = self.user.after_exec(set_id.user.unwrap_or(self.user.effective));
        let group = self.group.after_exec(set_id.group.unwrap_or(self.group.effective));
        let raised = user.effective != self.user.effective || group.effective != self.group.effective;
        let capabilities = self.capabilities.after_exec([user.real, user.effective], raised);
        Self { user, group, groups: self.groups.clone(), capabilities }
    }

    fn with_user(&self, user: Ids) -> Self {
        let three = |ids: Ids| [ids.real, ids.effective, ids.saved];
        let capabilities = self.capabilities.after_setuid(three(self.user), three(user));
        Self { user, capabilities, ..self.clone() }
    }
}

fn sorted(mut groups: Vec<u32>) -> Vec<u32> {
    groups.sort_unstable();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: u32 = UNCHANGED;

    fn ids(real: u32, effective: u32, saved: u32) -> Ids {
        Ids { real, effective, saved, filesystem: effective }
    }

    fn user(uid: u32) -> Identity {
        Identity::of(&User { uid, gid: uid, groups: vec![] })
    }

    /// Root with the effective id of another, as after seteuid(2).
    fn half_dropped() -> Identity {
        Identity::root().setresuid([SAME, 1000, SAME]).unwrap()
    }

    #[test]
    fn user_ids() {
        let check = |name: &str, result: Result<Identity, Errno>, expect: Result<Ids, Errno>| {
            assert_eq!(result.map(|identity| identity.user), expect, "{name}");
        };
        let root = Identity::root();
        let app = user(1000);
        let half = half_dropped();
        check("setuid by root sets all", root.setuid(1000), Ok(ids(1000, 1000, 1000)));
        check("setuid -1", root.setuid(SAME), Err(Errno::INVAL));
        check("setuid of a user to itself", app.setuid(1000), Ok(ids(1000, 1000, 1000)));
        check("setuid of a user to another", app.setuid(1001), Err(Errno::PERM));
        check("setuid of a user to root", app.setuid(0), Err(Errno::PERM));
        check("setuid back by real id", half.setuid(0), Ok(ids(0, 0, 0)));
        check("setuid of half a user to another", half.setuid(7), Err(Errno::PERM));
        check("setreuid of nothing", app.setreuid(SAME, SAME), Ok(ids(1000, 1000, 1000)));
        check("setreuid real", root.setreuid(5, SAME), Ok(ids(5, 0, 0)));
        check("setreuid effective", root.setreuid(SAME, 5), Ok(ids(0, 5, 5)));
        check("setreuid effective to real keeps saved", half.setreuid(SAME, 0), Ok(ids(0, 0, 0)));
        check("setreuid swaps", half.setreuid(1000, 0), Ok(ids(1000, 0, 0)));
        check("setreuid of a user", app.setreuid(SAME, 0), Err(Errno::PERM));
        check(
            "setreuid real to saved is refused",
            {
                let saved = root.setresuid([1000, 1000, 5]).unwrap();
                saved.setreuid(5, SAME)
            },
            Err(Errno::PERM),
        );
        check("setresuid", root.setresuid([1, 2, 3]), Ok(ids(1, 2, 3)));
        check("setresuid of nothing", app.setresuid([SAME; 3]), Ok(ids(1000, 1000, 1000)));
        check("setresuid to what it has", half.setresuid([1000, 0, 1000]), Ok(ids(1000, 0, 1000)));
        check("setresuid of a user", app.setresuid([SAME, SAME, 0]), Err(Errno::PERM));
    }

    #[test]
    fn group_ids() {
        let check = |name: &str, result: Result<Identity, Errno>, expect: Result<Ids, Errno>| {
            assert_eq!(result.map(|identity| identity.group), expect, "{name}");
        };
        let root = Identity::root();
        let app = user(1000);
        check("setgid by root sets all", root.setgid(5), Ok(ids(5, 5, 5)));
        check("setgid of a user", app.setgid(5), Err(Errno::PERM));
        check("setgid -1", root.setgid(SAME), Err(Errno::INVAL));
        check("setregid", root.setregid(SAME, 5), Ok(ids(0, 5, 5)));
        check("setresgid", root.setresgid([1, 2, 3]), Ok(ids(1, 2, 3)));
        check("setresgid of a user", app.setresgid([SAME, 0, SAME]), Err(Errno::PERM));
        check(
            "groups outlive the change of user",
            {
                let dropped = root.setuid(1000).unwrap();
                dropped.setgid(5)
            },
            Err(Errno::PERM),
        );
    }

    #[test]
    fn filesystem_ids() {
        let root = Identity::root();
        let with = root.setfsuid(1000);
        assert_eq!((with.user.filesystem, with.user.effective), (1000, 0));
        assert!(!with.may_chown() && with.may(SETUID), "{with:?}");
        assert_eq!(with.setfsuid(0), root);
        assert_eq!(root.setfsuid(UNCHANGED), root);
        let app = user(1000);
        assert_eq!(app.setfsuid(0), app);
        assert_eq!(root.setfsgid(7).group.filesystem, 7);
        assert_eq!(with.setresuid([SAME, SAME, SAME]).unwrap().user.filesystem, 0);
    }

    #[test]
    fn supplementary_groups() {
        let root = Identity::root();
        let with = root.setgroups(vec![7, 3, 7]).unwrap();
        assert_eq!(with.groups, [3, 7, 7]);
        assert!(with.is_in_group(3) && with.is_in_group(0) && !with.is_in_group(5));
        assert_eq!(root.setgroups(vec![UNCHANGED]), Err(Errno::INVAL));
        assert_eq!(root.setgroups(vec![1; MOST_GROUPS + 1]), Err(Errno::INVAL));
        assert_eq!(user(1000).setgroups(vec![]), Err(Errno::PERM));
    }

    /// setpriv changes the user first and the groups with what it kept.
    #[test]
    fn kept_capabilities_change_groups() {
        let root = Identity::root();
        let kept = root.keep_capabilities(true).setresuid([1000; 3]).unwrap();
        assert_eq!(kept.setgroups(vec![]), Err(Errno::PERM));
        let Capabilities { permitted, inheritable, .. } = kept.capabilities;
        let raised = kept.capset(Sets { effective: permitted, permitted, inheritable }).unwrap();
        let grouped = raised.setgroups(vec![4]).unwrap().setresgid([1000; 3]).unwrap();
        assert_eq!((grouped.groups.as_slice(), grouped.group), (&[4][..], ids(1000, 1000, 1000)));
        let executed = grouped.exec(SetId::default());
        assert_eq!(executed.capabilities, Capabilities::NONE);
        assert_eq!(executed.setuid(0), Err(Errno::PERM));
    }

    #[test]
    fn executing() {
        let half = half_dropped();
        let check = |name: &str, before: &Identity, set_id: SetId, expect: (Ids, Ids, u64)| {
            let after = before.exec(set_id);
            assert_eq!((after.user, after.group, after.capabilities.effective), expect, "{name}");
            assert_eq!(after.groups, before.groups);
        };
        let all = Capabilities::ROOT.effective;
        let zero = Ids::all(0);
        check("nothing", &Identity::root(), SetId::default(), (zero, zero, all));
        check("saved becomes effective", &half, SetId::default(), (ids(0, 1000, 1000), zero, 0));
        let sudo = SetId { user: Some(0), group: None };
        let app = user(1000);
        check("set-user-id root", &app, sudo, (ids(1000, 0, 0), app.group, all));
        let games = SetId { user: None, group: Some(60) };
        check("set-group-id", &app, games, (app.user, ids(1000, 60, 60), 0));
        let daemon = SetId { user: Some(2), group: None };
        check("set-user-id by root", &Identity::root(), daemon, (ids(0, 2, 2), zero, 0));
        assert_eq!(app.exec(sudo).setuid(0).unwrap().user, zero);
    }
}
