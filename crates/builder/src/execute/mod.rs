//! Executes steps: looks their result up, or makes it.

mod add;
mod claims;
mod clock;
mod configure;
mod copier;
#[cfg(test)]
mod copier_tests;
mod copy;
mod draft;
mod error;
mod explain;
mod fetch;
mod history;
mod host_credentials;
mod keys;
mod known_file;
mod links;
mod mode;
mod mounts;
mod network_files;
mod owners;
mod pattern;
mod placed;
mod remote;
mod remote_context;
mod run;
mod selection;
mod stage;
mod supplies;
mod tree;
mod trees;
mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rbuild_image::{Digest, Layer};
use rbuild_layers::{
    Changes, LayerOptions, Overlay, Plain, Scratch, Store, recompress, write_layer, write_layer_seeing,
};
use rbuild_sandbox::{Cancel, CgroupParent, Isolation, Sandbox};

pub(crate) use clock::Clock;
pub use copier::CopyError;
pub use draft::DraftError;
pub use error::StepError;
pub(crate) use host_credentials::HostCredentials;
pub use mode::ModeError;
pub use remote::RemoteError;
pub(crate) use remote::{Remotes, shown};
pub(crate) use remote_context::OpenedContext;
pub(crate) use stage::{Done, Stage};
pub use user::UserError;

use crate::build::OnEvent;
use crate::cache::content::{self, Seen};
use crate::cache::inputs::StepInputs;
use crate::cache::key::KeyHasher;
use crate::cache::local::{LocalCache, StepResult};
use crate::cache::remote::{CacheScope, Hit, RemoteCache, SavedMounts};
use crate::context::ContextDir;
use crate::error::BuildError;
use crate::event::{Event, StepId};
use crate::export::ExportError;
use crate::images::{BaseImage, Images, Origin};
use crate::options::{BuildOptions, CacheUse};
use crate::plan::{ImageRequest, PlannedStage, Source, Step, StepKind};
use claims::{Claim, Claims};
use copy::Making;
use explain::Records;
use network_files::NetworkFiles;
use tree::Tree;

/// What executing steps depends on.
pub(crate) struct ExecutorSettings {
    pub options: BuildOptions,
    pub store: Store,
    pub context: Option<Arc<ContextDir>>,
    pub images: Images,
    pub remotes: Arc<Remotes>,
    pub layers: LayerOptions,
    pub elsewhere: RemoteCache,
    pub saved_mounts: SavedMounts,
    pub clock: Clock,
    pub on_event: OnEvent,
    pub cancel: Cancel,
}

/// Executes the steps of a build.
pub(crate) struct Executor {
    settings: ExecutorSettings,
    overlay: Overlay,
    plain: Plain,
    cache: LocalCache,
    /// What this build has made or found, by key: a step that two platforms share runs once, whatever the cache may do.
    made: Mutex<BTreeMap<Digest, Made>>,
    /// Shapes of what this build has read.
    shapes: Mutex<BTreeSet<Digest>>,
    /// What steps are made of.
    records: Records,
    /// Steps that are being executed, by key.
    steps: Claims,
    /// Layers that are being fetched, by digest.
    fetches: Claims,
    network_files: NetworkFiles,
    /// Copies of what is mounted and is no rootfs.
    copies: Mutex<BTreeMap<(Source, String), Arc<Scratch>>>,
    sandbox: OnceLock<Sandbox>,
    /// Held while the sandbox is looked for.
    detection: Mutex<()>,
    runtime: tokio::runtime::Handle,
}

/// What one step made.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub layer: Layer,
    /// When the layer was first made, as RFC 3339.
    pub created: String,
    pub cached: bool,
    /// Where it was read from, if that is a cache elsewhere.
    pub scope: Option<CacheScope>,
}

impl Made {
    fn result(&self) -> StepResult {
        StepResult {
            descriptor: self.layer.descriptor.clone(),
            diff_id: self.layer.diff_id,
            created: self.created.clone(),
        }
    }
}

/// Whether an earlier build made a step's layer.
#[derive(Debug)]
pub(crate) enum Lookup<'a> {
    /// It did, or another step of this build did.
    Hit(Box<Made>),
    /// It did not: nobody else makes it meanwhile.
    Miss(Box<Missed<'a>>),
}

