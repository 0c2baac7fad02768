//! Which stages and images a build needs.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_dockerfile::{Diagnostic, Instruction, Span, Spanned, parse_instruction};
use rbuild_image::ImageConfig;

use super::lookup::Lookup;
use super::options::{PlanError, Scope};
use super::outline::GlobalArg;
use super::scope::Environment;
use super::step::ImageRequest;

/// The stages of a Dockerfile, linked, and what of them the target needs.
#[derive(Debug, Clone)]
pub struct Graph {
    /// All stages, in the order of the Dockerfile.
    pub(super) stages: Vec<GraphStage>,
    /// The index of the target.
    pub(super) target: usize,
    /// The global scope: predefined arguments and those before the first `FROM`.
    pub(super) arguments: Environment,
    /// Arguments before the first `FROM`, by name; of several declarations the last.
    pub(super) globals: BTreeMap<String, GlobalArg>,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) lookup: Lookup,
    pub(super) scope: Scope,
}

/// One stage, its base and sources found.
#[derive(Debug, Clone)]
pub(super) struct GraphStage {
    /// The name to show.
    pub(super) name: String,
    /// The `FROM` line.
    pub(super) from: Span,
    /// The base as written, expanded.
    pub(super) base_name: String,
    pub(super) origin: Origin,
    /// The arguments that this `FROM` and those of the base stages use.
    pub(super) uses: BTreeSet<String>,
    /// Whether a named context stands for the stage, so that its instructions do not run.
    pub(super) replaced: bool,
    /// Triggers of the base, then the stage's own instructions.
    pub(super) instructions: Vec<Linked>,
    pub(super) triggers_loaded: bool,
}

/// An instruction and the trees it names.
#[derive(Debug, Clone)]
pub(super) struct Linked {
    /// The instruction; the place of a trigger is the `FROM` that pulls it in.
    pub(super) instruction: Spanned<Instruction>,
    /// Of `COPY`: its `--from`. Of `RUN`: the `from=` of each mount. `None` where there is none.
    pub(super) sources: Vec<Option<Origin>>,
    /// The text of a trigger, as the base has it.
    pub(super) trigger: Option<String>,
}

/// Where a tree comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nothing.
    Scratch,
    /// A stage, by its position in the Dockerfile.
    Stage(usize),
    /// An image or named context.
    Image(ImageRequest),
}

impl Graph {
    /// Lists the images whose configs `bases` lacks, each once, after adding the triggers of those it has.
    ///
    /// Images that are only copied or mounted from are listed too; [`lower`](super::lower()) does without their
    /// configs. Call it again once `bases` has what it listed, until it lists nothing: a trigger may name a stage
    /// that nothing needed before, or a new image.
    ///
    /// # Errors
    /// When a trigger is no instruction, or names a source that does not exist.
    pub fn missing(
        &mut self,
        bases: &BTreeMap<ImageRequest, ImageConfig>,
    ) -> Result<Vec<ImageRequest>, PlanError> {
        loop {
            let pending = self.needed().into_iter().find(|&index| self.triggers(index, bases).is_some());
            let Some(index) = pending else { break };
            let triggers = self.triggers(index, bases).unwrap_or_default();
            self.add_triggers(index, &triggers)?;
        }
        let wanted: BTreeSet<_> =
            self.images().into_iter().filter(|request| !bases.contains_key(request)).collect();
        Ok(wanted.into_iter().collect())
    }

    /// Lists the images the build reads, each once: bases, and what is copied or mounted from.
    pub fn images(&self) -> Vec<ImageRequest> {
        let mut out = BTreeSet::new();
        for index in self.reachable() {
            let Some(stage) = self.stages.get(index) else { continue };
            let sources = stage.instructions.iter().flat_map(|linked| linked.sources.iter().flatten());
            for origin in sources.filter(|_| !stage.replaced).chain([&stage.origin]) {
                if let Origin::Image(request) = origin {
                    out.insert(request.clone());
                }
            }
        }
        out.into_iter().collect()
    }

