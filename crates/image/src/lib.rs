//! OCI images as values: digests, references, manifests, configs and their local forms.

pub mod config;
pub mod digest;
pub mod image;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;
pub mod store;

pub use config::{Empty, Healthcheck, History, ImageConfig, RootFs, RuntimeConfig};
pub use digest::{ChainId, DiffId, Digest, DigestError, Digester, Verified, VerifyError};
pub use image::{Finished, Image, ImageError, Layer};
pub use manifest::{Descriptor, DocumentError, Index, Manifest, ManifestOrIndex, Raw};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError, names_registry};
pub use store::{BytesContent, Content, FileContent, Resolved, Sink, Source, StoreError, StoreErrorKind};
