//! How registries are reached: which places a repository is to be had from, and how each of them is spoken to.

mod containerd;
mod registries;
mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rbuild_image::{Reference, ReferenceError};
use reqwest::header::HeaderMap;
use url::Url;

use crate::client::ClientOptions;

use containerd::HostPlace;
pub(crate) use registries::PullFromMirror;
use registries::{Location, Registries};
pub use transport::ClientCertificate;
pub(crate) use transport::{Route, Tls, Transport, Trust, route};
use transport::{is_loopback, names};

/// Larger files are refused.
const MAX_FILE: u64 = 1 << 20;

/// Files of this machine that say how registries are reached.
///
/// # References
/// containerd, docs/hosts.md; containers-registries.conf(5); containers-certs.d(5)
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// `registries.conf`, version 2; one that does not exist says nothing.
    pub registries_conf: Option<PathBuf>,
    /// Directories of drop-ins for it.
    pub drop_ins: Vec<PathBuf>,
    /// Trees of `HOST_PORT_/hosts.toml` or `HOST:PORT/*.crt`, as containerd's, docker's and podman's `certs.d`; the first that
    /// has a directory for a registry counts.
    pub trees: Vec<PathBuf>,
    /// What a name without a registry may become by aliases and search lists.
    pub short_names: ShortNames,
}

/// What aliases and search lists of `registries.conf` do to a name without a registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortNames {
    /// Nothing: a name means Docker Hub's image everywhere, as docker has it.
    #[default]
    HubOnly,
    /// An alias, or the one registry that is searched, is taken; a name that several registries may have is refused.
    Taken,
}

/// What happens when no mirror has what is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// The registry itself is asked last.
    #[default]
    Always,
    /// A registry that has mirrors is never asked. Pushes go there all the same.
    Never,
}

/// A reason why the way to a registry is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not TOML of the expected shape.
    #[error("cannot parse {}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A file says something impossible.
    #[error("{}: {what}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The settings of this machine forbid a registry.
    #[error("{name} is blocked by `{prefix}` in registries.conf")]
    Blocked {
        /// The repository.
        name: String,
        /// The prefix that blocks it.
        prefix: String,
    },
    /// Several registries are searched for a name that does not say which.
    #[error("`{name}` is ambiguous, it may be {}", meanings.join(" or "))]
    Ambiguous {
        /// The name.
        name: String,
        /// What it may stand for.
        meanings: Vec<String>,
    },
    /// The name of an image breaks the grammar.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// The name of a registry cannot stand in a URL.
    #[error("`{0}` is no registry")]
    Registry(String),
}

impl HostsError {
    fn toml(path: &Path, source: toml::de::Error) -> Self {
        Self::Toml { path: path.to_owned(), source: Box::new(source) }
    }
}

impl Hosts {
    /// Nothing but what names say.
    pub fn none() -> Self {
        Self::default()
    }

    /// The files of podman, containerd and docker: `$CONTAINERS_REGISTRIES_CONF`, else
    /// `$HOME/.config/containers/registries.conf` or `/etc/containers/registries.conf` with their drop-ins in
    /// `registries.conf.d`; the trees `/etc/containerd/certs.d`, `$HOME/.config/containers/certs.d`, `/etc/containers/certs.d` and
    /// `/etc/docker/certs.d`. Short names are [taken](ShortNames::Taken) from a file that the variable names, not from the machine's: a
    /// Dockerfile should not mean another image where podman is installed.
    #[expect(clippy::disallowed_methods, reason = "a constructor named from_env")]
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let own = variable("HOME").map(|home| PathBuf::from(home).join(".config/containers"));
        let below_own = |name: &str| own.as_ref().map(|own| own.join(name));
        let trees = [
            Some("/etc/containerd/certs.d".into()),
            below_own("certs.d"),
            Some("/etc/containers/certs.d".into()),
            Some("/etc/docker/certs.d".into()),
        ];
        let trees = trees.into_iter().flatten().collect();
        if let Some(named) = variable("CONTAINERS_REGISTRIES_CONF") {
            let short_names = ShortNames::Taken;
            return Self { registries_conf: Some(named.into()), drop_ins: Vec::new(), trees, short_names };
        }
        let system = Path::new("/etc/containers/registries.conf");
        let file = below_own("registries.conf").filter(|file| file.exists()).unwrap_or(system.to_owned());
        let drop_ins = [Some("/etc/containers/registries.conf.d".into()), below_own("registries.conf.d")];
        let drop_ins = drop_ins.into_iter().flatten().collect();
        Self { registries_conf: Some(file), drop_ins, trees, short_names: ShortNames::HubOnly }
    }

    /// The names of the credential programs that are asked about every registry.
    pub(crate) fn credential_helpers(&self) -> Result<Vec<String>, HostsError> {
        Ok(Registries::read(self.registries_conf.as_deref(), &self.drop_ins)?.credential_helpers())
    }
}

