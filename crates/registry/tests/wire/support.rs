//! A registry in this process, with faults on demand and a log of everything it was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use rbuild_image::{Descriptor, DiffId, Digest, Image, Layer, Platform, Reference, media_type};
use rbuild_registry::{Client, ClientOptions, Credential, Credentials, RetryPolicy};

/// What the registry demands of who asks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Demand {
    Nothing,
    /// `user:password`.
    Basic(&'static str),
    /// A token from the service at this URL; `None` for the registry's own `/token`.
    Bearer {
        realm: Option<String>,
        account: Option<&'static str>,
        expires_in: Option<u64>,
    },
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers with a status, headers and no body.
    Answer(u16, Vec<(&'static str, String)>),
    /// Answers `200` with these bytes, whatever was asked for.
    Body(Bytes),
    /// Closes the connection instead of answering.
    Reset,
    /// Sends the announced length, but closes the connection after so many bytes of the body.
    ResetAfter(usize),
    /// Keeps so many bytes of the upload, then closes the connection.
    ResetUploadAfter(usize),
    /// Does what was asked, then closes the connection instead of saying so.
    LoseAnswer,
    /// Does what was asked, and adds or replaces headers of the answer.
    Headers(Vec<(&'static str, String)>),
}

/// A rule for requests of `method` whose path and query hold `path`; it wears off after `times`.
#[derive(Clone, Debug)]
struct Fault {
    method: Method,
    path: String,
    times: usize,
    act: Act,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
}

#[derive(Debug)]
struct Inside {
    demand: Demand,
    host: String,
    blobs: BTreeMap<(String, Digest), Bytes>,
    manifests: BTreeMap<(String, String), (String, Bytes)>,
    uploads: BTreeMap<String, Vec<u8>>,
    faults: Vec<Fault>,
    log: Vec<Logged>,
    /// Issued tokens and their scopes.
    tokens: BTreeMap<String, BTreeSet<String>>,
    mounts: bool,
    ranges: bool,
    unreliable: bool,
    counter: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Registry(Arc<Mutex<Inside>>);

impl Registry {
    /// Starts a registry that serves as long as the test's runtime lives.
    pub(crate) async fn start(demand: Demand) -> Self {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let registry = Self(Arc::new(Mutex::new(Inside {
            demand,
            host: listener.local_addr().unwrap().to_string(),
            blobs: BTreeMap::new(),
            manifests: BTreeMap::new(),
            uploads: BTreeMap::new(),
            faults: Vec::new(),
            log: Vec::new(),
            tokens: BTreeMap::new(),
            mounts: true,
            ranges: true,
            unreliable: false,
            counter: 0,
        })));
        let app = Router::new().fallback(serve).with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        registry
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }

    pub(crate) fn host(&self) -> String {
        self.inside().host.clone()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host())
    }

    pub(crate) fn name(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host()).parse().unwrap()
    }

    pub(crate) fn fault(&self, method: Method, path: &str, times: usize, act: Act) {
        self.inside().faults.push(Fault { method, path: path.to_owned(), times, act });
    }

    /// As [`Registry::fault`], for the token service.
    pub(crate) fn fault_token(&self, times: usize, act: Act) {
        self.fault(Method::GET, "/token", times, act);
    }

    /// Opens an upload session behind everybody's back.
    pub(crate) fn open_session(&self) -> String {
        let mut inside = self.inside();
        inside.counter += 1;
        let session = format!("session-{}", inside.counter);
        inside.uploads.insert(session.clone(), Vec::new());
        session
    }

    pub(crate) fn declines_mounts(&self) {
        self.inside().mounts = false;
    }

    /// From now on every third request is cut off and every seventh is refused for the moment.
    pub(crate) fn becomes_unreliable(&self) {
        self.inside().unreliable = true;
    }

    pub(crate) fn ignores_ranges(&self) {
        self.inside().ranges = false;
    }

    pub(crate) fn revoke_tokens(&self) {
        self.inside().tokens.clear();
    }

    pub(crate) fn log(&self) -> Vec<Logged> {
        self.inside().log.clone()
    }

    /// `METHOD path` of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        let shown = |logged: &Logged| {
            let path = logged.target.split('?').next().unwrap_or_default();
            format!("{} {path}", logged.method)
        };
        self.log().iter().map(shown).collect()
    }

    pub(crate) fn count(&self, method: Method, path: &str) -> usize {
        self.log().iter().filter(|logged| logged.method == method && logged.target.contains(path)).count()
    }

    pub(crate) fn blob(&self, repository: &str, digest: Digest) -> Option<Bytes> {
        self.inside().blobs.get(&(repository.to_owned(), digest)).cloned()
    }

    pub(crate) fn manifest(&self, repository: &str, key: &str) -> Option<Bytes> {
        self.inside().manifests.get(&(repository.to_owned(), key.to_owned())).map(|(_, bytes)| bytes.clone())
    }

    pub(crate) fn put_blob(&self, repository: &str, bytes: Bytes) -> Descriptor {
        let descriptor = Descriptor::of(media_type::OCI_LAYER, &bytes);
        self.inside().blobs.insert((repository.to_owned(), descriptor.digest), bytes);
        descriptor
    }

    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        key: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        let mut inside = self.inside();
        for key in [key.to_owned(), descriptor.digest.to_string()] {
            inside.manifests.insert((repository.to_owned(), key), (media_type.to_owned(), bytes.clone()));
        }
        descriptor
    }

    /// Stores an image with these layers.
    pub(crate) fn put_image(&self, repository: &str, tag: &str, layers: &[Bytes]) -> Descriptor {
        let mut image = Image::scratch(&Platform::new("linux", "amd64"));
        for bytes in layers {
            let descriptor = self.put_blob(repository, bytes.clone());
            let diff_id = DiffId(descriptor.digest);
            image.append(Layer { descriptor, diff_id }, Default::default());
        }
        let finished = image.finish(&BTreeMap::new());
        self.put_blob(repository, finished.config.bytes().clone());
        let mut descriptor =
            self.put_manifest(repository, tag, media_type::OCI_MANIFEST, finished.manifest.bytes().clone());
        descriptor.platform = Some(Platform::new("linux", "amd64"));
        descriptor
    }
}

