//! A build from end to end: the only file that knows every stage of the pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rbuild_dockerfile::{Check, Diagnostic, Dockerfile};
use rbuild_image::{Descriptor, ImageConfig, Platform};
use rbuild_layers::Store;
use rbuild_registry::{Client, Retry};
use rbuild_sandbox::{Cancel, Secret};

use crate::binfmt;
use crate::built::Built;
use crate::cache::remote::{RemoteCache, SavedMounts};
use crate::context::{ContextDir, NamedContext};
use crate::devices;
use crate::error::BuildError;
use crate::event::Event;
use crate::execute::{Clock, Executor, ExecutorSettings, HostCredentials, OpenedContext, Remotes, Stage};
use crate::export::{self, Annotations, BaseLayers, Exporter, Output, Outputs, Product, Written};
use crate::images::Images;
use crate::options::{BuildOptions, Context, DockerfileSource};
use crate::plan::{self, ImageRequest, JoinedPlan, PlanOptions, Scope};
use crate::platforms::Platforms;
use crate::schedule;
use crate::source::Source;
use crate::ssh::SshAgent;

/// How often a cancelled build looks up from waiting for a registry.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// Takes the events of a build, in order; called from several threads, never at the same time by one step.
pub type OnEvent = Arc<dyn Fn(Event) + Send + Sync>;

/// A build that can be run.
///
/// Nothing happens before [`Build::run`]. A build needs a [`Store`]; it needs a [`Client`] when a name of a
/// registry is read or pushed.
#[derive(Clone)]
#[must_use = "a build does nothing before it is run"]
pub struct Build {
    pub(crate) options: BuildOptions,
    pub(crate) store: Option<Store>,
    pub(crate) client: Option<Client>,
    on_event: OnEvent,
    cancel: Cancel,
}

impl std::fmt::Debug for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Build").field("options", &self.options).finish_non_exhaustive()
    }
}

impl From<BuildOptions> for Build {
    fn from(options: BuildOptions) -> Self {
        Self { options, store: None, client: None, on_event: Arc::new(|_| {}), cancel: Cancel::new() }
    }
}

impl Build {
    /// Starts with a context and everything else as `docker build` has it by default.
    pub fn new(context: Context) -> Self {
        Self::from(BuildOptions { context, ..BuildOptions::default() })
    }

    /// Keeps blobs, snapshots and step results in this store.
    pub fn store(mut self, store: Store) -> Self {
        self.store = Some(store);
        self
    }

    /// Reaches registries through this client.
    pub fn registry(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Takes the Dockerfile from there; a relative path starts at the context directory.
    pub fn dockerfile(mut self, source: impl Into<DockerfileSource>) -> Self {
        self.options.dockerfile = source.into();
        self
    }

    /// Names the result; a name of a registry is pushed there.
    pub fn tag(mut self, name: impl Into<String>) -> Self {
        self.options.tags.push(name.into());
        self
    }

    /// Gives an `ARG` its value.
    pub fn build_arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.build_args.insert(name.into(), value.into());
        self
    }

    /// Builds this stage instead of the last.
    pub fn target(mut self, stage: impl Into<String>) -> Self {
        self.options.target = Some(stage.into());
        self
    }

