//! The node side: images brought to where the runtime of a Kubernetes node finds them.
//!
//! [`pull`] resolves a name, checks the node's policy and lets a [`NodeStore`] bring the image: several layers at once, each
//! verified while it streams, taken up where an earlier attempt broke off, and named last. [`Service`] answers kubelets and crictl with
//! it: `runtime.v1.ImageService`, served on a unix socket by [`serve`].
//!
//! ```no_run
//! use std::path::Path;
//! use rbuild_cri::{OwnStore, PullOptions, Sync, Unpacking, pull};
//! use rbuild_registry::ClientOptions;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let store = OwnStore::open(Path::new("/var/lib/rbuild"), Unpacking::No, Sync::Yes)?;
//! let options = PullOptions::new(ClientOptions::from_env());
//! let pulled = pull(&store, &options, &"debian:bookworm".parse()?, None).await?;
//! println!("{} {}", pulled.id, pulled.target);
//! # Ok(())
//! # }
//! ```
//!
//! # References
//! - [Container Runtime Interface](https://github.com/kubernetes/cri-api), `pkg/apis/runtime/v1/api.proto`

mod auth;
mod channel;
mod error;
mod event;
mod grpc;
pub mod messages;
mod name;
mod node_store;
mod partial;
mod policy;
mod pull;
mod scrape;
mod server;
mod service;

pub use channel::Channel;
pub use error::Error;
pub use event::{Event, Events, Metrics};
pub use name::normalised;
pub use node_store::{ContainerdStore, NodeImage, NodeStore, OwnStore, Unpacking, Usage, find};
pub use partial::Sync;
pub use policy::{Policy, PolicyError};
pub use pull::{Arrival, Progress, PullOptions, Pulled, pull};
pub use scrape::serve_metrics;
pub use server::{Listener, serve};
pub use service::Service;
