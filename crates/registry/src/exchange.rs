//! One request and its answer: redirects, authorization, patience and retries.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use rbuild_image::Content;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;
use url::Url;

use crate::challenge::Challenge;
use crate::client::Client;
use crate::error::{Error, Refusal, redact, registry_errors};
use crate::hosts::Home;
use crate::retry::{self, Attempts};
use crate::token::{Access, Authenticator};

/// Registries behind a content network redirect once or twice.
const MAX_REDIRECTS: usize = 8;

/// How much of a refusal's body is read, in bytes.
const MAX_REFUSAL: usize = 64 << 10;

/// How long the next piece of a refusal's body is waited for.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(5);

/// The size of the pieces a body is read and sent in.
const PIECE: usize = 128 << 10;

/// A request that can be sent more than once.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    pub(crate) downgrade: Downgrade,
}

/// What becomes of a redirect from HTTPS to plain HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Downgrade {
    /// It is refused: a registry that asks for this is misconfigured, or not the registry.
    Refused,
    /// It is followed, as everything else that fetches from the web does.
    Followed,
}

/// What is sent along with a request.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Empty,
    Bytes(Bytes),
    /// As `Bytes`, for the request's own origin only.
    Secret(Bytes),
    Content(Part),
}

/// A part of a content, opened anew for each try.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) content: Arc<dyn Content>,
    /// What errors call the content.
    pub(crate) name: String,
    /// Where the part begins, in bytes.
    pub(crate) offset: u64,
    /// How many bytes it has; `None` when that is known at its end only.
    pub(crate) length: Option<u64>,
}

/// A successful answer read whole.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Where the answer came from, after redirects.
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Request {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Body::Empty, downgrade: Downgrade::Refused }
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn with_downgrade(self, downgrade: Downgrade) -> Self {
        Self { downgrade, ..self }
    }

    pub(crate) fn with_body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// An authorization and the one origin that may see it.
#[derive(Clone, Copy)]
pub(crate) struct Authorization<'a> {
    pub(crate) header: &'a HeaderValue,
    pub(crate) origin: &'a Url,
}

/// On whose behalf a request is sent.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sender<'a> {
    pub(crate) authorization: Option<Authorization<'a>>,
    /// Whose connections are used at its own host, and whose headers are sent to its own origin.
    pub(crate) home: Option<&'a Home>,
}

impl Client {
    /// Sends a request on behalf of an authenticator, again when it fails for a temporary reason, and returns a
    /// successful answer. Any other is [`Error::Refused`].
    pub(crate) async fn send(
        &self,
        request: &Request,
        authenticator: &Authenticator,
        access: Access<'_>,
    ) -> Result<Response, Error> {
        let mut attempts = Attempts::new(self);
        loop {
            let outcome = self.attempt(request, authenticator, access).await;
            match outcome {
                Err(error) if attempts.again(&error).await => {}
                other => return other.map_err(|error| error.tried(attempts.failed())),
            }
        }
    }

    /// As [`Client::send`], and reads the answer's body too, at most `limit` bytes of it.
    pub(crate) async fn fetch(
        &self,
        request: &Request,
        authenticator: &Authenticator,
        access: Access<'_>,
        limit: u64,
    ) -> Result<Fetched, Error> {
        let mut attempts = Attempts::new(self);
        loop {
            let outcome = match self.attempt(request, authenticator, access).await {
                Ok(response) => self.read(&request.method, response, limit).await,
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if attempts.again(&error).await => {}
                other => return other.map_err(|error| error.tried(attempts.failed())),
            }
        }
    }

    /// As [`Client::fetch`], for a request no authenticator stands behind: one to a token service. The authorization is
    /// for the origin of the request's URL.
    pub(crate) async fn fetch_bare(
        &self,
        request: &Request,
        authorization: Option<&HeaderValue>,
        home: &Home,
        limit: u64,
    ) -> Result<Fetched, Error> {
        let authorization = authorization.map(|header| Authorization { header, origin: &request.url });
        let sender = Sender { authorization, home: Some(home) };
        let mut attempts = Attempts::new(self);
        loop {
            let outcome = match self.follow(request, sender).await {
                Ok(response) if response.status().is_success() => {
                    self.read(&request.method, response, limit).await
                }
                Ok(response) => Err(Error::Refused(Box::new(refusal(&request.method, response).await))),
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if attempts.again(&error).await => {}
                other => return other.map_err(|error| error.tried(attempts.failed())),
            }
        }
    }

