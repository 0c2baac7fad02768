//! The order in which stages and steps run: a stage as soon as those it reads are done, several side by side.

mod queue;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use rbuild_image::{History, Image, ImageConfig};

use crate::error::{self, BuildError, FailedStep};
use crate::event::{Event, StepId};
use crate::execute::{Done, Executor, Lookup, Made, Stage, StepError, Task, sources};
use crate::options::CacheUse;
use crate::plan::{Base, JoinedPlan, PlannedStage, Security, Source as TreeSource, Step, StepKind};
use crate::source::Source;
use queue::{Next, Queue, ranks};

/// How much longer than another step a RUN takes, for the order of stages.
const WORK_OF_RUN: u64 = 10;

/// Runs every stage of a plan, at most `jobs` steps at the same time, and returns the targets, their configs complete.
///
/// Blocks. `source` is what was planned, for the places of failures. The first step that fails cancels the others.
pub(crate) fn run(
    executor: &Executor,
    plan: &JoinedPlan,
    source: &Source,
    jobs: NonZeroUsize,
) -> Result<Vec<Stage>, BuildError> {
    let mut schedule = Schedule::new(executor, plan, source);
    let queue = Queue::new(&ranks(&plan.stages.iter().map(work).collect::<Vec<_>>()), |_| Progress::Planned);
    let next = |index, progress| schedule.advance(index, progress);
    thread::scope(|scope| {
        let others = jobs.get().min(plan.stages.len()).saturating_sub(1);
        let workers: Vec<_> = (0..others).map(|_| scope.spawn(|| queue.work(next))).collect();
        queue.work(next);
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    if let Some(error) = schedule.failure.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    let epoch = executor.clock().epoch_text();
    let target = |&index: &usize| {
        let mut target = schedule.done.take(index)?;
        // Not before: entries of stages below take the time of a layer that may come in a stage above.
        target.finish_times(epoch.as_deref());
        Some(target)
    };
    plan.targets.iter().map(target).collect::<Option<_>>().ok_or(BuildError::Cancelled)
}

/// How much there is to do in a stage, and the stages it reads.
fn work(stage: &PlannedStage) -> (u64, Vec<usize>) {
    let own = |step: &Step| match step.kind {
        StepKind::Run(_) => WORK_OF_RUN,
        _ => 1,
    };
    let mut reads: Vec<usize> = stage.steps.iter().flat_map(stages_read).collect();
    if let Base::Stage(index) = stage.base {
        reads.push(index);
    }
    (stage.steps.iter().map(own).sum(), reads)
}

fn stages_read(step: &Step) -> impl Iterator<Item = usize> {
    sources(step).into_iter().filter_map(|source| match source {
        TreeSource::Stage(index) => Some(*index),
        _ => None,
    })
}

/// How far a stage is.
enum Progress {
    /// Nothing of it exists yet.
    Planned,
    /// Some of its steps are done.
    Started(Box<Started>),
}

struct Started {
    stage: Stage,
    /// The index of the next step.
    next: usize,
    /// How many steps were shown.
    shown: usize,
}

struct Schedule<'a> {
    executor: &'a Executor,
    plan: &'a JoinedPlan,
    source: &'a Source,
    done: Done,
    /// The first that failed.
    failure: Mutex<Option<BuildError>>,
    /// The number of the first step that is shown, by stage.
    first_ids: Vec<usize>,
    /// Whether any step of the plan is a RUN.
    has_run: bool,
    /// Whether any is to run without confinement.
    is_insecure: bool,
}

/// A step that is shown, and its place.
#[derive(Clone, Copy)]
struct Place<'a> {
    stage: &'a PlannedStage,
    id: StepId,
    number: usize,
    total: usize,
}

impl<'a> Schedule<'a> {
    fn new(executor: &'a Executor, plan: &'a JoinedPlan, source: &'a Source) -> Self {
        let is_run = |step: &Step| matches!(step.kind, StepKind::Run(_));
        let insecure =
            |step: &Step| matches!(&step.kind, StepKind::Run(run) if run.security == Security::Insecure);
        let steps = || plan.stages.iter().flat_map(|stage| &stage.steps);
        let first_id = |next: &mut usize, stage: &PlannedStage| {
            let first = *next;
            *next += count(&stage.steps);
            Some(first)
        };
        Self {
            executor,
            plan,
            source,
            done: Done::new(plan.stages.len()),
            failure: Mutex::new(None),
            first_ids: plan.stages.iter().scan(0, first_id).collect(),
            has_run: steps().any(is_run),
            is_insecure: steps().any(insecure),
        }
    }

    /// Does the next step of a stage, unless it reads a stage that is not done.
    fn advance(&self, index: usize, progress: Progress) -> Next<Progress> {
        let Some(planned) = self.plan.stages.get(index) else { return Next::Done };
        if let Some(other) = self.awaits(planned, &progress) {
            return Next::Wait(progress, other);
        }
        match self.step_on(index, planned, progress) {
            Ok(Some(progress)) => Next::Ready(progress),
            Ok(None) => Next::Done,
            Err(error) => {
                // Without the cache that failed, the build is begun again.
                let begins_again = error.is_lost_cache();
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                if !begins_again {
                    self.executor.cancel().cancel();
                }
                Next::Stop
            }
        }
    }