/// What is to be made, and recorded under these keys.
#[derive(Debug)]
pub(crate) struct Missed<'a> {
    /// Keeps others from making the same.
    _claim: Claim<'a>,
    /// The keys that missed, and what they are made of, as far as that was looked at.
    inputs: StepInputs,
    /// The shape of what is read, if nothing of that shape was read before: the key of its content comes with its layer.
    unread: Option<Digest>,
}

impl Missed<'_> {
    /// What the step is made of.
    pub(crate) fn inputs(&self) -> &StepInputs {
        &self.inputs
    }
}

/// A step and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task<'a> {
    pub id: StepId,
    pub step: &'a Step,
    /// The stage it belongs to, and its 1-based number in it.
    pub stage: &'a PlannedStage,
    pub number: usize,
    /// The stages that are done.
    pub done: &'a Done,
    /// Whether results of earlier builds may be used.
    pub cache: CacheUse,
}

impl Executor {
    /// Gets ready; nothing runs yet.
    ///
    /// # Errors
    /// The store cannot be used.
    pub(crate) fn new(settings: ExecutorSettings) -> Result<Self, BuildError> {
        let network_files = NetworkFiles::new(&settings.store)?;
        let overlay = Overlay::new(settings.store.clone(), settings.options.limits);
        Ok(Self {
            plain: Plain::new(overlay.clone()),
            overlay,
            cache: LocalCache::new(settings.store.clone(), &settings.layers),
            made: Mutex::default(),
            shapes: Mutex::default(),
            records: Records::new(&settings.options),
            steps: Claims::default(),
            fetches: Claims::default(),
            network_files,
            copies: Mutex::default(),
            sandbox: OnceLock::new(),
            detection: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
            settings,
        })
    }

