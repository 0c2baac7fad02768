//! `runtime.v1.ImageService`, and of `runtime.v1.RuntimeService` what clients ask before anything else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_util::stream;
use http::Request;
use hyper::body::Incoming;
use tonic::Status;

use crate::auth;
use crate::error::Error;
use crate::event::{Event, Events, Metrics};
use crate::grpc::{Reply, server_streaming, unary};
use crate::messages::cri::{
    Empty, FilesystemIdentifier, FilesystemUsage, Image, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
    ImageStatusResponse, Int64Value, ListImagesRequest, ListImagesResponse, PullImageRequest,
    PullImageResponse, RemoveImageRequest, RuntimeCondition, RuntimeStatus, StatusRequest, StatusResponse,
    UInt64Value, VersionRequest, VersionResponse,
};
use crate::name;
use crate::node_store::{NodeImage, NodeStore, find};
use crate::pull::{PullOptions, pull};

/// How many images are in one message of a stream.
const CHUNK: usize = 100;

/// Answers the calls of kubelets and crictl. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn NodeStore>,
    options: PullOptions,
    metrics: Arc<Metrics>,
    events: Events,
}

impl Service {
    /// Serves the images of a store. Nothing is opened yet.
    #[must_use]
    pub fn new(store: Arc<dyn NodeStore>, options: PullOptions, events: Events) -> Self {
        Self { shared: Arc::new(Shared { store, options, metrics: Arc::default(), events }) }
    }

    /// What has been counted since this was made.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.metrics)
    }

    /// Answers one call.
    pub(crate) async fn answer(self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().to_owned();
        let service = &self;
        let call = path.strip_prefix("/runtime.v1.").unwrap_or_default();
        match call {
            "ImageService/ListImages" => unary(request, |ask| service.clone().list(ask)).await,
            "ImageService/StreamImages" => {
                server_streaming(request, |ask: ListImagesRequest| {
                    let service = service.clone();
                    async move {
                        let images = service.list(ask).await?.images;
                        let chunks = images.chunks(CHUNK).map(<[Image]>::to_vec);
                        let messages = chunks.map(|images| Ok(ListImagesResponse { images }));
                        Ok(stream::iter(messages.collect::<Vec<_>>()))
                    }
                })
                .await
            }
            "ImageService/ImageStatus" => unary(request, |ask| service.clone().status(ask)).await,
            "ImageService/PullImage" => unary(request, |ask| service.clone().pull(ask)).await,
            "ImageService/RemoveImage" => unary(request, |ask| service.clone().remove(ask)).await,
            "ImageService/ImageFsInfo" => unary(request, |ask| service.clone().usage(ask)).await,
            "RuntimeService/Version" => unary(request, |ask| std::future::ready(Ok(version(ask)))).await,
            "RuntimeService/Status" => unary(request, |ask| std::future::ready(Ok(status(ask)))).await,
            _ => Status::unimplemented(format!("{path} is not served here: this is an image service"))
                .into_http(),
        }
    }

    async fn list(self, ask: ListImagesRequest) -> Result<ListImagesResponse, Status> {
        let images = self.images().await?;
        let wanted = ask.filter.and_then(|filter| filter.image).map(|spec| spec.image).unwrap_or_default();
        let images = match wanted.as_str() {
            "" => images.iter().map(shown).collect(),
            wanted => find(&images, wanted).map(shown).into_iter().collect(),
        };
        Ok(ListImagesResponse { images })
    }

    async fn status(self, ask: ImageStatusRequest) -> Result<ImageStatusResponse, Status> {
        let name = named(ask.image)?.image;
        let images = self.images().await?;
        let Some(image) = find(&images, &name) else { return Ok(ImageStatusResponse::default()) };
        let mut info = BTreeMap::new();
        if ask.verbose {
            info.insert("info".to_owned(), details(image));
        }
        Ok(ImageStatusResponse { image: Some(shown(image)), info })
    }

    async fn pull(self, ask: PullImageRequest) -> Result<PullImageResponse, Status> {
        let spec = named(ask.image)?;
        if !spec.runtime_handler.is_empty() {
            let handler: String = spec.runtime_handler.chars().take(100).collect();
            return Err(Error::Request(format!("there is no runtime handler {handler:?} here")).into_status());
        }
        let name =
            name::normalised(&spec.image).map_err(|error| Error::Name(error.to_string()).into_status())?;
        let credential = match &ask.auth {
            Some(config) => auth::credential(config, name.registry())
                .map_err(|error| Error::Request(format!("credentials for {name}: {error}")).into_status())?,
            None => None,
        };
        let Shared { store, options, metrics, events } = &*self.shared;
        let started = Instant::now();
        let counted = metrics.begin();
        let outcome = pull(&**store, options, &name, credential).await;
        counted.end(&outcome);
        match outcome {
            Ok(pulled) => {
                events.emit(&Event::Pulled {
                    name: name.to_string(),
                    pulled: pulled.clone(),
                    took: started.elapsed(),
                });
                Ok(PullImageResponse { image_ref: pulled.id.to_string() })
            }
            Err(error) => {
                let status = error.into_status();
                let reason = status.message().to_owned();
                events.emit(&Event::PullFailed { name: name.to_string(), reason, took: started.elapsed() });
                Err(status)
            }
        }
    }

    async fn remove(self, ask: RemoveImageRequest) -> Result<Empty, Status> {
        let name = named(ask.image)?.image;
        let images = self.images().await?;
        if let Some(image) = find(&images, &name) {
            self.shared.store.remove(image).await.map_err(Error::into_status)?;
            self.shared.metrics.removed();
            self.shared.events.emit(&Event::Removed { id: image.id });
        }
        Ok(Empty {})
    }

    async fn usage(self, _: Empty) -> Result<ImageFsInfoResponse, Status> {
        let usage = self.shared.store.usage().await.map_err(Error::into_status)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let usage = FilesystemUsage {
            timestamp: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
            fs_id: Some(FilesystemIdentifier { mountpoint: usage.mountpoint.to_string_lossy().into_owned() }),
            used_bytes: Some(UInt64Value { value: usage.bytes }),
            inodes_used: Some(UInt64Value { value: usage.inodes }),
        };
        Ok(ImageFsInfoResponse { image_filesystems: vec![usage], container_filesystems: Vec::new() })
    }

    async fn images(&self) -> Result<Vec<NodeImage>, Status> {
        self.shared.store.images().await.map_err(Error::into_status)
    }
}

