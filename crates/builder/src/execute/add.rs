//! Archives that `ADD` extracts.

use std::path::Path;

use rbuild_layers::{Changes, Content, Entry, Follow, Meta};

use super::copier::Attributes;
use super::draft::{Draft, DraftError};
use super::error::StepError;

/// Puts an archive's entries below `destination`. They keep their owners unless `attributes` sets one; parents that
/// the archive does not list belong to 0:0.
pub(crate) fn extract(
    archive: &Changes,
    destination: &str,
    attributes: &Attributes,
    draft: &mut Draft,
) -> Result<(), StepError> {
    let root = draft.resolve(Path::new(destination), Follow::All)?;
    draft.make_dirs(&root, attributes.owner.unwrap_or((0, 0)), attributes.now)?;
    // a link may sort before the file it leads to
    let (links, nodes): (Vec<_>, Vec<_>) =
        archive.iter().partition(|(_, entry)| matches!(entry, Entry::HardLink(_)));
    for (path, entry) in nodes.into_iter().chain(links) {
        let Some(name) = path.file_name() else { continue };
        let parent = draft.resolve_below(&root, path.parent().unwrap_or(Path::new("")))?;
        draft.make_dirs(&parent, (0, 0), attributes.now)?;
        let target = parent.join(name);
        match entry {
            Entry::Node { meta, content } => put(draft, &target, meta, content, attributes)?,
            Entry::Opaque(meta) => put(draft, &target, meta, &Content::None, attributes)?,
            Entry::HardLink(linked) => {
                let Some(name) = linked.file_name() else { continue };
                let parent = draft.resolve_below(&root, linked.parent().unwrap_or(Path::new("")))?;
                draft.hard_link(&target, &parent.join(name))?;
            }
            Entry::Whiteout => {}
        }
    }
    Ok(())
}

fn put(
    draft: &mut Draft,
    target: &Path,
    meta: &Meta,
    content: &Content,
    attributes: &Attributes,
) -> Result<(), DraftError> {
    let mut meta = meta.clone();
    if let Some((uid, gid)) = attributes.owner {
        (meta.uid, meta.gid) = (uid, gid);
    }
    Ok(draft.put(target, meta, content.clone())?)
}
