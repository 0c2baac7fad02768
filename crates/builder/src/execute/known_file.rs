//! Files of the web that the store has from earlier builds, so that a server need not send them again.

use std::fs::File;
use std::io::{self, Seek};

use rbuild_image::{Descriptor, Digest};
use rbuild_layers::Store;
use rbuild_layers::store::StoreDirError;
use rbuild_registry::Download;
use serde::{Deserialize, Serialize};

/// What the server said of a file when it came.
///
/// As in BuildKit, a file is known by its entity tag alone: one with a date only is fetched by every build, for a date tells
/// no two changes within a second apart.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KnownFile {
    /// The server's name for this state of the file.
    pub(crate) etag: String,
    digest: Digest,
    size: u64,
    last_modified: Option<i64>,
}

impl KnownFile {
    /// Finds what is known of a URL, if the bytes are still there. A malformed entry is none.
    pub(crate) fn of(store: &Store, url: &str) -> Result<Option<Self>, StoreDirError> {
        let Some(bytes) = store.cache_get(&name(url))? else { return Ok(None) };
        let known = serde_json::from_slice::<Self>(&bytes).ok();
        Ok(known.filter(|known| store.blob_size(&known.digest) == Some(known.size)))
    }

    /// Copies the bytes into an empty file, and compares them with their digest.
    pub(crate) fn copy(self, store: &Store, file: &mut File) -> io::Result<Download> {
        let Self { etag, digest, size, last_modified } = self;
        let descriptor = Descriptor::new("application/octet-stream", digest, size);
        let mut blob = store.open_blob(&descriptor).map_err(io::Error::other)?;
        io::copy(&mut blob, file)?;
        Ok(Download { digest, size, last_modified, etag: Some(etag) })
    }

    /// Keeps a file that came with an entity tag.
    pub(crate) fn keep(
        store: &Store,
        url: &str,
        download: &Download,
        file: &mut File,
    ) -> Result<(), StoreDirError> {
        let Download { digest, size, last_modified, etag: Some(etag) } = download.clone() else {
            return Ok(());
        };
        if !store.has_blob(&digest) {
            let mut blob = store.blob_writer()?;
            file.rewind().and_then(|()| io::copy(file, &mut blob)).map_err(|source| StoreDirError::Io {
                operation: "keep",
                path: store.blob_path(&digest),
                source,
            })?;
            blob.finish(Some((digest, size)))?;
        }
        let known = Self { etag, digest, size, last_modified };
        store.cache_put(&name(url), &serde_json::to_vec(&known).unwrap_or_default())
    }
}

/// Nothing of the name shows a password that may be in the URL.
fn name(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("web/{}", Digest::of(format!("{scheme}://{host}{path}").as_bytes()).hex())
}
