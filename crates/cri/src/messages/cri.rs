//! `runtime.v1`, the Container Runtime Interface: what its image half and the two calls of the other half need.
//!
//! # References
//! cri-api, `pkg/apis/runtime/v1/api.proto`

#![expect(missing_docs, reason = "fields are documented by the interface's own definition")]

use std::collections::BTreeMap;
use std::fmt;

use prost::Message;

/// Names an image, and how it was asked for.
#[derive(Clone, PartialEq, Message)]
pub struct ImageSpec {
    #[prost(string, tag = "1")]
    pub image: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub annotations: BTreeMap<String, String>,
    #[prost(string, tag = "18")]
    pub user_specified_image: String,
    #[prost(string, tag = "19")]
    pub runtime_handler: String,
    #[prost(string, tag = "20")]
    pub image_ref: String,
}

/// Which images are listed.
#[derive(Clone, PartialEq, Message)]
pub struct ImageFilter {
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
}

/// Asks for images; the same message for the call that answers at once and the one that streams.
#[derive(Clone, PartialEq, Message)]
pub struct ListImagesRequest {
    #[prost(message, optional, tag = "1")]
    pub filter: Option<ImageFilter>,
}

/// Images, all of them or the next few of a stream.
#[derive(Clone, PartialEq, Message)]
pub struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    pub images: Vec<Image>,
}

/// An image of the node.
#[derive(Clone, PartialEq, Message)]
pub struct Image {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, repeated, tag = "2")]
    pub repo_tags: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub repo_digests: Vec<String>,
    #[prost(uint64, tag = "4")]
    pub size: u64,
    #[prost(message, optional, tag = "5")]
    pub uid: Option<Int64Value>,
    #[prost(string, tag = "6")]
    pub username: String,
    #[prost(message, optional, tag = "7")]
    pub spec: Option<ImageSpec>,
    #[prost(bool, tag = "8")]
    pub pinned: bool,
}

/// Asks for one image.
#[derive(Clone, PartialEq, Message)]
pub struct ImageStatusRequest {
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
    #[prost(bool, tag = "2")]
    pub verbose: bool,
}

/// The image, unset when there is none.
#[derive(Clone, PartialEq, Message)]
pub struct ImageStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub image: Option<Image>,
    #[prost(btree_map = "string, string", tag = "2")]
    pub info: BTreeMap<String, String>,
}

/// Credentials for one registry. Its `Debug` form shows no secret.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct AuthConfig {
    #[prost(string, tag = "1")]
    pub username: String,
    #[prost(string, tag = "2")]
    pub password: String,
    #[prost(string, tag = "3")]
    pub auth: String,
    #[prost(string, tag = "4")]
    pub server_address: String,
    #[prost(string, tag = "5")]
    pub identity_token: String,
    #[prost(string, tag = "6")]
    pub registry_token: String,
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// Asks for an image to be brought. The sandbox it is for is not read.
#[derive(Clone, PartialEq, Message)]
pub struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    pub auth: Option<AuthConfig>,
}

/// What containers name the image by.
#[derive(Clone, PartialEq, Message)]
pub struct PullImageResponse {
    #[prost(string, tag = "1")]
    pub image_ref: String,
}

/// Asks for an image to be removed, with all its names.
#[derive(Clone, PartialEq, Message)]
pub struct RemoveImageRequest {
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
}

/// Nothing.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// What images take on disk.
#[derive(Clone, PartialEq, Message)]
pub struct ImageFsInfoResponse {
    #[prost(message, repeated, tag = "1")]
    pub image_filesystems: Vec<FilesystemUsage>,
    #[prost(message, repeated, tag = "2")]
    pub container_filesystems: Vec<FilesystemUsage>,
}

