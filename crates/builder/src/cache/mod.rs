//! What lets a build skip work it did before.

pub mod content;
pub(crate) mod inputs;
pub mod key;
pub(crate) mod listing;
pub mod local;
pub(crate) mod mounts;
pub mod remote;
