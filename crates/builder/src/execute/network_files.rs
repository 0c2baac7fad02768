//! `/etc/hosts` and `/etc/resolv.conf` of a RUN: bound read-only, never committed.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rbuild_image::Digest;
use rbuild_layers::{Scratch, Store};

use crate::error::BuildError;
use crate::export::ExportError;

/// Bytes of the host's `/etc/resolv.conf` that are taken over.
const MAX_RESOLV_CONF: u64 = 64 << 10;

/// The files, in a directory that goes when the build ends.
#[derive(Debug)]
pub(crate) struct NetworkFiles {
    scratch: Scratch,
}

impl NetworkFiles {
    /// Writes the name servers, which are the host's.
    ///
    /// # References
    /// resolv.conf(5)
    pub(crate) fn new(store: &Store) -> Result<Self, BuildError> {
        let files = Self { scratch: store.scratch()? };
        write(&files.resolv_conf(), &host_resolv_conf())
            .map_err(|source| ExportError::Write { path: files.resolv_conf(), source: source.into() })?;
        Ok(files)
    }

    /// Writes the hosts of a step, unless an earlier one had the same.
    pub(crate) fn hosts(&self, hostname: &str, extra: &[(String, IpAddr)]) -> io::Result<PathBuf> {
        let text = hosts(hostname, extra);
        let path = self.scratch.path().join(format!("hosts-{}", Digest::of(text.as_bytes()).hex()));
        if !path.exists() {
            write(&path, &text)?;
        }
        Ok(path)
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.scratch.path().join("resolv.conf")
    }

    /// The directory they are in.
    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }
}

/// The lines that BuildKit writes.
///
/// # References
/// hosts(5)
fn hosts(hostname: &str, extra: &[(String, IpAddr)]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    text.extend(extra.iter().map(|(name, address)| format!("{address}\t{name}\n")));
    text
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
}

fn host_resolv_conf() -> String {
    use std::io::Read;
    let mut text = String::new();
    let read = fs::File::open("/etc/resolv.conf")
        .and_then(|file| file.take(MAX_RESOLV_CONF).read_to_string(&mut text));
    // A host without one has no name service to pass on.
    if read.is_err() { String::new() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_those_of_buildkit() {
        let extra = [("foo".to_owned(), [1, 2, 3, 4].into()), ("bar".to_owned(), "::5".parse().unwrap())];
        let expect =
            "127.0.0.1\tlocalhost hh\n::1\tlocalhost ip6-localhost ip6-loopback\n1.2.3.4\tfoo\n::5\tbar\n";
        assert_eq!(hosts("hh", &extra), expect);
    }
}