fn named(spec: Option<ImageSpec>) -> Result<ImageSpec, Status> {
    let spec = spec.filter(|spec| !spec.image.is_empty());
    spec.ok_or_else(|| Error::Name("the request names no image".to_owned()).into_status())
}

fn shown(image: &NodeImage) -> Image {
    let (uid, username) = user(&image.user);
    Image {
        id: image.id.to_string(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size,
        uid: uid.map(|value| Int64Value { value }),
        username,
        spec: Some(ImageSpec { image: image.id.to_string(), ..ImageSpec::default() }),
        pinned: image.pinned,
    }
}

/// Reads the user that a config names. What is no number of 32 bits is a name: cut off, 4294967296 would be root.
fn user(text: &str) -> (Option<i64>, String) {
    let user = text.split(':').next().unwrap_or_default();
    let is_number = !user.is_empty() && user.bytes().all(|byte| byte.is_ascii_digit());
    match user.parse::<u32>().ok().filter(|_| is_number) {
        Some(uid) => (Some(i64::from(uid)), String::new()),
        None => (None, user.to_owned()),
    }
}

/// What crictl shows of an image when it is asked for everything.
fn details(image: &NodeImage) -> String {
    let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap_or_default();
    let chain_id = image.chain_id().map(|chain_id| chain_id.to_string()).unwrap_or_default();
    serde_json::json!({ "chainID": chain_id, "imageSpec": config }).to_string()
}

fn version(_: VersionRequest) -> VersionResponse {
    VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: "rbuild".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}

/// No pods run here, and nobody should believe they could.
fn status(_: StatusRequest) -> StatusResponse {
    let condition = |kind: &str| RuntimeCondition {
        kind: kind.to_owned(),
        status: false,
        reason: "ImageServiceOnly".to_owned(),
        message: "this serves images; containers are the runtime's".to_owned(),
    };
    let conditions = ["RuntimeReady", "NetworkReady"].map(condition).to_vec();
    StatusResponse { status: Some(RuntimeStatus { conditions }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let check = |text: &str, uid: Option<i64>, name: &str| assert_eq!(user(text), (uid, name.to_owned()));
        check("", None, "");
        check("1002", Some(1002), "");
        check("1003:1004", Some(1003), "");
        check("www-data:www-data", None, "www-data");
        check("0", Some(0), "");
        check("4294967295", Some(4_294_967_295), "");
        check("4294967296", None, "4294967296");
        check("+1", None, "+1");
    }
}
