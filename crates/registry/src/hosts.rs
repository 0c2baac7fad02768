//! How each host is spoken to: plain HTTP or TLS, and whom TLS trusts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use url::Url;

/// Per-host settings. A host is written `name` (any port) or `name:port`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    pub(crate) insecure: BTreeSet<String>,
    pub(crate) skip_tls_verify: BTreeSet<String>,
    pub(crate) ca: BTreeMap<String, PathBuf>,
}

/// What a connection needs that may differ between hosts; equal values share one connection pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transport {
    /// No TLS at all.
    Plain,
    /// TLS that trusts the system's roots, and the certificates in this file.
    Verified { ca: Option<PathBuf> },
    /// TLS that trusts everybody.
    Unverified,
}

/// Whether proxy settings count for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Route {
    Direct,
    Proxied,
}

/// Loopback hosts are never reached through a proxy: for it, they are others. Go's clients do the same, and few who
/// set `HTTP_PROXY` set `NO_PROXY` for them.
pub(crate) fn route(url: &Url) -> Route {
    if is_loopback(url) { Route::Direct } else { Route::Proxied }
}

impl Hosts {
    /// The URL under which a registry's API lives; `None` when the name cannot stand in a URL.
    pub(crate) fn base(&self, registry: &str) -> Option<Url> {
        // The registry of Docker Hub is not at the name its references carry.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let probe = Url::parse(&format!("https://{host}/")).ok()?;
        let has_only_host = probe.path() == "/" && probe.query().is_none() && probe.fragment().is_none();
        if !has_only_host || !probe.username().is_empty() || probe.password().is_some() {
            return None;
        }
        let scheme = if self.is_plain(&probe) { "http" } else { "https" };
        Url::parse(&format!("{scheme}://{host}/")).ok()
    }

    /// Tells whether the host of `url` may be spoken to without TLS, whatever the URL's own scheme.
    ///
    /// Loopback hosts may, unless settings for TLS name them.
    pub(crate) fn is_plain(&self, url: &Url) -> bool {
        let names = names(url);
        let wants_tls =
            names.iter().any(|name| self.skip_tls_verify.contains(name) || self.ca.contains_key(name));
        names.iter().any(|name| self.insecure.contains(name)) || (is_loopback(url) && !wants_tls)
    }

    pub(crate) fn transport(&self, url: &Url) -> Transport {
        if url.scheme() == "http" {
            return Transport::Plain;
        }
        let names = names(url);
        if names.iter().any(|name| self.skip_tls_verify.contains(name)) {
            return Transport::Unverified;
        }
        Transport::Verified { ca: names.iter().find_map(|name| self.ca.get(name)).cloned() }
    }
}

/// The forms under which settings may name the host: with its port first, then without.
fn names(url: &Url) -> Vec<String> {
    let host = url.host_str().unwrap_or_default();
    let mut names = Vec::from([host.to_owned()]);
    if host == "registry-1.docker.io" {
        names.push("docker.io".to_owned());
    }
    // The URL parser drops a scheme's default port, which a reference may well have written.
    if let Some(port) = url.port_or_known_default() {
        names.insert(0, format!("{host}:{port}"));
    }
    names
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Hosts {
            insecure: set(&["plain.example", "port.example:5000"]),
            skip_tls_verify: set(&["skip.example", "127.0.0.9:5000"]),
            ca: BTreeMap::from([("ca.example".to_owned(), PathBuf::from("/ca.pem"))]),
        }
    }

    #[test]
    fn bases() {
        let hosts = hosts();
        for (registry, expect) in [
            ("docker.io", Some("https://registry-1.docker.io/")),
            ("ghcr.io", Some("https://ghcr.io/")),
            ("r.example:5000", Some("https://r.example:5000/")),
            ("localhost:5000", Some("http://localhost:5000/")),
            ("localhost", Some("http://localhost/")),
            ("127.0.0.1:5000", Some("http://127.0.0.1:5000/")),
            ("127.8.9.1", Some("http://127.8.9.1/")),
            ("[::1]:5000", Some("http://[::1]:5000/")),
            ("[2001:db8::1]:5000", Some("https://[2001:db8::1]:5000/")),
            ("127.0.0.9:5000", Some("https://127.0.0.9:5000/")),
            ("10.0.0.1:5000", Some("https://10.0.0.1:5000/")),
            ("localhost.example", Some("https://localhost.example/")),
            ("plain.example", Some("http://plain.example/")),
            ("plain.example:8080", Some("http://plain.example:8080/")),
            ("port.example:5000", Some("http://port.example:5000/")),
            ("port.example:5001", Some("https://port.example:5001/")),
            ("user@r.example", None),
            ("r.example/path", None),
            ("r.example?x", None),
            ("", None),
        ] {
            assert_eq!(hosts.base(registry).as_ref().map(Url::as_str), expect, "{registry:?}");
        }
    }

    #[test]
    fn transports() {
        let hosts = hosts();
        let ca = |path: &str| Transport::Verified { ca: Some(path.into()) };
        for (url, expect) in [
            ("https://r.example/", Transport::Verified { ca: None }),
            ("https://ca.example:444/", ca("/ca.pem")),
            ("https://skip.example/", Transport::Unverified),
            ("http://r.example/", Transport::Plain),
        ] {
            assert_eq!(hosts.transport(&Url::parse(url).unwrap()), expect, "{url}");
        }
    }
}
