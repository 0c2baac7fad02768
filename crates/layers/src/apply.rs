//! Writes [`Changes`] into an overlay upper directory: [`apply`].

use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use crate::change::{Changes, Content, Entry};
use crate::meta::{Kind, Meta};
use crate::root::{FileId, Root, RootError};
use crate::upper::{Made, Upper};
use crate::view::{Descend, View};

/// Writes `changes` into `upper`, the overlay upper directory that lies on `lower`. Missing parents get the
/// attributes they have in `lower`. With an empty view below this fills a plain directory.
///
/// # Errors
/// The file system refuses, a content cannot be read or has another length than its attributes say, or a hard
/// link has no target. What was written stays.
pub fn apply(changes: &Changes, upper: &Root, lower: &View) -> Result<(), RootError> {
    write(changes, Upper::new(upper, &|| Ok(lower.clone())))
}

/// Does to a tree what `changes` say, removing what is gone.
///
/// # Errors
/// As [`apply`].
pub(crate) fn apply_to_tree(changes: &Changes, tree: &Root) -> Result<(), RootError> {
    write(changes, Upper::tree(tree))
}

/// Copies a whole view into an empty directory; hard links and holes stay.
///
/// # Errors
/// The view cannot be read, the directory not be written.
pub(crate) fn fill_tree(view: &View, tree: &Root) -> Result<(), RootError> {
    let mut changes = Changes::new();
    let mut names: HashMap<FileId, PathBuf> = HashMap::new();
    view.walk(Path::new(""), &mut |visit| {
        let first = (!visit.meta.is_dir() && visit.id.nlink > 1)
            .then(|| names.entry(visit.id).or_insert_with(|| visit.path.to_owned()).clone());
        let entry = match first.filter(|first| first != visit.path) {
            Some(first) => Entry::HardLink(first),
            None => Entry::Node { meta: visit.meta.clone(), content: visit.content.clone() },
        };
        changes.insert(visit.path, entry);
        Ok::<_, RootError>(Descend::Into)
    })?;
    let meta = view.metadata(Path::new(""))?.unwrap_or_else(Meta::default_directory);
    changes.insert("", Entry::node(meta));
    apply_to_tree(&changes, tree)
}

fn write(changes: &Changes, mut upper: Upper<'_>) -> Result<(), RootError> {
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
