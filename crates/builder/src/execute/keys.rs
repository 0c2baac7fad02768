//! The keys of steps.

use std::sync::PoisonError;

use rbuild_image::{ChainId, Digest};
use rbuild_layers::Changes;

use super::error::StepError;
use super::tree::Tree;
use super::{Done, Executor, Stage, Task, copy, missing_stage, mounts, sources};
use crate::cache::content::{self, Reading, Seen};
use crate::cache::key::step_key;
use crate::cache::listing::FileList;
use crate::images::Origin;
use crate::options::CacheUse;
use crate::plan::{ImageRequest, Source, Step, StepKind};

impl Executor {
    /// The key from the names of the trees that are read; none when a tree has no name but its content.
    pub(super) fn definition_key(&self, task: Task<'_>, stage: &Stage) -> Result<Option<Digest>, StepError> {
        let mut inputs = Vec::new();
        for source in sources(task.step) {
            match source {
                Source::Context => return Ok(None),
                Source::Scratch => inputs.push(Digest::of(b"scratch")),
                Source::Stage(index) => inputs.push(self.stage_digest(task.done, *index)?),
                Source::Image(request) => {
                    let base = self.image(request)?;
                    if let Origin::Directory(_) = base.origin {
                        return Ok(None);
                    }
                    inputs.push(self.chain_of(request)?.unwrap_or_else(|| Digest::of(b"scratch")));
                }
            }
        }
        Ok(Some(self.key(task.step, stage, "definition", &inputs)))
    }

    /// The shape of what a COPY reads, as a key, if it is large and nothing of that shape was read before: then nothing can
    /// be recorded under the key of its content.
    pub(super) fn unread_shape(&self, task: Task<'_>, stage: &Stage) -> Result<Option<Digest>, StepError> {
        let StepKind::Copy(step) = &task.step.kind else { return Ok(None) };
        // why a step missed can be told when it is known what it reads
        if self.settings.options.explain {
            return Ok(None);
        }
        let tree = self.tree(&step.from, task.done)?;
        let read = copy::collect(step, &tree, self.making())?.take_changes()?;
        let Some(shape) = content::shape(&read) else { return Ok(None) };
        let shape = self.key(task.step, stage, "shape", &[shape]);
        let ignores = task.cache == CacheUse::Ignore;
        let known = self.has_read(&shape)
            || !ignores && (self.cache.knows(&shape) || self.settings.elsewhere.has_entries());
        Ok((!known).then_some(shape))
    }

    /// Tells whether this build has read something of a shape.
    pub(super) fn has_read(&self, shape: &Digest) -> bool {
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner).contains(shape)
    }

    /// Remembers that something of a shape was read, and recorded under the key of its content.
    pub(super) fn remember(&self, shape: Digest) -> Result<(), StepError> {
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner).insert(shape);
        self.cache.remember(&shape).map_err(|source| StepError::snapshot("write the cache", source))
    }

    /// The key from the content that is read; with `seen`, from what was read while the step was made.
    pub(super) fn content_key(
        &self,
        task: Task<'_>,
        stage: &Stage,
        seen: Option<&Seen>,
    ) -> Result<(Digest, Vec<Digest>), StepError> {
        let mut inputs = Vec::new();
        let mut read = |tree: &Tree, read: &Changes| -> Result<(), StepError> {
            let contents = Reading { seen, context: tree.context() }.contents(read)?;
            if !self.cache.has_list(&contents.digest) {
                self.cache.keep_list(&contents.digest, &FileList::new(read, &contents));
            }
            inputs.push(contents.digest);
            Ok(())
        };
        match &task.step.kind {
            StepKind::Copy(step) => {
                let tree = self.tree(&step.from, task.done)?;
                read(&tree, &copy::collect(step, &tree, self.making())?.take_changes()?)?;
            }
            StepKind::Run(step) => {
                for mount in &step.mounts {
                    if let Some((source, path)) = mounts::reads(mount) {
                        let tree = self.tree(source, task.done)?;
                        read(&tree, &mounts::collect(&tree, path, self.clock().time())?)?;
                    }
                }
            }
            StepKind::Workdir(_) | StepKind::Configure => {}
        }
        Ok((self.key(task.step, stage, "content", &inputs), inputs))
    }

    /// Tells whether a step reads a directory, which may change while it is read.
    pub(super) fn reads_directory(&self, task: Task<'_>) -> Result<bool, StepError> {
        for source in sources(task.step) {
            if matches!(source, Source::Context | Source::Image(_))
                && self.tree(source, task.done)?.context().is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn key(&self, step: &Step, stage: &Stage, kind: &str, inputs: &[Digest]) -> Digest {
        let parent = if is_independent(step) { None } else { stage.chain_id() };
        let mut named = vec![Digest::of(kind.as_bytes())];
        named.extend_from_slice(inputs);
        step_key(parent.as_ref(), step, &stage.image.config.platform(), &named)
    }

    /// What names the files of an image; none for an empty one.
    pub(super) fn chain_of(&self, request: &ImageRequest) -> Result<Option<Digest>, StepError> {
        let chain = ChainId::of(&self.image(request)?.image.config.rootfs.diff_ids);
        Ok(chain.map(|ChainId(digest)| digest))
    }

    fn stage_digest(&self, done: &Done, index: usize) -> Result<Digest, StepError> {
        let stage = done.get(index).ok_or_else(|| missing_stage(index))?;
        Ok(stage.chain_id().unwrap_or_else(|| Digest::of(b"scratch")))
    }
}

/// Tells whether the layer of a step does not depend on what is below it.
pub(super) fn is_independent(step: &Step) -> bool {
    matches!(&step.kind, StepKind::Copy(step) if copy::is_independent(step))
}
