//! Writes [`Changes`] into an overlay upper directory.

use crate::change::Changes;
use crate::root::{Root, RootError};
use crate::view::View;

/// Writes `changes` into `upper`, the overlay upper directory that lies on `lower`.
///
/// # Errors
/// The file system refuses, or a content cannot be read.
pub fn apply(_changes: &Changes, _upper: &Root, _lower: &View) -> Result<(), RootError> {
    unimplemented!()
}
