//! From files to chunks.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use rbuild_image::media_type::OCI_MANIFEST;
use rbuild_image::{BytesContent, Descriptor, Digest, Manifest, Raw, Sink};
use rbuild_layers::{Content, Descend, Meta, Opener, RootError, Store, View};

use super::super::repository::CacheRepository;
use super::chunks::chunks;
use super::listing::Listed;
use super::{CHUNK_TYPE, Cause, LIST_TYPE, MOUNT_TYPE, PLAIN, find, plain};

/// Threads that compress and send.
const WORKERS: usize = 2;

/// The level of zstd: libraries and objects at some 300 MB/s.
const LEVEL: i32 = 3;

/// What of a mount was sent.
pub(super) struct Sent {
    paths: usize,
    bytes: u64,
    moved: u64,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { paths, bytes, moved } = self;
        write!(f, "{paths} paths with {bytes} bytes, {moved} bytes sent")
    }
}

/// Writes a mount, of which only chunks are sent that the repository does not know from before.
pub(super) fn save(
    repository: &CacheRepository,
    mount: &Digest,
    (store, directory): (&Store, &Path),
    runtime: &tokio::runtime::Handle,
) -> Result<Sent, Cause> {
    // What is there and cannot be read is written anew.
    let before = runtime.block_on(find(repository, mount)).ok().flatten();
    let known = before.iter().flat_map(|manifest| &manifest.value().layers);
    let known = known.filter_map(|chunk| Some((plain(chunk)?.0, chunk.clone()))).collect();
    let _lock = lock(directory)?;
    let (list, files) = list(&View::directory(store.root(directory)?))?;
    let bytes = files.iter().fold(0, |sum, (_, size)| size.saturating_add(sum));
    let sink = repository.sink();
    let sender =
        Sender { known, sink: &*sink, runtime, moved: AtomicU64::new(0), has_failed: AtomicBool::new(false) };
    let layers = sender.send(Stream::new(files))?;
    let compressed: Bytes = zstd::bulk::compress(&serde_json::to_vec(&list)?, LEVEL)?.into();
    let config = Descriptor::of(LIST_TYPE, &compressed);
    let manifest = Raw::from_value(Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        artifact_type: Some(MOUNT_TYPE.to_owned()),
        config: config.clone(),
        layers,
        subject: None,
        annotations: BTreeMap::new(),
        extra: BTreeMap::new(),
    });
    let moved = sender.moved.into_inner();
    let sent = Sent { paths: list.len(), bytes, moved };
    if before.is_some_and(|before| before.digest() == manifest.digest()) {
        return Ok(sent);
    }
    if manifest.bytes().len() > rbuild_image::manifest::MAX_DOCUMENT {
        return Err("it has too many chunks for a manifest".into());
    }
    let name = repository.mount_name(mount)?;
    runtime.block_on(async {
        if !sink.exists(&config).await? {
            sink.push(&config, Arc::new(BytesContent(compressed))).await?;
        }
        sink.tag(&manifest.descriptor(OCI_MANIFEST), manifest.bytes().clone(), &name).await
    })?;
    Ok(sent)
}

/// Keeps others from changing a locked mount meanwhile. What shares it may change it: a file is as long as it was listed.
fn lock(directory: &Path) -> io::Result<File> {
    let mut name = directory.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::options().create(true).append(true).open(name)?;
    lock.lock_shared()?;
    Ok(lock)
}

/// The bytes of regular files, and how many each has.
type Files = Vec<(Content, u64)>;

/// The files of a mount, and the bytes of the regular ones.
fn list(view: &View) -> Result<(Vec<Listed>, Files), Cause> {
    let top = view.metadata(Path::new(""))?.unwrap_or_else(Meta::default_directory);
    let mut list = Vec::from_iter(Listed::new(Path::new(""), &top));
    let mut files = Vec::new();
    view.walk::<RootError>(Path::new(""), &mut |visit| {
        if let Some(listed) = Listed::new(visit.path, visit.meta) {
            list.push(listed);
            if visit.meta.is_file() {
                files.push((visit.content.clone(), visit.meta.size));
            }
        }
        Ok(Descend::Into)
    })?;
    Ok((list, files))
}

