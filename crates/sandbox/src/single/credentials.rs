//! The identity calls: arguments to [`identity`](crate::identity), and its answers back.

use rustix::io::Errno;

use super::{Caller, Phase, Single};
use crate::identity::{AmbientChange, Capabilities, Identity, Ids, MOST_GROUPS, Sets};
use crate::notify::{Call, Reply, Target};
use crate::status::Status;

use super::calls::{PR_GET_KEEPCAPS, PR_SET_KEEPCAPS};

/// _LINUX_CAPABILITY_VERSION_2 and _3: two words for each set. The first version has one.
const TWO_WORDS: [u32; 2] = [0x2007_1026, 0x2008_0522];
const ONE_WORD: u32 = 0x1998_0330;

impl Single {
    pub(super) fn credentials(
        &mut self,
        name: &str,
        call: &Call,
        target: &Target<'_>,
    ) -> Result<Reply, Errno> {
        if self.phase == Phase::Entering {
            return Ok(Reply::Continue);
        }
        let caller = self.caller(call)?;
        let Identity { user, group, .. } = &*caller.identity;
        match name {
            "getuid" => Ok(value(user.real)),
            "geteuid" => Ok(value(user.effective)),
            "getgid" => Ok(value(group.real)),
            "getegid" => Ok(value(group.effective)),
            "getresuid" => write_ids(call, target, *user),
            "getresgid" => write_ids(call, target, *group),
            "getgroups" => get_groups(call, target, &caller.identity.groups),
            "capget" => get_capabilities(call, target, &caller.identity.capabilities),
            "prctl" => self.prctl(call, &caller),
            "prlimit64" | "getrlimit" | "ugetrlimit" | "setrlimit" => hide_limit(name, call, target),
            _ => {
                let (identity, reply) = changed(name, call, target, &caller)?;
                self.transform(call, &caller, identity)?;
                Ok(reply)
            }
        }
    }

    fn prctl(&mut self, call: &Call, caller: &Caller) -> Result<Reply, Errno> {
        let identity = &caller.identity;
        let changed = match call.int(0) {
            PR_GET_KEEPCAPS => return Ok(Reply::Value(i64::from(identity.capabilities.keep))),
            PR_SET_KEEPCAPS => match call.word(1) {
                keep @ 0..=1 => identity.keep_capabilities(keep == 1),
                _ => return Err(Errno::INVAL),
            },
            _ => match ambient(call, &identity.capabilities)? {
                Ambient::IsSet(set) => return Ok(Reply::Value(i64::from(set))),
                Ambient::Change(change) => identity.change_ambient(change)?,
            },
        };
        self.transform(call, caller, changed)?;
        Ok(Reply::Value(0))
    }
}

/// Returns what a call makes of the caller, and what it returns.
fn changed(
    name: &str,
    call: &Call,
    target: &Target<'_>,
    caller: &Caller,
) -> Result<(Identity, Reply), Errno> {
    let [first, second, third] = [0, 1, 2].map(|index| call.int(index).cast_unsigned());
    let identity = &caller.identity;
    let after = match name {
        "setuid" => identity.setuid(first)?,
        "setgid" => identity.setgid(first)?,
        "setreuid" => identity.setreuid(first, second)?,
        "setregid" => identity.setregid(first, second)?,
        "setresuid" => identity.setresuid([first, second, third])?,
        "setresgid" => identity.setresgid([first, second, third])?,
        "setfsuid" => return Ok((identity.setfsuid(first), value(identity.user.filesystem))),
        "setfsgid" => return Ok((identity.setfsgid(first), value(identity.group.filesystem))),
        "setgroups" => {
            identity.may_setgroups()?;
            identity.setgroups(read_groups(call, target)?)?
        }
        "capset" => identity.capset(read_capabilities(call, target)?)?,
        _ => return Err(Errno::NOSYS),
    };
    Ok((after, Reply::Value(0)))
}

fn value(id: u32) -> Reply {
    Reply::Value(i64::from(id))
}

fn write_ids(call: &Call, target: &Target<'_>, ids: Ids) -> Result<Reply, Errno> {
    for (index, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
        target.write(call.word(index), &id.to_ne_bytes())?;
    }
    Ok(Reply::Value(0))
}

fn get_groups(call: &Call, target: &Target<'_>, groups: &[u32]) -> Result<Reply, Errno> {
    let room = usize::try_from(call.int(0)).map_err(|_| Errno::INVAL)?;
    let count = Reply::Value(i64::try_from(groups.len()).map_err(|_| Errno::INVAL)?);
    if room == 0 {
        return Ok(count);
    }
    if room < groups.len() {
        return Err(Errno::INVAL);
    }
    let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
    target.write(call.word(1), &bytes)?;
    Ok(count)
}

