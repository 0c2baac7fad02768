//! The tar format: a strict reader and a deterministic writer.
//!
//! The reader takes what tar programs write (POSIX ustar and pax, GNU, V7) and refuses what two programs could
//! read differently. The writer makes ustar entries, with pax records only for what ustar cannot say.
//!
//! # References
//! POSIX.1-2024, `pax`, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format"
//! and "Storing Sparse Files"; OCI image specification, `layer.md`.

mod fields;
mod header;
mod pax;
mod read;
mod sparse;
mod write;

pub use read::{Body, Member, Reader, TarError};
pub(crate) use write::{See, write_headers, write_seeing};
pub use write::{WriteError, write_changes};

/// The size of a block; headers and contents start at multiples of it.
pub(crate) const BLOCK: usize = 512;
