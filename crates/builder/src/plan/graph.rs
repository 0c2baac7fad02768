//! Which stages and images a build needs.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_dockerfile::{
    Diagnostic, Dockerfile, Expanded, Expander, Instruction, Span, Spanned, parse_instruction,
};
use rbuild_image::{ImageConfig, Platform, Reference};

use super::contexts::NamedContexts;
use super::options::{PlanError, PlanOptions, Scope};
use super::run::mount_from;
use super::scope::{Environment, predefined};
use super::step::ImageRequest;
use super::warning;

/// The stages of a Dockerfile, linked, and what of them the target needs.
#[derive(Debug, Clone)]
pub struct Graph {
    /// All stages, in the order of the Dockerfile.
    pub(super) stages: Vec<GraphStage>,
    /// The index of the target.
    pub(super) target: usize,
    /// The global scope: predefined arguments and those before the first `FROM`.
    pub(super) arguments: Environment,
    pub(super) warnings: Vec<Diagnostic>,
    lookup: Lookup,
    scope: Scope,
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
    /// Whether a named context stands for the stage, so that its instructions do not run.
    pub(super) replaced: bool,
    /// Triggers of the base, then the stage's own instructions.
    pub(super) instructions: Vec<Linked>,
    triggers_loaded: bool,
}

/// An instruction and the trees it names.
#[derive(Debug, Clone)]
pub(super) struct Linked {
    /// The instruction; the place of a trigger is the `FROM` that pulls it in.
    pub(super) instruction: Spanned<Instruction>,
    /// Of `COPY`: its `--from`. Of `RUN`: the `from=` of each mount. `None` where there is none.
    pub(super) sources: Vec<Option<Origin>>,
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

/// Finds stages and images by name.
#[derive(Debug, Clone)]
struct Lookup {
    /// Positions by name in lower case; of equal names the last.
    by_name: BTreeMap<String, usize>,
    count: usize,
    platform: Platform,
    contexts: NamedContexts,
}

/// Links the stages of a Dockerfile and prunes them to the target.
///
/// # Errors
/// Everything that can be said without the configs of base images: names that are no image, a missing target,
/// circular copies, words in `FROM` that do not expand.
pub fn graph(dockerfile: &Dockerfile, options: &PlanOptions) -> Result<Graph, PlanError> {
    let last = dockerfile
        .stages
        .last()
        .ok_or_else(|| Diagnostic::error("the Dockerfile contains no stages to build"))?;
    let target_name = options.target.clone().or_else(|| last.name.clone()).unwrap_or_default();
    let defaults = predefined(&options.build_platform, &options.platform, &target_name, &options.build_args);
    let mut linker = Linker {
        dockerfile,
        expander: Expander::new(dockerfile.directives.escape),
        declared: BTreeSet::new(),
        arguments: defaults,
        warnings: Vec::new(),
        lookup: Lookup {
            by_name: BTreeMap::new(),
            count: dockerfile.stages.len(),
            platform: options.platform.clone(),
            contexts: NamedContexts::new(&options.named_contexts),
        },
    };
    linker.check_default_arguments();
    linker.arguments = linker.global_arguments(&options.build_args)?;
    linker.declared = dockerfile.args.iter().map(|arg| arg.value.name.clone()).collect();
    let mut stages = Vec::with_capacity(dockerfile.stages.len());
    for index in 0..dockerfile.stages.len() {
        stages.extend(linker.stage(index)?);
    }
    let target = linker.target(options.target.as_deref())?;
    linker.link(&mut stages)?;
    check_circles(&stages, dockerfile)?;
    if let [only] = stages.as_mut_slice()
        && dockerfile.stages.first().is_some_and(|stage| stage.name.is_none())
    {
        "stage-0".clone_into(&mut only.name);
    }
    Ok(Graph {
        stages,
        target,
        arguments: linker.arguments,
        warnings: linker.warnings,
        lookup: linker.lookup,
        scope: options.scope,
    })
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
            let reachable = self.reachable();
            let pending = reachable.iter().copied().find(|&index| self.triggers(index, bases).is_some());
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

    /// Lists the positions of the stages that are needed, in order.
    pub(super) fn reachable(&self) -> BTreeSet<usize> {
        if self.scope == Scope::All {
            return (0..self.stages.len()).collect();
        }
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
                let base = self.stages.get(*base)?;
                if base.replaced
                    && let Origin::Image(request) = &base.origin
                {
                    return bases.get(request).map(|config| config.config.on_build.clone());
                }
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
            linked.push(Linked { instruction: Spanned::new(instruction, stage.from), sources });
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

impl Lookup {
    fn image(&self, name: &str, platform: &Platform) -> Result<Origin, String> {
        let reference: Reference =
            name.parse().map_err(|error| format!("{name:?} is not a valid image name: {error}"))?;
        Ok(Origin::Image(ImageRequest {
            name: name.to_owned(),
            platform: platform.clone(),
            context: self.contexts.find(&reference, platform),
        }))
    }

    /// Finds what `--from` names: a stage by name in any case, a stage by number, or an image.
    fn copy_source(&self, name: &str) -> Result<Origin, String> {
        if let Ok(index) = name.parse::<i64>() {
            return usize::try_from(index)
                .ok()
                .filter(|&index| index < self.count)
                .map(Origin::Stage)
                .ok_or_else(|| format!("invalid stage index {name}"));
        }
        self.mount_source(name)
    }

    /// Finds what `from=` of a mount names: as [`Lookup::copy_source`], but numbers are images.
    fn mount_source(&self, name: &str) -> Result<Origin, String> {
        match self.by_name.get(&name.to_lowercase()) {
            Some(&index) => Ok(Origin::Stage(index)),
            None if name == "scratch" => Ok(Origin::Scratch),
            None => self.image(name, &self.platform),
        }
    }

    fn sources(&self, instruction: &Instruction) -> Result<Vec<Option<Origin>>, String> {
        match instruction {
            Instruction::Copy(copy) => {
                let from = copy.from.as_ref().filter(|from| !from.value.is_empty());
                Ok(vec![from.map(|from| self.from_flag(&from.value)).transpose()?])
            }
            Instruction::Run(run) => {
                let from = |mount: &Spanned<String>| {
                    mount_from(&mount.value).map(|from| self.mount_source(&from)).transpose()
                };
                run.mounts.iter().map(from).collect()
            }
            _ => Ok(Vec::new()),
        }
    }

    fn from_flag(&self, from: &str) -> Result<Origin, String> {
        let expanded = Expander::new('\\').word(from, &|_| None).map_err(|error| error.to_string())?;
        if expanded.text != from {
            return Err("variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                        global scope as a workaround"
                .to_owned());
        }
        self.copy_source(from)
    }
}

/// Builds a [`Graph`].
struct Linker<'a> {
    dockerfile: &'a Dockerfile,
    expander: Expander,
    declared: BTreeSet<String>,
    arguments: Environment,
    warnings: Vec<Diagnostic>,
    lookup: Lookup,
}

impl Linker<'_> {
    fn expand(&self, word: &str, arguments: &Environment) -> Result<Expanded, String> {
        self.expander
            .word(word, &|name| arguments.get(name).map(str::to_owned))
            .map_err(|error| error.to_string())
    }

    fn error(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        warning::place(Diagnostic::error(message), self.dockerfile, span)
    }

    fn global_arguments(&self, build_args: &BTreeMap<String, String>) -> Result<Environment, Diagnostic> {
        let mut arguments = self.arguments.clone();
        for arg in &self.dockerfile.args {
            let value = match (build_args.get(&arg.value.name), &arg.value.value) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let expanded = self.expand(default, &arguments);
                    Some(expanded.map_err(|message| self.error(arg.span, message))?.text)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                arguments.set(&arg.value.name, &value);
            }
        }
        Ok(arguments)
    }