    /// Finds the instruction that names an image first, and the stage that was probably meant by `--from` or `FROM`.
    pub fn place(&self, image: &str) -> Option<(Span, Option<&str>)> {
        let is_image = |origin: &Origin| matches!(origin, Origin::Image(request) if request.name == image);
        let reachable = self.reachable();
        let stages = reachable.iter().filter_map(|&index| self.stages.get(index));
        let span = stages.flat_map(|stage| {
            let from = is_image(&stage.origin).then_some(stage.from);
            let named = |linked: &&Linked| linked.sources.iter().flatten().any(is_image);
            let instructions = stage.instructions.iter().filter(named).map(|linked| linked.instruction.span);
            from.into_iter().chain(instructions)
        });
        let near = rbuild_dockerfile::nearest(image, self.lookup.by_name.keys().map(String::as_str));
        span.min_by_key(|span| span.start).map(|span| (span, near))
    }

    /// Lists the positions of the stages that are looked at, in order.
    pub(super) fn reachable(&self) -> BTreeSet<usize> {
        if self.scope == Scope::All { (0..self.stages.len()).collect() } else { self.needed() }
    }

    /// Lists the positions of the stages that the target needs, in order. Only these take triggers over, as in BuildKit,
    /// also where all are looked at.
    fn needed(&self) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut pending = vec![self.target];
        while let Some(index) = pending.pop() {
            let Some(stage) = self.stages.get(index) else { continue };
            if !found.insert(index) || stage.replaced {
                continue;
            }
            let sources = stage.instructions.iter().flat_map(|linked| linked.sources.iter().flatten());
            pending.extend(sources.chain([&stage.origin]).filter_map(Origin::stage));
        }
        found
    }

    /// The triggers a stage has still to take over from its base; `None` if there are none or they are not known yet.
    fn triggers(&self, index: usize, bases: &BTreeMap<ImageRequest, ImageConfig>) -> Option<Vec<String>> {
        let stage = self.stages.get(index).filter(|stage| !stage.triggers_loaded && !stage.replaced)?;
        match &stage.origin {
            Origin::Scratch => Some(Vec::new()),
            Origin::Image(request) => bases.get(request).map(|config| config.config.on_build.clone()),
            Origin::Stage(base) => {
                // Those the Dockerfile has, also where a named context stands for the base: so does BuildKit.
                let base = self.stages.get(*base)?;
                let triggers =
                    base.instructions.iter().filter_map(|linked| match &linked.instruction.value {
                        Instruction::Onbuild(onbuild) => Some(onbuild.text.clone()),
                        _ => None,
                    });
                Some(triggers.collect())
            }
        }
    }

    fn add_triggers(&mut self, index: usize, triggers: &[String]) -> Result<(), PlanError> {
        let Some(stage) = self.stages.get_mut(index) else { return Ok(()) };
        let mut linked = Vec::with_capacity(triggers.len());
        for trigger in triggers {
            let place = |mut diagnostic: Diagnostic| {
                diagnostic.message =
                    format!("trigger `{}` of the base: {}", first_line(trigger), diagnostic.message);
                diagnostic.at(stage.from)
            };
            let instruction = parse_instruction(trigger).map_err(place)?;
            let sources =
                self.lookup.sources(&instruction).map_err(|message| place(Diagnostic::error(message)))?;
            linked.push(Linked {
                instruction: Spanned::new(instruction, stage.from),
                sources,
                trigger: Some(trigger.clone()),
            });
        }
        stage.instructions.splice(0..0, linked);
        stage.triggers_loaded = true;
        Ok(())
    }
}

impl Origin {
    pub(super) fn stage(&self) -> Option<usize> {
        match self {
            Self::Stage(index) => Some(*index),
            Self::Scratch | Self::Image(_) => None,
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
