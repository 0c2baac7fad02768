//! Folds the instructions of the needed stages over the configs of their bases.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};

use rbuild_dockerfile::{Diagnostic, Dockerfile, lint};
use rbuild_image::ImageConfig;

use super::bounds;
use super::epoch::source_date_epoch;
use super::graph::{Graph, GraphStage, Origin};
use super::options::{PlanError, PlanOptions, PlatformOrigin, Scope};
use super::outline::{self, Offer};
use super::scope::Environment;
use super::stage::StageState;
use super::step::{Base, ImageRequest, Plan, PlannedStage, Source};
use super::warning::{Checked, refuse};
use super::{support, warning};

/// What all stages of a plan share.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) options: &'a PlanOptions,
    /// The global scope.
    pub(super) arguments: &'a Environment,
    /// Indexes in [`Plan::stages`] of stages already lowered, by position in the Dockerfile.
    pub(super) lowered: BTreeMap<usize, usize>,
    /// Bytes that words may still become.
    pub(super) expandable: Cell<usize>,
}

/// Lowers a graph over the configs of its base images.
///
/// `bases` must hold what [`Graph::missing`] listed, except for images that are only copied or mounted from. A named
/// context that is a plain directory has the config [`directory_config`].
///
/// # Errors
/// Everything that forbids the build: all instructions of all needed stages that are wrong, and those that use what
/// [`support::REFUSED`] lists (with [`Scope::Target`] only).
pub fn lower(
    dockerfile: &Dockerfile,
    mut graph: Graph,
    options: &PlanOptions,
    bases: &BTreeMap<ImageRequest, ImageConfig>,
) -> Result<Plan, PlanError> {
    graph.missing(bases)?;
    let mut shared = Shared {
        dockerfile,
        options,
        arguments: &graph.arguments,
        lowered: BTreeMap::new(),
        expandable: Cell::new(bounds::MAX_PLAN),
    };
    let mut warnings = graph.warnings.clone();
    let mut errors = Vec::new();
    if options.scope == Scope::Target {
        errors.extend(support::frontend_refusal(dockerfile, &options.build_args));
    }
    let mut states: BTreeMap<usize, StageState> = BTreeMap::new();
    let mut offers = BTreeMap::new();
    let mut stages = Vec::new();
    for index in order(&graph) {
        let Some(stage) = graph.stages.get(index) else { continue };
        let mut state = begin(stage, &shared, bases, &states)?;
        warnings.extend(platform_warning(stage, dockerfile, bases));
        if !stage.replaced {
            state.offer = Offer::new(stage.uses.clone());
            for linked in &stage.instructions {
                if let Err(error) = state.apply(linked, &shared) {
                    errors.push(*warning::place(error, dockerfile, linked.instruction.span));
                }
            }
        }
        warnings.append(&mut state.warnings);
        offers.insert(index, std::mem::take(&mut state.offer));
        let planned = planned(index, stage, &mut state, &shared);
        if options.scope == Scope::Target {
            errors.extend(support::refusals(&planned, dockerfile, options));
        }
        shared.lowered.insert(index, stages.len());
        stages.push(planned);
        states.insert(index, state);
    }
    let target = shared.lowered.get(&graph.target).copied().unwrap_or_default();
    let source_date_epoch = match source_date_epoch(options, &graph.arguments) {
        Ok(epoch) => epoch,
        Err(error) => {
            errors.push(*error);
            None
        }
    };
    if !errors.is_empty() {
        return Err(PlanError(errors));
    }
    if let Some(stage) = stages.get_mut(target) {
        finish(&mut stage.config, options);
    }
    // A rule speaks once of one thing in one instruction, however often a word repeats it.
    let mut seen = HashSet::new();
    warnings.retain(|warning| seen.insert((warning.rule, warning.span, warning.message.clone())));
    let outline = outline::outline(dockerfile, &graph, &offers);
    Ok(Plan { stages, target, warnings, source_date_epoch, outline })
}

/// The needed stages, each after those it may read: stages that a named context stands for read nothing.
fn order(graph: &Graph) -> Vec<usize> {
    let replaced = |index: &usize| graph.stages.get(*index).is_some_and(|stage| stage.replaced);
    let (first, rest): (Vec<_>, Vec<_>) = graph.reachable().into_iter().partition(replaced);
    first.into_iter().chain(rest).collect()
}

