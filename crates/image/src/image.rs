//! An image as a value: append layers and history, then finish it into a manifest and a config.

use std::collections::BTreeMap;

use crate::config::{History, ImageConfig};
use crate::digest::{ChainId, DiffId};
use crate::manifest::{Descriptor, Extra, Manifest, Raw};
use crate::media_type;
use crate::platform::Platform;

/// A layer: the blob as it travels, and the digest of what is inside.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The blob, compressed as its media type says.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
}

/// An image: its config, and the layer blobs that `config.rootfs` names by diff ID, lowest first.
///
/// [`Image::append`] keeps both in step; whoever changes the lists directly has to.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The config.
    pub config: ImageConfig,
    /// The layer blobs, one for each of the config's diff IDs.
    pub layers: Vec<Descriptor>,
}

/// An image's two documents, ready to be stored: the manifest points to the config and to the layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// The config, with the bytes its digest is over.
    pub config: Raw<ImageConfig>,
    /// The manifest, with the bytes its digest is over.
    pub manifest: Raw<Manifest>,
}

/// Why a manifest and a config are not one image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The manifest does not list as many layers as the config does.
    #[error("manifest lists {layers} layers and its config {diff_ids}")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// Diff IDs of the config.
        diff_ids: usize,
    },
    /// A layer is of a kind that cannot be unpacked.
    #[error("layer {index} has the media type {media_type:?}, which is not a layer that can be read")]
    LayerMediaType {
        /// Position, from 0 at the bottom.
        index: usize,
        /// What the manifest says.
        media_type: String,
    },
    /// The manifest's config is no image config: the manifest is of some other artifact.
    #[error("config has the media type {0:?}: this is not an image")]
    ConfigMediaType(String),
}

/// Which family of media types a manifest uses.
#[derive(Clone, Copy)]
enum Family {
    Oci,
    Docker,
}

impl Image {
    /// Makes the empty image (`FROM scratch`).
    pub fn scratch(platform: &Platform) -> Self {
        Self { config: ImageConfig::scratch(platform), layers: Vec::new() }
    }

    /// Joins a pulled manifest and its config.
    ///
    /// # Errors
    /// Refuses a manifest of something other than an image, layers of unknown kind, and two lists of different length.
    pub fn from_parts(manifest: Manifest, config: ImageConfig) -> Result<Self, ImageError> {
        if !media_type::is_config(&manifest.config.media_type) {
            return Err(ImageError::ConfigMediaType(manifest.config.media_type));
        }
        let unknown =
            |(_, layer): &(usize, &Descriptor)| media_type::layer_compression(&layer.media_type).is_none();
        if let Some((index, layer)) = manifest.layers.iter().enumerate().find(unknown) {
            return Err(ImageError::LayerMediaType { index, media_type: layer.media_type.clone() });
        }
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(ImageError::LayerCount { layers, diff_ids });
        }
        Ok(Self { config, layers: manifest.layers })
    }

    /// Puts `layer` on top, made by `history`.
    pub fn append(&mut self, layer: Layer, history: History) {
        self.config.rootfs.diff_ids.push(layer.diff_id);
        self.layers.push(layer.descriptor);
        self.config.history.push(History { empty_layer: false, ..history });
    }

    /// Records a step that made no layer.
    pub fn append_empty(&mut self, history: History) {
        self.config.history.push(History { empty_layer: true, ..history });
    }

    /// Lists the layers with their diff IDs, lowest first.
    pub fn chain(&self) -> Vec<Layer> {
        let layer = |(descriptor, diff_id): (&Descriptor, &DiffId)| Layer {
            descriptor: descriptor.clone(),
            diff_id: *diff_id,
        };
        self.layers.iter().zip(&self.config.rootfs.diff_ids).map(layer).collect()
    }

    /// Returns the identity of the whole stack of layers; none when there are none.
    pub fn chain_id(&self) -> Option<ChainId> {
        ChainId::of(&self.config.rootfs.diff_ids)
    }

    /// Makes config and manifest with OCI media types; Docker's of a base image are translated.
    pub fn finish(&self, annotations: &BTreeMap<String, String>) -> Finished {
        self.finish_as(Family::Oci, annotations)
    }

    /// Makes config and manifest with Docker schema 2 media types, which know no annotations.
    pub fn finish_docker(&self) -> Finished {
        self.finish_as(Family::Docker, &BTreeMap::new())
    }

    fn finish_as(&self, family: Family, annotations: &BTreeMap<String, String>) -> Finished {
        let (manifest_type, config_type, translate): (_, _, fn(&str) -> &str) = match family {
            Family::Oci => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG, media_type::to_oci),
            Family::Docker => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG, media_type::to_docker),
        };
        let layer = |layer: &Descriptor| Descriptor {
            media_type: translate(&layer.media_type).to_owned(),
            ..layer.clone()
        };
        let config = Raw::from_value(self.config.clone());
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(manifest_type.to_owned()),
            artifact_type: None,
            config: config.descriptor(config_type),
            layers: self.layers.iter().map(layer).collect(),
            subject: None,
            annotations: annotations.clone(),
            extra: Extra::new(),
        };
        Finished { config, manifest: Raw::from_value(manifest) }
    }
}

