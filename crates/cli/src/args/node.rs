//! Images for the runtime of a node: `rbuild pull --into` and `rbuild cri`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{RegistryArgs, StoreArgs, TransferArgs};

/// `rbuild pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Names of the images
    #[arg(value_name = "REF", required = true)]
    pub(crate) names: Vec<String>,
    /// Which platform's image is pulled; default: this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// Pull as a node does, resuming what broke off: own (the store), oci:DIR, containerd=unix://PATH[,prefix=DIR] (its
    /// k8s.io namespace, its paths found below DIR), or containers-storage (CRI-O's and podman's, through an installed
    /// skopeo)
    #[arg(long, value_name = "WHERE")]
    pub(crate) into: Option<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

/// How images land on a node.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeArgs {
    /// Which images are taken, as containers-policy.json(5) has it; what asks for signatures is refused [default:
    /// /etc/containers/policy.json, if there is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Unpack the layers as well, for builds on this machine (with `own`)
    #[arg(long)]
    pub(crate) unpack: bool,
    /// Do not wait until blobs are on the disk: after a power cut they may be broken
    #[arg(long)]
    pub(crate) no_sync: bool,
    /// How many blobs of an image are fetched at once
    #[arg(long, value_name = "COUNT", default_value_t = 6)]
    pub(crate) downloads: usize,
    /// Give up on a pull that makes no progress for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) progress_timeout: u64,
}

/// `rbuild cri`.
#[derive(Debug, Args)]
pub(crate) struct CriArgs {
    #[command(subcommand)]
    pub(crate) verb: CriVerb,
}

/// What to do for a node.
#[derive(Debug, Subcommand)]
pub(crate) enum CriVerb {
    /// Answer a kubelet's ImageService calls on a unix socket, this one or one that systemd hands over
    Serve(Box<CriServeArgs>),
}

/// `rbuild cri serve`.
#[derive(Debug, Args)]
pub(crate) struct CriServeArgs {
    /// The socket, unless systemd hands one over
    #[arg(long, value_name = "unix://PATH", default_value = "unix:///run/rbuild/cri.sock")]
    pub(crate) listen: String,
    /// Where images live: own (the store), oci:DIR, or containerd=unix://PATH[,prefix=DIR]
    #[arg(long, value_name = "WHERE", default_value = "own")]
    pub(crate) store: String,
    /// Ask the kubelet not to remove this image when space is short (repeatable)
    #[arg(long = "pin", value_name = "REF")]
    pub(crate) pinned: Vec<String>,
    /// Serve metrics for Prometheus at http://ADDRESS/metrics
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// How events are written to standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log: LogFormat,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) work: StoreArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// Values of `--log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line of text each
    Text,
    /// A JSON object each
    Json,
}
