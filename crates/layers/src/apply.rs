//! Writes [`Changes`] into an overlay upper directory: [`apply`].

use std::io::{Error, ErrorKind};
use std::path::Path;

use crate::change::{Changes, Content, Entry};
use crate::meta::{Kind, Meta};
use crate::root::{Root, RootError};
use crate::upper::{Made, Upper};
use crate::view::View;

/// Writes `changes` into `upper`, the overlay upper directory that lies on `lower`. Missing parents get the
/// attributes they have in `lower`. With an empty view below this fills a plain directory.
///
/// # Errors
/// The file system refuses, a content cannot be read or has another length than its attributes say, or a hard
/// link has no target. What was written stays.
pub fn apply(changes: &Changes, upper: &Root, lower: &View) -> Result<(), RootError> {
    let mut upper = Upper::new(upper, lower);
    // whatever the order, the target of a link stands before the link
    for (path, entry) in changes.iter() {
        match entry {
            Entry::Node { meta, content } => node(&mut upper, path, meta, content)?,
            Entry::Opaque(meta) => {
                upper.directory(path, meta)?;
                upper.opaque(path)?;
            }
            Entry::Whiteout => upper.whiteout(path)?,
            Entry::HardLink(_) => {}
        }
    }
    for (path, entry) in changes.iter() {
        if let Entry::HardLink(target) = entry {
            upper.hard_link(path, target)?;
        }
    }
    upper.finish()
}

fn node(upper: &mut Upper<'_>, path: &Path, meta: &Meta, content: &Content) -> Result<(), RootError> {
    match meta.kind {
        Kind::Directory => upper.directory(path, meta),
        Kind::File => {
            let mut reader = content.open()?;
            upper.file(path, meta, |file| {
                let count = reader.copy_to(file).map_err(RootError::at("copy", path))?;
                if count == meta.size {
                    return Ok(());
                }
                let changed = Error::new(ErrorKind::InvalidData, "the file changed while it was read");
                Err(RootError::at("copy", path)(changed))
            })
        }
        _ => match upper.node(path, meta)? {
            Made::Yes => Ok(()),
            Made::Refused => Err(RootError::at("create", path)(rustix::io::Errno::PERM)),
        },
    }
}
