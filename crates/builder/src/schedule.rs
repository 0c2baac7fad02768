//! The order in which stages and steps run: for now one after the other, each stage after those it reads from.

use std::sync::Arc;
use std::time::Instant;

use rbuild_image::{History, Image};

use crate::build::Source;
use crate::error::{self, BuildError, FailedStep};
use crate::event::{Event, StepId};
use crate::execute::{Executor, Lookup, Made, Stage, StepError, Task};
use crate::plan::{Base, JoinedPlan, PlannedStage, Security, Step, StepKind};

/// Runs every stage of a plan and returns the targets, their configs complete.
///
/// Blocks. `source` is what was planned, for the places of failures.
pub(crate) fn run(executor: &Executor, plan: &JoinedPlan, source: &Source) -> Result<Vec<Stage>, BuildError> {
    let runs: fn(&Step) -> bool = |step| matches!(step.kind, StepKind::Run(_));
    let insecure: fn(&Step) -> bool =
        |step| matches!(&step.kind, StepKind::Run(run) if run.security == Security::Insecure);
    let any = |is: fn(&Step) -> bool| plan.stages.iter().flat_map(|stage| &stage.steps).any(is);
    let (has_run, is_insecure) = (any(runs), any(insecure));
    let mut schedule = Schedule { executor, source, next: 0, done: Vec::new(), has_run, is_insecure };
    for planned in &plan.stages {
        let stage = schedule.stage(planned)?;
        schedule.done.push(stage);
    }
    let mut done: Vec<Option<Stage>> = schedule.done.into_iter().map(Some).collect();
    let epoch = executor.clock().epoch_text();
    let target = |&index: &usize| {
        let mut target = done.get_mut(index).and_then(Option::take)?;
        // Not before: entries of stages below take the time of a layer that may come in a stage above.
        target.finish_times(epoch.as_deref());
        Some(target)
    };
    plan.targets.iter().map(target).collect::<Option<_>>().ok_or(BuildError::Cancelled)
}

struct Schedule<'a> {
    executor: &'a Executor,
    source: &'a Source,
    /// The number of the next step that is shown.
    next: usize,
    done: Vec<Stage>,
    /// Whether any step of the plan is a RUN.
    has_run: bool,
    /// Whether any is to run without confinement.
    is_insecure: bool,
}

/// A step that is shown, and its place.
#[derive(Clone, Copy)]
struct Place<'a> {
    stage: &'a PlannedStage,
    number: usize,
    total: usize,
}

impl Schedule<'_> {
    fn stage(&mut self, planned: &PlannedStage) -> Result<Stage, BuildError> {
        let mut stage = self.start(planned)?;
        let total = planned.steps.iter().filter(|step| makes_layer(step)).count();
        let mut number = 0;
        for step in &planned.steps {
            if self.executor.cancel().is_cancelled() {
                return Err(BuildError::Cancelled);
            }
            if makes_layer(step) {
                number += 1;
                self.step(step, &mut stage, Place { stage: planned, number, total })?;
            } else if let Some(history) = &step.history {
                stage.append_empty(history.clone());
            }
        }
        let (rootfs, history) = (stage.image.config.rootfs, stage.image.config.history);
        stage.image.config = planned.config.clone();
        (stage.image.config.rootfs, stage.image.config.history) = (rootfs, history);
        Ok(stage)
    }

    fn start(&self, planned: &PlannedStage) -> Result<Stage, BuildError> {
        let mut stage = match &planned.base {
            Base::Scratch => Stage::new(Image::scratch(&planned.platform), Vec::new()),
            Base::Stage(index) => {
                let unplanned = || BuildError::Base {
                    name: planned.name.clone(),
                    reason: "its base stage is not built".to_owned(),
                    place: None,
                };
                self.done.get(*index).map(Stage::above).ok_or_else(unplanned)?
            }
            Base::Image(request) => {
                let base = self.executor.base(request)?;
                let mut stage = Stage::new(base.image.clone(), vec![Arc::clone(&base)]);
                let layer = self.executor.base_layer(&base);
                let failed =
                    |source| BuildError::BaseTree { name: request.name.clone(), source: Box::new(source) };
                if let Some(Made { layer, created, .. }) = layer.map_err(failed)? {
                    let created_by = Some(format!("FROM {}", request.name));
                    let comment = Some("buildkit.exporter.image.v0".to_owned());
                    let history = History { created_by, comment, ..History::default() };
                    stage.append(layer, history, created);
                }
                stage
            }
        };
        // A step's key takes the platform from here.
        let Image { config, .. } = &mut stage.image;
        config.os.clone_from(&planned.platform.os);
        config.architecture.clone_from(&planned.platform.architecture);
        config.variant.clone_from(&planned.platform.variant);
        Ok(stage)
    }

    fn step(&mut self, step: &Step, stage: &mut Stage, place: Place<'_>) -> Result<(), BuildError> {
        let id = StepId(self.next);
        self.next += 1;
        let started = Instant::now();
        let task = Task { id, step, done: &self.done };
        let found = self.executor.look_up(task, stage);
        // A build that cannot run its RUN steps says so before it makes anything; one that is all cached never asks.
        if self.has_run && matches!(found, Ok(Lookup::Miss(_))) {
            let sandbox = self.executor.sandbox()?;
            if self.is_insecure && !sandbox.lifts_confinement() {
                return Err(BuildError::Confinement { isolation: sandbox.isolation() });
            }
        }
        self.executor.emit(Event::StepStarted {
            id,
            stage: place.stage.name.clone(),
            number: place.number,
            total: place.total,
            display: step.display.clone(),
        });
        let made = match found {
            Ok(Lookup::Hit(made)) => Ok(*made),
            Ok(Lookup::Miss(keys)) => self.executor.make(task, stage, &keys),
            Err(error) => Err(error),
        };
        let duration = started.elapsed();
        match made {
            Ok(Made { layer, created, cached }) => {
                let layer_size = Some(layer.descriptor.size);
                stage.append(layer, step.history.clone().unwrap_or_default(), created);
                self.executor.emit(Event::StepFinished { id, cached, duration, layer_size });
                Ok(())
            }
            Err(error) => {
                let error = self.locate(error, step, place);
                let message = chain_text(&error);
                self.executor.emit(Event::StepFailed { id, message, duration });
                Err(error)
            }
        }
    }

    fn locate(&self, error: StepError, step: &Step, place: Place<'_>) -> BuildError {
        match error {
            StepError::Cancelled => BuildError::Cancelled,
            source => BuildError::Step(Box::new(FailedStep {
                stage: place.stage.name.clone(),
                number: place.number,
                total: place.total,
                display: step.display.clone(),
                place: error::Place {
                    dockerfile: self.source.name.clone(),
                    text: self.source.dockerfile.text.clone(),
                    span: step.span,
                    hint: None,
                },
                source,
            })),
        }
    }
}

fn makes_layer(step: &Step) -> bool {
    !matches!(step.kind, StepKind::Configure)
}

fn chain_text(error: &BuildError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
