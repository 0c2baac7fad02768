//! The layers of one image on their way into containerd's store.
//!
//! All come at once, each in one pass: what arrives goes into the content store and is inflated, compared with its diff ID and
//! unpacked meanwhile. A snapshot can be prepared only on a parent that is committed, so a layer whose parent is not yet there is unpacked
//! into a snapshot without parent, and its directory changes places with that of the right one when it is its turn.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use rbuild_image::{ChainId, DiffId, Digest, Layer};
use rbuild_layers::{RootError, View};
use rustix::fs::{CWD, RenameFlags};
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};

use super::api::{Api, Labels};
use super::feed::{Feed, feed};
use super::trees::{Tree, Trees};
use super::unpacking::{self, Target};
use super::{Places, content, source_label};
use crate::error::{Error, failed};
use crate::node_store::Flights;
use crate::partial::Sync;
use crate::pull::Arrival;

/// One pull's layers, brought under a lease.
pub(super) struct Landing<'a> {
    pub(super) api: &'a Api,
    pub(super) arrival: &'a Arrival,
    pub(super) places: &'a Places,
    pub(super) flights: &'a Flights,
    pub(super) sync: Sync,
    chain: &'a [Layer],
    /// Chain IDs, the lowest first.
    names: Vec<String>,
    trees: Awaited,
    /// Held by every thread that writes into a snapshot.
    writing: mpsc::Sender<Infallible>,
    written: mpsc::Receiver<Infallible>,
}