fn read_groups(call: &Call, target: &Target<'_>) -> Result<Vec<u32>, Errno> {
    let count =
        usize::try_from(call.int(0)).ok().filter(|&count| count <= MOST_GROUPS).ok_or(Errno::INVAL)?;
    let mut bytes = vec![0; count.saturating_mul(size_of::<u32>())];
    if !bytes.is_empty() {
        target.read(call.word(1), &mut bytes)?;
    }
    Ok(words(&bytes).collect())
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(size_of::<u32>()).filter_map(|word| word.try_into().ok()).map(u32::from_ne_bytes)
}

/// The capabilities that Linux 6.18 knows; it forgets others.
const KNOWN: u64 = (1 << 41) - 1;

/// Whose capabilities a header means, and in how many words.
enum Header {
    Own(usize),
    Others,
    Unknown,
}

fn read_header(call: &Call, target: &Target<'_>) -> Result<Header, Errno> {
    let mut header = [0; 8];
    target.read(call.word(0), &mut header)?;
    let mut header = words(&header);
    let (version, process) = (header.next().unwrap_or_default(), header.next().unwrap_or_default());
    let count = match version {
        ONE_WORD => 1,
        version if TWO_WORDS.contains(&version) => 2,
        _ => return Ok(Header::Unknown),
    };
    if process == 0 {
        return Ok(Header::Own(count));
    }
    let status = Status::of(super::thread_of(call)).ok_or(Errno::SRCH)?;
    Ok(if process == status.inner_thread { Header::Own(count) } else { Header::Others })
}

fn get_capabilities(call: &Call, target: &Target<'_>, sets: &Capabilities) -> Result<Reply, Errno> {
    let count = match read_header(call, target)? {
        Header::Own(count) if call.word(1) != 0 => count,
        _ => return Ok(Reply::Continue),
    };
    let word = |set: u64, index: usize| if index == 0 { low(set) } else { low(set >> u32::BITS) };
    let mut bytes = Vec::with_capacity(24);
    for index in 0..count {
        for set in [sets.effective, sets.permitted, sets.inheritable] {
            bytes.extend_from_slice(&word(set, index).to_ne_bytes());
        }
    }
    target.write(call.word(1), &bytes)?;
    Ok(Reply::Value(0))
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn low(set: u64) -> u32 {
    set as u32
}

fn read_capabilities(call: &Call, target: &Target<'_>) -> Result<Sets, Errno> {
    let count = match read_header(call, target)? {
        Header::Own(count) => count,
        Header::Others => return Err(Errno::PERM),
        Header::Unknown => return Err(Errno::INVAL),
    };
    let mut bytes = [0; 24];
    let length = count.saturating_mul(12);
    target.read(call.word(1), bytes.get_mut(..length).ok_or(Errno::INVAL)?)?;
    let words: Vec<u64> = words(&bytes).map(u64::from).collect();
    let set = |index: usize| {
        let half = |index: usize| words.get(index).copied().unwrap_or_default();
        (half(index) | half(index.saturating_add(3)) << u32::BITS) & KNOWN
    };
    Ok(Sets { effective: set(0), permitted: set(1), inheritable: set(2) })
}

enum Ambient {
    IsSet(bool),
    Change(AmbientChange),
}

fn ambient(call: &Call, sets: &Capabilities) -> Result<Ambient, Errno> {
    let number = u32::try_from(call.word(2)).ok();
    let bit = || number.and_then(|number| 1u64.checked_shl(number)).ok_or(Errno::INVAL);
    Ok(match call.int(1) {
        libc::PR_CAP_AMBIENT_IS_SET => Ambient::IsSet(sets.ambient & bit()? != 0),
        libc::PR_CAP_AMBIENT_RAISE => Ambient::Change(AmbientChange::Raise(bit()?)),
        libc::PR_CAP_AMBIENT_LOWER => Ambient::Change(AmbientChange::Lower(bit()?)),
        libc::PR_CAP_AMBIENT_CLEAR_ALL => Ambient::Change(AmbientChange::Clear),
        _ => return Err(Errno::INVAL),
    })
}

/// Answers as if nobody had ever changed RLIMIT_LOCKS, and as if changing it had worked.
fn hide_limit(name: &str, call: &Call, target: &Target<'_>) -> Result<Reply, Errno> {
    let (pointer, unlimited) = match name {
        "prlimit64" => (call.word(3), [0xff; 16].as_slice()),
        "setrlimit" => (0, [].as_slice()),
        _ if call.width == crate::seccomp::Width::Narrow => (call.word(1), [0xff; 8].as_slice()),
        _ => (call.word(1), [0xff; 16].as_slice()),
    };
    if pointer != 0 {
        target.write(pointer, unlimited)?;
    }
    Ok(Reply::Value(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves() {
        assert_eq!(low(0x0123_4567_89ab_cdef), 0x89ab_cdef);
        assert_eq!(words(&[1, 0, 0, 0, 2, 0, 0, 0, 9]).collect::<Vec<_>>(), [1, 2]);
    }
}
