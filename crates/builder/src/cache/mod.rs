//! What lets a build skip work it did before.

pub mod content;
pub mod key;
pub mod local;
pub(crate) mod mounts;
