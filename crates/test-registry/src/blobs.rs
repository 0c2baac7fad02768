//! Blobs, and how they are uploaded.

use std::ops::Range;

use axum::body::Body;
use axum::http::{Method, Response, header};
use bytes::Bytes;
use futures_util::StreamExt as _;
use rbuild_image::Digest;

use crate::serve::{Answer, Asked, Sent, answer, refuse, reset, with};
use crate::{Registry, Support, Uploads};

impl Registry {
    pub(crate) fn blobs(&self, asked: &Asked, repository: &str, digest: &str) -> Answer {
        let Ok(digest) = digest.parse::<Digest>() else { return refuse(400, "DIGEST_INVALID") };
        let key = (repository.to_owned(), digest);
        if asked.method == Method::DELETE {
            let gone = self.inside().blobs.remove(&key);
            return if gone.is_some() { answer(202) } else { refuse(404, "BLOB_UNKNOWN") };
        }
        let Some(bytes) = self.inside().blobs.get(&key).cloned() else { return refuse(404, "BLOB_UNKNOWN") };
        let etag = format!("\"{digest}\"");
        let size = bytes.len();
        let current = asked.header(header::IF_RANGE).is_none_or(|known| known == etag);
        let wanted = asked
            .header(header::RANGE)
            .filter(|_| current && self.options.ranges == Support::Yes)
            .and_then(|range| parse_range(range, size));
        let found = match wanted {
            None => with(full(bytes), "content-length", size.to_string()),
            Some(Err(())) => {
                return with(answer(416), "content-range", format!("bytes */{size}"));
            }
            Some(Ok(range)) => {
                let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                let mut part = with(full(bytes.slice(range.clone())), "content-range", shown);
                *part.status_mut() = answer(206).status();
                with(part, "content-length", range.len().to_string())
            }
        };
        let found = with(with(found, "etag", etag), "docker-content-digest", digest.to_string());
        with(found, "content-type", "application/octet-stream")
    }

    pub(crate) async fn uploads(&self, asked: &Asked, repository: &str, session: &str, sent: Sent) -> Answer {
        if asked.method == Method::POST {
            return self.begin(asked, repository);
        }
        let Some(held) = self.inside().uploads.get(session).map(Vec::len) else {
            return refuse(404, "BLOB_UPLOAD_UNKNOWN");
        };
        if asked.method == Method::DELETE {
            self.inside().uploads.remove(session);
            return answer(204);
        }
        let is_empty = asked.length() == Some(0) || matches!(asked.method, Method::GET | Method::HEAD);
        let unknown = match self.options.uploads {
            Uploads::Any => false,
            Uploads::MonolithicOnly => asked.method == Method::PATCH,
            Uploads::ChunkedOnly => asked.method == Method::PUT && !is_empty,
        };
        if unknown {
            return refuse(405, "UNSUPPORTED");
        }
        // A range, where there is one, follows what is held.
        let range = asked.header(header::CONTENT_RANGE);
        if range.is_some_and(|range| !range.starts_with(&format!("{held}-"))) {
            return self.state_of(repository, session, 416);
        }
        if !is_empty && !self.receive(session, sent).await {
            return refuse(400, "SIZE_INVALID");
        }
        match asked.method {
            Method::PUT => self.close(asked, repository, session),
            Method::PATCH => self.state_of(repository, session, 202),
            Method::GET | Method::HEAD => self.state_of(repository, session, 204),
            _ => refuse(405, "UNSUPPORTED"),
        }
    }

    /// Adds what is sent to a session, as it comes; `false` when the client broke off.
    async fn receive(&self, session: &str, sent: Sent) -> bool {
        let Sent { body, reset_after } = sent;
        let keeps = self.options.partial_uploads == Support::Yes;
        let before = self.inside().uploads.get(session).map_or(0, Vec::len);
        let mut left = reset_after.unwrap_or(usize::MAX);
        let mut pieces = body.into_data_stream();
        let mut complete = true;
        while left > 0
            && let Some(piece) = pieces.next().await
        {
            let Ok(piece) = piece else {
                complete = false;
                break;
            };
            let piece = piece.slice(..piece.len().min(left));
            left -= piece.len();
            if let Some(held) = self.inside().uploads.get_mut(session) {
                held.extend_from_slice(&piece);
            }
        }
        if (!complete || reset_after.is_some())
            && !keeps
            && let Some(held) = self.inside().uploads.get_mut(session)
        {
            held.truncate(before);
        }
        if reset_after.is_some() {
            reset();
        }
        complete
    }

    fn begin(&self, asked: &Asked, repository: &str) -> Answer {
        if let (Some(digest), Some(from), Support::Yes) =
            (asked.query("mount"), asked.query("from"), self.options.mounts)
            && let Ok(digest) = digest.parse::<Digest>()
            && let Some(bytes) = self.blob(&from, digest)
        {
            self.inside().blobs.insert((repository.to_owned(), digest), bytes);
            let created = with(answer(201), "location", format!("/v2/{repository}/blobs/{digest}"));
            return with(created, "docker-content-digest", digest.to_string());
        }
        let session = self.open_session();
        self.state_of(repository, &session, 202)
    }

    /// How much of an upload is here. Where nothing is, distribution says `0-0` too.
    fn state_of(&self, repository: &str, session: &str, status: u16) -> Answer {
        let held = self.inside().uploads.get(session).map_or(0, Vec::len);
        let state = with(answer(status), "range", format!("0-{}", held.saturating_sub(1)));
        with(state, "location", format!("/v2/{repository}/blobs/uploads/{session}?state=s3cret"))
    }

    fn close(&self, asked: &Asked, repository: &str, session: &str) -> Answer {
        let Some(Ok(digest)) = asked.query("digest").map(|digest| digest.parse::<Digest>()) else {
            return refuse(400, "DIGEST_INVALID");
        };
        let Some(bytes) = self.inside().uploads.remove(session) else {
            return refuse(404, "BLOB_UPLOAD_UNKNOWN");
        };
        if Digest::of(&bytes) != digest {
            return refuse(400, "DIGEST_INVALID");
        }
        self.inside().blobs.insert((repository.to_owned(), digest), bytes.into());
        let created = with(answer(201), "location", format!("/v2/{repository}/blobs/{digest}"));
        with(created, "docker-content-digest", digest.to_string())
    }
}

fn full(bytes: Bytes) -> Answer {
    Response::new(Body::from(bytes))
}

/// Reads a `Range` of one part; `None` when it is to be passed over, an error when it lies beyond the end.
///
/// # References
/// RFC 9110 section 14.1.2.
fn parse_range(range: &str, size: usize) -> Option<Result<Range<usize>, ()>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", count) => size.saturating_sub(count.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..last.parse::<usize>().ok()?.saturating_add(1).min(size),
    };
    Some(if range.is_empty() { Err(()) } else { Ok(range) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (range, expect) in [
            ("bytes=2-4", Some(Ok(2..5))),
            ("bytes=2-", Some(Ok(2..10))),
            ("bytes=0-99", Some(Ok(0..10))),
            ("bytes=-3", Some(Ok(7..10))),
            ("bytes=10-", Some(Err(()))),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(parse_range(range, 10), expect, "{range}");
        }
    }
}