/// The bytes of files, one after the other, each as long as it was listed.
struct Stream {
    files: std::vec::IntoIter<(Content, u64)>,
    opener: Opener,
    current: Option<Box<dyn Read>>,
}

impl Stream {
    fn new(files: Files) -> Self {
        Self { files: files.into_iter(), opener: Opener::default(), current: None }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(current) = &mut self.current {
                let read = current.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            let Some((content, size)) = self.files.next() else { return Ok(0) };
            let opened = self.opener.open(&content).map_err(io::Error::other)?;
            // One that was cut short meanwhile is filled up.
            self.current = Some(Box::new(opened.chain(io::repeat(0)).take(size)));
        }
    }
}

/// What sends chunks.
struct Sender<'a> {
    /// Chunks that the repository has, by the digest of their bytes.
    known: HashMap<Digest, Descriptor>,
    sink: &'a dyn Sink,
    runtime: &'a tokio::runtime::Handle,
    moved: AtomicU64,
    has_failed: AtomicBool,
}

impl Sender<'_> {
    /// Sends what is new of a stream, and describes its chunks in order.
    fn send(&self, stream: Stream) -> Result<Vec<Descriptor>, Cause> {
        let (queue, work) = sync_channel::<(usize, Vec<u8>)>(WORKERS);
        let work = Mutex::new(work);
        let sent = thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| self.work(&work))).collect();
            let mut number = 0;
            let read = chunks::<io::Error>(stream, |chunk| {
                number += 1;
                match self.has_failed.load(Ordering::Acquire) || queue.send((number, chunk)).is_err() {
                    true => Err(io::ErrorKind::BrokenPipe.into()),
                    false => Ok(()),
                }
            });
            drop(queue);
            let mut sent = Vec::with_capacity(number);
            for worker in workers {
                let done = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                sent.extend(done?);
            }
            read?;
            Ok::<_, Cause>(sent)
        });
        let mut sent = sent?;
        sent.sort_by_key(|(number, _)| *number);
        Ok(sent.into_iter().map(|(_, chunk)| chunk).collect())
    }

    fn work(&self, work: &Mutex<Receiver<(usize, Vec<u8>)>>) -> Result<Vec<(usize, Descriptor)>, Cause> {
        let mut sent = Vec::new();
        loop {
            let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((number, chunk)) = next else { return Ok(sent) };
            match self.send_one(&chunk) {
                Ok(descriptor) => sent.push((number, descriptor)),
                Err(error) => {
                    self.has_failed.store(true, Ordering::Release);
                    // Whoever fills the queue must not wait for room in it.
                    let queue = work.lock().unwrap_or_else(PoisonError::into_inner);
                    while queue.recv().is_ok() {}
                    return Err(error);
                }
            }
        }
    }

    fn send_one(&self, chunk: &[u8]) -> Result<Descriptor, Cause> {
        let digest = Digest::of(chunk);
        if let Some(known) = self.known.get(&digest) {
            return Ok(known.clone());
        }
        let compressed: Bytes = zstd::bulk::compress(chunk, LEVEL)?.into();
        let mut descriptor = Descriptor::of(CHUNK_TYPE, &compressed);
        descriptor.annotations.insert(PLAIN.to_owned(), format!("{digest} {}", chunk.len()));
        self.runtime.block_on(async {
            if !self.sink.exists(&descriptor).await? {
                self.moved.fetch_add(descriptor.size, Ordering::Relaxed);
                self.sink.push(&descriptor, Arc::new(BytesContent(compressed))).await?;
            }
            Ok(descriptor)
        })
    }
}
