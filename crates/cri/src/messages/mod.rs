//! The messages of the interfaces that are spoken here, written by hand: no protoc, no build script.
//!
//! Field numbers are those of the interfaces' own definitions; fields that nothing here reads are left out, and skipped
//! when they come.

pub mod containerd;
pub mod cri;
