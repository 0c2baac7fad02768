//! Dockerfile and context in, image out: plan, cache, execute, export.

mod build;
pub mod cache;
pub mod context;
pub mod error;
pub mod event;
pub mod execute;
pub mod export;
mod images;
pub mod options;
pub mod plan;
mod report;
mod schedule;

pub use build::{Build, Built, OnEvent};
pub use error::{BuildError, FailedStep, Failure};
pub use event::Event;
pub use export::{Output, OutputKind};
pub use options::{BuildOptions, Context};