/// What belongs to one origin and is for no other: where it is, how it is connected to, what is sent along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    /// The name under which credentials are looked up: `docker.io`, `HOST[:PORT]`.
    pub(crate) registry: String,
    /// Where the API is, with a slash at its end.
    pub(crate) api: Url,
    pub(crate) tls: Tls,
    pub(crate) headers: HeaderMap,
}

impl Home {
    /// How a URL that belongs to this origin's machine is connected to.
    pub(crate) fn transport(&self, url: &Url) -> Option<Transport> {
        if url.scheme() == "http" || url.host() != self.api.host() {
            return None;
        }
        Some(Transport::Tls(self.tls.clone()))
    }
}

/// A place to have a repository from.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) home: Arc<Home>,
    pub(crate) repository: String,
    /// The registry the place stands in for, when it wants to be told.
    pub(crate) namespace: Option<String>,
    pub(crate) pulls: PullFromMirror,
}

/// All places of a repository.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// In the order in which they are asked.
    pub(crate) mirrors: Vec<Place>,
    pub(crate) origin: Place,
    /// Whether the origin is asked when the mirrors have nothing.
    pub(crate) fallback: Fallback,
}

/// Everything that is known about hosts: files, and the settings of the client that go before them.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    files: Hosts,
    insecure: BTreeSet<String>,
    skip_tls_verify: BTreeSet<String>,
    ca: BTreeMap<String, PathBuf>,
    client_certificates: BTreeMap<String, ClientCertificate>,
    /// Addresses of mirrors by registry.
    mirrors: BTreeMap<String, Vec<String>>,
    fallback: Fallback,
    registries: OnceLock<Result<Registries, Arc<HostsError>>>,
}

impl From<&ClientOptions> for Routes {
    fn from(options: &ClientOptions) -> Self {
        Self {
            files: options.hosts.clone(),
            insecure: options.insecure.clone(),
            skip_tls_verify: options.skip_tls_verify.clone(),
            ca: options.ca.clone(),
            client_certificates: options.client_certificates.clone(),
            mirrors: options.mirrors.clone(),
            fallback: options.fallback,
            registries: OnceLock::new(),
        }
    }
}

impl Routes {
    /// Finds all places of a repository.
    pub(crate) fn plan(&self, registry: &str, repository: &str) -> Result<Plan, Arc<HostsError>> {
        let registries = self.registries()?;
        let rewritten = registries.rewrite(registry, repository).map_err(|prefix| {
            Arc::new(HostsError::Blocked { name: format!("{registry}/{repository}"), prefix })
        })?;
        let origin = &rewritten.origin;
        let mut mirrors = Vec::new();
        for address in self.mirrors.get(registry).into_iter().flatten() {
            mirrors.push(self.flag_mirror(address, registry, repository)?);
        }
        for (location, pulls) in &rewritten.mirrors {
            mirrors.push(Place { pulls: *pulls, ..self.place(location)? });
        }
        let mut own = self.place(origin)?;
        if let Some(file) = self.host_file(&own.home)? {
            for place in file.places.iter().filter(|place| place.pulls) {
                let pulls = if place.resolves { PullFromMirror::All } else { PullFromMirror::DigestOnly };
                let mut place = self.host_place(place, origin);
                place.pulls = pulls;
                mirrors.push(place);
            }
            if let Some(server) = &file.server {
                own = self.host_place(server, origin);
            }
        }
        Ok(Plan { mirrors, origin: own, fallback: self.fallback })
    }

