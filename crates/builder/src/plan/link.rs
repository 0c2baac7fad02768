//! Links the stages of a Dockerfile: words in `FROM` expanded, bases and sources found.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_dockerfile::{Diagnostic, Dockerfile, Expanded, Expander, Span, Spanned, lint};
use rbuild_image::{Platform, Reference};

use super::bounds;
use super::contexts::NamedContexts;
use super::epoch::ContextTime;
use super::graph::{Graph, GraphStage, Linked, Origin};
use super::lookup::Lookup;
use super::options::{PlanError, PlanOptions};
use super::outline::{GlobalArg, OutlineArg, lines};
use super::scope::{Environment, predefined};
use super::step::ImageRequest;
use super::warning::{self, Checked, refuse};

/// Links the stages of a Dockerfile and prunes them to the target.
///
/// # Errors
/// Everything that can be said without the configs of base images: names that are no image, a missing target,
/// circular copies, words in `FROM` that do not expand. Warnings about the same names follow the errors.
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
        globals: BTreeMap::new(),
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
    match linker.graph(options) {
        Ok(graph) => Ok(Graph { warnings: linker.warnings, ..graph }),
        Err(PlanError(mut diagnostics)) => {
            diagnostics.append(&mut linker.warnings);
            Err(PlanError(diagnostics))
        }
    }
}

/// Builds a [`Graph`].
struct Linker<'a> {
    dockerfile: &'a Dockerfile,
    expander: Expander,
    globals: BTreeMap<String, GlobalArg>,
    arguments: Environment,
    warnings: Vec<Diagnostic>,
    lookup: Lookup,
}

