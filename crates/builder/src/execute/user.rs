//! Users and groups by name and number, from the image's own `/etc/passwd` and `/etc/group`.

use thiserror::Error;

/// The two account files of a rootfs; a missing file is empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    users: Vec<UserEntry>,
    groups: Vec<GroupEntry>,
}

#[derive(Debug, Clone)]
struct UserEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Debug, Clone)]
struct GroupEntry {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// The supplementary group ids, the primary one first.
    pub groups: Vec<u32>,
}

/// A `USER` that names nobody.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UserError {
    /// The user is not in `/etc/passwd` and is no number.
    #[error("user {0:?} is not in the image's /etc/passwd")]
    UnknownUser(String),
    /// The group is not in `/etc/group` and is no number.
    #[error("group {0:?} is not in the image's /etc/group")]
    UnknownGroup(String),
    /// A number is larger than runc takes one.
    #[error("user or group {0:?} is not in the range 0-2147483647")]
    OutOfRange(String),
}

impl Accounts {
    /// Reads the text of `/etc/passwd` and `/etc/group`; lines that are malformed are skipped.
    ///
    /// # References
    /// passwd(5), group(5)
    pub(crate) fn parse(passwd: &str, group: &str) -> Self {
        Self {
            users: passwd.lines().filter_map(user_entry).collect(),
            groups: group.lines().filter_map(group_entry).collect(),
        }
    }

    /// Who `USER text` runs as; empty text is user 0.
    ///
    /// A user without a group gets the primary group of its entry and every group that lists it; a number without
    /// an entry gets group 0. A number is never looked up as the name of a group. Two numbers are taken as they are.
    ///
    /// # Errors
    /// [`UserError`] for a name that has no entry, and a number that is too large.
    pub(crate) fn identity(&self, text: &str) -> Result<Identity, UserError> {
        let text = if text.is_empty() { "0" } else { text };
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        if let (Some(uid), Some(Some(gid))) = (number(user), group.map(number)) {
            return Ok(Identity { uid, gid, groups: vec![gid] });
        }
        let (uid, primary, name) = self.user(user)?;
        let Some(group) = group.filter(|group| !group.is_empty()) else {
            let mut groups = vec![primary];
            let member =
                |entry: &&GroupEntry| name.is_some_and(|name| entry.members.iter().any(|m| m == name));
            groups.extend(self.groups.iter().filter(member).map(|entry| entry.gid));
            dedup_keeping_order(&mut groups);
            return Ok(Identity { uid, gid: primary, groups });
        };
        let gid = match number(group) {
            Some(gid) => in_range(gid)?,
            None => self.group_id(group).ok_or_else(|| UserError::UnknownGroup(group.to_owned()))?,
        };
        Ok(Identity { uid, gid, groups: vec![gid] })
    }

    /// The owner that `--chown=text` or the creation of a directory by `USER text` gives.
    ///
    /// A number alone is user and group; a name alone gives its primary group. Unknown names give 0, which is what
    /// BuildKit does, and so does an empty group (`1:`). A number above
    /// 2147483647 counts as a name.
    pub(crate) fn owner(&self, text: &str) -> (u32, u32) {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let id = |text: &str| number(text).filter(|id| i32::try_from(*id).is_ok());
        let (uid, own_gid) = match id(user) {
            Some(id) => (id, id),
            None => self.users.iter().find(|entry| entry.name == user).map_or((0, 0), |e| (e.uid, e.gid)),
        };
        let gid = group.map_or(own_gid, |group| {
            let empty = group.is_empty().then_some(0);
            empty
                .or_else(|| id(group))
                .or_else(|| self.groups.iter().find(|entry| entry.name == group).map(|entry| entry.gid))
                .unwrap_or(own_gid)
        });
        (uid, gid)
    }

    /// The home directory of the first entry with this user id, which may be empty; `/` when there is no entry.
    pub(crate) fn home(&self, uid: u32) -> &str {
        let entry = self.users.iter().find(|entry| entry.uid == uid);
        entry.map_or("/", |entry| &entry.home)
    }

    fn user<'a>(&'a self, text: &str) -> Result<(u32, u32, Option<&'a str>), UserError> {
        let wanted = number(text);
        if text.is_empty() {
            return Ok((0, 0, None));
        }
        let entry = self.users.iter().find(|entry| entry.name == text || Some(entry.uid) == wanted);
        match (entry, wanted) {
            (Some(entry), _) => Ok((entry.uid, entry.gid, Some(&entry.name))),
            (None, Some(uid)) => Ok((in_range(uid)?, 0, None)),
            (None, None) => Err(UserError::UnknownUser(text.to_owned())),
        }
    }

    fn group_id(&self, name: &str) -> Option<u32> {
        self.groups.iter().find(|entry| entry.name == name).map(|entry| entry.gid)
    }
}

fn user_entry(line: &str) -> Option<UserEntry> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    fields.next()?;
    let uid = fields.next()?.trim().parse().ok()?;
    let gid = fields.next()?.trim().parse().ok()?;
    let home = fields.nth(1).unwrap_or_default().to_owned();
    Some(UserEntry { name, uid, gid, home })
}

