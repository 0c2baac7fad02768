//! Blobs as streams that survive broken connections.

use std::fmt;
use std::io;
use std::ops::Range;

use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use rbuild_image::{Content, Descriptor, Digest, VerifyError};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::error::{Actual, Error, redact};
use crate::exchange::{Request, protocol};
use crate::remote::Remote;
use crate::retry::Attempts;

/// From this size on a blob is fetched in parts, several at once: one connection of a content network is slower than a
/// line, as a rule.
const LARGE: u64 = 32 << 20;

/// The size of a part. Parts wait in memory for those before them.
const SEGMENT: u64 = 4 << 20;

/// How many parts of one blob are fetched at once.
const PARALLEL: usize = 4;

/// A blob of a repository. Its bytes are not verified, but never more than the descriptor promises.
pub(crate) struct RemoteContent {
    remote: Remote,
    digest: Digest,
    size: u64,
}

impl fmt::Debug for RemoteContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteContent").field("remote", &self.remote).field("digest", &self.digest).finish()
    }
}

impl RemoteContent {
    pub(crate) fn new(remote: Remote, descriptor: &Descriptor) -> Self {
        Self { remote, digest: descriptor.digest, size: descriptor.size }
    }

    async fn stream(&self, offset: u64) -> Result<BoxStream<'static, io::Result<Bytes>>, Error> {
        let offset = offset.min(self.size);
        let mut first = self.reading(offset..self.size);
        if self.size - offset >= LARGE {
            first.end = offset + SEGMENT;
        }
        // A missing blob is better found here than at the first read.
        first.connect().await?;
        if first.end == self.size {
            return Ok(first.into_stream());
        }
        if first.is_whole() {
            // The registry does not know ranges, and sends everything.
            first.end = self.size;
            return Ok(first.into_stream());
        }
        let starts = (first.end..self.size).step_by(usize::try_from(SEGMENT).unwrap_or(usize::MAX));
        let rest: Vec<Reading> =
            starts.map(|start| self.reading(start..self.size.min(start + SEGMENT))).collect();
        let segments = stream::iter(std::iter::once(first).chain(rest)).map(Reading::collect);
        let pieces = segments.buffered(PARALLEL).map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok)));
        Ok(Box::pin(pieces.try_flatten()))
    }

    fn reading(&self, range: Range<u64>) -> Reading {
        Reading {
            remote: self.remote.clone(),
            digest: self.digest,
            size: self.size,
            position: range.start,
            end: range.end,
            etag: None,
            response: None,
            skip: 0,
            attempts: Attempts::new(self.remote.client()),
        }
    }
}

impl Content for RemoteContent {
    fn open(&self, offset: u64) -> BoxFuture<'_, io::Result<Box<dyn AsyncRead + Send + Unpin>>> {
        Box::pin(async move {
            let stream = self.stream(offset).await.map_err(into_io)?;
            Ok(Box::new(StreamReader::new(stream)) as Box<dyn AsyncRead + Send + Unpin>)
        })
    }
}

/// A download under way: a blob, or a part of one.
struct Reading {
    remote: Remote,
    digest: Digest,
    size: u64,
    /// How many bytes of the blob have been handed out, or lay before the offset asked for.
    position: u64,
    /// Where the part ends.
    end: u64,
    /// What the first answer called this state of the content.
    etag: Option<HeaderValue>,
    response: Option<Response>,
    /// Bytes to pass over, because the registry does not know ranges.
    skip: u64,
    attempts: Attempts,
}

impl Reading {
    /// Opens a connection at the current position, unless one is open.
    async fn connect(&mut self) -> Result<(), Error> {
        while self.response.is_none() {
            match self.request().await {
                Ok(response) => self.response = Some(response),
                Err(error) if self.attempts.again(&error).await => {}
                Err(error) => return Err(error.tried(self.attempts.failed())),
            }
        }
        Ok(())
    }

    /// Tells whether the answer is the whole blob.
    fn is_whole(&self) -> bool {
        self.response.as_ref().is_some_and(|response| response.status() != StatusCode::PARTIAL_CONTENT)
    }