    /// Warns of base names that are empty or no image as long as no build argument is given.
    fn check_default_arguments(&mut self) {
        let Ok(arguments) = self.global_arguments(&BTreeMap::new()) else { return };
        for stage in &self.dockerfile.stages {
            let Ok(expanded) = self.expand(&stage.base.value, &arguments) else { return };
            if expanded.text.parse::<Reference>().is_err() {
                let message = format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.base.value
                );
                self.warnings.extend(warning::new(
                    self.dockerfile,
                    stage.from,
                    "InvalidDefaultArgInFrom",
                    message,
                ));
            }
        }
    }

    fn stage(&mut self, index: usize) -> Result<Option<GraphStage>, Diagnostic> {
        let Some(stage) = self.dockerfile.stages.get(index) else { return Ok(None) };
        let base = self.expand_from(&stage.base.value, stage.from)?;
        if base.is_empty() {
            return Err(
                self.error(stage.base.span, format!("base name ({}) should not be blank", stage.base.value))
            );
        }
        let platform = match &stage.platform {
            Some(platform) => Some(self.platform(platform, stage.from)?),
            None => None,
        };
        let platform = platform.unwrap_or_else(|| self.lookup.platform.clone());
        let replacement = stage.name.as_ref().and_then(|name| {
            let reference = name.parse().ok()?;
            let context = self.lookup.contexts.find(&reference, &platform)?;
            Some(ImageRequest { name: name.clone(), platform: platform.clone(), context: Some(context) })
        });
        let replaced = replacement.is_some();
        let origin = match (replacement, self.lookup.by_name.get(&base)) {
            (Some(request), _) => Origin::Image(request),
            (None, Some(&index)) => Origin::Stage(index),
            (None, None) if base == "scratch" => Origin::Scratch,
            (None, None) => {
                self.lookup.image(&base, &platform).map_err(|message| self.error(stage.base.span, message))?
            }
        };
        if let Some(name) = &stage.name {
            self.lookup.by_name.insert(name.to_lowercase(), index);
        }
        Ok(Some(GraphStage {
            name: stage.name.clone().unwrap_or_else(|| format!("stage-{index}")),
            from: stage.from,
            base_name: base,
            origin,
            replaced,
            instructions: Vec::new(),
            triggers_loaded: false,
        }))
    }

    fn platform(&mut self, platform: &Spanned<String>, from: Span) -> Result<Platform, Diagnostic> {
        let text = self.expand_from(&platform.value, from)?;
        if text.is_empty() {
            return Err(
                self.error(platform.span, format!("empty platform value from expression {}", platform.value))
            );
        }
        text.parse().map_err(|error| {
            self.error(platform.span, format!("failed to parse platform {}: {error}", platform.value))
        })
    }

    /// Expands a word of `FROM` and warns of arguments that nothing declares.
    fn expand_from(&mut self, word: &str, from: Span) -> Result<String, Diagnostic> {
        let expanded = self.expand(word, &self.arguments).map_err(|message| self.error(from, message))?;
        for name in &expanded.unmatched {
            if !self.declared.contains(name) {
                let names = self.declared.iter().map(String::as_str).chain(self.arguments.names());
                let message = format!(
                    "FROM argument '{name}' is not declared{}",
                    warning::did_you_mean(name, names, "")
                );
                let found = warning::new(self.dockerfile, from, "UndefinedArgInFrom", message);
                self.warnings.extend(found);
            }
        }
        Ok(expanded.text)
    }

    fn target(&self, wanted: Option<&str>) -> Result<usize, Diagnostic> {
        let Some(wanted) = wanted else { return Ok(self.dockerfile.stages.len().saturating_sub(1)) };
        self.lookup.by_name.get(&wanted.to_lowercase()).copied().ok_or_else(|| {
            let names = self.lookup.by_name.keys().map(String::as_str);
            Diagnostic::error(format!("target stage {wanted:?} could not be found")).suggest(wanted, names)
        })
    }

    /// Finds what the instructions of all stages name; needs all names to be known.
    fn link(&self, stages: &mut [GraphStage]) -> Result<(), Diagnostic> {
        for (written, stage) in self.dockerfile.stages.iter().zip(stages) {
            for instruction in &written.instructions {
                let sources = self
                    .lookup
                    .sources(&instruction.value)
                    .map_err(|message| self.error(instruction.span, message))?;
                stage.instructions.push(Linked { instruction: instruction.clone(), sources });
            }
        }
        Ok(())
    }
}

