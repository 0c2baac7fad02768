//! Which extended attributes travel in layers.

/// Tells whether an extended attribute of this name is part of an image.
pub fn travels(_name: &[u8]) -> bool {
    unimplemented!()
}