    /// The stage that has to be done before this one can go on.
    fn awaits(&self, planned: &PlannedStage, progress: &Progress) -> Option<usize> {
        let missing = |index: &usize| self.done.get(*index).is_none();
        match progress {
            Progress::Planned => match planned.base {
                Base::Stage(index) => Some(index).filter(missing),
                _ => None,
            },
            Progress::Started(started) => {
                let step = planned.steps.get(started.next)?;
                stages_read(step).find(missing)
            }
        }
    }

    /// Starts the stage or does one step of it; none when that was the last.
    fn step_on(
        &self,
        index: usize,
        planned: &PlannedStage,
        progress: Progress,
    ) -> Result<Option<Progress>, BuildError> {
        if self.executor.cancel().is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        let mut started = match progress {
            Progress::Planned => Started { stage: self.start(planned)?, next: 0, shown: 0 },
            Progress::Started(mut started) => {
                if let Some(step) = planned.steps.get(started.next) {
                    self.step(index, planned, step, &mut started)?;
                }
                started.next += 1;
                *started
            }
        };
        if started.next < planned.steps.len() {
            return Ok(Some(Progress::Started(Box::new(started))));
        }
        let image = &mut started.stage.image;
        let (rootfs, history) = (image.config.rootfs.clone(), std::mem::take(&mut image.config.history));
        image.config = ImageConfig { rootfs, history, ..planned.config.clone() };
        self.done.put(index, started.stage);
        Ok(None)
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
                if let Some(Made { layer, created, cached, .. }) = layer.map_err(failed)? {
                    stage.is_cached &= cached;
                    let created_by = Some(format!("FROM {}", request.name));
                    let comment = Some("buildkit.exporter.image.v0".to_owned());
                    let history = History { created_by, comment, ..History::default() };
                    stage.append(layer, history, created);
                }
                stage
            }
        };
        stage.name.clone_from(&planned.name);
        if let Base::Image(request) = &planned.base {
            stage.below = format!("base image {}", request.name);
        }
        // A step's key takes the platform from here.
        let Image { config, .. } = &mut stage.image;
        config.os.clone_from(&planned.platform.os);
        config.architecture.clone_from(&planned.platform.architecture);
        config.variant.clone_from(&planned.platform.variant);
        Ok(stage)
    }

    fn step(
        &self,
        index: usize,
        planned: &PlannedStage,
        step: &Step,
        started: &mut Started,
    ) -> Result<(), BuildError> {
        if !makes_layer(step) {
            if let Some(history) = &step.history {
                started.stage.append_empty(history.clone());
            }
            return Ok(());
        }
        let id = StepId(self.first_ids.get(index).copied().unwrap_or_default() + started.shown);
        started.shown += 1;
        let place = Place { stage: planned, id, number: started.shown, total: count(&planned.steps) };
        self.execute(step, &mut started.stage, place)
    }

    fn execute(&self, step: &Step, stage: &mut Stage, place: Place<'_>) -> Result<(), BuildError> {
        let (id, since) = (place.id, Instant::now());
        let Place { stage: planned, number, .. } = place;
        let cache = self.cache_of(planned);
        let task = Task { id, step, stage: planned, number, done: &self.done, cache };
        let found = self.executor.look_up(task, stage);
        // A build that cannot run its RUN steps says so before it makes anything; one that is all cached never asks.
        if self.has_run && matches!(found, Ok(Lookup::Miss(_))) {
            let sandbox = self.executor.sandbox()?;
            sandbox.check_limits(self.executor.limits())?;
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
        if let Ok(Lookup::Miss(missed)) = &found
            && self.executor.options().explain
        {
            let reasons = self.executor.reasons(task, missed.inputs());
            let reasons = reasons.map_err(|error| self.locate(error, step, place))?;
            self.executor.emit(Event::StepMissed { id, reasons });
        }
        let made = match found {
            Ok(Lookup::Hit(made)) => Ok(*made),
            Ok(Lookup::Miss(claim)) => self.executor.make(task, stage, &claim),
            Err(error) => Err(error),
        };
        let duration = since.elapsed();
        match made {
            Ok(Made { layer, created, cached, .. }) => {
                let layer_size = Some(layer.descriptor.size);
                stage.is_cached &= cached;
                stage.below = format!("step {}", step.display.lines().next().unwrap_or_default());
                stage.append(layer, step.history.clone().unwrap_or_default(), created);
                self.executor.emit(Event::StepFinished { id, cached, duration, layer_size });
                Ok(())
            }
            Err(StepError::Cancelled) => {
                self.executor.emit(Event::StepCancelled { id, duration });
                Err(BuildError::Cancelled)
            }
            Err(error @ StepError::CacheLost) => {
                self.executor.emit(Event::StepCancelled { id, duration });
                Err(self.locate(error, step, place))
            }
            Err(error) => {
                let error = self.locate(error, step, place);
                let message = chain_text(&error);
                self.executor.emit(Event::StepFailed { id, message, duration });
                Err(error)
            }
        }
    }

    /// Whether the steps of a stage may take results of earlier builds.
    fn cache_of(&self, stage: &PlannedStage) -> CacheUse {
        let options = self.executor.options();
        // where there are several platforms, they stand before the name
        let name = stage.name.rsplit(' ').next().unwrap_or_default();
        match options.no_cache_stages.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)) {
            true => CacheUse::Ignore,
            false => options.cache,
        }
    }

    fn locate(&self, source: StepError, step: &Step, place: Place<'_>) -> BuildError {
        BuildError::Step(Box::new(FailedStep {
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
        }))
    }
}

/// How many steps are shown.
fn count(steps: &[Step]) -> usize {
    steps.iter().filter(|step| makes_layer(step)).count()
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