/// The layers of a pull; when it ends, whatever way, no thread waits for them any more.
struct Awaited(Arc<Trees>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A layer that has arrived.
struct Laid {
    how: How,
    /// Nobody else of this process makes the snapshot meanwhile.
    _flight: OwnedMutexGuard<()>,
}

enum How {
    /// containerd has its snapshot.
    Known,
    /// It is unpacked where it belongs.
    InPlace { key: String },
    /// It is unpacked into the directory of a snapshot that serves nothing else.
    Aside { key: String, directory: PathBuf },
}

impl<'a> Landing<'a> {
    pub(super) fn new(
        (api, places): (&'a Api, &'a Places),
        (arrival, chain): (&'a Arrival, &'a [Layer]),
        flights: &'a Flights,
        sync: Sync,
    ) -> Self {
        let diff_ids: Vec<DiffId> = chain.iter().map(|layer| layer.diff_id).collect();
        let chain_id = |count| ChainId::of(diff_ids.get(..count).unwrap_or_default());
        let names = (1..=chain.len()).filter_map(chain_id).map(|id| id.to_string()).collect();
        let (writing, written) = mpsc::channel(1);
        let trees = Awaited(Arc::new(Trees::new(chain.len())));
        Self { api, arrival, places, flights, sync, chain, names, trees, writing, written }
    }

    /// Brings all layers. The first failure ends it.
    pub(super) async fn land(&self) -> Result<(), Error> {
        let (mut bringing, mut brought) = (Vec::new(), VecDeque::new());
        for (index, layer) in self.chain.iter().enumerate() {
            let (sender, receiver) = oneshot::channel();
            brought.push_back(receiver);
            bringing.push(async move {
                // Without anybody to commit it the pull has failed already.
                let _ = sender.send(self.bring(index, layer).await?);
                Ok::<_, Error>(())
            });
        }
        let bringing = stream::iter(bringing).buffer_unordered(self.arrival.jobs).try_collect::<()>();
        tokio::try_join!(bringing, self.commit_all(brought))?;
        Ok(())
    }

    /// Waits until no thread writes into a snapshot any more.
    pub(super) async fn end(self) {
        let Self { trees, writing, mut written, .. } = self;
        drop(trees);
        drop(writing);
        written.recv().await;
    }

    async fn bring(&self, index: usize, layer: &Layer) -> Result<Laid, Error> {
        let name = self.name(index)?;
        let flight = self.flights.of(Digest::of(name.as_bytes())).lock_owned().await;
        self.arrival.progress.step();
        let place = if self.api.has_snapshot(name).await? { None } else { self.prepare(index).await? };
        let (feed, fed) = feed(layer.descriptor.size);
        let Some((key, target, is_aside)) = place else {
            drop(fed);
            self.trees.0.put(index, Tree::Known);
            self.fetch(layer, feed).await?;
            return Ok(Laid { how: How::Known, _flight: flight });
        };
        let directory = target.upper.clone();
        let unpacking = self.unpack(index, layer, (target, is_aside), fed);
        // Of a blob that is not what it should be this is the error to tell.
        self.fetch(layer, feed).await?;
        unpacking.await.map_err(|_| Error::Interrupted)??;
        let how = if is_aside { How::Aside { key, directory } } else { How::InPlace { key } };
        Ok(Laid { how, _flight: flight })
    }

    async fn fetch(&self, layer: &Layer, mut feed: Feed) -> Result<(), Error> {
        let digest = layer.descriptor.digest;
        let flight = self.flights.of(digest);
        let _flight = flight.lock().await;
        let uncompressed = ("containerd.io/uncompressed".to_owned(), layer.diff_id.to_string());
        let labels = source_label(self.arrival).into_iter().chain([uncompressed]).collect();
        content::fetch(self.api, self.arrival, (&layer.descriptor, &mut feed), labels).await?;
        feed.landed(self.places.blob(&digest));
        Ok(())
    }

    /// Makes a snapshot to unpack into and tells whether it is one aside; `None` when the layer's own is there already.
    async fn prepare(&self, index: usize) -> Result<Option<(String, Target, bool)>, Error> {
        let parent = match index.checked_sub(1) {
            Some(below) => self.name(below)?,
            None => "",
        };
        if parent.is_empty() || self.api.has_snapshot(parent).await? {
            let prepared = self.prepare_own(index).await?;
            return Ok(prepared.map(|(key, target)| (key, target, false)));
        }
        let key = unique("aside", self.name(index)?);
        let Some(prepared) = self.api.prepare(&key, "", Labels::new()).await? else {
            return Err(Error::Interrupted);
        };
        Ok(Some((key, Target::of(&prepared.mounts, self.places)?, true)))
    }

    /// Makes the layer's own snapshot on its parent; `None` when it is there already.
    async fn prepare_own(&self, index: usize) -> Result<Option<(String, Target)>, Error> {
        let (name, layer) = (self.name(index)?, self.chain.get(index).ok_or(Error::Interrupted)?);
        let parent = index.checked_sub(1).and_then(|below| self.names.get(below));
        let labels: Labels = [
            ("containerd.io/snapshot.ref".to_owned(), name.to_owned()),
            ("containerd.io/snapshot/diff-id".to_owned(), layer.diff_id.to_string()),
        ]
        .into();
        let key = unique("extract", name);
        let prepared = self.api.prepare(&key, parent.map_or("", String::as_str), labels).await?;
        let target = prepared.map(|prepared| Target::of(&prepared.mounts, self.places)).transpose()?;
        Ok(target.map(|target| (key, target)))
    }

    /// Unpacks a layer on a thread of its own.
    fn unpack(
        &self,
        index: usize,
        layer: &Layer,
        (target, is_aside): (Target, bool),
        blob: impl Read + Send + 'static,
    ) -> JoinHandle<Result<(), Error>> {
        let below = BelowAside {
            trees: Arc::clone(&self.trees.0),
            names: self.names.clone(),
            api: self.api.clone(),
            places: self.places.clone(),
            runtime: Handle::current(),
        };
        let (layer, writing) = (layer.clone(), self.writing.clone());
        let blob = Watched { blob, progress: self.arrival.progress.clone() };
        spawn_blocking(move || {
            let _writing = writing;
            let lower = OnceCell::new();
            let aside = || match lower.get() {
                Some(view) => Ok(View::clone(view)),
                None => below.view(index).map(|view| lower.get_or_init(|| view).clone()),
            };
            let unpacked = match is_aside {
                true => unpacking::run(blob, &layer, &target, Some(&aside)),
                false => unpacking::run(blob, &layer, &target, None),
            };
            let tree = unpacked.as_ref().map_or(Tree::Failed, |root| Tree::Unpacked(root.clone()));
            below.trees.put(index, tree);
            unpacked.map(drop)
        })
    }

    /// Commits the layers in order. Those that are complete at the same time wait for the disk together.
    async fn commit_all(&self, mut brought: VecDeque<oneshot::Receiver<Laid>>) -> Result<(), Error> {
        let mut index = 0;
        while let Some(next) = brought.pop_front() {
            let mut complete = vec![next.await.map_err(|_| Error::Interrupted)?];
            while let Some(laid) = brought.front_mut().and_then(|next| next.try_recv().ok()) {
                brought.pop_front();
                complete.push(laid);
            }
            if self.sync == Sync::Yes && complete.iter().any(|laid| !matches!(laid.how, How::Known)) {
                sync(self.places.here(&self.places.snapshots)).await?;
            }
            for laid in complete {
                self.commit(index, laid.how).await?;
                self.arrival.progress.step();
                index += 1;
            }
        }
        Ok(())
    }

    async fn commit(&self, index: usize, how: How) -> Result<(), Error> {
        let name = self.name(index)?;
        match how {
            How::Known => Ok(()),
            How::InPlace { key } => self.api.commit(name, &key).await,
            How::Aside { key, directory } => {
                if let Some((own, target)) = self.prepare_own(index).await? {
                    self.move_in(index, &directory, target).await?;
                    self.api.commit(name, &own).await?;
                }
                self.api.remove_snapshot(&key).await
            }
        }
    }

    /// Puts an unpacked directory where the snapshotter wants it. What it holds is on the disk; that it is there now is no later
    /// there than what containerd writes about it.
    async fn move_in(&self, index: usize, from: &Path, target: Target) -> Result<(), Error> {
        let layer = self.chain.get(index).ok_or(Error::Interrupted)?;
        if target.user_xattrs {
            // It was unpacked with other marks: containerd is in a user namespace. The blob is there.
            let path = self.places.blob(&layer.descriptor.digest);
            let blob = File::open(&path).map_err(failed("open", &path))?;
            return self.unpack(index, layer, (target, false), blob).await.map_err(|_| Error::Interrupted)?;
        }
        let to = &target.upper;
        let moved = match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
            // Not every file system can; an empty directory may be replaced.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => rustix::fs::rename(from, to),
            moved => moved,
        };
        moved.map_err(failed("rename to", to))
    }

    fn name(&self, index: usize) -> Result<&str, Error> {
        self.names.get(index).map(String::as_str).ok_or(Error::Interrupted)
    }
}

