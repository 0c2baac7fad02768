//! `/etc/hosts` and `/etc/resolv.conf` of a RUN: bound read-only, never committed.

use std::fs;
use std::path::{Path, PathBuf};

use rbuild_layers::{Scratch, Store};

use crate::error::BuildError;
use crate::export::ExportError;

/// What BuildKit writes, with the host name of its sandboxes.
const HOSTS: &str = "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Bytes of the host's `/etc/resolv.conf` that are taken over.
const MAX_RESOLV_CONF: u64 = 64 << 10;

/// The two files, in a directory that goes when the build ends.
#[derive(Debug)]
pub(crate) struct NetworkFiles {
    scratch: Scratch,
}

impl NetworkFiles {
    /// Writes both; the name servers are the host's.
    ///
    /// # References
    /// resolv.conf(5), hosts(5)
    pub(crate) fn new(store: &Store) -> Result<Self, BuildError> {
        let files = Self { scratch: store.scratch()? };
        for (path, text) in [(files.hosts(), HOSTS.to_owned()), (files.resolv_conf(), host_resolv_conf())] {
            let written = fs::write(&path, text).and_then(|()| {
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            });
            written.map_err(|source| ExportError::Write { path, source: source.into() })?;
        }
        Ok(files)
    }

    pub(crate) fn hosts(&self) -> PathBuf {
        self.scratch.path().join("hosts")
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.scratch.path().join("resolv.conf")
    }

    /// The directory they are in.
    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }
}

fn host_resolv_conf() -> String {
    use std::io::Read;
    let mut text = String::new();
    let read = fs::File::open("/etc/resolv.conf")
        .and_then(|file| file.take(MAX_RESOLV_CONF).read_to_string(&mut text));
    // A host without one has no name service to pass on.
    if read.is_err() { String::new() } else { text }
}