    /// Tells what a name of an image means.
    pub(crate) fn reference(&self, text: &str) -> Result<Reference, Arc<HostsError>> {
        let hub: Reference = text.parse().map_err(|error: ReferenceError| Arc::new(error.into()))?;
        let first = text.split_once('/').map(|(first, _)| first);
        let names_registry = first.is_some_and(|first| first == hub.registry() || first.contains(['.', ':']));
        if names_registry || self.files.short_names == ShortNames::HubOnly {
            return Ok(hub);
        }
        match self.registries()?.meanings(text).as_slice() {
            [] => Ok(hub),
            [only] => only.parse().map_err(|error: ReferenceError| Arc::new(error.into())),
            several => {
                Err(Arc::new(HostsError::Ambiguous { name: text.to_owned(), meanings: several.to_vec() }))
            }
        }
    }

    /// Tells whether the host of `url` may be spoken to without TLS, whatever the URL's own scheme.
    ///
    /// Loopback hosts may, unless settings for TLS name them.
    pub(crate) fn is_plain(&self, url: &Url) -> bool {
        let names = names(url);
        let wants_tls = names.iter().any(|name| {
            self.skip_tls_verify.contains(name)
                || self.ca.contains_key(name)
                || self.client_certificates.contains_key(name)
        });
        let is_open = || is_loopback(url) && !wants_tls && self.certificates(url) == Tls::default();
        names.iter().any(|name| self.insecure.contains(name)) || is_open()
    }

    /// How a URL of no particular registry is connected to: what settings and directories of certificates say of its host.
    pub(crate) fn transport(&self, url: &Url) -> Transport {
        if url.scheme() == "http" { Transport::Plain } else { Transport::Tls(self.tls(url, Tls::default())) }
    }

    /// What settings of the client say of a host goes before what files say.
    fn tls(&self, url: &Url, from_files: Tls) -> Tls {
        let names = names(url);
        let mut tls = from_files;
        if tls == Tls::default() {
            tls = self.certificates(url);
        }
        if names.iter().any(|name| self.skip_tls_verify.contains(name)) {
            tls.trust = Trust::Anybody;
        }
        tls.ca.extend(names.iter().find_map(|name| self.ca.get(name)).cloned());
        let identity = names.iter().find_map(|name| self.client_certificates.get(name)).cloned();
        tls.identity = identity.or(tls.identity);
        tls
    }

    fn registries(&self) -> Result<&Registries, Arc<HostsError>> {
        let read = || {
            Registries::read(self.files.registries_conf.as_deref(), &self.files.drop_ins).map_err(Arc::new)
        };
        self.registries.get_or_init(read).as_ref().map_err(Arc::clone)
    }

    /// The certificates for a host and its port in the first tree that has a directory for them; a directory without a
    /// port is for the scheme's own, and `_default` for hosts.toml alone.
    fn certificates(&self, url: &Url) -> Tls {
        let names = names(url);
        let fitting = if url.port().is_some() { names.get(..1) } else { names.get(..) };
        for name in fitting.into_iter().flatten() {
            let mut found = self.files.trees.iter().filter_map(|tree| containerd::directory(tree, name));
            let own = found.find(|path| !path.ends_with("_default"));
            let tls = own.map(|path| containerd::read_certificates(&path)).unwrap_or_default();
            if tls != Tls::default() {
                return tls;
            }
        }
        Tls::default()
    }