    /// The switch that stops the build.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.settings.cancel
    }

    /// Tells what happens.
    pub(crate) fn emit(&self, event: Event) {
        (self.settings.on_event)(event);
    }

    /// The time the build says it is.
    pub(crate) fn clock(&self) -> Clock {
        self.settings.clock
    }

    /// The time that no file of a new layer is later than, in seconds since 1970.
    pub(crate) fn clamp(&self) -> Option<i64> {
        self.settings.layers.clamp
    }

    /// What was resolved for a base.
    pub(crate) fn base(&self, request: &ImageRequest) -> Result<Arc<BaseImage>, BuildError> {
        let found = self.settings.images.get(request).cloned();
        found.ok_or_else(|| BuildError::Base {
            name: request.name.clone(),
            reason: "it was not resolved".to_owned(),
            place: None,
        })
    }

    /// The sandbox for RUN, found and announced when it is first asked for.
    ///
    /// # Errors
    /// No isolation works on this host or with this store, or steps cannot run in the cgroup that is asked for.
    pub(crate) fn sandbox(&self) -> Result<&Sandbox, BuildError> {
        let _detection = self.detection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sandbox) = self.sandbox.get() {
            return Ok(sandbox);
        }
        let scratch = self.network_files.directory();
        let forced = self.settings.options.isolation;
        let sandbox = match forced {
            Some(isolation) => Sandbox::forced(isolation, scratch)?,
            None => Sandbox::detect(scratch)?,
        };
        let records = sandbox.ownership() == rbuild_sandbox::Ownership::Recorded;
        if records && self.store().ownership()? == rbuild_layers::Ownership::Native {
            return Err(BuildError::Owners { isolation: sandbox.isolation() });
        }
        let sandbox = match &self.settings.options.cgroup_parent {
            Some(parent) => sandbox.in_cgroup(CgroupParent::open(parent)?)?,
            None => sandbox,
        };
        self.emit(Event::Isolation { name: sandbox.isolation().to_string(), why: describe_choice(forced) });
        Ok(self.sandbox.get_or_init(|| sandbox))
    }

    /// Finds the layer that an earlier build made of the same step.
    ///
    /// What a step reads is looked at only when the names of what it reads do not settle it, and not before the layer is
    /// written where nothing of its shape was ever read. Waits while another step of this build makes the same.
    pub(crate) fn look_up(&self, task: Task<'_>, stage: &mut Stage) -> Result<Lookup<'_>, StepError> {
        let mut keys = Vec::from_iter(self.definition_key(task, stage)?);
        let mut found = self.cached(&keys, task.cache)?;
        let (mut unread, mut contents) = (None, Vec::new());
        if found.is_none() && (keys.is_empty() || !sources(task.step).is_empty()) {
            unread = self.unread_shape(task, stage)?;
            if unread.is_none() {
                let (key, read) = self.content_key(task, stage, None)?;
                keys.push(key);
                contents = read;
                found = self.cached(&keys, task.cache)?;
            }
        }
        let made = match found {
            Some(made) => {
                match keys.as_slice() {
                    [_] => self.hold(&keys, &made),
                    _ => self.record(&keys, &made)?,
                }
                made
            }
            None => {
                let claim = self.steps.take(keys.iter().copied().chain(unread).collect());
                if unread.is_some_and(|shape| self.has_read(&shape)) {
                    drop(claim);
                    return self.look_up(task, stage);
                }
                let Some(made) = keys.iter().find_map(|key| self.made(key)) else {
                    let inputs = self.inputs(task, stage, &keys, &contents)?;
                    return Ok(Lookup::Miss(Box::new(Missed { _claim: claim, inputs, unread })));
                };
                made
            }
        };
        self.note_hit(task, stage, &keys, &contents)?;
        stage.draft = None;
        Ok(Lookup::Hit(Box::new(made)))
    }

    /// Executes a step above `stage`, and records its layer under the keys that missed.
    pub(crate) fn make(
        &self,
        task: Task<'_>,
        stage: &mut Stage,
        missed: &Missed<'_>,
    ) -> Result<Made, StepError> {
        let mut inputs = missed.inputs.clone();
        // a directory may change while it is read: what counts is what was read
        let may_change = self.reads_directory(task)?;
        let mut seen = Seen::default();
        let layer = match &task.step.kind {
            StepKind::Run(step) => run::run(self, task, step, stage)?,
            StepKind::Copy(step) => {
                let tree = self.tree(&step.from, task.done)?;
                let draft = self.draft(stage)?;
                let changes = copy::run(step, &tree, draft, self.making())?;
                let layer = match missed.unread.is_some() || may_change {
                    true => self.write_seeing(&changes, &mut seen)?,
                    false => self.write(&changes)?,
                };
                copy::keep(step, changes, draft)?;
                layer
            }
            StepKind::Workdir(step) => {
                let draft = self.draft(stage)?;
                configure::workdir(step, draft, self.clock().time())?;
                let changes = draft.take_changes()?;
                let layer = self.write(&changes)?;
                draft.keep(changes);
                layer
            }
            StepKind::Configure => self.write(&Changes::new())?,
        };
        if missed.unread.is_some() || may_change {
            let (key, read) = self.content_key(task, stage, Some(&seen))?;
            match missed.unread {
                Some(_) => inputs.keys.push(key),
                // it is not what the keys say: whoever looks for them must not find it
                None if !inputs.keys.contains(&key) => inputs.keys.clear(),
                None => {}
            }
            inputs.reads.iter_mut().zip(read).for_each(|(tree, content)| tree.content = Some(content));
        }
        let made = Made { layer, created: Clock::now(), cached: false, scope: None };
        self.record(&inputs.keys, &made)?;
        self.note(inputs);
        if let Some(shape) = missed.unread {
            self.remember(shape)?;
        }
        Ok(made)
    }

    /// What this build made or found under a key.
    fn made(&self, key: &Digest) -> Option<Made> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(key).map(|made| Made { cached: true, ..made.clone() })
    }

    /// The result under the last key; those before have been asked.
    fn cached(&self, keys: &[Digest], cache: CacheUse) -> Result<Option<Made>, StepError> {
        let Some(key) = keys.last() else { return Ok(None) };
        if let Some(made) = self.made(key) {
            return Ok(Some(made));
        }
        if cache == CacheUse::Ignore {
            return Ok(None);
        }
        let found = self.cache.get(key).map_err(|source| StepError::snapshot("read the cache", source))?;
        let made = |result: StepResult, scope| Made {
            layer: result.layer(),
            created: result.created,
            cached: true,
            scope,
        };
        Ok(match found {
            Some(result) => Some(made(result, None)),
            None => {
                let hit = self.settings.elsewhere.get(key, self.cache.variant());
                hit.map(|Hit { result, scope }| made(result, Some(scope)))
            }
        })
    }

    /// Remembers in this build and in the store what keys lead to.
    fn record(&self, keys: &[Digest], made: &Made) -> Result<(), StepError> {
        self.hold(keys, made);
        if made.scope.is_some() {
            // A later build may not list the scope that this came from.
            return Ok(());
        }
        let put = |key| self.cache.put(key, &made.result());
        keys.iter().try_for_each(put).map_err(|source| StepError::snapshot("write the cache", source))
    }

    /// Remembers in this build what keys lead to.
    fn hold(&self, keys: &[Digest], made: &Made) {
        let of_this_build = keys.iter().map(|key| (*key, made.clone()));
        self.made.lock().unwrap_or_else(PoisonError::into_inner).extend(of_this_build);
        let kept = (keys, self.cache.variant());
        self.settings.elsewhere.add(kept, &made.result(), made.scope.as_ref(), &self.runtime);
    }

    /// The one layer of a base that is a tree rather than an image, as old as the first build that made it; none when
    /// there are no files.
    pub(crate) fn base_layer(&self, base: &BaseImage) -> Result<Option<Made>, StepError> {
        let Origin::Directory(dir) = &base.origin else { return Ok(None) };
        let changes = copy::whole_tree(&Tree::Context(Arc::clone(dir)), self.clock().time())?;
        if changes.is_empty() {
            return Ok(None);
        }
        let mut hasher = KeyHasher::new("rbuild base tree");
        hasher.digest(&content::digest(&changes)?);
        let key = hasher.finish();
        if let Some(made) = self.cached(&[key], self.settings.options.cache)? {
            return Ok(Some(made));
        }
        let layer = self.write(&changes)?;
        let made = Made { layer, created: Clock::now(), cached: false, scope: None };
        self.record(&[key], &made)?;
        Ok(Some(made))
    }

    /// What was said of the build.
    pub(crate) fn options(&self) -> &BuildOptions {
        &self.settings.options
    }

    pub(crate) fn store(&self) -> &Store {
        &self.settings.store
    }

    /// A layer in the compression of new ones. Asked between layers whether the build is cancelled.
    pub(crate) fn recompress(&self, layer: &Layer) -> Result<Layer, BuildError> {
        if self.cancel().is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        let converted = recompress(layer, &self.settings.store, &self.settings.layers);
        Ok(converted.map_err(ExportError::Recompress)?)
    }

    fn making(&self) -> Making<'_> {
        Making {
            now: self.clock().time(),
            scratch: self.network_files.directory(),
            remotes: &self.settings.remotes,
        }
    }

    fn write_seeing(&self, changes: &Changes, seen: &mut Seen) -> Result<Layer, StepError> {
        let mut see = |content: &_, digest| seen.add(content, digest);
        write_layer_seeing(changes, &self.settings.store, &self.settings.layers, &mut see)
            .map_err(|error| StepError::Layer(error.into()))
    }

    fn write(&self, changes: &Changes) -> Result<Layer, StepError> {
        write_layer(changes, &self.settings.store, &self.settings.layers)
            .map_err(|error| StepError::Layer(error.into()))
    }
}

/// The trees a step reads, in the order it names them.
pub(crate) fn sources(step: &Step) -> Vec<&Source> {
    match &step.kind {
        StepKind::Copy(step) => vec![&step.from],
        StepKind::Run(step) => {
            step.mounts.iter().filter_map(mounts::reads).map(|(source, _)| source).collect()
        }
        StepKind::Workdir(_) | StepKind::Configure => Vec::new(),
    }
}

fn missing_stage(index: usize) -> StepError {
    StepError::Unsupported(format!("reading stage {index} before it is built"))
}

fn describe_choice(forced: Option<Isolation>) -> String {
    match forced {
        Some(_) => "asked for".to_owned(),
        None => "the strongest that works here".to_owned(),
    }
}
