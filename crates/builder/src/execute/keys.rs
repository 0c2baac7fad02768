//! The keys of steps.

use std::sync::PoisonError;

use rbuild_image::{ChainId, Digest};

use super::error::StepError;
use super::{Done, Executor, Stage, Task, copy, missing_stage, mounts, sources};
use crate::cache::content::{self, Seen};
use crate::cache::key::step_key;
use crate::images::Origin;
use crate::options::CacheUse;
use crate::plan::{Source, Step, StepKind};

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
                    let chain = ChainId::of(&base.image.config.rootfs.diff_ids);
                    inputs.push(chain.map_or_else(|| Digest::of(b"scratch"), |ChainId(digest)| digest));
                }
            }
        }
        Ok(Some(self.key(task.step, stage, "definition", &inputs)))
    }

    /// The shape of what a COPY reads, as a key, if it is large and nothing of that shape was read before: then nothing can
    /// be recorded under the key of its content.
    pub(super) fn unread_shape(&self, task: Task<'_>, stage: &Stage) -> Result<Option<Digest>, StepError> {
        let StepKind::Copy(step) = &task.step.kind else { return Ok(None) };
        let tree = self.tree(&step.from, task.done)?;
        let read = copy::collect(step, &tree, self.making())?.take_changes()?;
        let Some(shape) = content::shape(&read) else { return Ok(None) };
        let shape = self.key(task.step, stage, "shape", &[shape]);
        let ignores = task.cache == CacheUse::Ignore;
        let known = self.has_read(&shape) || !ignores && self.cache.knows(&shape);
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

    /// The key from the content that is read, as far as it was not `seen`.
    pub(super) fn content_key(
        &self,
        task: Task<'_>,
        stage: &Stage,
        seen: &Seen,
    ) -> Result<Digest, StepError> {
        let mut inputs = Vec::new();
        match &task.step.kind {
            StepKind::Copy(step) => {
                let tree = self.tree(&step.from, task.done)?;
                let read = copy::collect(step, &tree, self.making())?.take_changes()?;
                inputs.push(content::digest_seen(&read, seen)?);
            }
            StepKind::Run(step) => {
                for mount in &step.mounts {
                    if let Some((source, path)) = mounts::reads(mount) {
                        let read =
                            mounts::collect(&self.tree(source, task.done)?, path, self.clock().time())?;
                        inputs.push(content::digest(&read)?);
                    }
                }
            }
            StepKind::Workdir(_) | StepKind::Configure => {}
        }
        Ok(self.key(task.step, stage, "content", &inputs))
    }

    fn key(&self, step: &Step, stage: &Stage, kind: &str, inputs: &[Digest]) -> Digest {
        let independent = matches!(&step.kind, StepKind::Copy(step) if copy::is_independent(step));
        let parent = if independent { None } else { stage.chain_id() };
        let mut named = vec![Digest::of(kind.as_bytes())];
        named.extend_from_slice(inputs);
        step_key(parent.as_ref(), step, &stage.image.config.platform(), &named)
    }

    fn stage_digest(&self, done: &Done, index: usize) -> Result<Digest, StepError> {
        let stage = done.get(index).ok_or_else(|| missing_stage(index))?;
        Ok(stage.chain_id().unwrap_or_else(|| Digest::of(b"scratch")))
    }
}