    /// What the first `hosts.toml` for a registry says.
    fn host_file(&self, home: &Home) -> Result<Option<containerd::HostFile>, Arc<HostsError>> {
        for tree in &self.files.trees {
            let Some(directory) = containerd::directory(tree, &home.registry) else { continue };
            if let Some(file) = containerd::read_hosts(&directory, &home.api)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// The place a registry's own name leads to.
    fn place(&self, location: &Location) -> Result<Place, Arc<HostsError>> {
        let Location { registry, repository, insecure } = location;
        let api = self.api(registry, *insecure).ok_or_else(|| HostsError::Registry(registry.clone()))?;
        let trust = if *insecure { Trust::Anybody } else { Trust::Verified };
        let mut tls = self.tls(&api, Tls::default());
        tls.trust = tls.trust.max(trust);
        let home = Home { registry: registry.clone(), api, tls, headers: HeaderMap::new() };
        Ok(Place {
            home: Arc::new(home),
            repository: repository.clone(),
            namespace: None,
            pulls: PullFromMirror::All,
        })
    }

    fn host_place(&self, place: &HostPlace, origin: &Location) -> Place {
        let api = place.api.clone();
        let host = host_port(&api);
        let is_origin = names(&api).contains(&origin.registry);
        let registry = if is_origin { origin.registry.clone() } else { host };
        let home =
            Home { registry, tls: self.tls(&api, place.tls.clone()), api, headers: place.headers.clone() };
        Place {
            home: Arc::new(home),
            repository: origin.repository.clone(),
            namespace: (!is_origin).then(|| origin.registry.clone()),
            pulls: PullFromMirror::All,
        }
    }

    /// A mirror of the settings: `HOST[:PORT][/PATH]` or a URL; the path goes before the repository.
    fn flag_mirror(&self, address: &str, registry: &str, repository: &str) -> Result<Place, Arc<HostsError>> {
        // What stands before an @ may be a password.
        let shown = address.rsplit('@').next().unwrap_or_default();
        let invalid = || HostsError::Registry(shown.to_owned());
        if shown != address {
            return Err(Arc::new(HostsError::Registry(format!("…@{shown}"))));
        }
        let (scheme, rest) = match address.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, address),
        };
        let rest = rest.trim_end_matches('/');
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let repository = if path.is_empty() { repository.to_owned() } else { format!("{path}/{repository}") };
        let location = Location { registry: host.to_owned(), repository, insecure: false };
        let mut place = self.place(&location)?;
        if let Some(scheme) = scheme {
            let api = Url::parse(&format!("{scheme}://{host}/v2/")).ok();
            let api = api.filter(|api| matches!(api.scheme(), "http" | "https") && api.username().is_empty());
            let tls = self.tls(&place.home.api, Tls::default());
            let home = Home { api: api.ok_or_else(invalid)?, tls, ..(*place.home).clone() };
            place.home = Arc::new(home);
        }
        place.namespace = Some(registry.to_owned()).filter(|_| path.is_empty());
        Ok(place)
    }

    /// The URL under which a registry's API lives; `None` when the name cannot stand in a URL.
    fn api(&self, registry: &str, insecure: bool) -> Option<Url> {
        // The registry of Docker Hub is not at the name its references carry.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let probe = Url::parse(&format!("https://{host}/")).ok()?;
        let has_only_host = probe.path() == "/" && probe.query().is_none() && probe.fragment().is_none();
        if !has_only_host || !probe.username().is_empty() || probe.password().is_some() {
            return None;
        }
        // podman tries TLS first and then sends the credentials in the clear to whoever answers. A registry without TLS
        // has a port of its own.
        let wants_plain = insecure && probe.port().is_some() && !self.skips_verification(&probe);
        let scheme = if wants_plain || self.is_plain(&probe) { "http" } else { "https" };
        Url::parse(&format!("{scheme}://{host}/v2/")).ok()
    }

    fn skips_verification(&self, url: &Url) -> bool {
        names(url).iter().any(|name| self.skip_tls_verify.contains(name))
    }
}