impl Finished {
    /// Describes the manifest, with the image's platform, as an index lists it.
    pub fn descriptor(&self) -> Descriptor {
        let media_type = self.manifest.value().media_type.as_deref().unwrap_or(media_type::OCI_MANIFEST);
        Descriptor { platform: Some(self.config.value().platform()), ..self.manifest.descriptor(media_type) }
    }

    /// Returns the size of the image as it travels: manifest, config and layers, in bytes.
    pub fn size(&self) -> u64 {
        let manifest = self.manifest.value();
        let layers = manifest.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        layers.saturating_add(manifest.config.size).saturating_add(self.manifest.bytes().len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn layer(media_type: &str) -> Layer {
        let diff_id = DiffId(Digest::of(b"tar"));
        Layer { descriptor: Descriptor::of(media_type, b"blob"), diff_id }
    }

    fn history(created_by: &str) -> History {
        History { created_by: Some(created_by.to_owned()), ..History::default() }
    }

    #[test]
    fn layers_diff_ids_and_history_stay_in_step() {
        let mut image = Image::scratch(&Platform::new("linux", "amd64"));
        assert_eq!(image.chain_id(), None);
        image.append(layer(media_type::OCI_LAYER_GZIP), history("COPY a b"));
        image.append_empty(history("ENV A=b"));
        image.append(layer(media_type::OCI_LAYER), history("RUN c"));
        assert_eq!((image.layers.len(), image.config.rootfs.diff_ids.len()), (2, 2));
        let empty: Vec<bool> = image.config.history.iter().map(|step| step.empty_layer).collect();
        assert_eq!(empty, [false, true, false]);
        assert_eq!(image.chain_id(), ChainId::of(&[image.chain()[0].diff_id, image.chain()[1].diff_id]));
        let finished = image.finish(&BTreeMap::from([("k".to_owned(), "v".to_owned())]));
        let again = Image::from_parts(finished.manifest.into_value(), finished.config.into_value());
        assert_eq!(again, Ok(image));
    }

    #[test]
    fn media_types_follow_the_family() {
        let mut image = Image::scratch(&Platform::new("linux", "amd64"));
        image.append(layer(media_type::DOCKER_LAYER_GZIP), history(""));
        image.append(layer(media_type::OCI_LAYER_ZSTD), history(""));
        let types = |finished: &Finished| {
            let manifest = finished.manifest.value().clone();
            let layers = manifest.layers.into_iter().map(|layer| layer.media_type);
            layers.chain([manifest.config.media_type]).chain(manifest.media_type).collect::<Vec<_>>()
        };
        use media_type::*;
        assert_eq!(
            types(&image.finish(&BTreeMap::new())),
            [OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_CONFIG, OCI_MANIFEST]
        );
        assert_eq!(
            types(&image.finish_docker()),
            [DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD, DOCKER_CONFIG, DOCKER_MANIFEST]
        );
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let mut image = Image::scratch(&Platform::new("linux", "amd64"));
        image.append(layer(media_type::OCI_LAYER), history(""));
        let finished = image.finish(&BTreeMap::new());
        let check = |change: &dyn Fn(&mut Manifest), expect: &str| {
            let mut manifest = finished.manifest.value().clone();
            change(&mut manifest);
            let error = Image::from_parts(manifest, image.config.clone()).unwrap_err();
            assert_eq!(error.to_string(), expect);
        };
        check(&|manifest| manifest.layers.clear(), "manifest lists 0 layers and its config 1");
        check(
            &|manifest| manifest.layers[0].media_type = "text/plain".to_owned(),
            "layer 0 has the media type \"text/plain\", which is not a layer that can be read",
        );
        check(
            &|manifest| manifest.config.media_type = media_type::OCI_EMPTY.to_owned(),
            "config has the media type \"application/vnd.oci.empty.v1+json\": this is not an image",
        );
    }
}
