//! Dockerfile and context in, image out: plan, cache, execute, export.
//!
//! A [`Build`] takes [`BuildOptions`], a store and, where registries are involved, a client. Nothing is read from the
//! environment, nothing is printed; what happens is told as [`Event`]s:
//!
//! ```no_run
//! use rbuild_builder::{Build, Context};
//! use rbuild_layers::Store;
//! use rbuild_registry::Client;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let built = Build::new(Context::dir("."))
//!     .store(Store::open("/var/lib/rbuild".as_ref())?)
//!     .registry(Client::from_env()?)
//!     .dockerfile("Dockerfile")
//!     .tag("registry.local/team/app:1")
//!     .on_event(|event| eprintln!("{event:?}"))
//!     .run()
//!     .await?;
//! println!("{}", built.digest());
//! # Ok(())
//! # }
//! ```
//!
//! [`Build::run`] is the pipeline: the text is parsed, [`plan::graph`](plan::graph()) names the images that are needed,
//! their manifests and configs are resolved all at once, [`plan::lower`](plan::lower()) refuses what is not supported
//! and gives steps in which nothing is left to expand. Then each step is looked up by its
//! [key](cache::key) and executed only when no earlier build made its layer. Layers of a base are fetched when the first
//! step looks into the rootfs; a base that no step reads goes from its registry to the output directly.
//!
//! COPY, ADD and WORKDIR never write a rootfs: they work on a draft, the unpacked layers below with what changes on
//! top, and the changes go into a layer as they are. A RUN gets a snapshot and a process in the sandbox; what it
//! changed is its layer.
//!
//! Errors say what kind of failure they are ([`BuildError::failure`]): a refused Dockerfile, a registry, this host, or
//! the build itself. After any of them no name stands for a half-done result.

mod binfmt;
mod build;
mod built;
pub mod cache;
mod check;
pub mod context;
mod devices;
pub mod error;
pub mod event;
pub mod execute;
pub mod export;
mod images;
pub mod options;
pub mod plan;
mod platforms;
mod reading;
mod report;
mod schedule;
mod source;
mod ssh;

pub use binfmt::{REGISTERED, emulators};
pub use build::{Build, OnEvent};
pub use built::{Built, BuiltImage};
pub use check::{Bases, Checked};
pub use error::{BuildError, FailedStep, Failure, Place, Unresolved};
pub use event::Event;
pub use export::{Output, OutputKind};
pub use options::{BuildOptions, Context};
pub use rbuild_sandbox::Secret;
pub use ssh::{KeyError, SshAgent};
