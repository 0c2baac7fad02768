//! A service on a socket, a store in a directory, a registry in this process, and a client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rbuild_cri::messages::cri::{
    AuthConfig, Empty, Image, ImageFilter, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
    ImageStatusResponse, ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse,
    RemoveImageRequest,
};
use rbuild_cri::{Channel, Events, Listener, OwnStore, PullOptions, Service, Sync, Unpacking, serve};
use rbuild_image::{Descriptor, Digest, Image as OciImage, Index, Layer, Platform, Raw, media_type};
use rbuild_registry::{ClientOptions, RetryPolicy};
use rbuild_test_registry::{Options, Registry};
use tonic::{IntoRequest, Request, Status};

pub(crate) struct Node {
    pub(crate) channel: Channel,
    pub(crate) root: PathBuf,
    pub(crate) registry: Registry,
    pub(crate) service: Service,
    _directory: tempfile::TempDir,
    _serving: tokio::task::JoinHandle<()>,
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default(), |_| {}).await
    }

    pub(crate) async fn with(registry: impl Into<Options>, change: impl FnOnce(&mut PullOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let socket = directory.path().join("cri.sock");
        let store = OwnStore::open(&root, Unpacking::No, Sync::No).unwrap();
        let retry = RetryPolicy { first_delay: Duration::from_millis(1), ..RetryPolicy::default() };
        let mut options = PullOptions::new(ClientOptions { retry, ..ClientOptions::default() });
        options.platform = Platform::new("linux", "amd64");
        change(&mut options);
        let service = Service::new(Arc::new(store), options, Events::none());
        let listener = Listener::bind(&socket).unwrap();
        let serving = service.clone();
        let serving =
            tokio::spawn(async move { serve(&listener, serving, std::future::pending()).await.unwrap() });
        let channel = Channel::new(&socket);
        let registry = Registry::start(registry).await;
        Self { channel, root, registry, service, _directory: directory, _serving: serving }
    }

    async fn call<Q: Message + Default + 'static, A: Message + Default + 'static>(
        &self,
        method: &'static str,
        ask: impl IntoRequest<Q>,
    ) -> Result<A, Status> {
        self.channel.unary(method, ask).await
    }

    pub(crate) async fn pull(&self, name: &str) -> Result<String, Status> {
        self.pull_as(name, None).await
    }

    pub(crate) async fn pull_as(&self, name: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
        let ask = PullImageRequest { image: Some(spec(name)), auth };
        let answer: PullImageResponse = self.call("/runtime.v1.ImageService/PullImage", ask).await?;
        Ok(answer.image_ref)
    }

    pub(crate) async fn pull_within(&self, name: &str, deadline: Duration) -> Result<String, Status> {
        let mut ask = Request::new(PullImageRequest { image: Some(spec(name)), auth: None });
        ask.set_timeout(deadline);
        let method = "/runtime.v1.ImageService/PullImage";
        let answer = self.call::<PullImageRequest, PullImageResponse>(method, ask).await?;
        Ok(answer.image_ref)
    }

    pub(crate) async fn status(&self, name: &str) -> Option<Image> {
        self.verbose_status(name, false).await.image
    }

    pub(crate) async fn verbose_status(&self, name: &str, verbose: bool) -> ImageStatusResponse {
        let ask = ImageStatusRequest { image: Some(spec(name)), verbose };
        self.call("/runtime.v1.ImageService/ImageStatus", ask).await.unwrap()
    }

    pub(crate) async fn list(&self, filter: Option<&str>) -> Vec<Image> {
        let filter = filter.map(|name| ImageFilter { image: Some(spec(name)) });
        let answer: ListImagesResponse =
            self.call("/runtime.v1.ImageService/ListImages", ListImagesRequest { filter }).await.unwrap();
        answer.images
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<(), Status> {
        let ask = RemoveImageRequest { image: Some(spec(name)) };
        self.call::<_, Empty>("/runtime.v1.ImageService/RemoveImage", ask).await.map(drop)
    }

    pub(crate) async fn usage(&self) -> ImageFsInfoResponse {
        self.call("/runtime.v1.ImageService/ImageFsInfo", Empty {}).await.unwrap()
    }

    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.registry.host())
    }

    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.root.join("blobs/sha256").join(digest.hex()).exists()
    }
}

pub(crate) fn spec(name: &str) -> ImageSpec {
    ImageSpec { image: name.to_owned(), ..ImageSpec::default() }
}

/// What an image of the registry is called by its parts.
pub(crate) struct Parts {
    pub(crate) target: Descriptor,
    pub(crate) config: Digest,
    pub(crate) layers: Vec<Descriptor>,
}

/// Puts an image with a user and layers of these bytes into the registry.
pub(crate) fn put(registry: &Registry, repository: &str, tag: &str, user: &str, layers: &[Bytes]) -> Parts {
    let mut image = OciImage::scratch(&Platform::new("linux", "amd64"));
    image.config.config.user = user.to_owned();
    let mut descriptors = Vec::new();
    for bytes in layers {
        let descriptor = registry.put_blob(repository, bytes.clone());
        descriptors.push(descriptor.clone());
        let diff_id = rbuild_image::DiffId(descriptor.digest);
        image.append(Layer { descriptor, diff_id }, Default::default());
    }
    let finished = image.finish(&Default::default());
    registry.put_blob(repository, finished.config.bytes().clone());
    let bytes = finished.manifest.bytes().clone();
    let target = registry.put_manifest(repository, tag, media_type::OCI_MANIFEST, bytes);
    Parts { target, config: finished.config.digest(), layers: descriptors }
}

/// Puts an index over manifests, each for a platform, into the registry.
pub(crate) fn put_index(
    registry: &Registry,
    repository: &str,
    tag: &str,
    of: &[(&str, &Descriptor)],
) -> Descriptor {
    let manifests = of.iter().map(|(platform, descriptor)| Descriptor {
        platform: Some(platform.parse().unwrap()),
        ..(*descriptor).clone()
    });
    let index = Raw::from_value(Index::new(manifests.collect()));
    registry.put_manifest(repository, tag, media_type::OCI_INDEX, index.bytes().clone())
}