/// A client that does not wait long between tries.
pub(crate) fn client() -> Client {
    client_with(Credentials::none())
}

pub(crate) fn client_with(credentials: Credentials) -> Client {
    Client::new(ClientOptions { credentials, retry: quick(), ..ClientOptions::default() }).unwrap()
}

pub(crate) fn quick() -> RetryPolicy {
    RetryPolicy {
        attempts: 5,
        connect_attempts: 2,
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(2),
        budget: Duration::from_secs(5),
    }
}

pub(crate) fn basic(username: &str, password: &str) -> Credential {
    Credential::Basic { username: username.into(), password: password.into() }
}

/// Bytes that do not repeat early.
pub(crate) fn noise(length: usize) -> Bytes {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(step).collect()
}

type Answer = Response<Body>;

fn answer(status: u16) -> Answer {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

fn refuse(status: u16, code: &str) -> Answer {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"as the test wants"}}]}}"#);
    Response::builder().status(status).body(Body::from(body)).unwrap()
}

fn add(mut answer: Answer, name: &'static str, value: impl AsRef<str>) -> Answer {
    answer.headers_mut().insert(name, value.as_ref().parse().unwrap());
    answer
}

/// Ends the connection without an answer. Unlike `panic!` this says nothing on stderr.
fn reset() -> ! {
    std::panic::resume_unwind(Box::new("connection reset by the test"))
}