impl Linker<'_> {
    /// Makes the graph, without the warnings.
    fn graph(&mut self, options: &PlanOptions) -> Result<Graph, PlanError> {
        (self.arguments, self.globals) = self.global_arguments(&options.build_args, options.context_time)?;
        let mut stages = Vec::with_capacity(self.dockerfile.stages.len());
        for index in 0..self.dockerfile.stages.len() {
            let stage = self.stage(index, &stages)?;
            stages.extend(stage);
        }
        let target = self.target(options.target.as_deref())?;
        self.link(&mut stages)?;
        check_circles(&stages, self.dockerfile)?;
        Ok(Graph {
            stages,
            target,
            arguments: self.arguments.clone(),
            globals: self.globals.clone(),
            warnings: Vec::new(),
            lookup: self.lookup.clone(),
            scope: options.scope,
        })
    }

    fn expand(&self, word: &str, arguments: &Environment) -> Result<Expanded, String> {
        bounds::word(&self.expander, word, arguments).map_err(|error| error.to_string())
    }

    fn error(&self, span: Span, message: impl Into<String>) -> Box<Diagnostic> {
        warning::place(refuse(message), self.dockerfile, span)
    }

    fn global_arguments(
        &self,
        build_args: &BTreeMap<String, String>,
        context_time: ContextTime,
    ) -> Checked<(Environment, BTreeMap<String, GlobalArg>)> {
        let mut arguments = self.arguments.clone();
        let mut globals: BTreeMap<String, GlobalArg> = BTreeMap::new();
        let mut expandable = bounds::MAX_PLAN;
        for Spanned { value: arg, span } in &self.dockerfile.args {
            let expanded = match (build_args.get(&arg.name), &arg.value) {
                (Some(given), _) => Some(Expanded { text: given.clone(), ..Expanded::default() }),
                (None, Some(default)) => {
                    let expanded = self.expand(default, &arguments);
                    let expanded = expanded.map_err(|message| self.error(*span, message))?;
                    let too_long = || self.error(*span, "the global arguments become longer than 32 MiB");
                    expandable = expandable.checked_sub(expanded.text.len()).ok_or_else(too_long)?;
                    Some(expanded)
                }
                (None, None) => None,
            };
            let mut uses = expanded.as_ref().map(|expanded| expanded.matched.clone()).unwrap_or_default();
            // Of itself an argument takes what an earlier declaration took.
            if uses.remove(&arg.name)
                && let Some(earlier) = globals.get(&arg.name)
            {
                uses.extend(earlier.uses.iter().cloned());
            }
            let value = expanded.and_then(|expanded| context_time.resolve(&arg.name, expanded.text));
            if let Some(value) = &value {
                arguments.set(&arg.name, value);
            }
            let (name, description) = (arg.name.clone(), arg.doc.clone());
            let arg = OutlineArg { name, value, description, lines: lines(self.dockerfile, *span) };
            globals.insert(arg.name.clone(), GlobalArg { arg, uses });
        }
        Ok((arguments, globals))
    }

    /// Warns of base names that are empty or no image as long as no build argument is given.
    fn check_default_arguments(&mut self) {
        let Ok((arguments, _)) = self.global_arguments(&BTreeMap::new(), ContextTime::Unset) else { return };
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
                    &lint::INVALID_DEFAULT_ARG_IN_FROM,
                    message,
                ));
            }
        }
    }

    fn stage(&mut self, index: usize, above: &[GraphStage]) -> Checked<Option<GraphStage>> {
        let Some(stage) = self.dockerfile.stages.get(index) else { return Ok(None) };
        let Expanded { text: base, matched: mut uses, .. } =
            self.expand_from(&stage.base.value, stage.from)?;
        if base.is_empty() {
            return Err(
                self.error(stage.base.span, format!("base name ({}) should not be blank", stage.base.value))
            );
        }
        let platform = match &stage.platform {
            Some(platform) => {
                let (platform, matched) = self.platform(platform, stage.from)?;
                uses.extend(matched);
                Some(platform)
            }
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
        let base_stage = origin.stage().and_then(|index| above.get(index));
        uses.extend(base_stage.iter().flat_map(|base| base.uses.iter().cloned()));
        if let Some(name) = &stage.name {
            self.lookup.by_name.insert(name.to_lowercase(), index);
        }
        Ok(Some(GraphStage {
            name: stage.name.clone().unwrap_or_else(|| format!("stage-{index}")),
            from: stage.from,
            base_name: base,
            origin,
            uses,
            replaced,
            instructions: Vec::new(),
            triggers_loaded: false,
        }))
    }

    fn platform(&mut self, platform: &Spanned<String>, from: Span) -> Checked<(Platform, BTreeSet<String>)> {
        let Expanded { text, matched, .. } = self.expand_from(&platform.value, from)?;
        if text.is_empty() {
            return Err(
                self.error(platform.span, format!("empty platform value from expression {}", platform.value))
            );
        }
        let parsed = text.parse().map_err(|error| {
            self.error(platform.span, format!("failed to parse platform {}: {error}", platform.value))
        });
        Ok((parsed?, matched))
    }

    /// Expands a word of `FROM` and warns of arguments that nothing declares.
    fn expand_from(&mut self, word: &str, from: Span) -> Checked<Expanded> {
        let expanded = self.expand(word, &self.arguments).map_err(|message| self.error(from, message))?;
        for name in &expanded.unmatched {
            if !self.globals.contains_key(name) {
                let names = self.globals.keys().map(String::as_str).chain(self.arguments.names());
                let message = format!(
                    "FROM argument '{name}' is not declared{}",
                    warning::did_you_mean(name, names, "")
                );
                let span = warning::use_of(self.dockerfile, from, name);
                let found = warning::new(self.dockerfile, span, &lint::UNDEFINED_ARG_IN_FROM, message);
                self.warnings.extend(found);
            }
        }
        Ok(expanded)
    }

    fn target(&self, wanted: Option<&str>) -> Checked<usize> {
        let Some(wanted) = wanted else { return Ok(self.dockerfile.stages.len().saturating_sub(1)) };
        self.lookup.by_name.get(&wanted.to_lowercase()).copied().ok_or_else(|| {
            let names = self.lookup.by_name.keys().map(String::as_str);
            Diagnostic::error(format!("target stage {wanted:?} could not be found"))
                .suggest(wanted, names)
                .into()
        })
    }

    /// Finds what the instructions of all stages name; needs all names to be known.
    fn link(&self, stages: &mut [GraphStage]) -> Checked<()> {
        for (written, stage) in self.dockerfile.stages.iter().zip(stages) {
            for instruction in &written.instructions {
                let sources = self
                    .lookup
                    .sources(&instruction.value)
                    .map_err(|message| self.error(instruction.span, message))?;
                stage.instructions.push(Linked { instruction: instruction.clone(), sources, trigger: None });
            }
        }
        Ok(())
    }
}

/// Refuses stages that copy from themselves or from each other, needed or not.
fn check_circles(stages: &[GraphStage], dockerfile: &Dockerfile) -> Checked<()> {
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
                return Err(warning::place(refuse(message), dockerfile, span));
            }
            if !finished.contains(&to) {
                path.push((to, 0));
            }
        }
    }
    Ok(())
}
