//! Blobs on their way into containerd's content store.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rbuild_image::{Descriptor, VerifyError};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc::Sender;
use tonic::{Code, Status, Streaming};

use super::api::{Api, Labels, refused};
use super::feed::Feed;
use crate::error::Error;
use crate::messages::containerd::{WriteAction, WriteContentRequest, WriteContentResponse};
use crate::node_store::by_cause;
use crate::pull::Arrival;

/// The size of the pieces that are written.
const PIECE: usize = 1 << 20;
/// How many pieces may be on their way to containerd.
const UNDER_WAY: u32 = 4;
/// How long a blob that somebody else writes is left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// A write stream that holds a blob's lock.
struct Writer {
    sender: Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    reference: String,
    total: i64,
    expected: String,
    offset: i64,
    /// Messages without an answer.
    unanswered: u32,
}

impl Writer {
    /// Takes the lock of a blob; `None` when it is there already. Waits for whoever is writing it.
    async fn open(api: &Api, reference: &str, blob: &Descriptor) -> Result<Option<Self>, Error> {
        let total = i64::try_from(blob.size).unwrap_or(i64::MAX);
        let expected = blob.digest.to_string();
        loop {
            let first = WriteContentRequest {
                action: WriteAction::Stat.into(),
                r#ref: reference.to_owned(),
                total,
                expected: expected.clone(),
                ..WriteContentRequest::default()
            };
            let opened = async {
                let (sender, mut answers) = api.write(first).await?;
                let offset = answers.message().await?.map_or(0, |answer| answer.offset);
                let reference = reference.to_owned();
                Ok::<_, Status>(Self {
                    sender,
                    answers,
                    reference,
                    total,
                    expected: expected.clone(),
                    offset,
                    unanswered: 0,
                })
            };
            match opened.await {
                Ok(writer) => return Ok(Some(writer)),
                Err(status) if status.code() == Code::AlreadyExists => return Ok(None),
                Err(status) if status.code() == Code::Unavailable && status.message().contains("locked") => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(status) => return Err(refused("write a blob")(status)),
            }
        }
    }

    async fn send(&mut self, action: WriteAction, data: Bytes, labels: Labels) -> Result<(), Status> {
        let written = i64::try_from(data.len()).unwrap_or(0);
        let message = WriteContentRequest {
            action: action.into(),
            r#ref: self.reference.clone(),
            total: self.total,
            expected: self.expected.clone(),
            offset: self.offset,
            data,
            labels,
        };
        // A stream that has ended says why in its last answer.
        let _ = self.sender.send(message).await;
        self.unanswered += 1;
        self.offset += written;
        self.wait_for_all_but(UNDER_WAY).await
    }

    /// Waits until no more than so many messages are without an answer.
    async fn wait_for_all_but(&mut self, left: u32) -> Result<(), Status> {
        while self.unanswered > left {
            self.answers.message().await?;
            self.unanswered -= 1;
        }
        Ok(())
    }

    /// Gives the blob its name; containerd compares digest and size.
    async fn commit(mut self, labels: Labels) -> Result<(), Status> {
        let committed = match self.send(WriteAction::Commit, Bytes::new(), labels).await {
            Ok(()) => self.wait_for_all_but(0).await,
            Err(status) => Err(status),
        };
        match committed {
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            other => other,
        }
    }
}

/// Writes a document, or labels the one that is there.
pub(super) async fn write_bytes(
    api: &Api,
    blob: &Descriptor,
    bytes: &Bytes,
    labels: Labels,
) -> Result<(), Error> {
    let kind = if rbuild_image::media_type::is_config(&blob.media_type) { "config" } else { "manifest" };
    let reference = format!("{kind}-{}", blob.digest);
    let Some(mut writer) = Writer::open(api, &reference, blob).await? else {
        return api.label(&blob.digest, labels).await;
    };
    if writer.offset > 0 {
        // Documents are small: what broke off is begun again.
        writer.offset = 0;
    }
    writer.send(WriteAction::Write, bytes.clone(), Labels::new()).await.map_err(refused("write a blob"))?;
    writer.commit(labels).await.map_err(refused("commit a blob"))
}

/// Brings a layer from where it broke off, or labels the one that is there. What is fetched from its beginning is passed on, too.
pub(super) async fn fetch(
    api: &Api,
    arrival: &Arrival,
    (blob, feed): (&Descriptor, &mut Feed),
    labels: Labels,
) -> Result<(), Error> {
    let reference = format!("layer-{}", blob.digest);
    for attempt in 0..2 {
        let Some(mut writer) = Writer::open(api, &reference, blob).await? else {
            return api.label(&blob.digest, labels).await;
        };
        arrival.progress.step();
        let offset = u64::try_from(writer.offset).unwrap_or(0);
        if offset > 0 {
            feed.detach();
        }
        if offset < blob.size {
            copy(&mut writer, arrival, (blob, feed), offset).await?;
        }
        match writer.commit(labels.clone()).await {
            Ok(()) => return Ok(()),
            Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::OutOfRange) => {
                api.abort(&reference).await?;
                // What an earlier pull had left was damaged, and is gone now.
                if offset == 0 || attempt > 0 {
                    break;
                }
            }
            Err(status) => return Err(refused("commit a blob")(status)),
        }
    }
    let wrong = VerifyError::Short { expected: blob.digest, size: blob.size, actual: blob.size };
    let message = format!("blob {} is not what the registry promises", blob.digest);
    Err(Error::Store(rbuild_image::StoreError::io(message, wrong.into())))
}

async fn copy(
    writer: &mut Writer,
    arrival: &Arrival,
    (blob, feed): (&Descriptor, &mut Feed),
    offset: u64,
) -> Result<(), Error> {
    let content = arrival.source.content(blob).await?;
    let mut reader = content.open(offset).await.map_err(|error| by_cause(blob, error))?;
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        // Every piece costs a message: small ones, as they come from a line, are put together.
        while buffer.len() < PIECE {
            let count = reader.read_buf(&mut buffer).await.map_err(|error| by_cause(blob, error))?;
            arrival.progress.fetched(count as u64);
            if count == 0 {
                break;
            }
        }
        let piece = buffer.split().freeze();
        if piece.is_empty() {
            return Ok(());
        }
        feed.pass(&piece).await;
        writer.send(WriteAction::Write, piece, Labels::new()).await.map_err(refused("write a blob"))?;
    }
}
