//! Blobs as streams that survive broken connections.

use std::fmt;
use std::io;

use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use rbuild_image::{Content, Descriptor, Digest, VerifyError};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::error::Error;
use crate::exchange::{Request, protocol};
use crate::remote::Remote;
use crate::retry::Attempts;

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
        let mut reading = Reading {
            remote: self.remote.clone(),
            digest: self.digest,
            size: self.size,
            position: offset.min(self.size),
            response: None,
            skip: 0,
            attempts: Attempts::new(&self.remote.client().options().retry),
        };
        // A missing blob is better found here than at the first read.
        reading.connect().await?;
        Ok(Box::pin(stream::try_unfold(reading, async |mut reading| {
            Ok(reading.next().await?.map(|piece| (piece, reading)))
        })))
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

/// A download under way.
struct Reading {
    remote: Remote,
    digest: Digest,
    size: u64,
    /// How many bytes of the blob have been handed out, or lay before the offset asked for.
    position: u64,
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

    async fn request(&mut self) -> Result<Response, Error> {
        let url = self.remote.url(&format!("blobs/{}", self.digest))?;
        let mut request =
            Request::new(Method::GET, url).with_header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.position > 0 && self.position < self.size {
            let range = HeaderValue::try_from(format!("bytes={}-", self.position));
            request.headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let response = self.remote.attempt(&request, &self.remote.pull_scopes()).await?;
        let start = if response.status() == StatusCode::PARTIAL_CONTENT {
            range_start(response.headers())
        } else {
            Some(0)
        };
        match start.and_then(|start| self.position.checked_sub(start)) {
            Some(skip) => self.skip = skip,
            None => {
                let reason = format!("the range that came does not start at {}", self.position);
                return Err(protocol(&Method::GET, response.url(), reason));
            }
        }
        Ok(response)
    }

    /// The next piece, `None` at the promised end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
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
                Ok(None) if self.position == self.size => return Ok(None),
                Ok(None) => {
                    let (expected, size) = (self.digest, self.size);
                    return Err(VerifyError::Short { expected, size, actual: self.position }.into());
                }
                Err(error) if self.position == self.size && error.temporary().is_some() => return Ok(None),
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
        if piece.is_empty() {
            return Ok(None);
        }
        self.position = self.position.saturating_add(piece.len() as u64);
        if self.position > self.size {
            return Err(VerifyError::Long { expected: self.digest, size: self.size }.into());
        }
        // Bytes moved: a long download over a bad line may break more often than one request may fail.
        self.attempts.progressed();
        Ok(Some(piece))
    }
}

/// The first byte of `Content-Range: bytes 5-9/10`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
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
