//! Dockerfile and context in, image out: plan, cache, execute, export.

pub mod cache;
pub mod event;
pub mod plan;

pub use event::Event;
