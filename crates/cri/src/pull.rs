//! Pulling: what an image is made of, found out first; then a store brings it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rbuild_image::{
    Descriptor, Digest, ImageConfig, Manifest, ManifestOrIndex, Platform, Raw, Reference, Resolved, Source,
};
use rbuild_registry::{Client, ClientOptions, Credential, Credentials};

use crate::error::Error;
use crate::name;
use crate::node_store::{NodeStore, image};
use crate::policy::Policy;

/// Indexes may hold indexes; a chain longer than this is refused.
const MAX_DEPTH: usize = 4;
/// The number of layers of an image.
const MAX_LAYERS: u64 = 500;

/// How images are pulled.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// How registries are spoken to. A client is made of it for every pull, so that changed files count at once.
    pub client: ClientOptions,
    /// Which image of an index is taken.
    pub platform: Platform,
    /// The node's `policy.json`, read for every pull.
    pub policy: Option<PathBuf>,
    /// How many blobs of an image are fetched at once; 0 counts as 1.
    pub jobs: usize,
    /// How long a pull may stand still.
    pub patience: Duration,
    /// Full names whose images should not be removed when space is short.
    pub pinned: Vec<Reference>,
}

impl PullOptions {
    /// The defaults with a client: this machine's platform, no policy, 6 blobs at once, 5 minutes.
    #[must_use]
    pub fn new(client: ClientOptions) -> Self {
        let (policy, pinned) = (None, Vec::new());
        Self {
            client,
            platform: Platform::host(),
            policy,
            jobs: 6,
            patience: Duration::from_secs(300),
            pinned,
        }
    }
}

/// An image that is about to land: its documents, and where its blobs come from.
#[derive(Clone)]
pub struct Arrival {
    /// The name it was asked for by; without a tag when that has a digest.
    pub name: Reference,
    /// What the name stands for: an index or a manifest.
    pub target: Descriptor,
    /// All documents from the target down to the image's manifest.
    pub documents: Vec<Resolved>,
    /// The image's manifest.
    pub manifest: Raw<Manifest>,
    /// The image's config.
    pub config: Raw<ImageConfig>,
    /// Where blobs come from.
    pub source: Arc<dyn Source>,
    /// What has moved so far.
    pub progress: Arc<Progress>,
    /// How many blobs are fetched at once.
    pub jobs: usize,
    /// Whether the image should not be removed when space is short.
    pub pinned: bool,
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrival")
            .field("name", &self.name)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Arrival {
    /// Names the image by the digest of its target.
    #[must_use]
    pub fn digest_name(&self) -> String {
        format!("{}@{}", name::repository(&self.name), self.target.digest)
    }

    /// Names the image by its tag, when it was asked for by one.
    #[must_use]
    pub fn tag_name(&self) -> Option<String> {
        self.name.digest().is_none().then(|| self.name.to_string())
    }

    /// The manifest's descriptor.
    #[must_use]
    pub fn manifest_descriptor(&self) -> Descriptor {
        let last = self.documents.last().map(|document| document.descriptor.clone());
        last.unwrap_or_else(|| self.target.clone())
    }
}

/// Counts what moves.
#[derive(Debug, Default)]
pub struct Progress {
    fetched: AtomicU64,
    steps: AtomicU64,
}

impl Progress {
    /// So many bytes came from the registry.
    pub fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Something else was done.
    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// How many bytes came from the registry.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    fn total(&self) -> u64 {
        self.bytes().wrapping_add(self.steps.load(Ordering::Relaxed))
    }
}

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The image's ID: the digest of its config.
    pub id: Digest,
    /// The digest of what the name stands for.
    pub target: Digest,
    /// Bytes that came from the registry, documents left out.
    pub bytes: u64,
}

