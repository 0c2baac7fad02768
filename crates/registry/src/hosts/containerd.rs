//! containerd's `hosts.toml`, and the directories of certificates that docker and podman keep beside it.

use std::path::{Path, PathBuf};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::{Table, Value};
use url::Url;

use super::transport::{ClientCertificate, Tls, Trust};
use super::{HostsError, read};

/// What one `hosts.toml` says.
#[derive(Debug)]
pub(super) struct HostFile {
    /// The places to try, in order; the server comes last.
    pub(super) places: Vec<HostPlace>,
    /// Where the registry itself is, when the file says so.
    pub(super) server: Option<HostPlace>,
}

/// One place of a `hosts.toml`.
#[derive(Debug)]
pub(super) struct HostPlace {
    /// Where the API is, with a slash at its end.
    pub(super) api: Url,
    /// Manifests and blobs may be pulled from it.
    pub(super) pulls: bool,
    /// What it says about tags counts.
    pub(super) resolves: bool,
    pub(super) tls: Tls,
    pub(super) headers: HeaderMap,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    Pairs(Vec<(String, String)>),
    Files(OneOrMany),
}

/// # References
/// containerd, docs/hosts.md.
#[derive(Deserialize)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: std::collections::BTreeMap<String, OneOrMany>,
}

/// Finds the directory of a registry in a tree: `host_port_`, `host:port`, `_default`.
pub(super) fn directory(root: &Path, registry: &str) -> Option<PathBuf> {
    let folder = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => format!("{host}_{port}_"),
        _ => registry.to_owned(),
    };
    let names = [folder.as_str(), registry, "_default"];
    names.iter().map(|name| root.join(name)).find(|path| path.is_dir())
}

/// Reads the `hosts.toml` of a directory; `None` when it has none. `own` is where the registry's API is without it.
pub(super) fn read_hosts(directory: &Path, own: &Url) -> Result<Option<HostFile>, HostsError> {
    let path = directory.join("hosts.toml");
    let Some(text) = read(&path)? else { return Ok(None) };
    let table: Table = toml::from_str(&text).map_err(|source| HostsError::toml(&path, source))?;
    let invalid = |what: String| HostsError::Invalid { path: path.clone(), what };
    let place = |address: &str, table: Table| -> Result<HostPlace, HostsError> {
        let entry: Entry = table.try_into().map_err(|source| HostsError::toml(&path, source))?;
        place(directory, address, entry).map_err(invalid)
    };
    let mut places = Vec::new();
    if let Some(hosts) = table.get("host") {
        let hosts = hosts.as_table().ok_or_else(|| invalid("`host` is no table".to_owned()))?;
        for (address, entry) in hosts {
            let entry = entry.as_table().ok_or_else(|| invalid(format!("`host.{address}` is no table")))?;
            places.push(place(address, entry.clone())?);
        }
    }
    // What stands at the top is about the server, with an address of its own or not.
    let mut top = table;
    top.remove("host");
    let address = match top.remove("server") {
        Some(Value::String(address)) => Some(address),
        None if top.is_empty() => None,
        None => Some(own.to_string()),
        Some(_) => return Err(invalid("`server` is no text".to_owned())),
    };
    let server = address.map(|address| place(&address, top)).transpose()?;
    Ok(Some(HostFile { places, server }))
}

fn place(directory: &Path, address: &str, entry: Entry) -> Result<HostPlace, String> {
    let api = api(address, entry.override_path)?;
    let known = ["pull", "resolve", "push", "referrers"];
    if let Some(other) = entry.capabilities.iter().flatten().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("`{other}` is no capability: {}", known.join(", ")));
    }
    let has = |capability: &str| {
        entry.capabilities.as_ref().is_none_or(|all| all.iter().any(|name| name == capability))
    };
    let (pulls, resolves) = (has("pull"), has("resolve"));
    let path = |name: &String| directory.join(name);
    let ca = entry.ca.map(OneOrMany::all).unwrap_or_default();
    let identity = match entry.client {
        None => None,
        Some(Client::Files(files)) => {
            files.all().first().map(|file| ClientCertificate { certificate: path(file), key: None })
        }
        Some(Client::Pairs(pairs)) => pairs.first().map(|(certificate, key)| ClientCertificate {
            certificate: path(certificate),
            key: Some(path(key)).filter(|_| !key.is_empty()),
        }),
    };
    let mut headers = HeaderMap::new();
    for (name, values) in entry.header {
        for value in values.all() {
            let key = HeaderName::try_from(name.as_str());
            // A value may be a secret: it is neither shown nor logged.
            let value = HeaderValue::try_from(value);
            let (Ok(key), Ok(mut value)) = (key, value) else {
                return Err(format!("header `{name}` cannot be sent"));
            };
            value.set_sensitive(true);
            headers.append(key, value);
        }
    }
    let trust = if entry.skip_verify { Trust::Anybody } else { Trust::Verified };
    let tls = Tls { trust, ca: ca.iter().map(path).collect(), identity };
    Ok(HostPlace { api, pulls, resolves, tls, headers })
}

/// The address of an API: `/v2` is added to what is written, unless the path is said to be whole.
fn api(address: &str, is_whole: bool) -> Result<Url, String> {
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    // What stands before an @ may be a password.
    let shown = address.rsplit('@').next().unwrap_or_default();
    let invalid = || format!("`{shown}` is no address of a registry");
    let mut url = Url::parse(&with_scheme).map_err(|_| invalid())?;
    let has_more = url.query().is_some() || url.fragment().is_some() || !url.username().is_empty();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || has_more {
        return Err(invalid());
    }
    if url.host_str() == Some("docker.io") {
        // The examples of containerd's documentation name it so; the API is not there.
        url.set_host(Some("registry-1.docker.io")).map_err(|_| invalid())?;
    }
    let path = url.path().trim_end_matches('/');
    let is_complete = is_whole || path == "/v2";
    let path = if is_complete { format!("{path}/") } else { format!("{path}/v2/") };
    url.set_path(&path);
    Ok(url)
}

