//! Blobs on their way to a registry.

use std::sync::Arc;

use rbuild_image::{Content, Descriptor, Digest, Reference};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use crate::error::{Actual, Error, redact};
use crate::exchange::{Body, Part, Request, protocol};
use crate::form::Form;
use crate::growing::Growing;
use crate::manifests::header_digest;
use crate::remote::Remote;
use crate::retry::Attempts;

/// How often an upload whose session the registry has forgotten is begun anew.
const MAX_RESTARTS: u32 = 3;

/// An upload the registry has opened.
///
/// # References
/// OCI distribution specification 1.1, "Pushing blobs".
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) location: Url,
    /// How many bytes the registry holds already.
    offset: u64,
    /// The least a part may have that is not the last.
    least: u64,
}

/// The request an upload failed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A PUT of the whole blob, of so many bytes.
    Whole(u64),
    /// A PATCH of so many bytes; a stream has no length.
    Part(Option<u64>),
    /// The PUT that ends a session.
    Close,
}

/// What is to be sent.
struct Blob<'a> {
    digest: Digest,
    size: u64,
    content: &'a Arc<dyn Content>,
}

impl Remote {
    /// Takes a blob over from another repository of the same registry.
    ///
    /// A registry that declines opens an upload session instead; the push of the same blob goes on with it.
    pub(crate) async fn mount_from(&self, descriptor: &Descriptor, from: &Reference) -> Result<bool, Error> {
        let same_repository = from.repository() == self.repository();
        if from.registry() != self.name().registry() || same_repository {
            return Ok(false);
        }
        let digest = descriptor.digest;
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from.repository());
        // Docker Hub mounts only with a token that may read the source.
        let scopes = self.push_scopes().and(&format!("repository:{}:pull", from.repository()));
        let response = match self.send(&Request::new(Method::POST, url), &scopes).await {
            Ok(response) => response,
            // What stands in the way of a mount may not stand in the way of an upload.
            Err(error) if error.status().is_some_and(|status| status.is_client_error()) => return Ok(false),
            Err(error) => return Err(error),
        };
        if response.status() == StatusCode::CREATED {
            return Ok(true);
        }
        self.keep_session(digest, self.opened(&response)?);
        Ok(false)
    }

    /// Sends a blob: one POST and one PUT, or the parts that the registry wants; after a break, what it does not hold yet.
    pub(crate) async fn upload(
        &self,
        descriptor: &Descriptor,
        content: Arc<dyn Content>,
    ) -> Result<(), Error> {
        let session = self.take_session(&descriptor.digest);
        self.finish_upload(descriptor, content, session).await
    }

    /// As [`Remote::upload`], in a session that may hold a part already.
    pub(crate) async fn finish_upload(
        &self,
        descriptor: &Descriptor,
        content: Arc<dyn Content>,
        mut known: Option<Session>,
    ) -> Result<(), Error> {
        let blob = Blob { digest: descriptor.digest, size: descriptor.size, content: &content };
        // The requests without a body have tries of their own.
        let mut attempts = Attempts::new(self.client());
        let (mut restarts, mut furthest) = (0, 0);
        loop {
            let form = self.client().form(self.name().registry());
            let mut session = match known.take() {
                Some(session) if session.offset == 0 || form.takes_parts() => session,
                _ => self.begin().await?,
            };
            let Err((step, error)) = self.fill(&mut session, &blob, form).await else { return Ok(()) };
            if let Some(better) = form.after(step, &error) {
                self.client().learn(self.name().registry(), better);
                known = self.held(&session, blob.size).await;
                continue;
            }
            if is_forgotten(&error) && restarts < MAX_RESTARTS {
                restarts += 1;
                // A range that does not fit is put right by asking where the registry is.
                if error.status() == Some(StatusCode::RANGE_NOT_SATISFIABLE) {
                    known = self.held(&session, blob.size).await;
                }
                continue;
            }
            if !attempts.again(&error).await {
                return Err(explain(error, blob.digest).tried(attempts.failed()));
            }
            // The answer may be all that was lost.
            if !matches!(step, Step::Part(_)) && self.head(descriptor).await.is_ok() {
                return Ok(());
            }
            known = self.held(&session, blob.size).await;
            let held = known.as_ref().map_or(0, |session| session.offset);
            if held > furthest {
                furthest = held;
                attempts.progressed();
            }
        }
    }

    /// Sends content that is still being written, in one stream as it grows. What it became is known at the end.
    pub(crate) async fn upload_growing(&self, content: Arc<dyn Growing>) -> Result<Descriptor, Error> {
        let form = self.client().form(self.name().registry());
        let known = if form.streams() { self.stream(&content).await? } else { None };
        let Some(descriptor) = content.complete().await else { return Err(Error::Abandoned) };
        // It may have come by another way meanwhile.
        if let Some(session) = &known
            && self.attempt(&self.head_request(&descriptor)?, &self.push_scopes()).await.is_ok()
        {
            self.cancel(session).await;
            return Ok(descriptor);
        }
        self.finish_upload(&descriptor, content, known).await?;
        Ok(descriptor)
    }

    /// Sends growing content up to its end; `None` when it is better sent anew, whole.
    async fn stream(&self, content: &Arc<dyn Growing>) -> Result<Option<Session>, Error> {
        let mut session = self.begin().await?;
        let mut attempts = Attempts::new(self.client());
        loop {
            let source: Arc<dyn Content> = content.clone();
            let part = Part {
                content: source,
                name: "a growing layer".into(),
                offset: session.offset,
                length: None,
            };
            let Err(error) = self.patch(&mut session, part).await else { return Ok(Some(session)) };
            let form = self.client().form(self.name().registry());
            if let Some(better) = form.after(Step::Part(None), &error) {
                self.client().learn(self.name().registry(), better);
                return Ok(None);
            }
            if is_forgotten(&error) || error.temporary().is_none() {
                return if matches!(error, Error::Local { .. }) { Err(error) } else { Ok(None) };
            }
            if !attempts.again(&error).await {
                return Err(error.tried(attempts.failed()));
            }
            let Some(held) = self.held(&session, u64::MAX).await else { return Ok(None) };
            if held.offset > session.offset {
                attempts.progressed();
            }
            session = held;
        }
    }

    async fn begin(&self) -> Result<Session, Error> {
        let request = Request::new(Method::POST, self.url("blobs/uploads/")?);
        let response = self.send(&request, &self.push_scopes()).await?;
        self.opened(&response)
    }

    /// The session that the answer to a POST opens.
    fn opened(&self, response: &Response) -> Result<Session, Error> {
        let least = response.headers().get("oci-chunk-min-length");
        let least = least.and_then(|least| least.to_str().ok()?.parse().ok()).unwrap_or(0);
        Ok(Session { location: self.client().location(&Method::POST, response)?, offset: 0, least })
    }

    /// Gives a session up. That this did not work is nobody's loss: sessions expire.
    async fn cancel(&self, session: &Session) {
        let request = Request::new(Method::DELETE, session.location.clone());
        let _ = self.attempt(&request, &self.push_scopes()).await;
    }

    /// Sends what a session lacks and closes it. Tries once.
    async fn fill(&self, session: &mut Session, blob: &Blob<'_>, form: Form) -> Result<(), (Step, Error)> {
        let Blob { digest, size, content } = *blob;
        let part = |offset, length| {
            let content = Arc::clone(content);
            Part { content, name: digest.to_string(), offset, length: Some(length) }
        };
        if session.offset == 0 && form.takes_whole(size) {
            let closed = self.close(session, digest, Body::Content(part(0, size))).await;
            return closed.map_err(|error| (Step::Whole(size), error));
        }
        while session.offset < size {
            let length = form.part(size - session.offset, session.least);
            let sent = self.patch(session, part(session.offset, length)).await;
            sent.map_err(|error| (Step::Part(Some(length)), error))?;
        }
        self.close(session, digest, Body::Empty).await.map_err(|error| (Step::Close, error))
    }

    async fn close(&self, session: &Session, digest: Digest, body: Body) -> Result<(), Error> {
        let mut url = session.location.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let request = Request::new(Method::PUT, url).with_header(CONTENT_TYPE, OCTETS).with_body(body);
        let response = self.attempt(&request, &self.push_scopes()).await?;
        check_stored(&response, digest)
    }

    /// Sends a part of a blob into its session.
    async fn patch(&self, session: &mut Session, part: Part) -> Result<(), Error> {
        let (from, length) = (session.offset, part.length);
        let mut request = Request::new(Method::PATCH, session.location.clone())
            .with_header(CONTENT_TYPE, OCTETS)
            .with_body(Body::Content(part));
        if let Some(length) = length {
            // The specification's form: no unit, no total.
            let last = from.saturating_add(length).saturating_sub(1);
            let range = HeaderValue::try_from(format!("{from}-{last}"));
            request.headers.extend(range.ok().map(|range| (CONTENT_RANGE, range)));
        }
        let response = self.attempt(&request, &self.push_scopes()).await?;
        let sent = length.map(|length| from.saturating_add(length));
        // Without a range in the answer everything was taken.
        let Some(held) = held_bytes(response.headers()).or(sent) else {
            return Err(protocol(&Method::PATCH, response.url(), "no `Range` in the answer".to_owned()));
        };
        if held < from || (held == from && length != Some(0)) || sent.is_some_and(|sent| held > sent) {
            let reason = format!("{held} bytes are held after a part that began at {from}");
            return Err(protocol(&Method::PATCH, response.url(), reason));
        }
        session.location = self.client().location(&Method::PATCH, &response)?;
        session.offset = held;
        Ok(())
    }

    /// Asks how much of a broken upload the registry holds; `None` when it is better begun anew.
    async fn held(&self, session: &Session, size: u64) -> Option<Session> {
        let request = Request::new(Method::GET, session.location.clone());
        let response = self.send(&request, &self.push_scopes()).await.ok()?;
        let offset = held_bytes(response.headers())?;
        let location = self.client().location(&Method::GET, &response).unwrap_or(session.location.clone());
        (offset <= size).then_some(Session { location, offset, least: session.least })
    }
}

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// How many bytes `Range: 0-9` says are held: ten.
///
/// `0-0` is what distribution answers for none and for one; nothing is returned then.
fn held_bytes(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    let last: u64 = range.trim_start_matches("bytes=").strip_prefix("0-")?.trim().parse().ok()?;
    if last == 0 { None } else { last.checked_add(1) }
}

/// Sessions expire, and a registry may refuse a range after it has lost bytes.
fn is_forgotten(error: &Error) -> bool {
    matches!(error.status(), Some(StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE))
}

fn explain(error: Error, digest: Digest) -> Error {
    if error.has_code("DIGEST_INVALID") { Error::Rejected { digest, source: Box::new(error) } } else { error }
}

fn check_stored(response: &Response, expected: Digest) -> Result<(), Error> {
    match header_digest(response.headers()) {
        Some(actual) if actual != expected => {
            Err(Error::Corrupt { url: redact(response.url()), expected, actual: Actual::Digest(actual) })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held() {
        for (range, expect) in [
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("0-0", None),
            ("0-", None),
            ("5-9", None),
            ("0-18446744073709551615", None),
            ("x", None),
        ] {
            let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(range))]);
            assert_eq!(held_bytes(&headers), expect, "{range}");
        }
        assert_eq!(held_bytes(&HeaderMap::new()), None);
    }
}
