//! `COPY` and `ADD`: sources over a tree, destinations over a draft.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rbuild_layers::{Changes, Content, Kind, Meta, Time, View};

use super::add;
use super::copier::{Attributes, Copier, CopyError};
use super::draft::{Draft, DraftError};
use super::error::StepError;
use super::mode::ModeChange;
use super::selection::Selection;
use super::tree::{Tree, clean};
use super::user::Accounts;
use crate::plan::{CopyKind, CopySource, CopyStep};

/// Bytes of an account file that are looked at.
const MAX_ACCOUNTS: u64 = 16 << 20;

/// What making files needs from outside the trees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Making<'a> {
    /// The time of what nothing gives a time.
    pub now: Time,
    /// A directory of the work directory for files that go with the process.
    pub scratch: &'a Path,
}

/// Brings the sources of a step into `draft` and returns the layer that makes.
pub(crate) fn run(
    step: &CopyStep,
    tree: &Tree,
    draft: &mut Draft,
    making: Making<'_>,
) -> Result<Changes, StepError> {
    if !is_independent(step) {
        sources(step, tree, draft, making)?;
        return Ok(draft.take_changes()?);
    }
    // Nothing is below an independent layer: not even the names that --chown could look up.
    let mut alone = Draft::new(View::empty());
    sources(step, tree, &mut alone, making)?;
    let changes = alone.take_changes()?;
    draft.overlay(&changes)?;
    draft.keep_changes();
    Ok(changes)
}

/// Tells whether the layer of a step does not depend on what is below it. With `--chmod`, BuildKit ignores `--link`.
pub(crate) fn is_independent(step: &CopyStep) -> bool {
    step.link && step.chmod.is_none()
}

/// Brings what a step reads into a draft of its own, one directory per source, as input of its cache key.
///
/// Nothing of the destination plays a part, nor do owners and modes that the step sets.
pub(crate) fn collect(step: &CopyStep, tree: &Tree, making: Making<'_>) -> Result<Draft, StepError> {
    let mut draft = Draft::new(View::empty());
    let attributes = Attributes { owner: None, mode: None, now: making.now };
    for (at, source) in step.sources.iter().enumerate() {
        if let CopySource::Pattern(pattern) = source {
            let destination = format!("/{at}/");
            let unpack = Unpack::Never;
            let job = Job {
                step,
                tree,
                attributes: &attributes,
                destination: &destination,
                unpack,
                scratch: making.scratch,
            };
            job.pattern(pattern, &mut draft)?;
        }
    }
    Ok(draft)
}

/// The accounts of the rootfs that is written to.
pub(crate) fn accounts(draft: &Draft) -> Result<Accounts, StepError> {
    let text = |path: &str| -> Result<String, StepError> {
        let bytes = draft.read(Path::new(path), MAX_ACCOUNTS)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Accounts::parse(&text("etc/passwd")?, &text("etc/group")?))
}

