//! Comparing trees, and what tests say and ask.

use std::collections::BTreeMap;
use std::path::Path;

pub(crate) use crate::archive::{Archive, Header, own_ids, record, seal};
use rbuild_layers::{Descend, Meta, Root, RootError, View};

pub(crate) fn is_root() -> bool {
    own_ids().0 == 0
}

/// Says why a test does not run; CI looks for the line.
#[expect(clippy::print_stderr, reason = "the only place where a test speaks")]
pub(crate) fn skipped(reason: &str) {
    eprintln!("skipped: {reason}");
}

pub(crate) fn root(path: &Path) -> Root {
    Root::open(path).unwrap()
}

/// What a path is: its attributes, its content, and the first path of the same inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) content: Vec<u8>,
    pub(crate) first: String,
}

/// Reads a whole view.
pub(crate) fn snapshot(view: &View) -> BTreeMap<String, Node> {
    let mut nodes = BTreeMap::new();
    let mut names = BTreeMap::new();
    view.walk(Path::new(""), &mut |visit| {
        let path = visit.path.to_string_lossy().into_owned();
        let mut content = Vec::new();
        if visit.meta.is_file() {
            std::io::Read::read_to_end(&mut visit.content.open()?, &mut content).unwrap();
        }
        let id = (visit.id.layer, visit.id.dev, visit.id.ino);
        let first = names.entry(id).or_insert_with(|| path.clone()).clone();
        nodes.insert(path, Node { meta: visit.meta.clone(), content, first });
        Ok::<_, RootError>(Descend::Into)
    })
    .unwrap();
    nodes
}
