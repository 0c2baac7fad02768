//! The client: settings, connection pools and what is known about each registry.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rbuild_image::Reference;
use reqwest::Method;
use url::Url;

use crate::credentials::Credentials;
use crate::error::Error;
use crate::exchange::Request;
use crate::hosts::{Hosts, Route, Transport, route};
use crate::remote::Remote;
use crate::retry::RetryPolicy;
use crate::scope::Scopes;
use crate::tls;
use crate::token::{Access, Authenticator};

/// Where proxy settings come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proxies {
    /// Every host is reached directly.
    #[default]
    Nowhere,
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case. Loopback hosts are reached
    /// directly all the same.
    Environment,
}

/// Settings of a [`Client`]. A host is written `name`, for all ports, or `name:port`.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Who we are at which registry.
    pub credentials: Credentials,
    /// Hosts that are spoken to in plain HTTP, beside `localhost`, 127.0.0.0/8 and `[::1]`.
    pub insecure: BTreeSet<String>,
    /// Hosts whose certificate is not verified.
    pub skip_tls_verify: BTreeSet<String>,
    /// Files of PEM certificates trusted in addition to the system's, by host: of authorities, or a server's own.
    pub ca: BTreeMap<String, PathBuf>,
    /// Hosts of token services that may see the credentials of a registry, beside its own host and those of its domain.
    pub token_services: BTreeMap<String, BTreeSet<String>>,
    /// What is tried again, and how often.
    pub retry: RetryPolicy,
    /// How long a registry may be silent before the request counts as failed. Committing a large upload takes a
    /// registry minutes, so that five times this are allowed then.
    pub patience: Duration,
    /// Where proxy settings come from.
    pub proxies: Proxies,
    /// The `User-Agent` of every request.
    pub user_agent: String,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            credentials: Credentials::none(),
            insecure: BTreeSet::new(),
            skip_tls_verify: BTreeSet::new(),
            ca: BTreeMap::new(),
            token_services: BTreeMap::new(),
            retry: RetryPolicy::default(),
            patience: Duration::from_secs(60),
            proxies: Proxies::Nowhere,
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl ClientOptions {
    /// The defaults, with credentials and proxies as the environment names them: see [`Credentials::from_env`].
    pub fn from_env() -> Self {
        Self { credentials: Credentials::from_env(), proxies: Proxies::Environment, ..Self::default() }
    }
}

/// What a registry said to credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// It accepts them.
    Accepted,
    /// It lets anybody in, and did not look at them.
    NotAsked,
}

/// Speaks to registries. Cheap to clone; clones share connections, tokens and settings.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    options: ClientOptions,
    hosts: Hosts,
    pools: Mutex<BTreeMap<(Transport, Route), reqwest::Client>>,
    authenticators: Mutex<BTreeMap<String, Arc<Authenticator>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Client {
    /// Makes a client. No connection is opened, and no environment is read.
    ///
    /// # Errors
    /// When a file of certificates cannot be read.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        let hosts = Hosts {
            insecure: options.insecure.clone(),
            skip_tls_verify: options.skip_tls_verify.clone(),
            ca: options.ca.clone(),
        };
        let shared = Shared { options, hosts, pools: Mutex::default(), authenticators: Mutex::default() };
        let client = Self { shared: Arc::new(shared) };
        for (host, ca) in &client.shared.options.ca {
            client.pool_for(Transport::Verified { ca: Some(ca.clone()) }, Route::Proxied, host)?;
        }
        Ok(client)
    }

    /// Makes a client with the credentials and proxies of the environment.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn from_env() -> Result<Self, Error> {
        Self::new(ClientOptions::from_env())
    }

    /// Speaks for the repository of `name`: a [`Source`](rbuild_image::Source) and a [`Sink`](rbuild_image::Sink).
    ///
    /// Tag and digest of `name` do not matter. Nothing is sent yet.
    pub fn remote(&self, name: &Reference) -> Remote {
        Remote::new(self.clone(), name.clone(), self.authenticator(name.registry()))
    }

    /// Asks a registry whether it accepts the credentials that these settings have for it.
    ///
    /// # Errors
    /// The registry refuses them, or cannot be spoken to.
    pub async fn check_login(&self, registry: &str) -> Result<Login, Error> {
        let unknown = || Error::RegistryName(registry.to_owned());
        let authenticator = self.authenticator(registry).ok_or_else(unknown)?;
        let url = authenticator.base().join("v2/").map_err(|_| unknown())?;
        let (request, scopes) = (Request::new(Method::GET, url), Scopes::default());
        self.send(&request, &authenticator, Access { repository: "", scopes: &scopes }).await?;
        Ok(if authenticator.was_challenged().await { Login::Accepted } else { Login::NotAsked })
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.shared.options
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.shared.hosts
    }

    /// The state of authorization at a registry; `None` when its name cannot stand in a URL.
    fn authenticator(&self, registry: &str) -> Option<Arc<Authenticator>> {
        let base = self.shared.hosts.base(registry)?;
        let mut known = self.shared.authenticators.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(registry.to_owned());
        Some(entry.or_insert_with(|| Arc::new(Authenticator::new(registry.to_owned(), base))).clone())
    }

    /// The connection pool for the host of `url`.
    pub(crate) fn pool(&self, url: &Url) -> Result<reqwest::Client, Error> {
        self.pool_for(self.shared.hosts.transport(url), route(url), url.host_str().unwrap_or_default())
    }

    fn pool_for(&self, transport: Transport, route: Route, host: &str) -> Result<reqwest::Client, Error> {
        let mut pools = self.shared.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (transport, route);
        if let Some(pool) = pools.get(&key) {
            return Ok(pool.clone());
        }
        let tls = tls::config(&key.0).map_err(|source| Error::Tls { host: host.to_owned(), source })?;
        let options = &self.shared.options;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            // Redirects decide who sees credentials and are followed by hand.
            .redirect(reqwest::redirect::Policy::none())
            // Retries are ours too; the library's own would send half-read bodies again.
            .retry(reqwest::retry::never())
            .connect_timeout(options.patience.min(Duration::from_secs(20)))
            .tcp_nodelay(true)
            .user_agent(&options.user_agent);
        if options.proxies == Proxies::Nowhere || route == Route::Direct {
            builder = builder.no_proxy();
        }
        let pool = builder.build().map_err(Error::Setup)?;
        pools.insert(key, pool.clone());
        Ok(pool)
    }
}
