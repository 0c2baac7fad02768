//! Several places to have the same thing from.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream;
use rbuild_image::{Content, Reference, StoreErrorKind, VerifyError};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::StreamReader;

use crate::error::Error;

/// The size of the pieces that are read, in bytes.
const PIECE: usize = 128 << 10;

/// What came of the places that were asked so far, none of which had it.
#[derive(Default)]
pub(crate) struct Failures(Vec<Error>);

impl Failures {
    pub(crate) fn add(&mut self, error: Error) {
        self.0.push(error);
    }

    /// The failure of the last place, which tells of the others: the last one is the registry itself, unless it may not
    /// be asked.
    pub(crate) fn into_error(mut self, name: &Reference) -> Error {
        match self.0.pop() {
            None => Error::NoPlace { registry: name.registry().to_owned() },
            Some(last) if self.0.is_empty() => last,
            Some(last) => Error::Everywhere { earlier: self.0, last: Box::new(last) },
        }
    }
}

/// A content that is the same at several places; the first that opens it is read.
///
/// A place that breaks off for good is left for the next, which goes on where the last one stopped.
pub(crate) struct FirstOf {
    name: Reference,
    places: Vec<Arc<dyn Content>>,
}

impl fmt::Debug for FirstOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.places).finish()
    }
}

impl FirstOf {
    pub(crate) fn new(name: &Reference, places: Vec<Arc<dyn Content>>) -> Self {
        Self { name: name.clone(), places }
    }
}

impl Content for FirstOf {
    fn open(&self, offset: u64) -> BoxFuture<'_, io::Result<Box<dyn AsyncRead + Send + Unpin>>> {
        Box::pin(async move {
            let mut reading = Reading {
                name: self.name.clone(),
                places: self.places.clone().into(),
                position: offset,
                reader: None,
                failures: Vec::new(),
            };
            reading.connect().await?;
            let stream = stream::try_unfold(reading, async |mut reading| {
                Ok::<_, io::Error>(reading.next().await?.map(|piece| (piece, reading)))
            });
            Ok(Box::new(StreamReader::new(Box::pin(stream))) as Box<dyn AsyncRead + Send + Unpin>)
        })
    }
}

/// A content that is being read from one of the places that are left.
struct Reading {
    name: Reference,
    places: VecDeque<Arc<dyn Content>>,
    position: u64,
    reader: Option<Box<dyn AsyncRead + Send + Unpin>>,
    failures: Vec<io::Error>,
}

impl Reading {
    /// Opens the first of the places left that works.
    async fn connect(&mut self) -> io::Result<()> {
        while let Some(place) = self.places.pop_front() {
            match place.open(self.position).await {
                Ok(reader) => {
                    self.reader = Some(reader);
                    return Ok(());
                }
                Err(error) => self.failures.push(error),
            }
        }
        Err(self.failure())
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(reader) = &mut self.reader else {
                self.connect().await?;
                continue;
            };
            let mut piece = BytesMut::with_capacity(PIECE);
            match reader.read_buf(&mut piece).await {
                Ok(0) => return Ok(None),
                Ok(read) => {
                    self.position = self.position.saturating_add(read as u64);
                    return Ok(Some(piece.freeze()));
                }
                // What was handed out so far is not what was promised: nothing that follows can mend that.
                Err(error) if VerifyError::of(&error).is_some() => return Err(error),
                Err(error) => {
                    self.reader = None;
                    self.failures.push(error);
                }
            }
        }
    }

    fn failure(&mut self) -> io::Error {
        let mut failures = Failures::default();
        for failure in std::mem::take(&mut self.failures) {
            match failure.downcast::<Error>() {
                Ok(error) => failures.add(error),
                // Bytes that are not those promised: nothing to do with where they came from.
                Err(other) => return other,
            }
        }
        let error = failures.into_error(&self.name);
        let kind = match error.kind() {
            StoreErrorKind::NotFound => io::ErrorKind::NotFound,
            StoreErrorKind::Unauthorized | StoreErrorKind::Denied => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