fn begin(
    stage: &GraphStage,
    shared: &Shared<'_>,
    bases: &BTreeMap<ImageRequest, ImageConfig>,
    states: &BTreeMap<usize, StageState>,
) -> Checked<StageState> {
    match &stage.origin {
        Origin::Scratch => Ok(StageState::on_scratch(&shared.options.platform)),
        Origin::Image(request) => match bases.get(request) {
            Some(config) if stage.replaced => Ok(StageState::replaced(config, &request.platform)),
            Some(config) => Ok(StageState::on_image(config, &request.platform)),
            None => {
                let error = refuse(format!("the config of base image {} is not known", request.name));
                Err(warning::place(error, shared.dockerfile, stage.from))
            }
        },
        // The base precedes the stage in the Dockerfile and is reachable when the stage is.
        Origin::Stage(base) => states.get(base).map(StageState::on_stage).ok_or_else(|| {
            warning::place(refuse("the base stage is not planned"), shared.dockerfile, stage.from)
        }),
    }
}

fn planned(index: usize, stage: &GraphStage, state: &mut StageState, shared: &Shared<'_>) -> PlannedStage {
    PlannedStage {
        name: stage.name.clone(),
        index,
        platform: state.platform.clone(),
        base: match &stage.origin {
            Origin::Scratch => Base::Scratch,
            Origin::Stage(base) => Base::Stage(shared.lowered.get(base).copied().unwrap_or_default()),
            Origin::Image(request) => Base::Image(request.clone()),
        },
        steps: std::mem::take(&mut state.steps),
        config: state.config.clone(),
    }
}

impl Shared<'_> {
    /// Turns what an instruction names into what a step reads.
    ///
    /// # Errors
    /// When the stage is not lowered yet: it stands below the instruction.
    pub(super) fn source(&self, origin: &Origin) -> Checked<Source> {
        match origin {
            Origin::Scratch => Ok(Source::Scratch),
            Origin::Image(request) => Ok(Source::Image(request.clone())),
            Origin::Stage(index) => self.lowered.get(index).copied().map(Source::Stage).ok_or_else(|| {
                let name = self.dockerfile.stages.get(*index).and_then(|stage| stage.name.clone());
                let name = name.unwrap_or_else(|| index.to_string());
                refuse(format!("cannot read from stage {name:?}, it needs to be defined before this stage"))
            }),
        }
    }
}

fn platform_warning(
    stage: &GraphStage,
    dockerfile: &Dockerfile,
    bases: &BTreeMap<ImageRequest, ImageConfig>,
) -> Option<Diagnostic> {
    let Origin::Image(request) = &stage.origin else { return None };
    let actual = bases.get(request).filter(|_| !stage.replaced && request.context.is_none())?.platform();
    let expected = &request.platform;
    if actual.os == expected.os && actual.architecture == expected.architecture {
        return None;
    }
    let message = format!(
        "Base image {} was pulled with platform \"{}\", expected \"{}\" for current build",
        stage.base_name,
        actual.normalised(),
        expected.normalised()
    );
    warning::new(dockerfile, stage.from, &lint::INVALID_BASE_IMAGE_PLATFORM, message)
}

/// Puts in what the command line says about the result.
fn finish(config: &mut ImageConfig, options: &PlanOptions) {
    config.config.labels.extend(options.labels.clone());
    if options.platform_origin == PlatformOrigin::Requested {
        let wanted = &options.platform;
        let same = wanted.os == config.os && wanted.architecture == config.architecture;
        config.os.clone_from(&wanted.os);
        config.architecture.clone_from(&wanted.architecture);
        if wanted.variant.is_some() || !same {
            config.variant.clone_from(&wanted.variant);
        }
        if wanted.os_version.is_some() || !same {
            config.os_version.clone_from(&wanted.os_version);
        }
        if !wanted.os_features.is_empty() {
            config.os_features.clone_from(&wanted.os_features);
        }
    }
    let platform = config.platform().normalised();
    config.os = platform.os;
    config.architecture = platform.architecture;
    config.variant = platform.variant;
}

/// The config of a base that is a plain directory (a named context): that of `scratch`.
pub fn directory_config(platform: &rbuild_image::Platform) -> ImageConfig {
    StageState::on_scratch(platform).config
}
