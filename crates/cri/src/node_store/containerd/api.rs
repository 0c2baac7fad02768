//! Calls to containerd: namespace and lease in every one, and the answers that are no failures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream;
use rbuild_image::{Descriptor, Digest};
use rustix::net::sockopt::socket_peercred;
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};

use crate::channel::Channel;
use crate::error::Error;
use crate::messages::containerd::{
    CommitSnapshotRequest, ContentInfo, CreateLeaseRequest, DeleteImageRequest, DeleteLeaseRequest, Empty,
    FieldMask, Image, ListImagesRequest, ListImagesResponse, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsResponse, PluginsRequest, PluginsResponse, PrepareSnapshotRequest, PutImageRequest,
    ReadContentRequest, ReadContentResponse, SnapshotInfo, SnapshotRequest, UpdateContentRequest,
    UsageResponse, WriteContentRequest, WriteContentResponse,
};

/// The snapshotter whose directories are written here.
pub(super) const SNAPSHOTTER: &str = "overlayfs";
/// The namespace of Kubernetes.
const NAMESPACE: &str = "k8s.io";

/// Labels, or any map of them.
pub(super) type Labels = BTreeMap<String, String>;

/// containerd, spoken to under a lease or without one.
#[derive(Clone, Debug)]
pub(super) struct Api {
    channel: Channel,
    lease: Option<String>,
}

/// When what nothing refers to any more is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collect {
    /// Before the call returns: a pull that failed leaves layers that need room.
    Now,
    /// When containerd likes.
    Later,
}

impl<T, E> From<&Result<T, E>> for Collect {
    fn from(outcome: &Result<T, E>) -> Self {
        if outcome.is_ok() { Self::Later } else { Self::Now }
    }
}

/// Makes the closure that `map_err` wants for a failed call.
pub(super) fn refused(doing: &'static str) -> impl FnOnce(Status) -> Error {
    move |status| Error::Containerd { doing, status: Box::new(status) }
}

/// Takes an answer of this code for a success without content.
fn or_fine<T>(answer: Result<T, Status>, fine: Code) -> Result<(), Status> {
    match answer {
        Err(status) if status.code() == fine => Ok(()),
        other => other.map(drop),
    }
}

impl Api {
    pub(super) fn new(socket: &Path) -> Self {
        Self { channel: Channel::new(socket), lease: None }
    }

    fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
        if let Some(lease) = self.lease.as_deref().and_then(|lease| lease.parse().ok()) {
            request.metadata_mut().insert("containerd-lease", lease);
        }
        request
    }

    /// Makes a lease that ends by itself a day from now, and speaks under it.
    pub(super) async fn leased(&self, id: &str) -> Result<Self, Error> {
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
        let labels =
            [("containerd.io/gc.expire".to_owned(), expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())];
        let ask = CreateLeaseRequest { id: id.to_owned(), labels: labels.into() };
        let method = "/containerd.services.leases.v1.Leases/Create";
        self.channel.call::<_, Empty>(method, self.ask(ask)).await.map_err(refused("make a lease"))?;
        Ok(Self { channel: self.channel.clone(), lease: Some(id.to_owned()) })
    }

    /// Ends the lease; what nothing refers to then is collected.
    pub(super) async fn end_lease(&self, collect: Collect) -> Result<(), Error> {
        let sync = collect == Collect::Now;
        let ask = DeleteLeaseRequest { id: self.lease.clone().unwrap_or_default(), sync };
        let method = "/containerd.services.leases.v1.Leases/Delete";
        let ended = self.channel.call::<_, Empty>(method, self.ask(ask)).await;
        or_fine(ended, Code::NotFound).map_err(refused("end a lease"))
    }

    /// Opens a write stream with its first message.
    pub(super) async fn write(
        &self,
        first: WriteContentRequest,
    ) -> Result<(mpsc::Sender<WriteContentRequest>, Streaming<WriteContentResponse>), Status> {
        let (sender, receiver) = mpsc::channel(2);
        // The channel is empty and its other end at hand.
        let _ = sender.try_send(first);
        let messages = stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|message| (message, receiver))
        });
        let method = "/containerd.services.content.v1.Content/Write";
        let answers = self.channel.streaming(method, self.ask(messages)).await?;
        Ok((sender, answers))
    }

    pub(super) async fn abort(&self, reference: &str) -> Result<(), Error> {
        let ask = crate::messages::containerd::AbortRequest { r#ref: reference.to_owned() };
        let method = "/containerd.services.content.v1.Content/Abort";
        let aborted = self.channel.call::<_, Empty>(method, self.ask(ask)).await;
        or_fine(aborted, Code::NotFound).map_err(refused("forget a damaged blob"))
    }

    /// Adds labels to a blob.
    pub(super) async fn label(&self, digest: &Digest, labels: Labels) -> Result<(), Error> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = ContentInfo { digest: digest.to_string(), size: 0, labels };
        let ask = UpdateContentRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
        let method = "/containerd.services.content.v1.Content/Update";
        let labelled = self.channel.call::<_, Empty>(method, self.ask(ask)).await;
        labelled.map(drop).map_err(refused("label a blob"))
    }

    /// Reads a whole small blob; `None` when it is not there.
    pub(super) async fn read(&self, digest: &Digest, limit: usize) -> Result<Option<Bytes>, Error> {
        let ask = ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let method = "/containerd.services.content.v1.Content/Read";
        let answers = self.channel.call_for_stream::<_, ReadContentResponse>(method, self.ask(ask)).await;
        let mut bytes = Vec::new();
        let mut answers = match answers {
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            other => other.map_err(refused("read a blob"))?,
        };
        loop {
            match answers.message().await {
                Ok(Some(piece)) if bytes.len() + piece.data.len() <= limit => {
                    bytes.extend_from_slice(&piece.data);
                }
                Ok(Some(_)) => return Ok(None),
                Ok(None) => break,
                Err(status) if status.code() == Code::NotFound => return Ok(None),
                Err(status) => return Err(refused("read a blob")(status)),
            }
        }
        Ok(Some(bytes.into()).filter(|bytes: &Bytes| Digest::of(bytes) == *digest))
    }

    pub(super) async fn images(&self) -> Result<Vec<Image>, Error> {
        let method = "/containerd.services.images.v1.Images/List";
        let listed =
            self.channel.call::<_, ListImagesResponse>(method, self.ask(ListImagesRequest::default())).await;
        listed.map(|listed| listed.images).map_err(refused("list images"))
    }

    /// Lets a name stand for a target.
    pub(super) async fn put_image(
        &self,
        name: &str,
        target: &Descriptor,
        labels: &Labels,
    ) -> Result<(), Error> {
        let target = crate::messages::containerd::Descriptor {
            media_type: target.media_type.clone(),
            digest: target.digest.to_string(),
            size: i64::try_from(target.size).unwrap_or(i64::MAX),
            annotations: Labels::new(),
        };
        let image = Image { name: name.to_owned(), labels: labels.clone(), target: Some(target) };
        let ask = PutImageRequest { image: Some(image) };
        let method = "/containerd.services.images.v1.Images/Create";
        match self.channel.call::<_, Empty>(method, self.ask(ask.clone())).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let method = "/containerd.services.images.v1.Images/Update";
                let updated = self.channel.call::<_, Empty>(method, self.ask(ask)).await;
                updated.map(drop).map_err(refused("rename an image"))
            }
            other => other.map(drop).map_err(refused("name an image")),
        }
    }

    pub(super) async fn delete_image(&self, name: &str, sync: bool) -> Result<(), Error> {
        let ask = DeleteImageRequest { name: name.to_owned(), sync };
        let method = "/containerd.services.images.v1.Images/Delete";
        let deleted = self.channel.call::<_, Empty>(method, self.ask(ask)).await;
        or_fine(deleted, Code::NotFound).map_err(refused("remove an image"))
    }

    pub(super) async fn has_snapshot(&self, name: &str) -> Result<bool, Error> {
        let method = "/containerd.services.snapshots.v1.Snapshots/Stat";
        match self.channel.call::<_, Empty>(method, self.ask(snapshot(name))).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(refused("look for a snapshot")(status)),
        }
    }

    /// Makes a snapshot to be written; `None` when it is there already.
    pub(super) async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Option<MountsResponse>, Error> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let ask = PrepareSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key, parent, labels };
        let method = "/containerd.services.snapshots.v1.Snapshots/Prepare";
        match self.channel.call(method, self.ask(ask)).await {
            Ok(mounts) => Ok(Some(mounts)),
            Err(status) if status.code() == Code::AlreadyExists => Ok(None),
            Err(status) => Err(refused("prepare a snapshot")(status)),
        }
    }

    /// Makes a snapshot of a committed one that shows it and cannot be written.
    pub(super) async fn view(&self, key: &str, parent: &str) -> Result<MountsResponse, Error> {
        let (key, parent, labels) = (key.to_owned(), parent.to_owned(), Labels::new());
        let ask = PrepareSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key, parent, labels };
        let method = "/containerd.services.snapshots.v1.Snapshots/View";
        self.channel.call(method, self.ask(ask)).await.map_err(refused("look at a snapshot"))
    }

    pub(super) async fn commit(&self, name: &str, key: &str) -> Result<(), Error> {
        let ask = CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: [("containerd.io/snapshot.ref".to_owned(), name.to_owned())].into(),
        };
        let method = "/containerd.services.snapshots.v1.Snapshots/Commit";
        match self.channel.call::<_, Empty>(method, self.ask(ask)).await {
            // Somebody else was first: theirs is as good, and ours goes.
            Err(status) if status.code() == Code::AlreadyExists => self.remove_snapshot(key).await,
            other => other.map(drop).map_err(refused("commit a snapshot")),
        }
    }

    pub(super) async fn remove_snapshot(&self, key: &str) -> Result<(), Error> {
        let method = "/containerd.services.snapshots.v1.Snapshots/Remove";
        let removed = self.channel.call::<_, Empty>(method, self.ask(snapshot(key))).await;
        or_fine(removed, Code::NotFound).map_err(refused("remove a snapshot"))
    }

    pub(super) async fn snapshots(&self) -> Result<Vec<SnapshotInfo>, Error> {
        let ask = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.to_owned(), filters: Vec::new() };
        let method = "/containerd.services.snapshots.v1.Snapshots/List";
        let answers = self.channel.call_for_stream::<_, ListSnapshotsResponse>(method, self.ask(ask)).await;
        let mut answers = answers.map_err(refused("list snapshots"))?;
        let mut all = Vec::new();
        while let Some(some) = answers.message().await.map_err(refused("list snapshots"))? {
            all.extend(some.info);
        }
        Ok(all)
    }

    pub(super) async fn snapshot_usage(&self, name: &str) -> Result<UsageResponse, Error> {
        let method = "/containerd.services.snapshots.v1.Snapshots/Usage";
        match self.channel.call(method, self.ask(snapshot(name))).await {
            Err(status) if status.code() == Code::NotFound => Ok(UsageResponse::default()),
            other => other.map_err(refused("measure a snapshot")),
        }
    }

    /// The directory that a plugin says it keeps its things in.
    pub(super) async fn root_of(&self, kind: &str, id: &str) -> Result<Option<PathBuf>, Error> {
        let ask = PluginsRequest { filters: vec![format!("type=={kind},id=={id}")] };
        let method = "/containerd.services.introspection.v1.Introspection/Plugins";
        let answered = self.channel.call::<_, PluginsResponse>(method, self.ask(ask)).await;
        let plugins = answered.map_err(refused("ask for a plugin"))?.plugins;
        Ok(plugins.into_iter().find_map(|mut plugin| plugin.exports.remove("root")).map(PathBuf::from))
    }
}

fn snapshot(key: &str) -> SnapshotRequest {
    SnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() }
}

/// Where containerd's paths are found from here: nowhere else when it shares our mounts, otherwise below its root in /proc.
pub(super) fn path_prefix(socket: &Path) -> Option<PathBuf> {
    let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    let process = socket_peercred(&stream).ok()?.pid.as_raw_nonzero();
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt"));
    let theirs = namespace(&process.to_string()).ok()?;
    let is_shared = namespace("self").is_ok_and(|ours| ours == theirs);
    (!is_shared).then(|| format!("/proc/{process}/root").into())
}
