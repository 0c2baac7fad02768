//! Where the files of a build come from: the build context and the named ones.

mod dir;
mod named;

pub use dir::{ContextDir, ContextError};
pub use named::{LayoutImage, NamedContext, NamedContextError};