    /// Sends a request once, and once more with new authorization when the registry refuses the first.
    pub(crate) async fn attempt(
        &self,
        request: &Request,
        authenticator: &Authenticator,
        access: Access<'_>,
    ) -> Result<Response, Error> {
        let home = &**authenticator.home();
        let origin = &home.api;
        let header = authenticator.current(self, access).await?;
        let sender = |header| Sender {
            authorization: Option::map(header, |header| Authorization { header, origin }),
            home: Some(home),
        };
        let mut response = self.follow(request, sender(header.as_ref())).await?;
        // A host we were sent on to has no say in where our credentials go.
        if asks_for_authorization(&response) && response.url().origin() == origin.origin() {
            let challenges = Challenge::from_headers(response.headers());
            let answer = authenticator.answer(self, &challenges, header.as_ref(), access).await?;
            if answer.is_some() {
                response = self.follow(request, sender(answer.as_ref())).await?;
            }
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut refusal = refusal(&request.method, response).await;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            refusal.hint = authenticator.hint(status).await;
        }
        Err(Error::Refused(Box::new(refusal)))
    }

    /// Sends a request and follows where it is redirected to.
    pub(crate) async fn follow(&self, request: &Request, sender: Sender<'_>) -> Result<Response, Error> {
        let Sender { authorization, home } = sender;
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = request.headers.clone();
            if let Some(home) = home.filter(|home| home.api.origin() == url.origin()) {
                headers.extend(home.headers.clone());
            }
            if let Some(Authorization { header, origin }) = authorization
                && origin.origin() == url.origin()
            {
                headers.insert(AUTHORIZATION, header.clone());
            }
            let pool = self.pool(&url, home)?;
            let response = self
                .transmit(
                    pool.request(request.method.clone(), url.clone()).headers(headers),
                    &request.method,
                    &url,
                    &request.body,
                )
                .await?;
            if !redirects(&request.method, response.status()) {
                return Ok(response);
            }
            url = self.redirected(&request.method, &response, request.downgrade)?;
            if matches!(request.body, Body::Secret(_)) && url.origin() != request.url.origin() {
                let reason = format!("credentials were to be sent on to {}", redact(&url));
                return Err(protocol(&request.method, response.url(), reason));
            }
        }
        Err(protocol(&request.method, &url, format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// The `Location` of an answer, relative to where the answer came from.
    ///
    /// It may be at any host, but not in plain HTTP where TLS is due.
    pub(crate) fn location(&self, method: &Method, response: &Response) -> Result<Url, Error> {
        self.redirected(method, response, Downgrade::Refused)
    }

    fn redirected(&self, method: &Method, response: &Response, downgrade: Downgrade) -> Result<Url, Error> {
        let from = response.url();
        let given =
            response.headers().get(LOCATION).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        let Some(given) = given else {
            return Err(protocol(method, from, format!("{} without a `Location`", response.status())));
        };
        let url = from.join(given).ok().filter(Url::has_host);
        let Some(url) = url.filter(|url| matches!(url.scheme(), "http" | "https")) else {
            return Err(protocol(method, from, "the `Location` is no URL".to_owned()));
        };
        let is_plain = url.scheme() == "http" && from.scheme() == "https" && !self.routes().is_plain(&url);
        if is_plain && downgrade == Downgrade::Refused {
            let reason = format!("sent on from HTTPS to plain HTTP at {}", redact(&url));
            return Err(protocol(method, from, reason));
        }
        Ok(url)
    }

    /// One request, one answer.
    async fn transmit(
        &self,
        mut builder: reqwest::RequestBuilder,
        method: &Method,
        url: &Url,
        body: &Body,
    ) -> Result<Response, Error> {
        let sending = Sending::default();
        let mut patience = self.options().patience;
        builder = match body {
            Body::Empty if matches!(*method, Method::GET | Method::HEAD) => builder,
            // Registries answer 411 to a POST or PUT that does not say it is empty.
            Body::Empty => builder.header(CONTENT_LENGTH, 0).body(Bytes::new()),
            Body::Bytes(bytes) | Body::Secret(bytes) => builder.body(bytes.clone()),
            Body::Content(part) => {
                patience = patience.saturating_mul(5);
                if let Some(length) = part.length {
                    builder = builder.header(CONTENT_LENGTH, length);
                }
                builder.body(sending.open(part).await?)
            }
        };
        let outcome = patiently(builder.send(), patience, || sending.signs_of_life()).await;
        match (outcome, body, sending.take_failure()) {
            (Some(Ok(response)), ..) => Ok(response),
            (_, Body::Content(part), Some(source)) => {
                Err(Error::Local { content: part.name.clone(), source })
            }
            (Some(Err(source)), ..) => Err(Error::Transport {
                method: method.clone(),
                url: redact(url),
                source: source.without_url(),
            }),
            (None, ..) => Err(Error::Silent { method: method.clone(), url: redact(url), waited: patience }),
        }
    }

    /// Reads a body whole.
    async fn read(&self, method: &Method, mut response: Response, limit: u64) -> Result<Fetched, Error> {
        let url = response.url().clone();
        let too_large = || Error::TooLarge { url: redact(&url), limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let headers = std::mem::take(response.headers_mut());
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece(method, &url, &mut response).await? {
            if (body.len() as u64).saturating_add(piece.len() as u64) > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&piece);
        }
        Ok(Fetched { url, headers, body: body.freeze() })
    }

    /// The next piece of a body, `None` at its end.
    pub(crate) async fn piece(
        &self,
        method: &Method,
        url: &Url,
        response: &mut Response,
    ) -> Result<Option<Bytes>, Error> {
        let waited = self.options().patience;
        match tokio::time::timeout(waited, response.chunk()).await {
            Ok(outcome) => outcome.map_err(|source| Error::Transport {
                method: method.clone(),
                url: redact(url),
                source: source.without_url(),
            }),
            Err(_) => Err(Error::Silent { method: method.clone(), url: redact(url), waited }),
        }
    }
}

/// Makes an error of a registry's breach of protocol.
pub(crate) fn protocol(method: &Method, url: &Url, reason: String) -> Error {
    Error::Protocol { method: method.clone(), url: redact(url), reason }
}

/// A `303` answers a POST with the address of another resource; for an upload that says nothing, so only requests that
/// may become a GET without loss follow it.
fn redirects(method: &Method, status: StatusCode) -> bool {
    match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
            matches!(*method, Method::GET | Method::HEAD)
        }
        _ => false,
    }
}

