//! What a build gives back.

use std::time::Duration;

use rbuild_image::{Descriptor, Digest, Platform};

use crate::event::Event;
use crate::export::{Outputs, PlatformImage, Product, Written};

/// What a build made.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// The manifest with media type, size and platform, or the index.
    pub descriptor: Descriptor,
    /// The image of each platform, in the order asked for; one when there is no index.
    pub images: Vec<BuiltImage>,
    /// The names it got, in full form.
    pub names: Vec<String>,
    /// Compressed size of everything in bytes.
    pub size: u64,
    /// How long it took.
    pub duration: Duration,
    /// Whether earlier builds had made every layer, and every name, here or in a registry, stood for this digest already.
    pub unchanged: bool,
}

/// The image of one platform.
#[derive(Debug, Clone, PartialEq)]
pub struct BuiltImage {
    /// The platform as it was asked for.
    pub platform: Platform,
    /// The manifest, as the index lists it.
    pub descriptor: Descriptor,
    /// The digest of the image config.
    pub config_digest: Digest,
    /// Compressed size of the image in bytes.
    pub size: u64,
}

impl Built {
    pub(crate) fn new(product: &Product, outputs: &Outputs, written: Written, duration: Duration) -> Self {
        let image = |image: &PlatformImage| BuiltImage {
            platform: image.platform.clone(),
            descriptor: image.descriptor.clone(),
            config_digest: image.finished.config.digest(),
            size: image.finished.size(),
        };
        Self {
            descriptor: product.descriptor.clone(),
            images: product.images.iter().map(image).collect(),
            names: outputs.names(),
            size: product.size(),
            duration,
            unchanged: written == Written::Unchanged,
        }
    }

    /// The digest of the image config, which docker calls the image id; an index has none.
    pub fn config_digest(&self) -> Option<Digest> {
        let only = self.images.first().filter(|image| image.descriptor.digest == self.descriptor.digest);
        only.map(|image| image.config_digest)
    }

    /// The digest of the manifest or index.
    pub fn digest(&self) -> Digest {
        self.descriptor.digest
    }

    pub(crate) fn done(&self) -> Event {
        let Self { size, duration, unchanged, .. } = *self;
        Event::Done { digest: self.digest().to_string(), size, duration, unchanged }
    }
}