    async fn request(&mut self) -> Result<Response, Error> {
        let url = self.remote.url(&format!("blobs/{}", self.digest))?;
        let mut request =
            Request::new(Method::GET, url).with_header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        request.headers.extend(self.range().map(|range| (RANGE, range)));
        if request.headers.contains_key(RANGE)
            && let Some(etag) = &self.etag
        {
            request.headers.insert(IF_RANGE, etag.clone());
        }
        let response = self.remote.attempt(&request, &self.remote.pull_scopes()).await?;
        let start = if response.status() == StatusCode::PARTIAL_CONTENT {
            let (start, total) = content_range(response.headers()).unwrap_or((u64::MAX, None));
            if let Some(total) = total.filter(|total| *total != self.size) {
                let (expected, actual) = (self.digest, Actual::Size(total));
                return Err(Error::Corrupt { url: redact(response.url()), expected, actual });
            }
            start
        } else {
            0
        };
        let Some(skip) = self.position.checked_sub(start) else {
            let reason = format!("the range that came does not start at {}", self.position);
            return Err(protocol(&Method::GET, response.url(), reason));
        };
        self.skip = skip;
        self.etag = self.etag.take().or_else(|| strong_etag(response.headers()));
        Ok(response)
    }

    /// What to ask for; `None` for everything.
    fn range(&self) -> Option<HeaderValue> {
        let Self { position, end, size, .. } = *self;
        let range = match (position, end) {
            _ if position >= end => return None,
            (0, end) if end == size => return None,
            (_, end) if end == size => format!("bytes={position}-"),
            _ => format!("bytes={position}-{}", end - 1),
        };
        HeaderValue::try_from(range).ok()
    }

    /// The next piece, `None` at the promised end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            // The rest of a whole answer is not waited for.
            let surplus = self.end < self.size && self.is_whole();
            if self.position == self.end && (self.response.is_none() || surplus) {
                return Ok(None);
            }
            self.connect().await.map_err(into_io)?;
            let Some(response) = &mut self.response else { return Ok(None) };
            let url = response.url().clone();
            let piece = self.remote.client().piece(&Method::GET, &url, response).await;
            match piece {
                Ok(Some(piece)) => {
                    if let Some(piece) = self.accept(piece)? {
                        return Ok(Some(piece));
                    }
                }
                Ok(None) if self.position == self.end => return Ok(None),
                Ok(None) => {
                    let (expected, size) = (self.digest, self.size);
                    return Err(VerifyError::Short { expected, size, actual: self.position }.into());
                }
                Err(error) if self.position == self.end && error.temporary().is_some() => return Ok(None),
                Err(error) => {
                    self.response = None;
                    if !self.attempts.again(&error).await {
                        return Err(into_io(error));
                    }
                }
            }
        }
    }

    /// Takes account of a piece; `None` when nothing of it is to be handed out.
    fn accept(&mut self, mut piece: Bytes) -> io::Result<Option<Bytes>> {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
        piece.advance(skipped);
        self.skip -= skipped as u64;
        if self.end < self.size {
            let left = usize::try_from(self.end.saturating_sub(self.position)).unwrap_or(usize::MAX);
            piece.truncate(left);
        }
        if piece.is_empty() {
            return Ok(None);
        }
        self.position = self.position.saturating_add(piece.len() as u64);
        if self.position > self.end {
            return Err(VerifyError::Long { expected: self.digest, size: self.size }.into());
        }
        // Bytes moved: a long download over a bad line may break more often than one request may fail.
        self.attempts.progressed();
        Ok(Some(piece))
    }

    fn into_stream(self) -> BoxStream<'static, io::Result<Bytes>> {
        Box::pin(stream::try_unfold(self, async |mut reading| {
            Ok(reading.next().await?.map(|piece| (piece, reading)))
        }))
    }

    /// Reads the part whole.
    async fn collect(mut self) -> io::Result<Vec<Bytes>> {
        let mut pieces = Vec::new();
        while let Some(piece) = self.next().await? {
            pieces.push(piece);
        }
        Ok(pieces)
    }
}

/// First byte and total of `Content-Range: bytes 5-9/10`; the total may be `*`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = range.split_once('/').unwrap_or((range, "*"));
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    Some((start, total.trim().parse().ok()))
}

/// Weak tags do not promise equal bytes, and cannot stand in `If-Range`.
fn strong_etag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")).cloned()
}

/// Wraps the error so that whoever reads the stream finds it with [`Error::find`].
fn into_io(error: Error) -> io::Error {
    let kind = match error.status() {
        Some(StatusCode::NOT_FOUND) => io::ErrorKind::NotFound,
        Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
