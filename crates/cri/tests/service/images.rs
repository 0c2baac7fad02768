//! Pull, list, look at, remove: what each call promises.

use std::time::Duration;

use bytes::Bytes;
use rbuild_cri::messages::cri::{
    Int64Value, ListImagesRequest, ListImagesResponse, StatusRequest, StatusResponse, VersionRequest,
    VersionResponse,
};
use rbuild_test_registry::{Act, Fault, Method};
use tonic::Code;

use crate::support::{Node, put, put_index};

#[tokio::test]
async fn by_tag() {
    let node = Node::start().await;
    let parts = put(&node.registry, "team/app", "1", "1002:7", &["one".into(), "two".into()]);
    let name = node.name("team/app:1");
    let id = node.pull(&name).await.unwrap();
    assert_eq!(id, parts.config.to_string());
    let image = node.status(&name).await.unwrap();
    assert_eq!(image.id, id);
    assert_eq!(image.repo_tags, [name.as_str()]);
    assert_eq!(image.repo_digests, [node.name(&format!("team/app@{}", parts.target.digest))]);
    assert_eq!((image.uid, image.username.as_str()), (Some(Int64Value { value: 1002 }), ""));
    let (config, blobs) = (node.root.join("blobs/sha256").join(parts.config.hex()), 6);
    assert_eq!(image.size, parts.target.size + config.metadata().unwrap().len() + blobs);
    for text in [id.as_str(), parts.config.hex().as_str(), &id[..20], &image.repo_digests[0]] {
        assert_eq!(node.status(text).await.as_ref(), Some(&image), "{text}");
    }
    assert_eq!(node.list(None).await, std::slice::from_ref(&image));
    assert_eq!(node.list(Some(&name)).await, [image]);
    assert_eq!(node.list(Some("other")).await, []);
}

#[tokio::test]
async fn by_digest_and_by_both() {
    let node = Node::start().await;
    let parts = put(&node.registry, "app", "1", "www-data", &["one".into()]);
    let by_digest = node.name(&format!("app@{}", parts.target.digest));
    let both = node.name(&format!("app:ignored@{}", parts.target.digest));
    for name in [&by_digest, &both] {
        node.pull(name).await.unwrap();
        let image = node.status(name).await.unwrap();
        assert_eq!(image.repo_tags, [""; 0]);
        assert_eq!(image.repo_digests, [by_digest.as_str()]);
        assert_eq!((image.uid, image.username.as_str()), (None, "www-data"));
    }
    assert_eq!(node.list(None).await.len(), 1);
}

#[tokio::test]
async fn without_a_tag_it_is_latest() {
    let node = Node::start().await;
    put(&node.registry, "app", "latest", "", &["one".into()]);
    node.pull(&node.name("app")).await.unwrap();
    let image = node.status(&node.name("app")).await.unwrap();
    assert_eq!(image.repo_tags, [node.name("app:latest")]);
    assert_eq!((image.uid, image.username.as_str()), (None, ""));
}

#[tokio::test]
async fn of_an_index_the_node_s_image_is_taken_and_the_index_named() {
    let node = Node::start().await;
    let mine = put(&node.registry, "app", "amd64", "", &["mine".into()]);
    let other = put(&node.registry, "app", "arm64", "", &["other".into()]);
    let index = put_index(
        &node.registry,
        "app",
        "1",
        &[("linux/arm64", &other.target), ("linux/amd64", &mine.target)],
    );
    assert_eq!(node.pull(&node.name("app:1")).await.unwrap(), mine.config.to_string());
    let image = node.status(&node.name("app:1")).await.unwrap();
    assert_eq!(image.repo_digests, [node.name(&format!("app@{}", index.digest))]);
    assert!(node.has_blob(&mine.layers[0].digest) && !node.has_blob(&other.layers[0].digest));
    put_index(&node.registry, "app", "2", &[("linux/arm64", &other.target)]);
    let error = node.pull(&node.name("app:2")).await.unwrap_err();
    assert!(error.message().contains("no image for linux/amd64, only for linux/arm64"), "{error}");
}

#[tokio::test]
async fn removing_by_one_name_removes_all() {
    let node = Node::start().await;
    let layer = Bytes::from("shared");
    let parts = put(&node.registry, "app", "1", "", &[layer.clone(), "own".into()]);
    let kept = put(&node.registry, "other", "1", "", &[layer]);
    for (repository, tag) in [("app", "2"), ("again", "3")] {
        put(&node.registry, repository, tag, "", &["shared".into(), "own".into()]);
        node.pull(&node.name(&format!("{repository}:{tag}"))).await.unwrap();
    }
    for name in ["app:1", "other:1"] {
        node.pull(&node.name(name)).await.unwrap();
    }
    let image = node.status(&node.name("app:2")).await.unwrap();
    assert_eq!(image.repo_tags, ["again:3", "app:1", "app:2"].map(|name| node.name(name)));
    assert_eq!(node.list(None).await.len(), 2);
    node.remove(&node.name("app:2")).await.unwrap();
    for name in ["app:1", "app:2", "again:3", &format!("app@{}", parts.target.digest)] {
        assert_eq!(node.status(&node.name(name)).await, None, "{name}");
    }
    assert_eq!(node.status(&image.id).await, None);
    assert!(!node.has_blob(&parts.layers[1].digest), "only this image had it");
    assert!(node.has_blob(&kept.layers[0].digest), "another image has it");
    assert_eq!(node.list(None).await[0].id, kept.config.to_string());
}