fn sources(step: &CopyStep, tree: &Tree, draft: &mut Draft, making: Making<'_>) -> Result<(), StepError> {
    let mode = step.chmod.as_deref().map(ModeChange::parse).transpose()?;
    let owner = match &step.chown {
        Some(text) => Some(accounts(draft)?.owner(text)),
        None => None,
    };
    let attributes = &Attributes { owner, mode, now: making.now };
    let unpack = match step.kind {
        CopyKind::Add { unpack: Some(false), .. } | CopyKind::Copy => Unpack::Never,
        CopyKind::Add { .. } => Unpack::Archives,
    };
    let job = Job { step, tree, attributes, destination: &step.destination, unpack, scratch: making.scratch };
    for source in &step.sources {
        match source {
            CopySource::Pattern(pattern) => job.pattern(pattern, draft)?,
            CopySource::Heredoc { name, content } => job.heredoc(name, content, draft)?,
            CopySource::Url(url) => return Err(StepError::Unsupported(format!("ADD of the URL {url}"))),
            CopySource::Git(url) => {
                return Err(StepError::Unsupported(format!("ADD of the repository {url}")));
            }
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unpack {
    Never,
    Archives,
}

/// What all sources of a step have in common.
#[derive(Debug)]
struct Job<'a> {
    step: &'a CopyStep,
    tree: &'a Tree,
    attributes: &'a Attributes,
    destination: &'a str,
    unpack: Unpack,
    scratch: &'a Path,
}

impl Job<'_> {
    fn pattern(&self, written: &str, draft: &mut Draft) -> Result<(), StepError> {
        let failed = |source| StepError::Copy { path: written.to_owned(), source };
        let (start, include) = match (self.step.parents, written.split_once("/./")) {
            (false, _) => (written, None),
            (true, Some((start, pattern))) => (start, Some(normal(pattern))),
            (true, None) => ("/", Some(normal(written))),
        };
        if let Some(pattern) = &include {
            self.require(start, pattern).map_err(failed)?;
        }
        let selection = Selection::new(include.as_deref(), &self.step.exclude)?;
        for source in self.tree.expand(start).map_err(|error| failed(CopyError::Source(error)))? {
            if self.unpack == Unpack::Archives && self.unpacked(&source, written, draft)? {
                continue;
            }
            Copier::new(self.tree, draft, self.attributes, &selection)
                .copy(&source, self.destination)
                .map_err(failed)?;
        }
        Ok(())
    }

    /// A `--parents` source without wildcards must exist.
    fn require(&self, start: &str, pattern: &str) -> Result<(), CopyError> {
        use super::pattern::has_wildcard;
        if has_wildcard(start.as_bytes()) || has_wildcard(pattern.as_bytes()) {
            return Ok(());
        }
        let path: PathBuf =
            clean(&Path::new("/").join(start.trim_start_matches('/')).join(pattern)).iter().collect();
        let resolved = self.tree.resolve(&path, rbuild_layers::Follow::Parents).map_err(CopyError::Source)?;
        match self.tree.metadata(&resolved).map_err(CopyError::Source)? {
            Some(_) => Ok(()),
            None => Err(CopyError::NotFound(path)),
        }
    }

    /// Extracts a source that is an archive; whether it was one.
    fn unpacked(&self, source: &Path, written: &str, draft: &mut Draft) -> Result<bool, StepError> {
        let failed = |source| StepError::Copy { path: written.to_owned(), source: CopyError::Source(source) };
        let followed = self.tree.resolve(source, rbuild_layers::Follow::All).map_err(failed)?;
        if !self.tree.metadata(&followed).map_err(failed)?.is_some_and(|meta| meta.is_file()) {
            return Ok(false);
        }
        let content = self.tree.content(&followed).map_err(failed)?;
        let archive = add::archive(&content, self.scratch);
        let archive = archive.map_err(|source| StepError::Archive { path: written.to_owned(), source })?;
        let Some(archive) = archive else { return Ok(false) };
        add::extract(&archive, self.destination, self.attributes, draft)?;
        Ok(true)
    }

    fn heredoc(&self, name: &str, content: &str, draft: &mut Draft) -> Result<(), StepError> {
        let owner = self.attributes.owner.unwrap_or((0, 0));
        let follow = rbuild_layers::Follow::All;
        let slash = self.destination.rfind('/').map_or(0, |slash| slash + 1);
        let parent = draft.resolve(Path::new(self.destination.get(..slash).unwrap_or("/")), follow)?;
        draft.make_dirs_like(&parent, &self.attributes.made_directory())?;
        let mut target = draft.resolve(Path::new(self.destination), follow)?;
        if draft.metadata(&target)?.is_some_and(|meta| meta.is_dir()) {
            target.push(name);
        }
        if draft.metadata(&target)?.is_some_and(|meta| meta.is_dir()) {
            return Err(DraftError::IsADirectory(target).into());
        }
        let mode = self.attributes.mode.as_ref();
        let mode = mode.map_or(0o644, |change| change.apply(0o644, super::mode::Target::File));
        let meta = Meta {
            uid: owner.0,
            gid: owner.1,
            mtime: self.attributes.now,
            size: content.len() as u64,
            ..Meta::new(Kind::File, mode)
        };
        Ok(draft.put(&target, meta, Content::Bytes(Bytes::copy_from_slice(content.as_bytes())))?)
    }
}

/// The form in which a pattern is matched: relative and without `.`, `..` and empty components.
fn normal(pattern: &str) -> String {
    let components: PathBuf = clean(Path::new(pattern)).iter().collect();
    components.to_string_lossy().into_owned()
}