/// Reads a directory of certificates in docker's form: `*.crt` are authorities, `NAME.cert` with `NAME.key` is ours.
///
/// # References
/// <https://docs.docker.com/engine/security/certificates/>, containers-certs.d(5)
pub(super) fn read_certificates(directory: &Path) -> Tls {
    let entries = directory.read_dir().into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let with = |extension: &str| {
        let extension = extension.to_owned();
        paths.iter().filter(move |path| path.extension().is_some_and(|found| *found == *extension)).cloned()
    };
    let identity = with("cert").next().map(|certificate| {
        let key = Some(certificate.with_extension("key")).filter(|key| key.exists());
        ClientCertificate { certificate, key }
    });
    Tls { trust: Trust::Verified, ca: with("crt").collect(), identity }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |address: &str, is_whole: bool, expect: Option<&str>| {
            assert_eq!(api(address, is_whole).ok().as_ref().map(Url::as_str), expect, "{address}");
        };
        check("https://m.example", false, Some("https://m.example/v2/"));
        check("m.example:5000", false, Some("https://m.example:5000/v2/"));
        check("http://[::1]:5000/", false, Some("http://[::1]:5000/v2/"));
        check("https://m.example/v2", false, Some("https://m.example/v2/"));
        check("https://m.example/proxy", false, Some("https://m.example/proxy/v2/"));
        check("https://m.example/v2/proxy", true, Some("https://m.example/v2/proxy/"));
        check("https://u@m.example", false, None);
        check("ftp://m.example", false, None);
        check("https://m.example?x", false, None);
    }

    #[test]
    fn files() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("r.example_5000_");
        std::fs::create_dir(&home).unwrap();
        assert_eq!(directory(root.path(), "r.example:5000"), Some(home.clone()));
        assert_eq!(directory(root.path(), "r.example"), None);
        std::fs::create_dir(root.path().join("_default")).unwrap();
        assert_eq!(directory(root.path(), "r.example"), Some(root.path().join("_default")));
        let own = Url::parse("https://r.example:5000/v2/").unwrap();
        assert!(read_hosts(&home, &own).unwrap().is_none());
        let text = r#"
            server = "https://r.example:5000"
            ca = "server.pem"
            [host."https://z.example/proxy"]
              capabilities = ["pull", "resolve"]
              ca = ["a.pem", "/abs/b.pem"]
              client = [["c.cert", "c.key"], ["d.cert", "d.key"]]
              override_path = true
              [host."https://z.example/proxy".header]
                X-Key = "hunter2"
                X-Two = ["1", "2"]
            [host."http://a.example"]
              capabilities = ["pull"]
              skip_verify = true
              client = "both.pem"
        "#;
        std::fs::write(home.join("hosts.toml"), text).unwrap();
        let file = read_hosts(&home, &own).unwrap().unwrap();
        let shown: Vec<_> =
            file.places.iter().map(|place| (place.api.as_str(), place.pulls, place.resolves)).collect();
        // In the file's order, not the alphabet's.
        assert_eq!(shown, [("https://z.example/proxy/", true, true), ("http://a.example/v2/", true, false)]);
        let [first, second] = file.places.as_slice() else { panic!() };
        assert_eq!(first.tls.ca, [home.join("a.pem"), "/abs/b.pem".into()]);
        let pair = ClientCertificate { certificate: home.join("c.cert"), key: Some(home.join("c.key")) };
        assert_eq!(first.tls.identity, Some(pair));
        assert_eq!(first.headers.get_all("x-two").iter().count(), 2);
        assert!(!format!("{file:?}").contains("hunter2"));
        assert_eq!(second.tls.trust, Trust::Anybody);
        assert_eq!(second.tls.identity.as_ref().unwrap().key, None);
        let server = file.server.unwrap();
        assert_eq!(server.api.as_str(), "https://r.example:5000/v2/");
        assert_eq!(server.tls.ca, [home.join("server.pem")]);
    }

    #[test]
    fn mistakes_are_named() {
        let root = tempfile::tempdir().unwrap();
        let check = |text: &str, expect: &str| {
            std::fs::write(root.path().join("hosts.toml"), text).unwrap();
            let error = read_hosts(root.path(), &Url::parse("https://r.example/v2/").unwrap()).unwrap_err();
            let text = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(text.contains("hosts.toml") && text.contains(expect), "{text}");
        };
        check("server = ", "line 1");
        check("server = 1", "`server` is no text");
        check("host = 1", "`host` is no table");
        check("[host.\"https://a\"]\ncapabilities = [\"pul\"]", "`pul` is no capability");
        check("[host.\"ssh://a\"]", "`ssh://a` is no address");
        check("[host.\"https://u:hunter2@a\"]", "`a` is no address");
        check("[host.\"https://a\".header]\n\"a b\" = \"hunter2\"", "header `a b` cannot be sent");
    }

    #[test]
    fn certificates() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b.crt", "a.crt", "client.cert", "client.key", "note.txt"] {
            std::fs::write(root.path().join(name), "").unwrap();
        }
        let tls = read_certificates(root.path());
        assert_eq!(tls.ca, [root.path().join("a.crt"), root.path().join("b.crt")]);
        let identity = tls.identity.unwrap();
        assert_eq!(identity.certificate, root.path().join("client.cert"));
        assert_eq!(identity.key, Some(root.path().join("client.key")));
        assert_eq!(read_certificates(Path::new("/none")), Tls::default());
    }
}