/// Refuses stages that copy from themselves or from each other, needed or not.
fn check_circles(stages: &[GraphStage], dockerfile: &Dockerfile) -> Result<(), Diagnostic> {
    let reads = |stage: &GraphStage| -> Vec<(usize, Span)> {
        let sources = |linked: &Linked| {
            let span = linked.instruction.span;
            let stages: Vec<_> = linked.sources.iter().flatten().filter_map(Origin::stage).collect();
            stages.into_iter().map(move |index| (index, span))
        };
        stage.instructions.iter().flat_map(sources).collect()
    };
    let edges: Vec<_> = stages.iter().map(reads).collect();
    let mut finished = BTreeSet::new();
    for start in 0..stages.len() {
        // A stack of (stage, next edge) instead of recursion: the depth is chosen by the Dockerfile.
        let mut path = vec![(start, 0)];
        while let Some((stage, next)) = path.last_mut() {
            let Some(&(to, span)) = edges.get(*stage).and_then(|edges| edges.get(*next)) else {
                finished.insert(*stage);
                path.pop();
                continue;
            };
            *next += 1;
            if path.iter().any(|&(stage, _)| stage == to) {
                let name = stages.get(start).map_or("", |stage| &stage.name);
                let message = format!("circular dependency detected on stage: {name}");
                return Err(warning::place(Diagnostic::error(message), dockerfile, span));
            }
            if !finished.contains(&to) {
                path.push((to, 0));
            }
        }
    }
    Ok(())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
