//! Blobs on their way to a registry.

use std::sync::Arc;

use rbuild_image::{Content, Descriptor, Digest, Reference};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use crate::error::{Actual, Error, redact};
use crate::exchange::{Body, Part, Request};
use crate::manifests::header_digest;
use crate::remote::Remote;
use crate::retry::Attempts;

/// How often an upload whose session the registry has forgotten is begun anew.
const MAX_RESTARTS: u32 = 3;

/// An upload the registry has opened.
///
/// # References
/// OCI distribution specification 1.1, "Pushing blobs".
#[derive(Debug)]
struct Session {
    location: Url,
    /// How many bytes the registry holds already.
    offset: u64,
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
        self.keep_session(digest, self.client().location(&Method::POST, &response)?);
        Ok(false)
    }

    /// Sends a blob: one POST and one PUT; after a break, a PATCH with what the registry does not hold yet.
    pub(crate) async fn upload(
        &self,
        descriptor: &Descriptor,
        content: Arc<dyn Content>,
    ) -> Result<(), Error> {
        let digest = descriptor.digest;
        let mut known = self.take_session(&digest).map(|location| Session { location, offset: 0 });
        // The requests without a body have tries of their own.
        let mut attempts = Attempts::new(&self.client().options().retry);
        let (mut restarts, mut furthest) = (0, 0);
        loop {
            let mut session = match known.take() {
                Some(session) => session,
                None => self.begin().await?,
            };
            let Err(error) = self.fill(&mut session, descriptor, &content).await else { return Ok(()) };
            if is_forgotten(&error) && restarts < MAX_RESTARTS {
                restarts += 1;
                continue;
            }
            if !attempts.again(&error).await {
                return Err(explain(error, digest).tried(attempts.failed()));
            }
            // The answer may be all that was lost.
            if self.attempt(&self.head_request(descriptor)?, &self.push_scopes()).await.is_ok() {
                return Ok(());
            }
            known = self.held(&session, descriptor.size).await;
            let held = known.as_ref().map_or(0, |session| session.offset);
            if held > furthest {
                furthest = held;
                attempts.progressed();
            }
        }
    }

    async fn begin(&self) -> Result<Session, Error> {
        let request = Request::new(Method::POST, self.url("blobs/uploads/")?);
        let response = self.send(&request, &self.push_scopes()).await?;
        Ok(Session { location: self.client().location(&Method::POST, &response)?, offset: 0 })
    }

    /// Sends what a session lacks and closes it. Tries once.
    async fn fill(
        &self,
        session: &mut Session,
        descriptor: &Descriptor,
        content: &Arc<dyn Content>,
    ) -> Result<(), Error> {
        let Descriptor { digest, size, .. } = *descriptor;
        let part = |offset| {
            let content = content.clone();
            Body::Content(Part { content, digest, offset, length: size.saturating_sub(offset) })
        };
        let mut body = part(0);
        if session.offset > 0 {
            if session.offset < size {
                self.patch(session, part(session.offset), size).await?;
            }
            body = Body::Empty;
        }
        let mut url = session.location.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let request = Request::new(Method::PUT, url).with_header(CONTENT_TYPE, OCTETS).with_body(body);
        let response = self.attempt(&request, &self.push_scopes()).await?;
        check_stored(&response, digest)
    }

    /// Sends the rest of a blob into its session.
    async fn patch(&self, session: &mut Session, body: Body, size: u64) -> Result<(), Error> {
        let mut request = Request::new(Method::PATCH, session.location.clone())
            .with_header(CONTENT_TYPE, OCTETS)
            .with_body(body);
        // The specification's form: no unit, no total.
        let range = HeaderValue::try_from(format!("{}-{}", session.offset, size.saturating_sub(1)));
        request.headers.extend(range.ok().map(|range| (CONTENT_RANGE, range)));
        let response = self.attempt(&request, &self.push_scopes()).await?;
        session.location = self.client().location(&Method::PATCH, &response)?;
        session.offset = size;
        Ok(())
    }

    /// Asks how much of a broken upload the registry holds; `None` when it is better begun anew.
    async fn held(&self, session: &Session, size: u64) -> Option<Session> {
        let request = Request::new(Method::GET, session.location.clone());
        let response = self.send(&request, &self.push_scopes()).await.ok()?;
        let offset = held_bytes(response.headers())?;
        let location = self.client().location(&Method::GET, &response).unwrap_or(session.location.clone());
        (offset <= size).then_some(Session { location, offset })
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
    match &error {
        Error::Refused(refusal) if refusal.errors.iter().any(|error| error.code == "DIGEST_INVALID") => {
            Error::Rejected { digest, source: Box::new(error) }
        }
        _ => error,
    }
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
