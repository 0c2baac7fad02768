//! The tar format: a strict reader and a deterministic writer.

pub mod write;

pub use write::{WriteError, write_changes};
