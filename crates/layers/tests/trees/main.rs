//! Trees and archives on a real file system: peers read what we write, hostile archives stay inside, layers make
//! the round trip from an upper directory to an archive and back.
//!
//! What needs root (devices, owners) says `skipped: …` without it.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod archive;
mod diff;
mod exercise;
mod hostile;
mod peers;
mod python;
mod support;
mod unpack;