/// What is used of one file system.
#[derive(Clone, PartialEq, Message)]
pub struct FilesystemUsage {
    #[prost(int64, tag = "1")]
    pub timestamp: i64,
    #[prost(message, optional, tag = "2")]
    pub fs_id: Option<FilesystemIdentifier>,
    #[prost(message, optional, tag = "3")]
    pub used_bytes: Option<UInt64Value>,
    #[prost(message, optional, tag = "4")]
    pub inodes_used: Option<UInt64Value>,
}

/// A directory of the file system.
#[derive(Clone, PartialEq, Message)]
pub struct FilesystemIdentifier {
    #[prost(string, tag = "1")]
    pub mountpoint: String,
}

/// A number that may be absent; the interface's own, not protobuf's.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Int64Value {
    #[prost(int64, tag = "1")]
    pub value: i64,
}

/// A number that may be absent; the interface's own, not protobuf's.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct UInt64Value {
    #[prost(uint64, tag = "1")]
    pub value: u64,
}

/// Asks who answers.
#[derive(Clone, PartialEq, Message)]
pub struct VersionRequest {
    #[prost(string, tag = "1")]
    pub version: String,
}

/// Who answers. Clients refuse one with an empty field.
#[derive(Clone, PartialEq, Message)]
pub struct VersionResponse {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    #[prost(string, tag = "3")]
    pub runtime_version: String,
    #[prost(string, tag = "4")]
    pub runtime_api_version: String,
}

/// Asks how the runtime is.
#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {
    #[prost(bool, tag = "1")]
    pub verbose: bool,
}

/// How the runtime is.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<RuntimeStatus>,
}

/// Conditions of the runtime.
#[derive(Clone, PartialEq, Message)]
pub struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    pub conditions: Vec<RuntimeCondition>,
}

/// One condition.
#[derive(Clone, PartialEq, Message)]
pub struct RuntimeCondition {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(bool, tag = "2")]
    pub status: bool,
    #[prost(string, tag = "3")]
    pub reason: String,
    #[prost(string, tag = "4")]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written down by hand from the wire format: field number << 3 | type, length, bytes.
    #[test]
    fn fields_have_the_interface_s_numbers() {
        let spec = ImageSpec { image: "a".into(), runtime_handler: "h".into(), ..ImageSpec::default() };
        assert_eq!(spec.encode_to_vec(), [0x0a, 1, b'a', 0x9a, 0x01, 1, b'h']);
        let image = Image {
            id: "i".into(),
            repo_tags: vec!["t".into()],
            repo_digests: vec!["d".into()],
            size: 300,
            uid: Some(Int64Value { value: 7 }),
            username: "u".into(),
            spec: None,
            pinned: true,
        };
        let expect = b"\x0a\x01i\x12\x01t\x1a\x01d\x20\xac\x02\x2a\x02\x08\x07\x32\x01u\x40\x01";
        assert_eq!(image.encode_to_vec(), expect);
        let usage = FilesystemUsage {
            timestamp: 1,
            fs_id: Some(FilesystemIdentifier { mountpoint: "/".into() }),
            used_bytes: Some(UInt64Value { value: 2 }),
            inodes_used: Some(UInt64Value { value: 3 }),
        };
        assert_eq!(usage.encode_to_vec(), b"\x08\x01\x12\x03\x0a\x01/\x1a\x02\x08\x02\x22\x02\x08\x03");
    }

    #[test]
    fn unknown_fields_are_skipped() {
        // PullImageRequest with a sandbox_config of 3 bytes.
        let bytes = b"\x0a\x03\x0a\x01a\x1a\x03\x12\x01h";
        let request = PullImageRequest::decode(&bytes[..]).unwrap();
        assert_eq!(request.image.unwrap().image, "a");
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = "s3cret".to_owned();
        let auth = AuthConfig {
            username: "user".into(),
            password: secret.clone(),
            auth: secret.clone(),
            server_address: "r.example".into(),
            identity_token: secret.clone(),
            registry_token: secret.clone(),
        };
        let request = PullImageRequest { image: None, auth: Some(auth) };
        let shown = format!("{request:?}");
        assert!(shown.contains("user") && !shown.contains(&secret), "{shown}");
    }
}
