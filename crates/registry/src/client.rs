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
use crate::form::Form;
use crate::hosts::{ClientCertificate, Fallback, Home, Hosts, Route, Routes, Tls, Transport, Trust, route};
use crate::remote::Remote;
use crate::retry::{OnRetry, Retry, RetryPolicy};
use crate::scope::Scopes;
use crate::tls;
use crate::token::{Access, Authenticator};

/// The environment variables that say which proxy requests take.
pub const PROXY_VARIABLES: [&str; 8] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

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
    /// Certificates with which we prove who we are, by host.
    pub client_certificates: BTreeMap<String, ClientCertificate>,
    /// Mirrors to pull from, by registry, in the order in which they are asked: `HOST[:PORT][/PATH]` or a URL. A path goes before
    /// the repository. They go before those of `hosts`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// What happens when no mirror has what is asked for.
    pub fallback: Fallback,
    /// Files that say how registries are reached. The settings above go before them.
    pub hosts: Hosts,
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
            client_certificates: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            fallback: Fallback::Always,
            hosts: Hosts::none(),
            token_services: BTreeMap::new(),
            retry: RetryPolicy::default(),
            patience: Duration::from_secs(60),
            proxies: Proxies::Nowhere,
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl ClientOptions {
    /// The defaults, with credentials, hosts and proxies as the environment names them: see [`Credentials::from_env`] and
    /// [`Hosts::from_env`].
    pub fn from_env() -> Self {
        let hosts = Hosts::from_env();
        let credentials = Credentials::from_env().with_helpers_of(&hosts);
        Self { credentials, hosts, proxies: Proxies::Environment, ..Self::default() }
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
    on_retry: Option<OnRetry>,
}

struct Shared {
    options: ClientOptions,
    routes: Routes,
    pools: Mutex<BTreeMap<(Transport, Route), reqwest::Client>>,
    authenticators: Mutex<Vec<Arc<Authenticator>>>,
    /// How registries want their uploads, as far as it is not what everybody takes.
    forms: Mutex<BTreeMap<String, Form>>,
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
        let routes = Routes::from(&options);
        let (pools, authenticators, forms) = (Mutex::default(), Mutex::default(), Mutex::default());
        let shared = Shared { options, routes, pools, authenticators, forms };
        let client = Self { shared: Arc::new(shared), on_retry: None };
        let options = &client.shared.options;
        for host in options.ca.keys().chain(options.client_certificates.keys()) {
            let ca = options.ca.get(host).cloned().into_iter().collect();
            let identity = options.client_certificates.get(host).cloned();
            let tls = Tls { trust: Trust::Verified, ca, identity };
            client.pool_for(Transport::Tls(tls), Route::Proxied, host)?;
        }
        Ok(client)
    }

    /// Makes a client with the credentials, hosts and proxies of the environment.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn from_env() -> Result<Self, Error> {
        Self::new(ClientOptions::from_env())
    }

    /// Returns the same client with somebody who hears of every request that is going to be sent again, from several tasks
    /// at once.
    #[must_use]
    pub fn on_retry(self, hear: impl Fn(&Retry) + Send + Sync + 'static) -> Self {
        Self { on_retry: Some(Arc::new(hear)), ..self }
    }

    /// Speaks for the repository of `name`: a [`Source`](rbuild_image::Source) and a [`Sink`](rbuild_image::Sink). Where the
    /// repository has mirrors, the source asks them first.
    ///
    /// Tag and digest of `name` do not matter. Nothing is sent yet; what stands in the way is said by the first request.
    pub fn remote(&self, name: &Reference) -> Remote {
        Remote::new(self, name, self.shared.routes.plan(name.registry(), name.repository()))
    }

    /// Tells what the name of an image means: Docker's grammar, and what [`Hosts::short_names`] makes of a name without a
    /// registry.
    ///
    /// # Errors
    /// The name breaks the grammar or is ambiguous.
    pub fn reference(&self, text: &str) -> Result<Reference, Error> {
        self.shared.routes.reference(text).map_err(Error::Hosts)
    }

    /// Asks a registry whether it accepts the credentials that these settings have for it.
    ///
    /// # Errors
    /// The registry refuses them, or cannot be spoken to.
    pub async fn check_login(&self, registry: &str) -> Result<Login, Error> {
        let plan = self.shared.routes.plan(registry, "").map_err(Error::Hosts)?;
        let authenticator = self.authenticator(&plan.origin.home);
        let url = authenticator.home().api.clone();
        let (request, scopes) = (Request::new(Method::GET, url), Scopes::default());
        self.send(&request, &authenticator, Access { repository: "", scopes: &scopes }).await?;
        Ok(if authenticator.was_challenged().await { Login::Accepted } else { Login::NotAsked })
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.shared.options
    }

    pub(crate) fn hook(&self) -> Option<OnRetry> {
        self.on_retry.clone()
    }

    /// The form of uploads to a registry.
    pub(crate) fn form(&self, registry: &str) -> Form {
        let forms = self.shared.forms.lock().unwrap_or_else(PoisonError::into_inner);
        forms.get(registry).copied().unwrap_or_else(|| Form::of(registry))
    }

    /// Remembers what a registry turned out to take.
    pub(crate) fn learn(&self, registry: &str, form: Form) {
        let mut forms = self.shared.forms.lock().unwrap_or_else(PoisonError::into_inner);
        forms.insert(registry.to_owned(), form);
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.shared.routes
    }

    /// The state of authorization at an origin.
    pub(crate) fn authenticator(&self, home: &Arc<Home>) -> Arc<Authenticator> {
        let mut known = self.shared.authenticators.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.iter().find(|known| known.home() == home) {
            return found.clone();
        }
        let made = Arc::new(Authenticator::new(home.clone()));
        known.push(made.clone());
        made
    }

    /// The connection pool for the host of `url`, on behalf of an origin.
    pub(crate) fn pool(&self, url: &Url, home: Option<&Home>) -> Result<reqwest::Client, Error> {
        let own = home.and_then(|home| home.transport(url));
        let transport = own.unwrap_or_else(|| self.shared.routes.transport(url));
        self.pool_for(transport, route(url), url.host_str().unwrap_or_default())
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
