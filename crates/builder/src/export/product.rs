//! What a build made: an image, or an index over one image for each platform.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rbuild_image::archive::Tree;
use rbuild_image::layout::CREATED;
use rbuild_image::{Descriptor, Digest, Finished, Index, Platform, Raw, Resolved, media_type};

use super::Annotations;
use crate::execute::Stage;
use crate::platforms::{Platforms, Shape};

/// The images of a build, and the index over them where there is one.
pub(crate) struct Product {
    /// In the order the platforms were asked for.
    pub images: Vec<PlatformImage>,
    pub index: Option<Raw<Index>>,
    /// The index or the only manifest, as a layout lists it.
    pub descriptor: Descriptor,
}

/// The image of one platform.
pub(crate) struct PlatformImage {
    pub platform: Platform,
    pub stage: Stage,
    pub finished: Finished,
    /// The manifest, as an index lists it.
    pub descriptor: Descriptor,
}

impl Product {
    /// Finishes the images of `stages`, one for each platform; none when there are none. What lists the result gets
    /// `created` as its time; manifests get what `cache` says of an image with such layers.
    pub(crate) fn new(
        stages: Vec<Stage>,
        platforms: &Platforms,
        annotations: &Annotations,
        created: Option<String>,
        cache: impl Fn(&[Descriptor]) -> BTreeMap<String, String>,
    ) -> Option<Self> {
        let images: Vec<_> = stages
            .into_iter()
            .zip(&platforms.list)
            .map(|(stage, platform)| {
                let mut of_manifest = annotations.manifest(platform);
                of_manifest.extend(cache(&stage.image.layers));
                let finished = stage.image.finish(&of_manifest);
                let mut descriptor = finished.descriptor();
                if platforms.shape == Shape::Index {
                    descriptor.platform = Some(platform.normalised());
                }
                descriptor.annotations = annotations.manifest_descriptor(platform);
                PlatformImage { platform: platform.clone(), stage, finished, descriptor }
            })
            .collect();
        let index = (platforms.shape == Shape::Index).then(|| {
            let list = images.iter().map(|image| image.descriptor.clone()).collect();
            Raw::from_value(Index { annotations: annotations.index.clone(), ..Index::new(list) })
        });
        let mut descriptor = match &index {
            Some(index) => Descriptor {
                annotations: annotations.index_descriptor.clone(),
                ..index.descriptor(media_type::OCI_INDEX)
            },
            None => images.first()?.descriptor.clone(),
        };
        if let Some(created) = created {
            descriptor.annotations.entry(CREATED.to_owned()).or_insert(created);
        }
        Some(Self { images, index, descriptor })
    }

    /// Whether earlier builds made every layer above the bases.
    pub(crate) fn is_cached(&self) -> bool {
        self.images.iter().all(|image| image.stage.is_cached)
    }

    /// The index or the only manifest, as what is copied.
    pub(crate) fn root(&self) -> Resolved {
        let manifest = self.images.first().map(|image| image.finished.manifest.bytes());
        let bytes = self.index.as_ref().map(Raw::bytes).or(manifest).cloned().unwrap_or_default();
        Resolved { descriptor: self.descriptor.clone(), bytes }
    }

    /// What an archive holds of it.
    pub(crate) fn tree(&self) -> Tree<'_> {
        let mut seen = BTreeSet::new();
        let of_images = self
            .images
            .iter()
            .flat_map(|image| [image.finished.manifest.bytes(), image.finished.config.bytes()]);
        let documents = self.index.iter().map(Raw::bytes).chain(of_images);
        Tree {
            root: self.descriptor.clone(),
            documents: documents.filter(|document| seen.insert(Digest::of(document))).collect(),
            layers: self.images.iter().flat_map(|image| &image.finished.manifest.value().layers).collect(),
        }
    }

    /// Everything that the index or manifest leads to, each once: manifests, configs and layers that registries have.
    pub(crate) fn children(&self) -> Vec<Descriptor> {
        let manifests = self.images.iter().map(|image| &image.descriptor).filter(|_| self.index.is_some());
        let of_images = self.images.iter().flat_map(|image| {
            let manifest = image.finished.manifest.value();
            std::iter::once(&manifest.config).chain(&manifest.layers)
        });
        let foreign =
            |child: &&Descriptor| media_type::is_foreign_layer(&child.media_type) && !child.urls.is_empty();
        let mut seen = BTreeSet::new();
        let once = manifests.chain(of_images).filter(|child| !foreign(child) && seen.insert(child.digest));
        once.cloned().collect()
    }

    /// The document of a digest, when it is one of this product.
    pub(crate) fn document(&self, digest: &Digest) -> Option<&Bytes> {
        let index = self.index.iter().find(|index| index.digest() == *digest).map(Raw::bytes);
        index.or_else(|| {
            self.images.iter().find_map(|PlatformImage { finished, .. }| {
                if finished.config.digest() == *digest {
                    return Some(finished.config.bytes());
                }
                (finished.manifest.digest() == *digest).then(|| finished.manifest.bytes())
            })
        })
    }

    /// The size of all documents and layers as they travel, each once, in bytes.
    pub(crate) fn size(&self) -> u64 {
        let tree = self.tree();
        let layers: BTreeSet<_> = tree.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        let documents = tree.documents.iter().map(|document| document.len() as u64);
        layers.iter().map(|(_, size)| *size).chain(documents).fold(0, u64::saturating_add)
    }
}