/// Pulls the image `name` into `store`.
///
/// # Errors
/// See [`Error`]. Nothing gets a name then; what arrived is taken up by the next pull.
pub async fn pull(
    store: &dyn NodeStore,
    options: &PullOptions,
    name: &Reference,
    credential: Option<Credential>,
) -> Result<Pulled, Error> {
    let name = name::plain(name);
    if let Some(path) = &options.policy {
        Policy::read(path)?.check(&name)?;
    }
    let progress = Arc::new(Progress::default());
    let work = async {
        let arrival = resolve(options, &name, credential, Arc::clone(&progress)).await?;
        store.land(&arrival).await?;
        Ok(Pulled {
            id: arrival.manifest.value().config.digest,
            target: arrival.target.digest,
            bytes: progress.bytes(),
        })
    };
    watched(&name, &progress, options.patience, work).await
}

/// Ends work that stands still.
async fn watched<T>(
    name: &Reference,
    progress: &Progress,
    patience: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut work = std::pin::pin!(work);
    loop {
        let before = progress.total();
        if let Ok(done) = tokio::time::timeout(patience, &mut work).await {
            return done;
        }
        if progress.total() == before {
            return Err(Error::Stalled { name: name.to_string(), waited: patience });
        }
    }
}

/// Finds manifest and config. No layer is touched.
async fn resolve(
    options: &PullOptions,
    name: &Reference,
    credential: Option<Credential>,
    progress: Arc<Progress>,
) -> Result<Arrival, Error> {
    let mut settings = options.client.clone();
    if let Some(credential) = credential {
        let given = Credentials::none().with(name.registry(), credential);
        settings.credentials = given.then(settings.credentials);
    }
    let client = Client::new(settings).map_err(|error| Error::Client(Box::new(error)))?;
    let source: Arc<dyn Source> = Arc::new(client.remote(name));
    let (documents, manifest) = descend(&*source, name, &options.platform).await?;
    progress.step();
    let count = manifest.value().layers.len() as u64;
    if count > MAX_LAYERS {
        let what = "layers";
        return Err(Error::TooLarge { name: name.to_string(), what, count, limit: MAX_LAYERS });
    }
    let config_descriptor = &manifest.value().config;
    let bytes = source.manifest(config_descriptor).await?;
    let config = Raw::parse(bytes).map_err(|source| {
        let digest = config_descriptor.digest;
        Error::Document { name: name.to_string(), digest, source }
    })?;
    let target = documents.first().map(|document| document.descriptor.clone());
    let arrival = Arrival {
        name: name.clone(),
        target: target.unwrap_or_else(|| manifest.descriptor("")),
        documents,
        manifest,
        config,
        source,
        progress,
        jobs: options.jobs.max(1),
        pinned: options.pinned.iter().any(|pinned| pinned == name),
    };
    image(&arrival)?;
    Ok(arrival)
}

/// Goes down from what a name stands for to the manifest for a platform.
async fn descend(
    source: &dyn Source,
    name: &Reference,
    platform: &Platform,
) -> Result<(Vec<Resolved>, Raw<Manifest>), Error> {
    let mut documents = vec![source.resolve(name).await?];
    while documents.len() <= MAX_DEPTH {
        let Some(Resolved { descriptor, bytes }) = documents.last().cloned() else { break };
        let parsed = ManifestOrIndex::parse(&descriptor.media_type, bytes).map_err(|source| {
            Error::Document { name: name.to_string(), digest: descriptor.digest, source }
        })?;
        let index = match parsed {
            ManifestOrIndex::Manifest(manifest) => return Ok((documents, manifest)),
            ManifestOrIndex::Index(index) => index.into_value(),
        };
        let chosen = platform.select(&index.manifests).ok_or_else(|| {
            let platforms = index.manifests.iter().filter_map(|manifest| manifest.platform.as_ref());
            let available = platforms.map(ToString::to_string).collect();
            Error::Platform { name: name.to_string(), platform: platform.to_string(), available }
        })?;
        documents.push(Resolved { bytes: source.manifest(chosen).await?, descriptor: chosen.clone() });
    }
    let (what, count, limit) = ("indexes in indexes", documents.len() as u64, MAX_DEPTH as u64);
    Err(Error::TooLarge { name: name.to_string(), what, count, limit })
}
