//! Where the result goes.

mod annotations;
mod archive;
mod assembled;
mod exporter;
mod layout;
mod local;
mod outputs;
mod places;
mod product;
mod push;
mod recompress;

use std::path::PathBuf;

use rbuild_image::Reference;
use rbuild_layers::compress::Compression;
use thiserror::Error;

pub(crate) use annotations::Annotations;
pub(crate) use assembled::Assembled;
pub(crate) use exporter::{Exporter, Written};
pub(crate) use outputs::Outputs;
pub(crate) use places::Places;
pub(crate) use product::{PlatformImage, Product};
pub(crate) use push::push;
pub(crate) use recompress::recompress;

/// One place the result goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Which.
    pub kind: OutputKind,
    /// How its layers are made.
    pub attributes: LayerAttributes,
}

/// A kind of output and its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// Registries, under each name. No name means the build's tags.
    Push(Vec<Reference>),
    /// The store, under each name.
    Store(Vec<Reference>),
    /// An OCI layout, as a directory that may hold other images, or as a tar.
    Oci {
        /// Where.
        dest: Destination,
        /// As what.
        form: OciForm,
        /// Names; none means the build's tags.
        names: Vec<Reference>,
    },
    /// A tar that `docker load` reads, which holds one platform.
    Docker {
        /// Where.
        dest: Destination,
        /// Names; none means the build's tags.
        names: Vec<Reference>,
    },
    /// The files of the rootfs, in a directory; those of an index each in one named like `linux_arm64`.
    Local(PathBuf),
    /// The files of the rootfs, in a tar, with the same directories.
    Tar(Destination),
    /// Nowhere: only the cache is filled.
    CacheOnly,
}

/// The form of an OCI layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OciForm {
    /// A directory.
    Directory,
    /// A tar of the directory.
    Archive,
}

/// Where a file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A file, replaced when it is complete.
    File(PathBuf),
    /// Descriptor 1 of the process.
    Stdout,
}

/// How new layers are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerAttributes {
    /// The compression.
    pub compression: Compression,
    /// Its level; `None` is the compression's default.
    pub level: Option<u32>,
    /// Whether file times later than `SOURCE_DATE_EPOCH` become it.
    pub timestamps: Timestamps,
    /// What becomes of the layers that were there before the build.
    pub base_layers: BaseLayers,
}

impl Default for LayerAttributes {
    fn default() -> Self {
        Self {
            compression: Compression::Gzip,
            level: None,
            timestamps: Timestamps::Keep,
            base_layers: BaseLayers::Keep,
        }
    }
}

/// What becomes of the layers of a base image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BaseLayers {
    /// They stay as they are.
    #[default]
    Keep,
    /// Those of another compression are compressed anew; what is in them, and so the config, stays.
    Recompress,
}

/// What happens to file times in new layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timestamps {
    /// They stay.
    #[default]
    Keep,
    /// Those later than `SOURCE_DATE_EPOCH` become it, when it is set.
    Rewrite,
}

/// Why an output could not be written.
#[derive(Debug, Error)]
pub enum ExportError {
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer of the base could not be fetched.
    #[error("cannot fetch the layers of the base")]
    Fetch(#[source] rbuild_image::StoreError),
    /// A layer of the base could not be compressed anew.
    #[error("cannot recompress the layers of the base")]
    Recompress(#[source] rbuild_layers::LayerError),
    /// The rootfs could not be read.
    #[error("cannot read the rootfs")]
    Rootfs(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Outputs that need differently made layers.
    #[error("outputs with different compression, level or rewrite-timestamp in one build are not supported")]
    DifferentLayers,
}
