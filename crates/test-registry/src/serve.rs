//! One request: logged, spoiled by a fault, or answered.

use std::io;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, Response, StatusCode, header};
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::wire::Line;
use crate::{Act, Logged, Registry};

pub(crate) type Answer = Response<Body>;

/// The largest body that is read whole, in bytes: manifests and forms.
pub(crate) const MAX_WHOLE: usize = 8 << 20;

/// A request without its body.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
}

impl Asked {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(crate) fn query(&self, key: &str) -> Option<String> {
        self.queries(key).next()
    }

    pub(crate) fn queries(&self, key: &str) -> impl Iterator<Item = String> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        url::form_urlencoded::parse(query.as_bytes())
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.into_owned())
    }

    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn authorization(&self) -> Option<&str> {
        self.header(header::AUTHORIZATION)
    }

    /// How many bytes the request says it sends; `None` when it does not say.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }
}

/// What is sent along with a request.
pub(crate) struct Sent {
    pub(crate) body: Body,
    /// After so many bytes the connection is closed.
    pub(crate) reset_after: Option<usize>,
}

pub(crate) async fn serve(
    State(registry): State<Registry>,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let asked = Asked { method: parts.method, target, headers: parts.headers };
    let act = registry.note(&asked);
    let whole = Sent { body, reset_after: None };
    match act {
        None => registry.handle(&asked, whole).await,
        Some(Act::Answer(status, headers)) => {
            drain(whole.body).await;
            headers.into_iter().fold(answer(status), |answer, (name, value)| with(answer, name, value))
        }
        Some(Act::Body(bytes)) => Response::new(Body::from(bytes)),
        Some(Act::Reset) => reset(),
        Some(Act::ResetUploadAfter(length)) => {
            let cut = Sent { reset_after: Some(length), ..whole };
            registry.handle(&asked, cut).await;
            reset()
        }
        Some(Act::ResetAfter(length)) => cut(registry.handle(&asked, whole).await, length, line),
        Some(Act::LoseAnswer) => {
            registry.handle(&asked, whole).await;
            reset()
        }
        Some(Act::Headers(headers)) => {
            let answer = registry.handle(&asked, whole).await;
            headers.into_iter().fold(answer, |answer, (name, value)| with(answer, name, value))
        }
        Some(Act::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            registry.handle(&asked, whole).await
        }
        Some(Act::Silence) => std::future::pending().await,
    }
}

impl Registry {
    /// Logs a request and decides what goes wrong with it.
    fn note(&self, asked: &Asked) -> Option<Act> {
        let mut inside = self.inside();
        inside.log.push(Logged {
            method: asked.method.clone(),
            target: asked.target.clone(),
            headers: asked.headers.clone(),
        });
        let length = asked.length().and_then(|length| usize::try_from(length).ok());
        if let Some(unreliable) = inside.unreliable
            && let Some(act) = unreliable.strike(&mut inside.random, &asked.method, length)
        {
            return Some(act);
        }
        let mut faults = inside.faults.iter_mut();
        faults.find_map(|fault| fault.strikes(&asked.method, &asked.target).then(|| fault.act.clone()))
    }

    async fn handle(&self, asked: &Asked, sent: Sent) -> Answer {
        let path = asked.path();
        if path.starts_with("/token") {
            return self.token(asked, &whole(sent).await);
        }
        if self.options.max_body.is_some_and(|max| asked.length().is_some_and(|length| length > max)) {
            drain(sent.body).await;
            return refuse(413, "SIZE_INVALID");
        }
        let Some((repository, kind, rest)) = split(path) else {
            return match path {
                "/v2/" | "/v2" => self.challenge(asked, "").unwrap_or_else(|| json(&serde_json::json!({}))),
                "/v2/_catalog" => self.catalog(),
                _ => refuse(404, "NAME_UNKNOWN"),
            };
        };
        if let Some(challenge) = self.challenge(asked, repository) {
            drain(sent.body).await;
            return challenge;
        }
        match (kind, rest.strip_prefix("uploads")) {
            ("manifests", _) => self.manifests(asked, repository, rest, &whole(sent).await),
            ("blobs", Some(session)) => {
                self.uploads(asked, repository, session.trim_start_matches('/'), sent).await
            }
            ("blobs", None) => self.blobs(asked, repository, rest),
            ("referrers", _) => self.referrers(asked, repository, rest),
            ("tags", _) => self.tags(asked, repository),
            _ => refuse(404, "NAME_UNKNOWN"),
        }
    }
}