/// Some registries answer 403 to a token whose scope or lifetime does not suffice; a challenge beside it tells these
/// from a mere no.
fn asks_for_authorization(response: &Response) -> bool {
    match response.status() {
        StatusCode::UNAUTHORIZED => true,
        StatusCode::FORBIDDEN => response.headers().contains_key(WWW_AUTHENTICATE),
        _ => false,
    }
}

pub(crate) async fn refusal(method: &Method, mut response: Response) -> Refusal {
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| retry::parse_retry_after(value, Timestamp::now()));
    let mut body = BytesMut::new();
    // What cannot be read of a refusal is not missed.
    while let Ok(Ok(Some(piece))) = tokio::time::timeout(REFUSAL_PATIENCE, response.chunk()).await {
        body.extend_from_slice(&piece);
        if body.len() >= MAX_REFUSAL {
            break;
        }
    }
    Refusal {
        method: method.clone(),
        url: redact(response.url()),
        status: response.status(),
        errors: registry_errors(&body),
        retry_after,
        tries: 1,
        hint: None,
    }
}

/// Waits for a future as long as something moves; `None` when nothing has for the time of `patience`.
async fn patiently<F: Future>(future: F, patience: Duration, moved: impl Fn() -> u64) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut before = moved();
    loop {
        if let Ok(output) = tokio::time::timeout(patience, &mut future).await {
            return Some(output);
        }
        let now = moved();
        if now == before {
            return None;
        }
        before = now;
    }
}

/// What becomes of a body while the HTTP client sends it out of our sight.
#[derive(Clone, Debug, Default)]
struct Sending {
    sent: Arc<AtomicU64>,
    /// Whether more is to be sent and cannot be read yet.
    starved: Arc<AtomicBool>,
    /// How often that was asked and found so.
    pauses: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Sending {
    async fn open(&self, part: &Part) -> Result<reqwest::Body, Error> {
        let opened = part.content.open(part.offset).await;
        let reader = opened.map_err(|source| Error::Local { content: part.name.clone(), source })?;
        let mut pieces = ReaderStream::with_capacity(reader.take(part.length.unwrap_or(u64::MAX)), PIECE);
        let starved = Arc::clone(&self.starved);
        let pieces = futures_util::stream::poll_fn(move |context| {
            let polled = pieces.poll_next_unpin(context);
            starved.store(polled.is_pending(), Ordering::Relaxed);
            polled
        });
        let (sending, length) = (self.clone(), part.length);
        // A stream that ended early would look like a broken connection.
        let end = futures_util::stream::once(async move { sending.check_end(length) });
        let sending = self.clone();
        let watched = pieces.map(move |piece| match piece {
            Ok(piece) => {
                sending.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Ok(piece)
            }
            Err(error) => Err(sending.fail(error)),
        });
        Ok(reqwest::Body::wrap_stream(watched.chain(end)))
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// A number that changes as long as it is not the registry that keeps us waiting.
    fn signs_of_life(&self) -> u64 {
        if self.starved.load(Ordering::Relaxed) {
            self.pauses.fetch_add(1, Ordering::Relaxed);
        }
        self.sent().wrapping_add(self.pauses.load(Ordering::Relaxed))
    }

    fn check_end(&self, length: Option<u64>) -> io::Result<Bytes> {
        let sent = self.sent();
        let Some(length) = length.filter(|length| sent != *length) else { return Ok(Bytes::new()) };
        let short = format!("content ended after {sent} of {length} bytes");
        Err(self.fail(io::Error::new(io::ErrorKind::UnexpectedEof, short)))
    }

    /// Keeps the error and returns a stand-in for the HTTP client to fail with.
    fn fail(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        kind.into()
    }

    fn take_failure(&self) -> Option<io::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
