//! What a connection needs: plain HTTP or TLS, whom TLS trusts, and who we are to it.

use std::net::IpAddr;
use std::path::PathBuf;

use url::Url;

/// What a connection needs that may differ between hosts; equal values share one connection pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transport {
    /// No TLS at all.
    Plain,
    /// TLS.
    Tls(Tls),
}

/// How TLS is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tls {
    pub(crate) trust: Trust,
    /// Files of certificates trusted beside the system's.
    pub(crate) ca: Vec<PathBuf>,
    /// Whom we present ourselves as.
    pub(crate) identity: Option<ClientCertificate>,
}

/// Whom TLS trusts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trust {
    /// Certificates that an authority vouches for.
    #[default]
    Verified,
    /// Everybody.
    Anybody,
}

/// A certificate with which a client proves who it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientCertificate {
    /// A PEM file of the certificate, followed by those between it and its authority.
    pub certificate: PathBuf,
    /// A PEM file of the private key; `None` when it stands in the same file.
    pub key: Option<PathBuf>,
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

/// The forms under which settings may name the host: with its port first, then without.
pub(crate) fn names(url: &Url) -> Vec<String> {
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

pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
