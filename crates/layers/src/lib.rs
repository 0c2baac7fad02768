//! Filesystem trees and OCI layers: rootfs access, tar, unpacking, changes, snapshots and the store.
//!
//! A [`Store`] keeps blobs and unpacked layers. A [`Snapshotter`] gives out what a chain of layers makes: a [`View`] to
//! read, or an [`Active`] tree that a process may change, whose [`Active::changes`] become a layer by [`write_layer`].
//! [`Overlay`] does it with the directories of an overlay mount, [`Plain`] with private copies for where nothing can
//! be mounted; both find the same [`Changes`].
//!
//! Nothing here needs privileges: where owners cannot be given to files they are recorded beside them, and [`Root`] and
//! [`View`] report them as if they were the files' own ([`owner`]).
//!
//! ```no_run
//! use rbuild_layers::{Changes, Content, Entry, Kind, LayerOptions, Meta, Store, write_layer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open("/var/lib/rbuild".as_ref())?;
//! let mut changes = Changes::new();
//! let meta = Meta { size: 6, uid: 33, ..Meta::new(Kind::File, 0o644) };
//! changes.insert("srv/hello", Entry::Node { meta, content: Content::Bytes("hello\n".into()) });
//! let layer = write_layer(&changes, &store, &LayerOptions::default())?;
//! println!("{}", layer.descriptor.digest);
//! # Ok(())
//! # }
//! ```

pub mod apply;
mod archive;
pub mod change;
pub mod changes;
pub mod compress;
mod directory;
pub mod listing;
pub mod meta;
pub mod owner;
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
pub use archive::{ImageArchive, ImageArchiveError};
pub use change::{Changes, Content, Entry, Opener};
pub use changes::from_upper;
pub use compress::{Compression, CompressionError, Encoding};
pub use listing::{Listing, NameKind, Stamp};
pub use meta::{Kind, Meta, Time};
pub use owner::{Owner, OwnerTable, Ownership};
pub use root::{FileId, Root, RootError};
pub use snapshot::{
    Active, ActiveRootfs, MountPoint, Overlay, Plain, SnapshotError, Snapshotter, unpack_layer,
};
pub use store::{BlobWriter, Scratch, Store, StoreDirError, TreeError};
pub use unpack::{Limits, UnpackError, Unpacked, read_archive, unpack};
pub use upper::Lower;
pub use view::{Descend, Follow, Resolved, View, Visit};
pub use writer::{LayerError, LayerOptions, recompress, write_layer, write_layer_seeing};
