//! What the store's file system lets this process keep, found by trying: [`Abilities`].

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};

use super::{Store, StoreDirError, failed};
use crate::directory::{Keeping, Whiteouts};
use crate::owner::{OwnerTable, Ownership};

/// How trees are kept in this store by this process.
#[derive(Clone, Debug)]
pub(crate) struct Abilities {
    pub(crate) ownership: Ownership,
    pub(crate) whiteouts: Whiteouts,
    /// Names this way of keeping trees: what was kept in another way is of no use here.
    pub(crate) name: String,
}

impl Abilities {
    pub(super) fn probe(store: &Store) -> Result<Self, StoreDirError> {
        let scratch = store.scratch()?;
        let ownership = ownership(scratch.path())?;
        let whiteout = scratch.path().join("whiteout");
        let made = rustix::fs::mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), 0);
        let whiteouts = if made.is_ok() { Whiteouts::Device } else { Whiteouts::Attribute };
        let name = [name(ownership), if made.is_ok() { "" } else { " attribute-whiteouts" }.to_owned()];
        Ok(Self { ownership, whiteouts, name: name.concat() })
    }

    /// Returns how a tree is kept whose links belong to whom this table says.
    pub(crate) fn keeping(&self, table: OwnerTable) -> Keeping {
        let owners = (self.ownership == Ownership::Recorded).then_some(table);
        Keeping { owners, whiteouts: self.whiteouts }
    }
}

/// Gives a file to somebody else. Ids, capabilities and user namespaces do not tell whether that works.
fn ownership(directory: &Path) -> Result<Ownership, StoreDirError> {
    let path = directory.join("owner");
    let file = File::create(&path).map_err(failed("make", &path))?;
    match std::os::unix::fs::fchown(&file, Some(1), Some(1)) {
        Ok(()) => Ok(Ownership::Native),
        Err(_) => Ok(Ownership::Recorded),
    }
}

/// Native owners are numbers of the user namespace they were written in, so its ranges are part of the name.
fn name(ownership: Ownership) -> String {
    const ALL: &str = "0 0 4294967295";
    if ownership == Ownership::Recorded {
        return "recorded".to_owned();
    }
    let ranges = ["/proc/self/uid_map", "/proc/self/gid_map"].map(|path| {
        // Without user namespaces in the kernel there is no such file, and no other range.
        let map = fs::read_to_string(path).unwrap_or_else(|_| ALL.to_owned());
        map.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    if ranges == [ALL, ALL] { "native".to_owned() } else { format!("native {}", ranges.join("/")) }
}
