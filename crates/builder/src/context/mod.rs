//! Where the files of a build come from: the build context and the named ones.

mod archive;
mod digests;
mod dir;
mod git;
mod git_error;
mod git_ref;
mod listings;
mod named;

pub(crate) use archive::archive;
pub use dir::{ContextDir, ContextError, Normalise};
pub use git::Git;
pub(crate) use git::{Commit, GitAuthorization, KeepGitDir, Repository};
pub use git_error::GitError;
pub use git_ref::{CheckoutTime, GitRef, GitRefError, WrittenIn};
pub(crate) use git_ref::{Plus, percent_decoded};
pub use named::{LayoutImage, NamedContext, NamedContextError};
