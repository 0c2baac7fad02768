//! Filesystem trees and OCI layers: rootfs access, tar, unpacking, changes, snapshots and the store.

pub mod apply;
pub mod change;
pub mod changes;
pub mod compress;
mod directory;
pub mod meta;
pub mod root;
pub mod snapshot;
pub mod store;
pub mod tar;
pub mod unpack;
mod upper;
pub mod view;
mod whiteout;
pub mod writer;
pub mod xattr;

pub use apply::apply;
pub use change::{Changes, Content, Entry};
pub use changes::from_upper;
pub use compress::{Compression, CompressionError, Encoding};
pub use meta::{Kind, Meta, Time};
pub use root::{FileId, Root, RootError};
pub use snapshot::{Active, MountPoint, Overlay, SnapshotError, Snapshotter};
pub use store::{BlobWriter, Scratch, Store, StoreDirError};
pub use unpack::{Limits, UnpackError, Unpacked, read_archive, unpack};
pub use view::{Descend, Follow, Resolved, View, Visit};
pub use writer::{LayerError, LayerOptions, write_layer};
