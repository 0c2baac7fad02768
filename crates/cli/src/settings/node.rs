//! From a node's flags to a store and to how it is filled.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rbuild_cri::{ContainerdStore, NodeStore, OwnStore, PullOptions, Sync, Unpacking};
use rbuild_layers::Store;

use super::{Usage, client_options, credentials, platform};
use crate::args::{NodeArgs, RegistryArgs, StoreArgs};

/// Where CRI-O and podman keep what images they take.
const POLICY: &str = "/etc/containers/policy.json";

/// Where images of a node go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// The store.
    Own,
    /// An OCI image layout.
    Layout(PathBuf),
    /// containerd's, spoken to at a socket; its paths are found below the prefix.
    Containerd { socket: PathBuf, prefix: Option<PathBuf> },
    /// What CRI-O and podman read.
    ContainersStorage,
}

impl Node {
    /// Reads `own`, `oci:DIR`, `containerd=unix://PATH[,prefix=DIR]` or `containers-storage`.
    pub(crate) fn new(option: &str, text: &str) -> Result<Self, Usage> {
        match text.split_once([':', '=']).unwrap_or((text, "")) {
            ("own", "") => Ok(Self::Own),
            ("oci", directory) if !directory.is_empty() => Ok(Self::Layout(directory.into())),
            ("containers-storage", "") => Ok(Self::ContainersStorage),
            ("containerd", rest) if text.starts_with("containerd=") => {
                let (address, prefix) = match rest.split_once(",prefix=") {
                    Some((address, prefix)) => (address, Some(PathBuf::from(prefix))),
                    None => (rest, None),
                };
                Ok(Self::Containerd { socket: socket(option, address)?.to_owned(), prefix })
            }
            _ => Err(Usage::new(format!("{option} {text:?} is no store"))
                .hint("there are own, oci:DIR, containerd=unix://PATH and containers-storage")),
        }
    }

    /// Opens it; `None` for what only other tools write.
    pub(crate) fn open(
        &self,
        args: &NodeArgs,
        work: &StoreArgs,
    ) -> anyhow::Result<Option<Arc<dyn NodeStore>>> {
        let sync = if args.no_sync { Sync::No } else { Sync::Yes };
        let unpacking = if args.unpack { Unpacking::Yes } else { Unpacking::No };
        if args.unpack && *self != Self::Own {
            return Err(Usage::new("--unpack is for the own store only").into());
        }
        Ok(match self {
            Self::Own => {
                let path = match &work.root {
                    Some(root) => root.clone(),
                    None => Store::from_env()?.path().to_owned(),
                };
                Some(Arc::new(OwnStore::open(&path, unpacking, sync)?))
            }
            Self::Layout(directory) => Some(Arc::new(OwnStore::layout(directory, sync)?)),
            Self::Containerd { socket, prefix } => {
                Some(Arc::new(ContainerdStore::new(socket, prefix.clone(), sync)))
            }
            Self::ContainersStorage => None,
        })
    }
}

/// How images are pulled onto a node.
pub(crate) fn pull_options(
    args: &NodeArgs,
    registry: &RegistryArgs,
    wanted: Option<&str>,
) -> anyhow::Result<PullOptions> {
    let client = client_options(registry, credentials(registry)?)?;
    let default = Some(PathBuf::from(POLICY)).filter(|path| path.exists());
    Ok(PullOptions {
        platform: platform(wanted)?,
        policy: args.policy.clone().or(default),
        jobs: args.downloads,
        patience: Duration::from_secs(args.progress_timeout),
        ..PullOptions::new(client)
    })
}

/// Reads `unix://PATH`, or a path.
pub(crate) fn socket<'a>(option: &str, text: &'a str) -> Result<&'a Path, Usage> {
    let path = Path::new(text.strip_prefix("unix://").unwrap_or(text));
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Usage::new(format!("{option} {text:?} is no unix socket")).hint("as unix:///run/rbuild/cri.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores() {
        let check = |text: &str, expect: Result<Node, &str>| {
            let got = Node::new("--into", text).map_err(|usage| usage.to_string());
            assert_eq!(got, expect.map_err(str::to_owned));
        };
        check("own", Ok(Node::Own));
        check("oci:/a:b", Ok(Node::Layout("/a:b".into())));
        check("containers-storage", Ok(Node::ContainersStorage));
        check("oci:", Err("--into \"oci:\" is no store"));
        check("docker", Err("--into \"docker\" is no store"));
        let containerd = |prefix: Option<&str>| Node::Containerd {
            socket: "/c.sock".into(),
            prefix: prefix.map(PathBuf::from),
        };
        check("containerd=unix:///c.sock", Ok(containerd(None)));
        check("containerd=unix:///c.sock,prefix=/host", Ok(containerd(Some("/host"))));
        check("containerd=c.sock", Err("--into \"c.sock\" is no unix socket"));
    }

    #[test]
    fn sockets() {
        assert_eq!(socket("--listen", "unix:///run/a.sock").unwrap(), Path::new("/run/a.sock"));
        assert_eq!(socket("--listen", "/run/a.sock").unwrap(), Path::new("/run/a.sock"));
        assert!(socket("--listen", "tcp://127.0.0.1:1").is_err());
        assert!(socket("--listen", "a.sock").is_err());
    }
}