#[tokio::test]
async fn removing_what_is_not_there_is_no_failure() {
    let node = Node::start().await;
    put(&node.registry, "app", "1", "", &["one".into()]);
    let id = node.pull(&node.name("app:1")).await.unwrap();
    let removals = std::iter::repeat_with(|| node.remove(&id)).take(5);
    for outcome in futures_util::future::join_all(removals).await {
        outcome.unwrap();
    }
    node.remove(&id).await.unwrap();
    node.remove(&"0".repeat(64)).await.unwrap();
    node.remove(&format!("sha256:{}", "0".repeat(64))).await.unwrap();
    assert_eq!(node.status(&"0".repeat(64)).await, None);
    assert_eq!(node.list(None).await, []);
}

#[tokio::test]
async fn details_on_request_only() {
    let node = Node::start().await;
    put(&node.registry, "app", "1", "", &["one".into()]);
    node.pull(&node.name("app:1")).await.unwrap();
    assert!(node.verbose_status(&node.name("app:1"), false).await.info.is_empty());
    let info = node.verbose_status(&node.name("app:1"), true).await.info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    assert_eq!(info["imageSpec"]["architecture"], "amd64");
    // Of one layer the chain ID is the diff ID.
    assert_eq!(info["chainID"], info["imageSpec"]["rootfs"]["diff_ids"][0]);
}

#[tokio::test]
async fn streams_hold_each_image_once() {
    let node = Node::start().await;
    for number in 0..3 {
        put(&node.registry, "app", &number.to_string(), &number.to_string(), &["one".into()]);
        node.pull(&node.name(&format!("app:{number}"))).await.unwrap();
    }
    let method = "/runtime.v1.ImageService/StreamImages";
    let mut stream = node
        .channel
        .server_streaming::<ListImagesRequest, ListImagesResponse>(method, ListImagesRequest::default())
        .await
        .unwrap();
    let mut images = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        images.extend(message.images);
    }
    assert_eq!(images, node.list(None).await);
    assert_eq!(images.len(), 3);
}

#[tokio::test]
async fn usage_is_of_a_real_directory() {
    let node = Node::start().await;
    let empty = node.usage().await.image_filesystems[0].clone();
    put(&node.registry, "app", "1", "", &[vec![7; 100_000].into()]);
    node.pull(&node.name("app:1")).await.unwrap();
    let usage = node.usage().await.image_filesystems[0].clone();
    assert!(std::path::Path::new(&usage.fs_id.unwrap().mountpoint).is_dir());
    assert!(usage.timestamp > 0);
    assert!(usage.used_bytes.unwrap().value >= empty.used_bytes.unwrap().value + 100_000);
    assert!(usage.inodes_used.unwrap().value > empty.inodes_used.unwrap().value);
}

#[tokio::test]
async fn deadlines_end_pulls() {
    let node = Node::start().await;
    put(&node.registry, "app", "1", "", &["one".into()]);
    node.registry.fault(Fault::on("GET", "/manifests/").act(Act::Silence));
    let error = node.pull_within(&node.name("app:1"), Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    node.pull(&node.name("app:1")).await.unwrap();
}

#[tokio::test]
async fn the_runtime_half_says_what_this_is() {
    let node = Node::start().await;
    let version: VersionResponse =
        node.channel.unary("/runtime.v1.RuntimeService/Version", VersionRequest::default()).await.unwrap();
    let fields =
        [version.version, version.runtime_name, version.runtime_version, version.runtime_api_version];
    assert!(fields.iter().all(|field| !field.is_empty()), "{fields:?}");
    let status: StatusResponse =
        node.channel.unary("/runtime.v1.RuntimeService/Status", StatusRequest::default()).await.unwrap();
    let conditions = status.status.unwrap().conditions;
    let kinds: Vec<&str> = conditions.iter().map(|condition| condition.kind.as_str()).collect();
    assert_eq!(kinds, ["RuntimeReady", "NetworkReady"]);
    let refused = node
        .channel
        .unary::<VersionRequest, VersionResponse>(
            "/runtime.v1.RuntimeService/RunPodSandbox",
            VersionRequest::default(),
        )
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn pulls_of_one_image_fetch_each_blob_once() {
    let node = Node::start().await;
    let parts = put(&node.registry, "app", "1", "", &["one".into(), "two".into()]);
    let name = node.name("app:1");
    let pulls = std::iter::repeat_with(|| node.pull(&name)).take(32);
    for outcome in futures_util::future::join_all(pulls).await {
        assert_eq!(outcome.unwrap(), parts.config.to_string());
    }
    for layer in &parts.layers {
        assert_eq!(node.registry.count(Method::GET, &format!("/blobs/{}", layer.digest)), 1);
    }
    let text = node.service.metrics().text();
    assert!(text.contains("rbuild_cri_pulls_total{outcome=\"pulled\"} 32"), "{text}");
}

#[tokio::test]
async fn runtime_handlers_and_names_are_checked() {
    let node = Node::start().await;
    for name in ["", "UPPER", "a b"] {
        assert_eq!(node.pull(name).await.unwrap_err().code(), Code::InvalidArgument, "{name:?}");
    }
    assert_eq!(node.status("UPPER").await, None);
}