/// `HOST[:PORT]`, the port only when it is not the scheme's own.
fn host_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Reads a file of settings; `None` when there is none.
fn read(path: &Path) -> Result<Option<String>, HostsError> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
        }
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(source) => Err(HostsError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Routes {
            insecure: set(&["plain.example", "port.example:5000"]),
            skip_tls_verify: set(&["skip.example", "127.0.0.9:5000"]),
            ca: BTreeMap::from([("ca.example".to_owned(), PathBuf::from("/ca.pem"))]),
            ..Routes::default()
        }
    }

    #[test]
    fn apis() {
        let routes = routes();
        for (registry, expect) in [
            ("docker.io", Some("https://registry-1.docker.io/v2/")),
            ("ghcr.io", Some("https://ghcr.io/v2/")),
            ("r.example:5000", Some("https://r.example:5000/v2/")),
            ("localhost:5000", Some("http://localhost:5000/v2/")),
            ("localhost", Some("http://localhost/v2/")),
            ("127.0.0.1:5000", Some("http://127.0.0.1:5000/v2/")),
            ("127.8.9.1", Some("http://127.8.9.1/v2/")),
            ("[::1]:5000", Some("http://[::1]:5000/v2/")),
            ("[2001:db8::1]:5000", Some("https://[2001:db8::1]:5000/v2/")),
            ("127.0.0.9:5000", Some("https://127.0.0.9:5000/v2/")),
            ("10.0.0.1:5000", Some("https://10.0.0.1:5000/v2/")),
            ("localhost.example", Some("https://localhost.example/v2/")),
            ("plain.example", Some("http://plain.example/v2/")),
            ("plain.example:8080", Some("http://plain.example:8080/v2/")),
            ("port.example:5000", Some("http://port.example:5000/v2/")),
            ("port.example:5001", Some("https://port.example:5001/v2/")),
            ("user@r.example", None),
            ("r.example/path", None),
            ("r.example?x", None),
            ("", None),
        ] {
            assert_eq!(routes.api(registry, false).as_ref().map(Url::as_str), expect, "{registry:?}");
        }
        let insecure = |registry: &str| routes.api(registry, true).unwrap().scheme().to_owned();
        assert_eq!(insecure("r.example:5000"), "http");
        assert_eq!(insecure("r.example"), "https");
        assert_eq!(insecure("r.example:443"), "https");
        assert_eq!(insecure("skip.example:5000"), "https");
    }

    #[test]
    fn transports() {
        let routes = routes();
        let tls = |trust, ca: &[&str]| {
            Transport::Tls(Tls { trust, ca: ca.iter().map(PathBuf::from).collect(), identity: None })
        };
        for (url, expect) in [
            ("https://r.example/", tls(Trust::Verified, &[])),
            ("https://ca.example:444/", tls(Trust::Verified, &["/ca.pem"])),
            ("https://skip.example/", tls(Trust::Anybody, &[])),
            ("http://r.example/", Transport::Plain),
        ] {
            assert_eq!(routes.transport(&Url::parse(url).unwrap()), expect, "{url}");
        }
    }

    /// The places of `name` as `registry api repository ns`, the origin last.
    fn places(routes: &Routes, name: &str) -> Vec<String> {
        let (registry, repository) = name.split_once('/').unwrap();
        let plan = routes.plan(registry, repository).unwrap();
        let show = |place: &Place| {
            let namespace = place.namespace.as_ref().map(|ns| format!(" ns={ns}")).unwrap_or_default();
            format!("{} {} {}{namespace}", place.home.registry, place.home.api, place.repository)
        };
        plan.mirrors.iter().chain([&plan.origin]).map(show).collect()
    }

    #[test]
    fn settings_go_before_podmans_and_these_before_containerds() {
        let directory = tempfile::tempdir().unwrap();
        let conf = directory.path().join("registries.conf");
        let text = "[[registry]]\nprefix = \"docker.io/team\"\nlocation = \"other.example:444/t\"\n\
                    [[registry.mirror]]\nlocation = \"m.example:5000/p\"\ninsecure = true\n\
                    [[registry]]\nlocation = \"bad.example\"\nblocked = true\n";
        std::fs::write(&conf, text).unwrap();
        let tree = directory.path().join("certs.d");
        std::fs::create_dir_all(tree.join("other.example_444_")).unwrap();
        let text = "server = \"https://real.example\"\n[host.\"https://c.example/x\"]\noverride_path = true\n\
                    [host.\"https://push.example\"]\ncapabilities = [\"push\"]\n";
        std::fs::write(tree.join("other.example_444_/hosts.toml"), text).unwrap();
        let routes = Routes {
            files: Hosts { registries_conf: Some(conf), trees: vec![tree], ..Hosts::default() },
            mirrors: BTreeMap::from([(
                "docker.io".to_owned(),
                vec!["f.example".to_owned(), "http://g.example:81/h".to_owned()],
            )]),
            ..Routes::default()
        };
        let expect = [
            "f.example https://f.example/v2/ team/app ns=docker.io",
            "g.example:81 http://g.example:81/v2/ h/team/app",
            "m.example:5000 http://m.example:5000/v2/ p/app",
            "c.example https://c.example/x/ t/app ns=other.example:444",
            "real.example https://real.example/v2/ t/app ns=other.example:444",
        ];
        assert_eq!(places(&routes, "docker.io/team/app"), expect);
        assert_eq!(places(&routes, "docker.io/library/a").len(), 3);
        assert_eq!(places(&routes, "r.example/a"), ["r.example https://r.example/v2/ a"]);
        let blocked = routes.plan("bad.example", "a").unwrap_err();
        assert_eq!(blocked.to_string(), "bad.example/a is blocked by `bad.example` in registries.conf");
    }

    #[test]
    fn settings_of_a_server_without_an_address_are_for_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        for registry in ["docker.io", "localhost:5000", "r.example"] {
            let own = directory.path().join(registry);
            std::fs::create_dir_all(&own).unwrap();
            std::fs::write(own.join("hosts.toml"), "skip_verify = true\n[host.\"https://docker.io\"]\n")
                .unwrap();
        }
        let files = Hosts { trees: vec![directory.path().to_owned()], ..Hosts::default() };
        let routes = Routes { files, ..Routes::default() };
        let hub = "docker.io https://registry-1.docker.io/v2/ a";
        assert_eq!(places(&routes, "docker.io/a"), [hub, hub]);
        assert_eq!(places(&routes, "localhost:5000/a")[1], "localhost:5000 http://localhost:5000/v2/ a");
        assert_eq!(places(&routes, "r.example/a")[1], "r.example https://r.example/v2/ a");
    }

    #[test]
    fn certificates_of_a_tree_are_for_their_host_and_port() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("r.example:5000");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("ca.crt"), "").unwrap();
        let files = Hosts { trees: vec![directory.path().to_owned()], ..Hosts::default() };
        let routes = Routes { files, ..Routes::default() };
        let ca = |registry: &str| routes.plan(registry, "a").unwrap().origin.home.tls.ca.clone();
        assert_eq!(ca("r.example:5000"), [own.join("ca.crt")]);
        assert!(ca("r.example").is_empty());
        let other = directory.path().join("s.example");
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(other.join("ca.crt"), "").unwrap();
        assert_eq!(ca("s.example"), [other.join("ca.crt")]);
        assert_eq!(ca("s.example:443"), [other.join("ca.crt")]);
        assert!(ca("s.example:5000").is_empty());
    }

    #[test]
    fn short_names() {
        let directory = tempfile::tempdir().unwrap();
        let conf = directory.path().join("registries.conf");
        let check = |text: &str, short_names: ShortNames, name: &str, expect: Option<&str>| {
            std::fs::write(&conf, text).unwrap();
            let files = Hosts { registries_conf: Some(conf.clone()), short_names, ..Hosts::default() };
            let found = Routes { files, ..Routes::default() }.reference(name);
            assert_eq!(found.ok().map(|name| name.to_string()).as_deref(), expect, "{name} {text}");
        };
        let (alias, two) = (
            "[aliases]\n\"base\" = \"r.example/team/base\"",
            "unqualified-search-registries = [\"r.example\", \"docker.io\"]",
        );
        let one = "unqualified-search-registries = [\"r.example\"]";
        use ShortNames::{HubOnly, Taken};
        check(alias, Taken, "base:1", Some("r.example/team/base:1"));
        check(alias, HubOnly, "base:1", Some("docker.io/library/base:1"));
        check(alias, Taken, "other", Some("docker.io/library/other:latest"));
        check(one, Taken, "x/y", Some("r.example/x/y:latest"));
        check(two, Taken, "x", None);
        check(two, HubOnly, "x", Some("docker.io/library/x:latest"));
        check(two, Taken, "docker.io/library/x", Some("docker.io/library/x:latest"));
        check(two, Taken, "q.example/x", Some("q.example/x:latest"));
    }

    #[test]
    fn files_of_the_machine() {
        let found = Hosts::from_variables(|name| (name == "HOME").then(|| "/nobody".into()));
        assert_eq!(found.registries_conf.as_deref(), Some(Path::new("/etc/containers/registries.conf")));
        assert_eq!((found.drop_ins.len(), found.trees.len(), found.short_names), (2, 4, ShortNames::HubOnly));
        let found = Hosts::from_variables(|name| (name == "CONTAINERS_REGISTRIES_CONF").then(|| "/c".into()));
        assert_eq!(found.registries_conf.as_deref(), Some(Path::new("/c")));
        assert_eq!((found.drop_ins.len(), found.short_names), (0, ShortNames::Taken));
    }
}
