//! From chunks to files.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use rbuild_image::{Descriptor, Digest, Source, Verified};
use rbuild_layers::{Changes, Content, Entry, Scratch, Store, View, apply};
use tokio::io::AsyncReadExt as _;

use super::super::repository::CacheRepository;
use super::listing::{self, Listed};
use super::{CHUNK_TYPE, Cause, LIST_TYPE, chunks, find, plain};
use crate::cache::mounts::CONTENT;

/// Chunks that are fetched at the same time.
const PARALLEL: usize = 4;

/// The largest list of files, compressed, in bytes.
const MAX_COMPRESSED_LIST: u64 = 256 << 20;

/// The largest list of files in bytes.
const MAX_LIST: u64 = 1 << 30;

/// Brings a mount into the store's scratch space; none when it is not there.
pub(super) fn restore(
    repository: &CacheRepository,
    mount: &Digest,
    store: &Store,
    runtime: &tokio::runtime::Handle,
) -> Result<Option<Scratch>, Cause> {
    let Some(manifest) = runtime.block_on(find(repository, mount))? else { return Ok(None) };
    let manifest = manifest.into_value();
    let source = repository.source();
    if manifest.config.media_type != LIST_TYPE || manifest.config.size > MAX_COMPRESSED_LIST {
        return Err("it has no list of files".into());
    }
    let list = decompressed_list(&runtime.block_on(blob(&*source, &manifest.config))?)?;
    let mut parts = Vec::with_capacity(manifest.layers.len());
    let mut total = 0_u64;
    for chunk in manifest.layers {
        let sound = plain(&chunk).filter(|_| chunk.media_type == CHUNK_TYPE);
        let (digest, length) = sound.ok_or("a chunk of it says not what it is")?;
        if chunk.size > 2 * chunks::MOST as u64 {
            return Err("a chunk of it is too large".into());
        }
        parts.push(Part { chunk, digest, length, offset: total });
        total = total.checked_add(length).ok_or("it is too large")?;
    }
    let tree = listing::tree(&list, total).ok_or("its list of files is malformed")?;
    let scratch = store.scratch()?;
    let path = scratch.path().join("chunks");
    let file = Arc::new(File::options().create_new(true).read(true).write(true).open(&path)?);
    let fetched = stream::iter(parts.into_iter().map(|part| part.fetch(&*source, Arc::clone(&file))));
    runtime.block_on(fetched.buffer_unordered(PARALLEL).try_collect::<()>())?;

    let mut changes = Changes::new();
    let mut offset = 0;
    for (path, meta) in tree {
        let content = match meta.is_file() {
            true => Content::Range { file: Arc::clone(&file), offset, length: meta.size },
            false => Content::None,
        };
        offset += meta.size;
        let path = match path.as_os_str().is_empty() {
            true => Path::new(CONTENT).to_owned(),
            false => Path::new(CONTENT).join(path),
        };
        changes.insert(path, Entry::Node { meta, content });
    }
    apply(&changes, &scratch.root()?, &View::empty())?;
    std::fs::remove_file(path)?;
    Ok(Some(scratch))
}

/// A chunk and its place in the stream.
struct Part {
    chunk: Descriptor,
    digest: Digest,
    length: u64,
    offset: u64,
}

impl Part {
    async fn fetch(self, source: &dyn Source, into: Arc<File>) -> Result<(), Cause> {
        let Self { chunk, digest, length, offset } = self;
        let compressed = blob(source, &chunk).await?;
        let write = move || -> Result<(), Cause> {
            let length = usize::try_from(length)?;
            let bytes = zstd::bulk::decompress(&compressed, length)?;
            if bytes.len() != length || Digest::of(&bytes) != digest {
                return Err("a chunk of it is not what it says".into());
            }
            Ok(into.write_all_at(&bytes, offset)?)
        };
        tokio::task::spawn_blocking(write).await?
    }
}

/// Reads a blob of a bounded size, verified.
async fn blob(source: &dyn Source, descriptor: &Descriptor) -> Result<Vec<u8>, Cause> {
    let content = source.content(descriptor).await?;
    let mut bytes = Vec::new();
    let mut reader = Verified::new(content.open(0).await?, descriptor.digest, descriptor.size);
    reader.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn decompressed_list(compressed: &[u8]) -> Result<Vec<Listed>, Cause> {
    let mut bytes = Vec::new();
    zstd::Decoder::new(compressed)?.take(MAX_LIST).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