async fn serve(State(registry): State<Registry>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let (method, headers) = (parts.method, parts.headers);
    registry.inside().log.push(Logged {
        method: method.clone(),
        target: target.clone(),
        headers: headers.clone(),
    });
    let asked = Asked { method, target, headers };
    let act = registry.take_fault(&asked);
    if asked.target.starts_with("/token") && act.is_none() {
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
        return registry.token(&asked, &body);
    }
    match act {
        Some(Act::Answer(status, headers)) => {
            headers.into_iter().fold(answer(status), |answer, (name, value)| add(answer, name, value))
        }
        Some(Act::Body(bytes)) => Response::new(Body::from(bytes)),
        Some(Act::Reset) => reset(),
        Some(Act::ResetUploadAfter(length)) => {
            let mut kept = Vec::new();
            let mut pieces = body.into_data_stream();
            while let Some(Ok(piece)) = pieces.next().await {
                kept.extend_from_slice(&piece);
                if kept.len() >= length {
                    kept.truncate(length);
                    break;
                }
            }
            registry.inside().uploads.entry(asked.session()).or_default().extend(kept);
            reset()
        }
        Some(Act::ResetAfter(length)) => cut(registry.handle(&asked, body).await, length),
        Some(Act::LoseAnswer) => {
            registry.handle(&asked, body).await;
            reset()
        }
        Some(Act::Headers(headers)) => {
            let answer = registry.handle(&asked, body).await;
            headers.into_iter().fold(answer, |answer, (name, value)| add(answer, name, value))
        }
        None => registry.handle(&asked, body).await,
    }
}

/// Keeps the announced length and breaks the body off after `length` bytes.
fn cut(answer: Answer, length: usize) -> Answer {
    let (mut parts, body) = answer.into_parts();
    let start = futures_util::stream::once(async move {
        let bytes = axum::body::to_bytes(body, 1 << 30).await.unwrap();
        Ok(bytes.slice(..length.min(bytes.len())))
    });
    let end = futures_util::stream::once(async {
        // The server flushes what it has only when the next piece is not ready.
        tokio::time::sleep(Duration::from_millis(10)).await;
        Err(io::Error::other("cut"))
    });
    let size = parts.headers.get("x-size").cloned().unwrap();
    parts.headers.insert(header::CONTENT_LENGTH, size);
    Response::from_parts(parts, Body::from_stream(start.chain(end)))
}

struct Asked {
    method: Method,
    target: String,
    headers: HeaderMap,
}

impl Asked {
    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn query(&self, key: &str) -> Option<String> {
        self.queries(key).next()
    }

    fn queries(&self, key: &str) -> impl Iterator<Item = String> {
        let query = self.target.split_once('?').map(|(_, query)| query).unwrap_or_default();
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        let found: Vec<String> =
            pairs.filter(|(name, _)| name == key).map(|(_, value)| value.into_owned()).collect();
        found.into_iter()
    }

    fn session(&self) -> String {
        self.path().rsplit('/').next().unwrap_or_default().to_owned()
    }

    fn authorization(&self) -> Option<&str> {
        self.headers.get(header::AUTHORIZATION)?.to_str().ok()
    }
}

impl Registry {
    fn take_fault(&self, asked: &Asked) -> Option<Act> {
        let mut inside = self.inside();
        if inside.unreliable {
            match inside.log.len() {
                count if count % 7 == 0 => return Some(Act::Answer(503, vec![])),
                count if count % 3 == 0 && asked.method == Method::PUT => {
                    return Some(Act::ResetUploadAfter(5000));
                }
                count if count % 3 == 0 => return Some(Act::Reset),
                _ => {}
            }
        }
        let matching = inside.faults.iter_mut().find(|fault| {
            fault.times > 0 && fault.method == asked.method && asked.target.contains(&fault.path)
        })?;
        matching.times -= 1;
        Some(matching.act.clone())
    }

