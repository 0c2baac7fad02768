//! The image config: what a container made of the image runs, and how the image came to be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::DiffId;
use crate::manifest::{Extra, null_is_default};
use crate::platform::Platform;

/// The config of an image.
///
/// Fields this crate does not know survive at every level. Serialised, the order of fields is fixed and unknown ones
/// follow in byte order, so that equal values give equal bytes.
///
/// # References
/// - [OCI image spec, config](https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md)
/// - [Docker image spec v1.3](https://github.com/moby/docker-image-spec/blob/v1.3.1/spec.md)
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it (MAINTAINER).
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// GOARCH name of the processor.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the processor.
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// GOOS name of the operating system.
    #[serde(default)]
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(
        rename = "os.version",
        default,
        deserialize_with = "empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// Features of the operating system that the image needs.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// What a container runs by default.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RuntimeConfig,
    /// The layers by their uncompressed digests.
    #[serde(default, deserialize_with = "null_is_default")]
    pub rootfs: RootFs,
    /// The steps that made the image, oldest first.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Fields unknown to this crate.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ImageConfig {
    /// Makes the config of an image without layers.
    pub fn scratch(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            ..Self::default()
        }
    }

    /// Returns the platform the config names.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            variant: self.variant.clone(),
        }
    }
}

/// What a container made of the image runs by default. Empty fields are left out when serialised.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RuntimeConfig {
    /// User, or `user:group`, by name or number.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports as `80/tcp`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// Environment as `KEY=value`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is always executed; `Some` of an empty list clears the base image's.
    #[serde(default, skip_serializing_if = "absent_or_empty")]
    pub entrypoint: Option<Vec<String>>,
    /// Default arguments of the entrypoint, or the command itself.
    #[serde(default, skip_serializing_if = "absent_or_empty")]
    pub cmd: Option<Vec<String>>,
    /// Paths that get a volume.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// Directory the process starts in.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the container to end.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Tells that the command is already escaped for Windows.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// How the container's health is probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions that run in a build on top of this image.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Shell of the instructions' shell form.
    #[serde(default, skip_serializing_if = "absent_or_empty")]
    pub shell: Option<Vec<String>>,
    /// Fields unknown to this crate.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The value of set-like maps: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// How a container's health is probed. Durations are nanoseconds, 0 means the runtime's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between two probes.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time after which a probe has failed.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time in which failures do not count.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between two probes in the start period.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make the container unhealthy.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// Fields unknown to this crate.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The layers of an image by their uncompressed digests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Diff IDs, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<DiffId>,
    /// Fields unknown to this crate.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new(), extra: Extra::new() }
    }
}

/// One step of how the image came to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Free text; builders leave their name here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Tells that the step made no layer.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub empty_layer: bool,
    /// Fields unknown to this crate.
    #[serde(flatten)]
    pub extra: Extra,
}

fn empty_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

fn absent_or_empty(list: &Option<Vec<String>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Raw;

    const FULL: &str = r#"{"created":"2026-01-01T00:00:00Z","author":"me","architecture":"arm","variant":"v7","os":"linux","os.version":"1","os.features":["x"],"config":{"User":"0:0","ExposedPorts":{"80/tcp":{}},"Env":["A=b"],"Entrypoint":["/e"],"Cmd":["c"],"Volumes":{"/v":{}},"WorkingDir":"/w","Labels":{"a":"1","b":"2"},"StopSignal":"SIGINT","ArgsEscaped":true,"Healthcheck":{"Test":["CMD","t"],"Interval":1,"Timeout":2,"StartPeriod":3,"StartInterval":4,"Retries":5,"Later":6},"OnBuild":["RUN x"],"Shell":["/s"],"Domainname":"d"},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],"base":1},"history":[{"created":"2026-01-01T00:00:00Z","created_by":"RUN x","author":"me","comment":"c","empty_layer":true,"id":7}],"docker_version":"20"}"#;

    #[test]
    fn every_field_survives_in_order() {
        let raw = Raw::<ImageConfig>::parse(FULL.into()).unwrap();
        assert_eq!(raw.value().config.healthcheck.as_ref().unwrap().extra["Later"], 6);
        let again = Raw::from_value(raw.value().clone());
        assert_eq!(String::from_utf8_lossy(again.bytes()), FULL);
        assert_eq!(again.digest(), raw.digest());
    }

    #[test]
    fn null_and_empty_are_absent() {
        let check = |config: &str, expect: &str| {
            let config: ImageConfig = serde_json::from_str(config).unwrap();
            assert_eq!(serde_json::to_string(&config).unwrap(), expect);
        };
        let least = r#"{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        check("{}", least);
        check(r#"{"config":null,"rootfs":null,"history":null,"author":"","variant":""}"#, least);
        let nulls = r#"{"config":{"User":null,"Env":null,"Cmd":null,"Entrypoint":null,"Labels":null,"Volumes":null,
            "ExposedPorts":null,"OnBuild":null,"Shell":null,"Healthcheck":null,"WorkingDir":"","ArgsEscaped":false}}"#;
        check(nulls, least);
        check(r#"{"rootfs":{"type":"layers","diff_ids":null}}"#, least);
    }

    #[test]
    fn oci_spec_reads_what_we_write() {
        let config: ImageConfig = serde_json::from_str(FULL).unwrap();
        let theirs: oci_spec::image::ImageConfiguration =
            serde_json::from_slice(&serde_json::to_vec(&config).unwrap()).unwrap();
        assert_eq!(theirs.architecture().to_string(), config.architecture);
        assert_eq!(theirs.rootfs().diff_ids()[0], config.rootfs.diff_ids[0].to_string());
        let runtime = theirs.config().as_ref().unwrap();
        assert_eq!(runtime.env().as_ref(), Some(&config.config.env));
        assert_eq!(runtime.entrypoint(), &config.config.entrypoint);
        assert_eq!(runtime.working_dir().as_deref(), Some(config.config.working_dir.as_str()));
        let history = theirs.history().as_ref().unwrap();
        assert_eq!(history[0].created_by(), &config.history[0].created_by);
        assert_eq!(history[0].empty_layer(), Some(true));
    }
}
