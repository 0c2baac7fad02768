//! Owners that the step's isolation asks to be kept: in the records of the step's tree.

use std::io;
use std::os::fd::BorrowedFd;

use rbuild_layers::OwnerTable;
use rbuild_layers::owner::{self, Owner};
use rbuild_sandbox::{Node, NodeKind, Owners, Recorded};
use rustix::fs::Stat;

/// The owners of an active tree.
#[derive(Debug)]
pub(crate) struct TreeOwners(pub OwnerTable);

impl Owners for TreeOwners {
    fn get(&self, file: BorrowedFd<'_>, stat: &Stat) -> io::Result<Recorded> {
        let Owner { uid, gid, node, mode } = owner::read(file, stat.st_mode, size(stat), &self.0)?;
        let node = node.map(|owner::Node { kind, major, minor }| {
            let kind = match kind {
                owner::NodeKind::Char => NodeKind::Character,
                owner::NodeKind::Block => NodeKind::Block,
            };
            Node { kind, major, minor }
        });
        Ok(Recorded { uid, gid, node, mode })
    }

    fn set(&self, file: BorrowedFd<'_>, stat: &Stat, recorded: &Recorded) -> io::Result<()> {
        let Recorded { uid, gid, node, .. } = *recorded;
        let node = node.map(|Node { kind, major, minor }| {
            let kind = match kind {
                NodeKind::Character => owner::NodeKind::Char,
                NodeKind::Block => owner::NodeKind::Block,
            };
            owner::Node { kind, major, minor }
        });
        owner::record(file, stat.st_mode, &Owner { uid, gid, node, mode: None }, &self.0)
    }

    fn has_links(&self) -> bool {
        !self.0.is_empty()
    }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}
