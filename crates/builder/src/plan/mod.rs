//! From a Dockerfile to steps, without touching the world.
//!
//! [`graph()`] links stages and names the images whose configs are needed; [`lower()`] folds the instructions over
//! those configs and gives a [`Plan`]: stages of [`Step`]s in which nothing is left to expand. Both are pure.
//!
//! Triggers (`ONBUILD`) of a base image may ask for further images, so that configs are fetched in rounds:
//!
//! ```
//! # use std::collections::BTreeMap;
//! # use rbuild_builder::plan::{self, ImageRequest, PlanError, PlanOptions};
//! # use rbuild_dockerfile::Dockerfile;
//! # use rbuild_image::ImageConfig;
//! # fn fetch(_: &ImageRequest) -> ImageConfig { unreachable!() }
//! let (dockerfile, _) = Dockerfile::parse("FROM scratch\nENV GREETING=hello\n");
//! let options = PlanOptions::default();
//! let mut graph = plan::graph(&dockerfile, &options)?;
//! let mut bases = BTreeMap::new();
//! loop {
//!     let missing = graph.missing(&bases)?;
//!     if missing.is_empty() {
//!         break;
//!     }
//!     bases.extend(missing.into_iter().map(|request| (request.clone(), fetch(&request))));
//! }
//! let plan = plan::lower(&dockerfile, graph, &options, &bases)?;
//! assert_eq!(plan.stages[plan.target].steps.len(), 1);
//! # Ok::<(), PlanError>(())
//! ```

mod bounds;
mod check;
mod chmod;
mod configure;
mod contexts;
mod copy;
mod epoch;
mod expose;
mod go_format;
mod graph;
mod join;
mod link;
mod lint;
mod lookup;
mod lower;
mod options;
mod outline;
mod path;
mod remote;
mod run;
mod scope;
mod signal;
mod stage;
mod step;
pub mod support;
mod warning;

pub use check::{assume, findings, violation};
pub use epoch::ContextTime;
pub use graph::Graph;
pub use join::{JoinedPlan, join};
pub use link::graph;
pub use lower::{directory_config, lower};
pub use options::{Emulator, Entitlement, PlanError, PlanOptions, PlatformOrigin, Scope, UnknownEntitlement};
pub use outline::{Outline, OutlineArg, OutlineMount};
pub use step::{
    Access, Base, BindMount, CacheMount, CopyKind, CopySource, CopyStep, ImageRequest, Network, Plan,
    PlannedStage, RunStep, ScriptFile, SecretMount, Security, Sharing, Source, SshMount, Step, StepKind,
    StepMount, Surroundings, WorkdirStep,
};

#[cfg(test)]
mod tests;