/// What a thread needs to see the layers below one that is unpacked aside.
struct BelowAside {
    trees: Arc<Trees>,
    names: Vec<String>,
    api: Api,
    places: Places,
    runtime: Handle,
}

impl BelowAside {
    /// Waits for the layers below.
    fn view(&self, index: usize) -> Result<View, RootError> {
        let failed = |source: io::Error| RootError::Io { operation: "read", path: PathBuf::new(), source };
        let gone = || failed(io::Error::other("a layer below it could not be unpacked"));
        let below = self.trees.below(index).ok_or_else(gone)?;
        let mut roots = Vec::new();
        if let Some(name) = below.known.checked_sub(1).and_then(|top| self.names.get(top)) {
            let looked = async {
                let key = unique("look", name);
                let mounts = self.api.view(&key, name).await?;
                self.api.remove_snapshot(&key).await?;
                Ok::<_, Error>(mounts)
            };
            let mounts = self.runtime.block_on(looked).map_err(|error| failed(io::Error::other(error)))?;
            for path in unpacking::directories(&mounts.mounts, &self.places).iter().rev() {
                roots.push(unpacking::open(path, false)?);
            }
        }
        roots.extend(below.unpacked);
        Ok(View::overlay(roots))
    }
}

/// A key for a snapshot that nobody else uses.
fn unique(purpose: &str, name: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{purpose}-{now}-rbuild {name}")
}

async fn sync(path: PathBuf) -> Result<(), Error> {
    let work = move || {
        let directory = File::open(&path).map_err(failed("open", &path))?;
        rustix::fs::syncfs(&directory).map_err(failed("sync", &path))
    };
    spawn_blocking(work).await.map_err(|_| Error::Interrupted)?
}

/// Tells the watchdog that something moves.
struct Watched<R> {
    blob: R,
    progress: Arc<crate::pull::Progress>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.progress.step();
        self.blob.read(buffer)
    }
}
