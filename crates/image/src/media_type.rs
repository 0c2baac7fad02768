//! Media types of the OCI image spec and of Docker's schema 2, and the translation between the two.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, an uncompressed tar.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// OCI layer that registries need not hold, an uncompressed tar.
pub const OCI_FOREIGN_LAYER: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// OCI layer that registries need not hold, gzip.
pub const OCI_FOREIGN_LAYER_GZIP: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
/// OCI layer that registries need not hold, zstd.
pub const OCI_FOREIGN_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
/// The config of an artifact that has none.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker schema 2 manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer, an uncompressed tar.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker layer that registries need not hold, an uncompressed tar.
pub const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// Docker layer that registries need not hold, gzip.
pub const DOCKER_FOREIGN_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// The manifest media types a client offers in `Accept`, most wanted first.
pub const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];

/// Pairs of an OCI media type and the Docker one of the same meaning.
const PAIRS: [(&str, &str); 8] = [
    (OCI_MANIFEST, DOCKER_MANIFEST),
    (OCI_INDEX, DOCKER_INDEX),
    (OCI_CONFIG, DOCKER_CONFIG),
    (OCI_LAYER, DOCKER_LAYER),
    (OCI_LAYER_GZIP, DOCKER_LAYER_GZIP),
    (OCI_LAYER_ZSTD, DOCKER_LAYER_ZSTD),
    (OCI_FOREIGN_LAYER, DOCKER_FOREIGN_LAYER),
    (OCI_FOREIGN_LAYER_GZIP, DOCKER_FOREIGN_LAYER_GZIP),
];

/// How a layer blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerCompression {
    /// A plain tar.
    None,
    /// A gzip stream, possibly of several members.
    Gzip,
    /// A zstd stream.
    Zstd,
}

/// Tells whether `media_type` is an image index or a manifest list.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Tells whether `media_type` is an image manifest.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Tells whether `media_type` is an image config.
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// Tells whether registries may lack layers of `media_type` (Windows base layers, as a rule).
pub fn is_foreign_layer(media_type: &str) -> bool {
    matches!(
        media_type,
        OCI_FOREIGN_LAYER
            | OCI_FOREIGN_LAYER_GZIP
            | OCI_FOREIGN_LAYER_ZSTD
            | DOCKER_FOREIGN_LAYER
            | DOCKER_FOREIGN_LAYER_GZIP
    )
}

/// Tells how a layer of `media_type` is compressed; `None` when it is no layer we know.
pub fn layer_compression(media_type: &str) -> Option<LayerCompression> {
    match media_type {
        OCI_LAYER | OCI_FOREIGN_LAYER | DOCKER_LAYER | DOCKER_FOREIGN_LAYER => Some(LayerCompression::None),
        OCI_LAYER_GZIP | OCI_FOREIGN_LAYER_GZIP | DOCKER_LAYER_GZIP | DOCKER_FOREIGN_LAYER_GZIP => {
            Some(LayerCompression::Gzip)
        }
        OCI_LAYER_ZSTD | OCI_FOREIGN_LAYER_ZSTD | DOCKER_LAYER_ZSTD => Some(LayerCompression::Zstd),
        _ => None,
    }
}

/// Translates a Docker media type to the OCI one of the same meaning; any other stays as it is.
pub fn to_oci(media_type: &str) -> &str {
    PAIRS.iter().find(|(_, docker)| *docker == media_type).map_or(media_type, |(oci, _)| oci)
}

/// Translates an OCI media type to the Docker one of the same meaning; any other stays as it is.
pub fn to_docker(media_type: &str) -> &str {
    PAIRS.iter().find(|(oci, _)| *oci == media_type).map_or(media_type, |(_, docker)| docker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translation_keeps_the_kind() {
        for (oci, docker) in PAIRS {
            assert_eq!(to_oci(docker), oci);
            assert_eq!(to_docker(oci), docker);
            assert_eq!(layer_compression(oci), layer_compression(docker), "{oci}");
            assert_eq!(is_index(oci), is_index(docker), "{oci}");
            assert_eq!(is_manifest(oci), is_manifest(docker), "{oci}");
            assert_eq!(is_foreign_layer(oci), is_foreign_layer(docker), "{oci}");
        }
        assert_eq!(to_oci("text/plain"), "text/plain");
        assert_eq!(layer_compression("text/plain"), None);
    }

    #[test]
    fn constants_are_those_of_oci_spec() {
        use oci_spec::image::MediaType;
        let check = |ours: &str, theirs: MediaType| assert_eq!(ours, theirs.to_string());
        check(OCI_MANIFEST, MediaType::ImageManifest);
        check(OCI_INDEX, MediaType::ImageIndex);
        check(OCI_CONFIG, MediaType::ImageConfig);
        check(OCI_LAYER, MediaType::ImageLayer);
        check(OCI_LAYER_GZIP, MediaType::ImageLayerGzip);
        check(OCI_LAYER_ZSTD, MediaType::ImageLayerZstd);
        check(OCI_FOREIGN_LAYER_GZIP, MediaType::ImageLayerNonDistributableGzip);
        check(OCI_EMPTY, MediaType::EmptyJSON);
    }
}
