//! A registry in the test's own process that fails on demand and remembers what it was asked.
//!
//! It speaks the whole distribution API (blobs with ranges, uploads in every form, mounts, manifests, tags, referrers, the
//! catalog, a token service) and keeps everything in memory. What is to go wrong is plain data: [`Options`] for what the
//! registry is like, [`Fault`]s for single requests, [`Unreliable`] for a bad line.
//!
//! ```
//! use rbuild_test_registry::{Act, Fault, Options, Registry, Uploads};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let registry = Registry::start(Options { uploads: Uploads::MonolithicOnly, ..Options::default() }).await;
//! let image = registry.put_image("team/app", "1", &["a layer".into()]);
//! registry.fault(Fault::on("GET", "/manifests/").times(2).act(Act::answer(503)));
//!
//! // … the client under test pulls `registry.name("team/app:1")` …
//!
//! assert_eq!(registry.name("team/app:1").to_string(), format!("{}/team/app:1", registry.host()));
//! assert!(registry.manifest("team/app", &image.digest.to_string()).is_some());
//! assert_eq!(registry.requests(), [""; 0]);
//! # }
//! ```
//!
//! What a fault does not cover follows the specification, and what it obliges clients to is checked: a manifest is refused
//! whose blobs are missing, a chunk that does not follow the one before, content of another digest.
//!
//! # References
//! [OCI distribution specification 1.1](https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md)

mod blobs;
mod fault;
mod manifests;
mod serve;
mod tokens;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use bytes::Bytes;
use rbuild_image::{Descriptor, DiffId, Digest, Image, Layer, Platform, Reference, media_type};

pub use axum::http::{HeaderMap, Method};
pub use fault::{Act, Fault, Unreliable};
pub use wire::Traffic;

use fault::Random;
use tokens::Tokens;
use wire::{Line, Listener, Meter};

/// What a registry is like. The default has every feature and demands nothing.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What it demands of who asks.
    pub demand: Demand,
    /// Which forms of upload it knows.
    pub uploads: Uploads,
    /// Whether it keeps what it got of an upload that broke off.
    pub partial_uploads: Support,
    /// Whether it mounts blobs across repositories. Without, it opens an upload session instead.
    pub mounts: Support,
    /// Whether blobs can be had in parts.
    pub ranges: Support,
    /// Whether it has the referrers API.
    pub referrers: Support,
    /// The longest body of one request, in bytes; a longer one is answered with 413.
    pub max_body: Option<u64>,
    /// The bytes all connections together may carry in a second, in each direction.
    pub bandwidth: Option<u64>,
    /// How bad the line is.
    pub unreliable: Option<Unreliable>,
    /// Serves HTTPS instead of HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl From<Demand> for Options {
    fn from(demand: Demand) -> Self {
        Self { demand, ..Self::default() }
    }
}

/// Whether a registry has an optional feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Support {
    /// It has.
    #[default]
    Yes,
    /// It has not.
    No,
}

/// The forms of upload a registry knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uploads {
    /// All that the specification has.
    #[default]
    Any,
    /// PUT of the whole blob; PATCH is answered with 405.
    MonolithicOnly,
    /// PATCH of pieces and a PUT without a body; another PUT is answered with 405.
    ChunkedOnly,
}

/// What a registry demands of who asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Demand {
    /// Anybody may do anything.
    #[default]
    Nothing,
    /// `user:password`.
    Basic(&'static str),
    /// A token for the repository and the action.
    Bearer {
        /// The token service's URL; `None` for the registry's own at `/token`.
        realm: Option<String>,
        /// Who gets tokens: `user:password` with GET, a refresh token with POST. `None` for everybody.
        account: Option<&'static str>,
        /// How many seconds a token is good for. One of no seconds is accepted all the same: nobody could use it.
        expires_in: Option<u64>,
    },
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub target: String,
    /// Its headers.
    pub headers: HeaderMap,
}

/// A running registry; clones are the same one.
#[derive(Clone, Debug)]
pub struct Registry {
    inside: Arc<Mutex<Inside>>,
    meter: Arc<Meter>,
    options: Arc<Options>,
    host: Arc<str>,
}

/// Content by repository and digest.
type Blobs = BTreeMap<(String, Digest), Bytes>;
/// Media type and bytes by repository and tag or digest.
type Manifests = BTreeMap<(String, String), (String, Bytes)>;

#[derive(Debug)]
struct Inside {
    blobs: Blobs,
    manifests: Manifests,
    /// Bytes held by session.
    uploads: BTreeMap<String, Vec<u8>>,
    faults: Vec<Fault>,
    log: Vec<Logged>,
    tokens: Tokens,
    random: Random,
    unreliable: Option<Unreliable>,
    sessions: usize,
}

