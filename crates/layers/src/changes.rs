//! Finds what changed in an overlay upper directory.

use crate::change::Changes;
use crate::root::{Root, RootError};
use crate::view::View;

/// Lists what `upper`, an overlay upper directory, changes of `lower`, as BuildKit's overlay differ does.
///
/// # Errors
/// Either tree cannot be read.
pub fn from_upper(_upper: &Root, _lower: &View) -> Result<Changes, RootError> {
    unimplemented!()
}
