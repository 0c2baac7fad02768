//! The emulated capability sets, and how they follow the ids.

use rustix::io::Errno;

use crate::capabilities::{self, DEFAULT};

/// The capabilities that act on files: what setfsuid(2) takes and gives. Those a step never has are left out.
const FILES: u64 = capabilities::CHOWN
    | capabilities::DAC_OVERRIDE
    | capabilities::FOWNER
    | capabilities::FSETID
    | capabilities::MKNOD;

/// The sets of a process, as bit masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Capabilities {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
    /// SECBIT_KEEP_CAPS.
    pub(crate) keep: bool,
}

/// The sets that capset(2) replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
}

/// A change of the ambient set; sets have the one bit that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AmbientChange {
    Raise(u64),
    Lower(u64),
    Clear,
}

impl Capabilities {
    pub(crate) const NONE: Self =
        Self { effective: 0, permitted: 0, inheritable: 0, ambient: 0, keep: false };

    /// What a step of user 0 starts with, which is also all that can be gained.
    pub(crate) const ROOT: Self = Self { effective: DEFAULT.bits(), permitted: DEFAULT.bits(), ..Self::NONE };

    /// What a change of the real, effective and saved user id leaves (`cap_emulate_setxuid`).
    pub(super) fn after_setuid(self, before: [u32; 3], after: [u32; 3]) -> Self {
        let mut sets = self;
        if before.contains(&0) && !after.contains(&0) {
            if !self.keep {
                sets.permitted = 0;
                sets.effective = 0;
            }
            sets.ambient = 0;
        }
        let ([_, before, _], [_, after, _]) = (before, after);
        match (before, after) {
            (0, 1..) => sets.effective = 0,
            (1.., 0) => sets.effective = sets.permitted,
            _ => {}
        }
        sets
    }

    /// What a change of the filesystem user id leaves.
    pub(super) const fn after_setfsuid(self, before: u32, after: u32) -> Self {
        let effective = match (before, after) {
            (0, 1..) => self.effective & !FILES,
            (1.., 0) => self.effective | (FILES & self.permitted),
            _ => self.effective,
        };
        Self { effective, ..self }
    }

    /// capset(2)
    pub(super) fn set(self, new: Sets) -> Result<Self, Errno> {
        let bounding = DEFAULT.bits();
        let may_inherit = if self.effective & capabilities::SETPCAP == 0 { self.permitted } else { u64::MAX };
        let allowed = is_subset(new.inheritable, self.inheritable | may_inherit)
            && is_subset(new.inheritable, self.inheritable | bounding)
            && is_subset(new.permitted, self.permitted)
            && is_subset(new.effective, new.permitted);
        if !allowed {
            return Err(Errno::PERM);
        }
        let Sets { effective, permitted, inheritable } = new;
        Ok(Self {
            effective,
            permitted,
            inheritable,
            ambient: self.ambient & permitted & inheritable,
            ..self
        })
    }

    /// prctl(2), PR_CAP_AMBIENT
    pub(super) fn change_ambient(self, change: AmbientChange) -> Result<Self, Errno> {
        let ambient = match change {
            AmbientChange::Raise(bit) if is_subset(bit, self.permitted & self.inheritable) => {
                self.ambient | bit
            }
            AmbientChange::Raise(_) => return Err(Errno::PERM),
            AmbientChange::Lower(bit) => self.ambient & !bit,
            AmbientChange::Clear => 0,
        };
        Ok(Self { ambient, ..self })
    }

    /// What execve leaves a process of these real and effective user ids; capabilities of files are not looked at.
    pub(super) const fn after_exec(self, [real, effective]: [u32; 2], raised: bool) -> Self {
        let ambient = if raised { 0 } else { self.ambient };
        let granted = if real == 0 || effective == 0 { DEFAULT.bits() | self.inheritable } else { 0 };
        let permitted = granted | ambient;
        let effective = if effective == 0 { permitted } else { ambient };
        Self { effective, permitted, inheritable: self.inheritable, ambient, keep: false }
    }
}

const fn is_subset(set: u64, of: u64) -> bool {
    set & !of == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = DEFAULT.bits();
    const ROOT: Capabilities = Capabilities::ROOT;

    #[test]
    fn follow_the_user_ids() {
        let check = |before: [u32; 3], after: [u32; 3], keep, expect: (u64, u64)| {
            let sets = Capabilities { keep, ..ROOT }.after_setuid(before, after);
            assert_eq!((sets.effective, sets.permitted), expect, "{before:?} {after:?} {keep}");
        };
        check([0; 3], [0; 3], false, (ALL, ALL));
        check([0; 3], [1; 3], false, (0, 0));
        check([0; 3], [1; 3], true, (0, ALL));
        check([0; 3], [0, 1, 0], false, (0, ALL));
        check([0; 3], [1, 0, 1], false, (ALL, ALL));
        check([0, 1, 0], [0; 3], false, (ALL, ALL));
        check([0, 1, 0], [1; 3], false, (0, 0));
    }

    #[test]
    fn are_never_raised_above_the_permitted() {
        let check = |before: Capabilities, new: (u64, u64, u64), expect: bool| {
            let (effective, permitted, inheritable) = new;
            let result = before.set(Sets { effective, permitted, inheritable });
            assert_eq!(result.is_ok(), expect, "{before:?} {new:?}");
        };
        let lowered = ROOT.set(Sets { effective: 0, permitted: 1, inheritable: 0 }).unwrap();
        check(ROOT, (ALL, ALL, 0), true);
        check(ROOT, (ALL, ALL, ALL), true);
        check(ROOT, (ALL, ALL, 1 << 21), false);
        check(ROOT, (1 << 21, ALL | 1 << 21, 0), false);
        check(ROOT, (ALL, 0, 0), false);
        check(lowered, (1, 1, 1), true);
        check(lowered, (0, 1, 2), false);
        check(lowered, (0, 2, 0), false);
        check(Capabilities::NONE, (0, 0, 0), true);
        check(Capabilities::NONE, (0, 0, 1), false);
    }

    #[test]
    fn ambient_ones_survive_exec() {
        let bit = capabilities::CHOWN;
        assert_eq!(ROOT.change_ambient(AmbientChange::Raise(bit)), Err(Errno::PERM));
        let inheriting = ROOT.set(Sets { effective: ALL, permitted: ALL, inheritable: bit }).unwrap();
        let raised = inheriting.change_ambient(AmbientChange::Raise(bit)).unwrap();
        let executed = raised.after_exec([1000; 2], false);
        assert_eq!((executed.effective, executed.permitted, executed.ambient), (bit, bit, bit));
        assert_eq!(raised.after_exec([1000, 1000], true).effective, 0);
        assert_eq!(raised.change_ambient(AmbientChange::Lower(bit)).unwrap().ambient, 0);
        assert_eq!(raised.change_ambient(AmbientChange::Clear).unwrap().ambient, 0);
        let disinherited = raised.set(Sets { effective: ALL, permitted: ALL, inheritable: 0 }).unwrap();
        assert_eq!(disinherited.ambient, 0);
    }

    #[test]
    fn executing_as_root_gives_all() {
        let dropped = ROOT.set(Sets { effective: 0, permitted: 0, inheritable: 0 }).unwrap();
        assert_eq!(dropped.after_exec([0, 0], false), ROOT);
        assert_eq!(Capabilities { keep: true, ..ROOT }.after_exec([0, 0], false), ROOT);
        let real_only = dropped.after_exec([0, 1], false);
        assert_eq!((real_only.effective, real_only.permitted), (0, ALL));
    }
}
