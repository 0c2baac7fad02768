//! OCI images as values: digests, references, manifests, configs and their local forms.
//!
//! An [`Image`] is a config and a list of layer blobs. Nothing about it is a file or a connection: appending a [`Layer`]
//! gives another value, and [`Image::finish`] turns it into the two documents that travel, the image config and the
//! [`Manifest`] that points to it and to the layers. What has been serialised once is kept as [`Raw`]: the bytes beside
//! the value, because a [`Digest`] is over bytes and another writer's JSON would not come out the same again.
//!
//! Images live in stores. A [`Source`] resolves a [`Reference`] and hands out manifests and blobs, a [`Sink`] takes them,
//! and both are small enough that a registry, a directory ([`Layout`]) and a map ([`Memory`]) share them: pulling, pushing
//! and copying are the same loop between a source and a sink. The order is always the same: layers and config first, the
//! manifest after what it points to, the name last, so that a name never stands for something incomplete.
//!
//! ```
//! use std::{collections::BTreeMap, sync::Arc};
//! use rbuild_image::{BytesContent, Descriptor, DiffId, History, Image, Layer, Layout, Platform, Reference};
//! use rbuild_image::{Sink, Source, media_type};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! // A layer is a tar. This one is empty: two blocks of zeros.
//! let tar = vec![0; 1024];
//! let descriptor = Descriptor::of(media_type::OCI_LAYER, &tar);
//! let layer = Layer { diff_id: DiffId(descriptor.digest), descriptor };
//!
//! let mut image = Image::scratch(&Platform::new("linux", "amd64"));
//! image.config.config.cmd = Some(vec!["/app".into()]);
//! image.append(layer, History { created_by: Some("an empty layer".into()), ..History::default() });
//! let finished = image.finish(&BTreeMap::new());
//!
//! // Content first, the name last.
//! let name: Reference = "app:1".parse()?;
//! let layout = Layout::create(directory.path())?;
//! let manifest = finished.manifest.value();
//! layout.push(&manifest.layers[0], Arc::new(BytesContent(tar.into()))).await?;
//! layout.push(&manifest.config, Arc::new(BytesContent(finished.config.bytes().clone()))).await?;
//! layout.tag(&finished.descriptor(), finished.manifest.bytes().clone(), &name).await?;
//!
//! let resolved = layout.resolve(&"docker.io/library/app:1".parse()?).await?;
//! assert_eq!(resolved.descriptor.digest, finished.manifest.digest());
//! # Ok(())
//! # }
//! ```
//!
//! Everything that comes from outside is hostile until proven otherwise: documents are bounded, digests and names are
//! parsed once into types that cannot be malformed, and [`Verified`] hands out promised content or an error, never
//! something else.
//!
//! # Modules
//!
//! - [`digest`], [`mod@reference`], [`platform`], [`media_type`]: the words;
//! - [`manifest`], [`config`], [`image`]: the documents, and the value they make up;
//! - [`store`]: the two traits; [`layout`] and [`memory`]: two who implement them;
//! - [`archive`]: writers of single-file images.

pub mod archive;
pub mod config;
pub mod digest;
pub mod image;
mod incoming;
pub mod layout;
pub mod manifest;
pub mod media_type;
pub mod memory;
pub mod platform;
pub mod reference;
pub mod store;

pub use config::{Empty, Healthcheck, History, ImageConfig, RootFs, RuntimeConfig};
pub use digest::{ChainId, DiffId, Digest, DigestError, Digester, Verified, VerifyError};
pub use image::{Finished, Image, ImageError, Layer};
pub use layout::{Layout, LayoutError};
pub use manifest::{Descriptor, DocumentError, Index, Manifest, ManifestOrIndex, Raw};
pub use memory::Memory;
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError, names_registry};
pub use store::{
    BytesContent, Content, FileContent, FilePart, Resolved, Sink, Source, StoreError, StoreErrorKind,
};