/// Splits `/v2/REPOSITORY/KIND/REST` at the last kind there is: repositories may be called like one.
fn split(path: &str) -> Option<(&str, &str, &str)> {
    let path = path.strip_prefix("/v2/")?;
    let place = |kind: &'static str| Some((path.rfind(&format!("/{kind}/"))?, kind));
    let (at, kind) = ["manifests", "blobs", "referrers", "tags"].into_iter().filter_map(place).max()?;
    let rest = path.get(at + kind.len() + 2..)?;
    Some((path.get(..at)?, kind, rest))
}

pub(crate) fn answer(status: u16) -> Answer {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
}

pub(crate) fn json(value: &serde_json::Value) -> Answer {
    with(Response::new(Body::from(value.to_string())), "content-type", "application/json")
}

pub(crate) fn refuse(status: u16, code: &str) -> Answer {
    let errors = serde_json::json!({"errors": [{"code": code, "message": "as the test wants"}]});
    let mut refusal = json(&errors);
    *refusal.status_mut() = answer(status).status();
    refusal
}

/// Sets a header; a value that cannot be one is left out.
pub(crate) fn with(mut answer: Answer, name: &'static str, value: impl AsRef<str>) -> Answer {
    if let Ok(value) = value.as_ref().parse() {
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
    answer
}

async fn drain(body: Body) {
    let mut pieces = body.into_data_stream();
    while let Some(Ok(_)) = pieces.next().await {}
}

async fn whole(sent: Sent) -> Bytes {
    let bytes = axum::body::to_bytes(sent.body, MAX_WHOLE).await;
    match (bytes, sent.reset_after) {
        (_, Some(_)) => reset(),
        (bytes, None) => bytes.unwrap_or_default(),
    }
}

/// Ends the connection without an answer. Unlike `panic!` this says nothing on stderr.
pub(crate) fn reset() -> ! {
    std::panic::resume_unwind(Box::new("connection reset by the test"))
}

/// Keeps the announced length and breaks the body off after `length` bytes; a body that is not longer loses its last.
fn cut(answer: Answer, length: usize, line: Line) -> Answer {
    let (mut parts, body) = answer.into_parts();
    if body_length(&parts.headers).is_none_or(|length| length == 0) {
        reset();
    }
    let whole = body_length(&parts.headers).unwrap_or_default();
    let kept = if length < whole { length } else { length % whole };
    parts.headers.insert(header::CONTENT_LENGTH, whole.into());
    let before = line.written();
    let start = futures_util::stream::once(async move {
        let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(io::Error::other)?;
        Ok(bytes.slice(..kept.min(bytes.len())))
    });
    // The server drops what it has not written yet when a body fails.
    let end = futures_util::stream::once(async move {
        line.flushed(before.saturating_add(kept as u64)).await;
        Err(io::Error::other("cut"))
    });
    Response::from_parts(parts, Body::from_stream(start.chain(end)))
}

fn body_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, expect) in [
            ("/v2/a/b/manifests/1", Some(("a/b", "manifests", "1"))),
            ("/v2/a/blobs/uploads/", Some(("a", "blobs", "uploads/"))),
            ("/v2/a/blobs/blobs/sha256:0", Some(("a/blobs", "blobs", "sha256:0"))),
            ("/v2/tags/tags/list", Some(("tags", "tags", "list"))),
            ("/v2/a/referrers/sha256:0", Some(("a", "referrers", "sha256:0"))),
            ("/v2/", None),
            ("/other", None),
        ] {
            assert_eq!(split(path), expect, "{path}");
        }
    }
}
