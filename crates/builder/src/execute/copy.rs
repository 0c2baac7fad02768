//! `COPY` and `ADD`: sources over a tree, destinations over a draft.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rbuild_layers::{Changes, Content, Kind, Meta, Time, View};

use super::add;
use super::copier::{Attributes, Copier, CopyError};
use super::draft::{Draft, DraftError};
use super::error::StepError;
use super::mode::ModeChange;
use super::remote::{RemoteError, Remotes, file_name, shown};
use super::selection::Selection;
use super::tree::{Tree, clean};
use super::user::Accounts;
use crate::context::{self, GitRef, KeepGitDir, WrittenIn};
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
    /// What is fetched from elsewhere.
    pub remotes: &'a Remotes,
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
    Ok(alone.take_changes()?)
}

/// Has the layer of a step, once it is written, stand for the steps after it.
pub(crate) fn keep(step: &CopyStep, changes: Changes, draft: &mut Draft) -> Result<(), StepError> {
    let changes = if is_independent(step) {
        draft.overlay(&changes)?;
        draft.take_changes()?
    } else {
        changes
    };
    draft.keep(changes);
    Ok(())
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
        let destination = format!("/{at}/");
        let job = Job {
            step,
            tree,
            attributes: &attributes,
            destination: &destination,
            unpack: Unpack::Never,
            making,
        };
        match source {
            CopySource::Pattern(pattern) => job.pattern(pattern, &mut draft)?,
            CopySource::Url(url) => job.url(url, &mut draft)?,
            // The commit says what the files are, so that a step that is known fetches none.
            CopySource::Git(written) => {
                let commit = making.remotes.commit(&job.repository(written)?.0);
                let commit = commit.map_err(|error| unfetched(shown(written), error))?;
                job.heredoc("commit", &commit.id, &mut draft)?;
            }
            CopySource::Heredoc { .. } => {}
        }
    }
    Ok(draft)
}

/// A tree as the layer of an image that has nothing else.
pub(crate) fn whole_tree(tree: &Tree, now: Time) -> Result<Changes, StepError> {
    let mut draft = Draft::new(View::empty());
    let attributes = Attributes { owner: None, mode: None, now };
    Copier::new(tree, &mut draft, &attributes, &Selection::default())
        .copy(Path::new(""), "/")
        .map_err(|source| StepError::Copy { path: "/".to_owned(), source })?;
    Ok(draft.take_changes()?)
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
        CopyKind::Add { unpack: Some(true), .. } => Unpack::All,
        CopyKind::Add { unpack: None, .. } => Unpack::Local,
    };
    let job = Job { step, tree, attributes, destination: &step.destination, unpack, making };
    for source in &step.sources {
        match source {
            CopySource::Pattern(pattern) => job.pattern(pattern, draft)?,
            CopySource::Heredoc { name, content } => job.heredoc(name, content, draft)?,
            CopySource::Url(url) => job.url(url, draft)?,
            CopySource::Git(written) => job.git(written, draft)?,
        }
    }
    Ok(())
}

fn unfetched(source_name: String, error: RemoteError) -> StepError {
    match error {
        RemoteError::Cancelled => StepError::Cancelled,
        error => StepError::Remote { source_name, source: Box::new(error) },
    }
}

/// Which archives are extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unpack {
    Never,
    /// Those of the tree that is copied from.
    Local,
    /// Those of the web too.
    All,
}

/// What all sources of a step have in common.
#[derive(Debug)]
struct Job<'a> {
    step: &'a CopyStep,
    tree: &'a Tree,
    attributes: &'a Attributes,
    destination: &'a str,
    unpack: Unpack,
    making: Making<'a>,
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
            if self.unpack != Unpack::Never && self.unpacked(self.tree, &source, written, draft)? {
                continue;
            }
            Copier::new(self.tree, draft, self.attributes, &selection)
                .copy(&source, self.destination)
                .map_err(failed)?;
        }
        Ok(())
    }

    fn url(&self, url: &str, draft: &mut Draft) -> Result<(), StepError> {
        let failed = |error| unfetched(shown(url), error);
        let file = self.making.remotes.file(url, &file_name(url)).map_err(failed)?;
        if let CopyKind::Add { checksum: Some(checksum), .. } = &self.step.kind {
            let expected =
                checksum.parse().map_err(|_| StepError::Unsupported(format!("checksum {checksum}")))?;
            file.verify(url, expected).map_err(failed)?;
        }
        let tree = Tree::Context(Arc::clone(&file.tree));
        let source = Path::new(&file.name);
        if self.unpack == Unpack::All && self.unpacked(&tree, source, &shown(url), draft)? {
            return Ok(());
        }
        self.whole(&tree, source, &shown(url), draft)
    }

    fn git(&self, written: &str, draft: &mut Draft) -> Result<(), StepError> {
        let (wanted, keep) = self.repository(written)?;
        let fetched = self.making.remotes.checkout(&wanted, keep);
        let fetched = fetched.map_err(|error| unfetched(wanted.redacted(), error))?;
        self.whole(&Tree::Context(Arc::clone(&fetched.tree)), Path::new(""), &wanted.redacted(), draft)
    }

    /// The repository with what the flags say of it.
    fn repository(&self, written: &str) -> Result<(GitRef, KeepGitDir), StepError> {
        let parsed = GitRef::parse(written, WrittenIn::Dockerfile).ok().flatten();
        let mut wanted =
            parsed.ok_or_else(|| StepError::Unsupported(format!("repository {}", shown(written))))?;
        let mut keep = wanted.keep_git_dir;
        if let CopyKind::Add { checksum, keep_git_dir, .. } = &self.step.kind {
            keep = keep_git_dir.or(keep);
            if checksum.is_some() {
                wanted.checksum.clone_from(checksum);
            }
        }
        Ok((wanted, if keep == Some(true) { KeepGitDir::Yes } else { KeepGitDir::No }))
    }

    /// Copies a path of a tree that was fetched for this step.
    fn whole(&self, tree: &Tree, source: &Path, shown: &str, draft: &mut Draft) -> Result<(), StepError> {
        let selection = Selection::new(None, &self.step.exclude)?;
        Copier::new(tree, draft, self.attributes, &selection)
            .copy(source, self.destination)
            .map_err(|source| StepError::Copy { path: shown.to_owned(), source })
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
    fn unpacked(
        &self,
        tree: &Tree,
        source: &Path,
        written: &str,
        draft: &mut Draft,
    ) -> Result<bool, StepError> {
        let failed = |source| StepError::Copy { path: written.to_owned(), source: CopyError::Source(source) };
        let followed = tree.resolve(source, rbuild_layers::Follow::All).map_err(failed)?;
        if !tree.metadata(&followed).map_err(failed)?.is_some_and(|meta| meta.is_file()) {
            return Ok(false);
        }
        let content = tree.content(&followed).map_err(failed)?;
        let archive = context::archive(&content, self.making.scratch);
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