fn group_entry(line: &str) -> Option<GroupEntry> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    fields.next()?;
    let gid = fields.next()?.trim().parse().ok()?;
    let members = fields.next().unwrap_or_default();
    let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
    Some(GroupEntry { name, gid, members })
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn in_range(id: u32) -> Result<u32, UserError> {
    i32::try_from(id).map(|_| id).map_err(|_| UserError::OutOfRange(id.to_string()))
}

fn dedup_keeping_order(groups: &mut Vec<u32>) {
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|group| seen.insert(*group));
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n# a remark\nbroken\nwww:x:33:34:www:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nssl:x:90:www,root\naudio:x:29:www\n";

    /// What `id` and `$HOME` say in a RUN of docker buildx (BuildKit of Docker 28.5.2), with these two files.
    #[test]
    fn finds_identities_as_buildkit() {
        const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/false\nnohome:x:44:44:::/bin/sh\n\
                              deploy:x:1000:1000:d:/home/deploy:/bin/sh\ndup:x:1000:55:d:/home/dup:/bin/sh\n";
        const GROUP: &str =
            "root:x:0:\nwww:x:34:\nssl:x:90:www,root\naudio:x:29:www\ndep:x:77:deploy,dup\n33:x:123:\n";
        let check = |text: &str, expect: Result<(u32, u32, &[u32], &str), UserError>| {
            let accounts = Accounts::parse(PASSWD, GROUP);
            let found = accounts.identity(text).map(|mut identity| {
                identity.groups.sort_unstable();
                let home = accounts.home(identity.uid).to_owned();
                (identity, home)
            });
            let expect = expect.map(|(uid, gid, groups, home)| {
                (Identity { uid, gid, groups: groups.to_vec() }, home.to_owned())
            });
            assert_eq!(found, expect, "{text}");
        };
        check("", Ok((0, 0, &[0, 90], "/root")));
        check("0", Ok((0, 0, &[0, 90], "/root")));
        check("0:", Ok((0, 0, &[0, 90], "/root")));
        check("root", Ok((0, 0, &[0, 90], "/root")));
        check("root:root", Ok((0, 0, &[0], "/root")));
        check(":5", Ok((0, 5, &[5], "/root")));
        check("www", Ok((33, 34, &[29, 34, 90], "/var/www")));
        check("www:", Ok((33, 34, &[29, 34, 90], "/var/www")));
        check("33", Ok((33, 34, &[29, 34, 90], "/var/www")));
        check("www:ssl", Ok((33, 90, &[90], "/var/www")));
        check("33:ssl", Ok((33, 90, &[90], "/var/www")));
        check("www:5", Ok((33, 5, &[5], "/var/www")));
        check("www:33", Ok((33, 33, &[33], "/var/www")));
        check("33:33", Ok((33, 33, &[33], "/var/www")));
        check("7", Ok((7, 0, &[0], "/")));
        check("7:", Ok((7, 0, &[0], "/")));
        check("7:8", Ok((7, 8, &[8], "/")));
        check("7:ssl", Ok((7, 90, &[90], "/")));
        check("7:2147483648", Ok((7, 2_147_483_648, &[2_147_483_648], "/")));
        check("nohome", Ok((44, 44, &[44], "")));
        check("44", Ok((44, 44, &[44], "")));
        check("deploy", Ok((1000, 1000, &[77, 1000], "/home/deploy")));
        check("1000", Ok((1000, 1000, &[77, 1000], "/home/deploy")));
        check("1000:1000", Ok((1000, 1000, &[1000], "/home/deploy")));
        check("2147483647", Ok((2_147_483_647, 0, &[0], "/")));
        check("2147483648", Err(UserError::OutOfRange("2147483648".into())));
        check("nobody", Err(UserError::UnknownUser("nobody".into())));
        check("nobody:0", Err(UserError::UnknownUser("nobody".into())));
        check("www:nogroup", Err(UserError::UnknownGroup("nogroup".into())));
        check("7:nogroup", Err(UserError::UnknownGroup("nogroup".into())));
    }

    #[test]
    fn finds_owners() {
        let check = |text: &str, expect: (u32, u32)| {
            assert_eq!(Accounts::parse(PASSWD, GROUP).owner(text), expect, "{text}");
        };
        check("", (0, 0));
        check("5", (5, 5));
        check("5:6", (5, 6));
        check("www", (33, 34));
        check("www:ssl", (33, 90));
        check("5:", (5, 0));
        check("www:", (33, 0));
        check(":5", (0, 5));
        check("2147483647", (2_147_483_647, 2_147_483_647));
        check("2147483648:1", (0, 1));
        check("nobody", (0, 0));
        check("nobody:ssl", (0, 90));
        check("www:nogroup", (33, 34));
    }

    #[test]
    fn finds_homes() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        assert_eq!(accounts.home(0), "/root");
        assert_eq!(accounts.home(33), "/var/www");
        assert_eq!(accounts.home(99), "/");
        assert_eq!(Accounts::default().home(0), "/");
    }
}