impl Registry {
    /// Starts a registry on a free port of 127.0.0.1. It serves as long as the runtime lives that this is called in.
    ///
    /// # Panics
    /// When no socket can be opened, or outside of a runtime.
    pub async fn start(options: impl Into<Options>) -> Self {
        let options = options.into();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = tokio::net::TcpListener::bind(address).await.expect("a free port of 127.0.0.1");
        let host = listener.local_addr().expect("a bound socket has an address").to_string();
        let meter = Arc::new(Meter::new(options.bandwidth));
        let inside = Inside {
            blobs: BTreeMap::new(),
            manifests: BTreeMap::new(),
            uploads: BTreeMap::new(),
            faults: Vec::new(),
            log: Vec::new(),
            tokens: Tokens::default(),
            random: Random::new(options.unreliable.map_or(0, |unreliable| unreliable.seed)),
            unreliable: options.unreliable,
            sessions: 0,
        };
        let listener = Listener::new(listener, options.tls.clone(), Arc::clone(&meter));
        let registry = Self {
            inside: Arc::new(Mutex::new(inside)),
            meter,
            options: Arc::new(options),
            host: host.into(),
        };
        let app = Router::new().fallback(serve::serve).with_state(registry.clone());
        let service = app.into_make_service_with_connect_info::<Line>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        registry
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.host.to_string()
    }

    /// Returns the URL of `path`, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.host)
    }

    /// Returns the name of an image here: `rest` is `team/app:1`.
    ///
    /// # Panics
    /// When that is no name.
    pub fn name(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().expect("the name of an image")
    }

    /// Adds a fault. Of those that match a request the oldest acts.
    pub fn fault(&self, fault: Fault) {
        self.inside().faults.push(fault);
    }

    /// From now on the line is as bad as this; `None` for a good one.
    pub fn set_unreliable(&self, unreliable: Option<Unreliable>) {
        let mut inside = self.inside();
        inside.random = Random::new(unreliable.map_or(0, |unreliable| unreliable.seed));
        inside.unreliable = unreliable;
    }

    /// Opens an upload session behind everybody's back and returns its name.
    pub fn open_session(&self) -> String {
        let mut inside = self.inside();
        inside.sessions += 1;
        let session = format!("session-{}", inside.sessions);
        inside.uploads.insert(session.clone(), Vec::new());
        session
    }

    /// Forgets every token it gave out.
    pub fn revoke_tokens(&self) {
        self.inside().tokens.clear();
    }

    /// Returns every request so far, those of the token service included.
    pub fn log(&self) -> Vec<Logged> {
        self.inside().log.clone()
    }

    /// Returns `METHOD path` of every request so far.
    pub fn requests(&self) -> Vec<String> {
        let shown = |logged: &Logged| {
            let path = logged.target.split('?').next().unwrap_or_default();
            format!("{} {path}", logged.method)
        };
        self.log().iter().map(shown).collect()
    }

    /// Counts the requests of `method` whose path and query hold `path`.
    pub fn count(&self, method: Method, path: &str) -> usize {
        self.log().iter().filter(|logged| logged.method == method && logged.target.contains(path)).count()
    }

    /// Returns how many bytes were read from and written to all connections, HTTP's own included.
    pub fn traffic(&self) -> Traffic {
        self.meter.traffic()
    }

    /// Returns a blob's bytes.
    pub fn blob(&self, repository: &str, digest: Digest) -> Option<Bytes> {
        self.inside().blobs.get(&(repository.to_owned(), digest)).cloned()
    }

    /// Returns a manifest's bytes by its tag or digest.
    pub fn manifest(&self, repository: &str, key: &str) -> Option<Bytes> {
        self.inside().manifests.get(&(repository.to_owned(), key.to_owned())).map(|(_, bytes)| bytes.clone())
    }

    /// Forgets a tag, or a manifest by its digest.
    pub fn forget_manifest(&self, repository: &str, key: &str) {
        self.inside().manifests.remove(&(repository.to_owned(), key.to_owned()));
    }

    /// Forgets a blob, as garbage collection does; manifests that have it stay.
    pub fn forget_blob(&self, repository: &str, digest: Digest) {
        self.inside().blobs.remove(&(repository.to_owned(), digest));
    }

    /// Stores a blob and describes it as a layer.
    pub fn put_blob(&self, repository: &str, bytes: Bytes) -> Descriptor {
        let descriptor = Descriptor::of(media_type::OCI_LAYER, &bytes);
        self.inside().blobs.insert((repository.to_owned(), descriptor.digest), bytes);
        descriptor
    }

    /// Stores a manifest, whatever it is, under `key` and its digest.
    pub fn put_manifest(&self, repository: &str, key: &str, media_type: &str, bytes: Bytes) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        let mut inside = self.inside();
        for key in [key.to_owned(), descriptor.digest.to_string()] {
            inside.manifests.insert((repository.to_owned(), key), (media_type.to_owned(), bytes.clone()));
        }
        descriptor
    }

    /// Stores an image for linux/amd64 with these layers, which need not be archives.
    pub fn put_image(&self, repository: &str, tag: &str, layers: &[Bytes]) -> Descriptor {
        let platform = Platform::new("linux", "amd64");
        let mut image = Image::scratch(&platform);
        for bytes in layers {
            let descriptor = self.put_blob(repository, bytes.clone());
            let diff_id = DiffId(descriptor.digest);
            image.append(Layer { descriptor, diff_id }, Default::default());
        }
        let finished = image.finish(&BTreeMap::new());
        self.put_blob(repository, finished.config.bytes().clone());
        let manifest = finished.manifest.bytes().clone();
        let mut descriptor = self.put_manifest(repository, tag, media_type::OCI_MANIFEST, manifest);
        descriptor.platform = Some(platform);
        descriptor
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