    fn token(&self, asked: &Asked, body: &[u8]) -> Answer {
        let mut inside = self.inside();
        let Demand::Bearer { account, expires_in, .. } = inside.demand.clone() else { return answer(404) };
        let form: BTreeMap<String, String> =
            url::form_urlencoded::parse(body).map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
        let known = match account {
            None => true,
            Some(account) if asked.method == Method::POST => {
                form.get("refresh_token").map(String::as_str) == Some(account)
            }
            Some(account) => {
                asked.authorization() == Some(&format!("Basic {}", BASE64_STANDARD.encode(account)))
            }
        };
        if !known {
            return refuse(401, "UNAUTHORIZED");
        }
        let scopes = match form.get("scope") {
            Some(scope) => scope.split(' ').map(str::to_owned).collect(),
            None => asked.queries("scope").collect(),
        };
        inside.counter += 1;
        let token = format!("token-{}", inside.counter);
        inside.tokens.insert(token.clone(), scopes);
        let expires = expires_in.map(|seconds| format!(r#","expires_in":{seconds}"#)).unwrap_or_default();
        Response::new(Body::from(format!(r#"{{"access_token":"{token}"{expires}}}"#)))
    }

    /// The `401` for a request that is not authorized.
    fn challenge(&self, asked: &Asked) -> Option<Answer> {
        let inside = self.inside();
        let writes = !matches!(asked.method, Method::GET | Method::HEAD);
        let repository = repository(asked.path()).unwrap_or_default();
        let action = if writes { "pull,push" } else { "pull" };
        let needed = format!("repository:{repository}:{action}");
        let challenge = match &inside.demand {
            Demand::Nothing => return None,
            Demand::Basic(account) => {
                let expected = format!("Basic {}", BASE64_STANDARD.encode(account));
                if asked.authorization() == Some(&expected) {
                    return None;
                }
                "Basic realm=\"test\"".to_owned()
            }
            Demand::Bearer { realm, .. } => {
                let token = asked.authorization().and_then(|header| header.strip_prefix("Bearer "));
                let scopes = token.and_then(|token| inside.tokens.get(token));
                let wide = format!("repository:{repository}:pull,push");
                if scopes.is_some_and(|scopes| scopes.contains(&needed) || scopes.contains(&wide)) {
                    return None;
                }
                let own = format!("http://{}/token", inside.host);
                let realm = realm.as_ref().unwrap_or(&own);
                format!(r#"Negotiate, Bearer realm="{realm}",service="test",scope="{needed}""#)
            }
        };
        Some(add(refuse(401, "UNAUTHORIZED"), "www-authenticate", challenge))
    }

    async fn handle(&self, asked: &Asked, body: Body) -> Answer {
        if let Some(challenge) = self.challenge(asked) {
            return challenge;
        }
        let Some(repository) = repository(asked.path()) else { return refuse(404, "NAME_UNKNOWN") };
        let rest = asked.path().strip_prefix(&format!("/v2/{repository}/")).unwrap_or_default();
        match rest.split_once('/') {
            Some(("manifests", key)) => self.manifests(asked, &repository, key, body).await,
            Some(("blobs", rest)) if rest.starts_with("uploads") => {
                self.uploads(asked, &repository, body).await
            }
            Some(("blobs", digest)) => self.blobs(asked, &repository, digest),
            _ => refuse(404, "NAME_UNKNOWN"),
        }
    }

    async fn manifests(&self, asked: &Asked, repository: &str, key: &str, body: Body) -> Answer {
        let key = (repository.to_owned(), key.to_owned());
        if asked.method == Method::PUT {
            let bytes = axum::body::to_bytes(body, 4 << 20).await.unwrap();
            let media_type = asked.headers.get(header::CONTENT_TYPE).unwrap().to_str().unwrap().to_owned();
            let digest = Digest::of(&bytes).to_string();
            let mut inside = self.inside();
            inside.manifests.insert((key.0.clone(), digest.clone()), (media_type.clone(), bytes.clone()));
            inside.manifests.insert(key, (media_type, bytes));
            return add(answer(201), "docker-content-digest", digest);
        }
        match self.inside().manifests.get(&key) {
            None => refuse(404, "MANIFEST_UNKNOWN"),
            Some((media_type, bytes)) => {
                let answer = Response::new(Body::from(bytes.clone()));
                let answer = add(answer, "content-type", media_type);
                add(answer, "docker-content-digest", Digest::of(bytes).to_string())
            }
        }
    }

    fn blobs(&self, asked: &Asked, repository: &str, digest: &str) -> Answer {
        let inside = self.inside();
        let digest = digest.parse().ok();
        let Some(bytes) = digest.and_then(|digest| inside.blobs.get(&(repository.to_owned(), digest))) else {
            return refuse(404, "BLOB_UNKNOWN");
        };
        let range = asked.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
        let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let (start, status) = match start {
            Some(start) if inside.ranges => (start, 206),
            _ => (0, 200),
        };
        let rest = bytes.slice(start..);
        let size = rest.len().to_string();
        let mut answer = Response::new(Body::from(rest));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        let answer = add(answer, "x-size", size);
        match status {
            206 => add(answer, "content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
            _ => answer,
        }
    }

    async fn uploads(&self, asked: &Asked, repository: &str, body: Body) -> Answer {
        let location = |session: &str| format!("/v2/{repository}/blobs/uploads/{session}?state=s3cret");
        if asked.method == Method::POST {
            return self.begin(asked, repository, location);
        }
        let session = asked.session();
        let received = axum::body::to_bytes(body, 1 << 30).await;
        let mut inside = self.inside();
        let Some(held) = inside.uploads.get_mut(&session) else { return refuse(404, "BLOB_UPLOAD_UNKNOWN") };
        let Ok(received) = received else { return refuse(400, "SIZE_INVALID") };
        if asked.method == Method::PATCH {
            let range = asked.headers.get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
            if !range.is_some_and(|range| range.starts_with(&format!("{}-", held.len()))) {
                return refuse(416, "BLOB_UPLOAD_INVALID");
            }
        }
        held.extend_from_slice(&received);
        let range = format!("0-{}", held.len().saturating_sub(1));
        match asked.method {
            Method::GET => add(add(answer(204), "range", range), "location", location(&session)),
            Method::PATCH => add(add(answer(202), "range", range), "location", location(&session)),
            Method::PUT => {
                let bytes = Bytes::from(inside.uploads.remove(&session).unwrap());
                let digest: Digest = asked.query("digest").unwrap().parse().unwrap();
                if Digest::of(&bytes) != digest {
                    return refuse(400, "DIGEST_INVALID");
                }
                inside.blobs.insert((repository.to_owned(), digest), bytes);
                add(answer(201), "docker-content-digest", digest.to_string())
            }
            _ => refuse(405, "UNSUPPORTED"),
        }
    }

    fn begin(&self, asked: &Asked, repository: &str, location: impl Fn(&str) -> String) -> Answer {
        let mut inside = self.inside();
        if let (Some(digest), Some(from), true) = (asked.query("mount"), asked.query("from"), inside.mounts) {
            let digest: Digest = digest.parse().unwrap();
            if let Some(bytes) = inside.blobs.get(&(from, digest)).cloned() {
                inside.blobs.insert((repository.to_owned(), digest), bytes);
                return add(answer(201), "location", format!("/v2/{repository}/blobs/{digest}"));
            }
        }
        drop(inside);
        let session = self.open_session();
        add(answer(202), "location", location(&session))
    }
}

/// The repository in `/v2/REPOSITORY/manifests/…` and `/v2/REPOSITORY/blobs/…`.
fn repository(path: &str) -> Option<String> {
    let path = path.strip_prefix("/v2/")?;
    let end = path.find("/manifests/").or_else(|| path.find("/blobs/"))?;
    Some(path[..end].to_owned())
}
