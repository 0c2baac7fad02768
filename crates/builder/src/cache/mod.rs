//! What lets a build skip work it did before.

pub mod key;