    /// Builds for this platform instead of the host's; several make an index.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.options.platforms.push(platform);
        self
    }

    /// Lets a tree or image stand for a name of the Dockerfile.
    pub fn named_context(mut self, name: impl Into<String>, context: NamedContext) -> Self {
        self.options.named_contexts.insert(name.into(), context);
        self
    }

    /// Gives a secret to the RUN steps that mount it. It is in no layer, no key and no message.
    pub fn secret(mut self, id: impl Into<String>, value: Secret) -> Self {
        self.options.secrets.insert(id.into(), value);
        self
    }

    /// Lets the RUN steps that mount it ask an agent for signatures.
    pub fn agent(mut self, id: impl Into<String>, agent: SshAgent) -> Self {
        self.options.agents.insert(id.into(), agent);
        self
    }

    /// Writes the result there, beside or instead of pushing its tags (see [`BuildOptions::push`]).
    pub fn output(mut self, output: Output) -> Self {
        self.options.outputs.push(output);
        self
    }

    /// Tells what happens while it happens.
    pub fn on_event(mut self, on_event: impl Fn(Event) + Send + Sync + 'static) -> Self {
        self.on_event = Arc::new(on_event);
        self
    }

    /// Stops the build when this switch is turned on.
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// Runs the build to its end. Dropping the future cancels it.
    ///
    /// # Errors
    /// [`BuildError`]. No name stands for a half-done result then, and no process or mount is left.
    ///
    /// # Panics
    /// Outside of a multi-threaded tokio runtime.
    pub async fn run(mut self) -> Result<Built, BuildError> {
        self.client = self.client.map(|client| told_of_retries(client, &self.on_event));
        let started = Instant::now();
        let _guard = CancelOnDrop(self.cancel.clone());
        let store = self.given_store()?;
        if let Some(message) = store.locks().remark() {
            (self.on_event)(Event::Notice { message });
        }
        let remotes = self.remotes()?;
        let context = self.open(&remotes).await?;
        let dockerfile = self.parse(&context)?;
        let context = context.tree;
        let platforms = Platforms::new(&self.options)?;
        let outputs = Outputs::new(&self.options, platforms.shape)?;
        let annotations = Annotations::new(&self.options.annotations, platforms.shape)?;
        let images = Images::new(&self.options, Arc::clone(&remotes), self.client.clone());
        let caches = (self.options.cache_from.as_slice(), self.options.cache_to.as_slice());
        let caches = RemoteCache::open(caches, self.client.as_ref(), &store, &self.on_event);
        let planned = self.plan(&dockerfile, &platforms, images, Scope::Target);
        let ((plan, images), elsewhere) = tokio::try_join!(planned, self.cancellable(caches))?;
        self.warn(&dockerfile, &plan, context.as_deref())?;
        self.announce(&plan);

        let epoch = self.options.source_date_epoch.or(plan.source_date_epoch);
        let mounts = (self.options.cache_mounts_from.as_slice(), self.options.cache_mounts_to.as_slice());
        let executor = Arc::new(Executor::new(ExecutorSettings {
            options: self.options.clone(),
            store: store.clone(),
            context,
            images,
            remotes,
            layers: outputs.layers(epoch),
            elsewhere,
            saved_mounts: SavedMounts::new(mounts, self.client.as_ref(), &store, &self.on_event),
            clock: Clock::new(epoch),
            on_event: Arc::clone(&self.on_event),
            cancel: self.cancel.clone(),
        })?);
        let (plan, dockerfile) = (Arc::new(plan), Arc::new(dockerfile));
        let (product, written) = loop {
            let stages = self.execute(&executor, &plan, &dockerfile).await;
            let layers = stages.as_deref().map(layers_of).unwrap_or_default();
            let done = match stages {
                Ok(stages) => self.export(&executor, stages, (&outputs, &platforms, &annotations)).await,
                Err(error) => Err(error),
            };
            match done {
                // Whatever gave the layer is not asked again, so that this ends.
                Err(_) if executor.elsewhere().was_given_up(&layers).await => executor.forget_found(),
                done => break done?,
            }
        };
        let layers = product.tree().layers.iter().map(|layer| layer.digest).collect();
        let worker = Arc::clone(&executor);
        let saved = tokio::task::spawn_blocking(move || worker.saved_mounts().save());
        let pushed = outputs.pushed();
        let shared = executor.elsewhere().write(&layers, &pushed);
        let (saved, ()) = self.cancellable(futures_util::future::join(saved, shared)).await?;
        saved.map_err(|_| BuildError::Cancelled)?;
        let built = Built::new(&product, &outputs, written, started.elapsed());
        (self.on_event)(built.done());
        Ok(built)
    }

    /// Runs all steps.
    async fn execute(
        &self,
        executor: &Arc<Executor>,
        plan: &Arc<JoinedPlan>,
        dockerfile: &Arc<Source>,
    ) -> Result<Vec<Stage>, BuildError> {
        let (worker, plan, dockerfile) = (Arc::clone(executor), Arc::clone(plan), Arc::clone(dockerfile));
        let jobs = self.options.jobs.unwrap_or_else(processors);
        match tokio::task::spawn_blocking(move || schedule::run(&worker, &plan, &dockerfile, jobs)).await {
            Ok(result) => result.inspect_err(|_| executor.keep_records()),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(BuildError::Cancelled),
        }
    }

    /// Finishes the images and writes all outputs.
    async fn export(
        &self,
        executor: &Arc<Executor>,
        stages: Vec<Stage>,
        (outputs, platforms, annotations): (&Outputs, &Platforms, &Annotations),
    ) -> Result<(Product, Written), BuildError> {
        let stages = match outputs.base_layers() {
            BaseLayers::Keep => stages,
            BaseLayers::Recompress => self.cancellable(export::recompress(executor, stages)).await??,
        };
        // while the image is on its way, the disk has nothing else to do
        let worker = Arc::clone(executor);
        let synced = tokio::task::spawn_blocking(move || {
            worker.keep_records();
            worker.store().sync()
        });
        let created = executor.clock().epoch_text();
        let cache = |layers: &[Descriptor]| executor.elsewhere().inline(layers, executor.variant());
        let product = Product::new(stages, platforms, annotations, created, cache);
        let product = product.ok_or(BuildError::Cancelled)?;
        let client = self.client.as_ref();
        let exporter = Exporter { executor, client, product: &product, on_event: &self.on_event };
        let written = self.cancellable(exporter.write(outputs)).await??;
        synced.await.map_err(|_| BuildError::Cancelled)??;
        Ok((product, written))
    }

    /// What fetches for this build.
    pub(crate) fn remotes(&self) -> Result<Arc<Remotes>, BuildError> {
        let (store, client) = (self.given_store()?, self.client.clone());
        let credentials = HostCredentials::new(self.options.secrets.clone());
        Ok(Arc::new(Remotes::new(store, client, self.options.git.clone(), credentials, self.cancel.clone())))
    }

    pub(crate) fn given_store(&self) -> Result<Store, BuildError> {
        self.store.clone().ok_or_else(|| BuildError::Option {
            option: "store",
            value: String::new(),
            reason: "a build needs one".to_owned(),
        })
    }

    pub(crate) fn parse(&self, context: &OpenedContext) -> Result<Source, BuildError> {
        let (name, text) = self.dockerfile_text(context)?;
        let (mut dockerfile, diagnostics) = Dockerfile::parse(&text);
        if let Some(check) = self.check_argument()? {
            dockerfile.directives.check = Some(check);
        }
        let source = Source { name, dockerfile, context_time: context.time };
        if diagnostics.iter().any(Diagnostic::is_error) {
            return Err(source.refuse(diagnostics));
        }
        source.warnings(diagnostics).for_each(|warning| (self.on_event)(warning));
        Ok(source)
    }

    /// The build argument that stands in for `# check=`.
    fn check_argument(&self) -> Result<Option<Check>, BuildError> {
        const NAME: &str = "BUILDKIT_DOCKERFILE_CHECK";
        let Some(value) = self.options.build_args.get(NAME) else { return Ok(None) };
        let invalid = |reason| BuildError::Option { option: NAME, value: value.clone(), reason };
        Check::parse(value).map(Some).map_err(invalid)
    }

    /// Plans a pass for every platform, and joins them.
    pub(crate) async fn plan(
        &self,
        source: &Source,
        platforms: &Platforms,
        mut images: Images,
        scope: Scope,
    ) -> Result<(JoinedPlan, Images), BuildError> {
        let refuse = |error: plan::PlanError| source.refuse(error.0);
        let pass = |platform: &Platform| {
            let options = PlanOptions { scope, ..self.plan_options(source, platform, platforms) };
            plan::graph(&source.dockerfile, &options).map(|graph| (options, graph)).map_err(refuse)
        };
        let mut passes = platforms.list.iter().map(pass).collect::<Result<Vec<_>, _>>()?;
        let mut configs: BTreeMap<ImageRequest, ImageConfig> = BTreeMap::new();
        loop {
            let mut missing = BTreeSet::new();
            for (_, graph) in &mut passes {
                missing.extend(graph.missing(&configs).map_err(refuse)?);
            }
            if missing.is_empty() {
                break;
            }
            let missing: Vec<_> = missing.into_iter().collect();
            let resolved = self.cancellable(images.resolve(&missing)).await?;
            let place = |name: &str| passes.iter().find_map(|(_, graph)| source.place(graph, name));
            for base in resolved.map_err(|error| error.in_dockerfile(place))? {
                if let Some(digest) = base.digest {
                    let digest = digest.to_string();
                    (self.on_event)(Event::Resolved { name: base.request.name.clone(), digest });
                }
                configs.insert(base.request.clone(), base.image.config.clone());
            }
        }
        let lower = |(options, graph): (PlanOptions, plan::Graph)| {
            let plan = plan::lower(&source.dockerfile, graph, &options, &configs).map_err(refuse)?;
            Ok((options.platform, plan))
        };
        let plans = passes.into_iter().map(lower).collect::<Result<Vec<_>, BuildError>>()?;
        Ok((plan::join(plans), images))
    }

    pub(crate) fn plan_options(
        &self,
        source: &Source,
        platform: &Platform,
        platforms: &Platforms,
    ) -> PlanOptions {
        let options = &self.options;
        PlanOptions {
            target: options.target.clone(),
            build_args: source.context_time.applied(&options.build_args),
            context_time: source.context_time,
            platform: platform.clone(),
            platform_origin: platforms.origin,
            build_platform: Platform::host(),
            emulators: binfmt::emulators(Path::new(binfmt::REGISTERED)),
            named_contexts: options.named_contexts.keys().cloned().collect(),
            labels: options.labels.clone(),
            network: options.network,
            secrets: options.secrets.keys().cloned().collect(),
            agents: options.agents.keys().cloned().collect(),
            allow: options.allow.clone(),
            device_specifications: devices::specifications(&devices::DIRECTORIES),
            surroundings: options.surroundings.clone(),
            ..PlanOptions::default()
        }
    }

    /// Tells what lint rules find.
    fn warn(
        &self,
        source: &Source,
        plan: &JoinedPlan,
        context: Option<&ContextDir>,
    ) -> Result<(), BuildError> {
        let findings = plan::findings(&source.dockerfile, plan, context.and_then(ContextDir::ignore));
        let violation = plan::violation(&source.dockerfile, &findings);
        source.warnings(findings).for_each(|warning| (self.on_event)(warning));
        violation.map_or(Ok(()), |violation| Err(source.refuse(vec![violation])))
    }

    fn announce(&self, plan: &JoinedPlan) {
        (self.on_event)(Event::PlanReady {
            stages: plan.stages.iter().map(|stage| stage.name.clone()).collect(),
            steps: plan.stages.iter().map(|stage| stage.steps.len()).sum(),
        });
    }

    /// Waits for a future unless the build is cancelled first.
    async fn cancellable<F: Future>(&self, future: F) -> Result<F::Output, BuildError> {
        let cancelled = async {
            while !self.cancel.is_cancelled() {
                tokio::time::sleep(CANCEL_POLL).await;
            }
        };
        tokio::select! {
            output = future => Ok(output),
            () = cancelled => Err(BuildError::Cancelled),
        }
    }
}

/// The layers of all images.
fn layers_of(stages: &[Stage]) -> Vec<Descriptor> {
    stages.iter().flat_map(|stage| stage.image.layers.clone()).collect()
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// How many threads can do work at the same time here, a container's limit considered.
fn processors() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// The client, whose retries become events.
fn told_of_retries(client: Client, on_event: &OnEvent) -> Client {
    let on_event = Arc::clone(on_event);
    client.on_retry(move |retry| {
        let Retry { failure, tries, delay } = retry.clone();
        on_event(Event::Retrying { failure, tries, delay });
    })
}
