//! Platforms: operating system and processor, normalised and matched as containerd does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::manifest::Descriptor;

/// An operating system and a processor an image runs on.
///
/// # References
/// - [OCI image spec, platform](https://github.com/opencontainers/image-spec/blob/v1.1.1/image-index.md)
/// - [containerd platforms](https://github.com/containerd/platforms/blob/v1.0.0-rc.1/platforms.go)
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// GOARCH name of the processor, `amd64`.
    pub architecture: String,
    /// GOOS name of the operating system, `linux`.
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that the image needs (`win32k`).
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the processor, `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is not a [`Platform`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A component is empty or holds something other than letters, digits, `_`, `.` and `-`, or there are too many.
    #[error("platform {0:?} is not os, os/architecture or os/architecture/variant")]
    Malformed(String),
    /// A single component is neither an operating system nor an architecture.
    #[error("{0:?} is neither an operating system nor an architecture")]
    Unknown(String),
}

impl Platform {
    /// Makes a platform from an operating system and an architecture, normalised.
    pub fn new(os: &str, architecture: &str) -> Self {
        let (architecture, variant) = normalise_architecture(architecture, "");
        Self { os: normalise_os(os), architecture, variant, os_version: None, os_features: Vec::new() }
    }

    /// Returns the platform this program was compiled for.
    pub fn host() -> Self {
        let mut host = Self::new(std::env::consts::OS, std::env::consts::ARCH);
        if host.architecture == "arm" {
            host.variant = Some("v7".to_owned());
        }
        host
    }

    /// Returns the one form under which equal platforms are equal: aliases resolved, default variants filled or dropped.
    pub fn normalised(&self) -> Self {
        let (architecture, variant) =
            normalise_architecture(&self.architecture, self.variant.as_deref().unwrap_or_default());
        Self { os: normalise_os(&self.os), architecture, variant, ..self.clone() }
    }

    /// Picks the best of an index's manifests: this platform, else the nearest this processor can run.
    ///
    /// The first of equals wins. A descriptor without a platform is taken only when nothing else matches;
    /// one that is not an image (platform `unknown/unknown`, as attestations have) never.
    pub fn select<'a>(&self, manifests: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let matching = |wanted: &Self| {
            manifests.iter().find(|descriptor| {
                descriptor.platform.as_ref().is_some_and(|platform| wanted.is_offered_by(platform))
            })
        };
        self.runnable().iter().find_map(matching).or_else(|| {
            manifests
                .iter()
                .find(|descriptor| descriptor.platform.is_none() && descriptor.artifact_type.is_none())
        })
    }

    fn is_offered_by(&self, offered: &Self) -> bool {
        let offered = offered.normalised();
        let same_version = match (&self.os_version, &offered.os_version) {
            (Some(wanted), Some(offered)) => wanted == offered,
            _ => true,
        };
        same_version
            && self.os == offered.os
            && self.architecture == offered.architecture
            && self.variant == offered.variant
    }

    /// Lists what this platform can run, best first.
    fn runnable(&self) -> Vec<Self> {
        let wanted = self.normalised();
        let with = |architecture: &str, variant: Option<String>| Self {
            architecture: architecture.to_owned(),
            variant,
            ..wanted.clone()
        };
        let mut list = vec![wanted.clone()];
        let level = variant_level(wanted.variant.as_deref());
        match wanted.architecture.as_str() {
            "amd64" => {
                list.extend(
                    (2..level.unwrap_or(1)).rev().map(|level| with("amd64", Some(format!("v{level}")))),
                );
                list.push(with("amd64", None));
                list.push(with("386", None));
            }
            "arm64" => {
                list.extend(
                    (9..level.unwrap_or(8)).rev().map(|level| with("arm64", Some(format!("v{level}")))),
                );
                list.push(with("arm64", None));
                list.extend((5..=8).rev().map(|level| with("arm", Some(format!("v{level}")))));
            }
            "arm" => {
                list.extend(
                    (5..level.unwrap_or(7)).rev().map(|level| with("arm", Some(format!("v{level}")))),
                );
            }
            _ => {}
        }
        list
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.os)?;
        if let Some(version) = &self.os_version {
            write!(f, "({version})")?;
        }
        write!(f, "/{}", self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let malformed = || PlatformError::Malformed(text.chars().take(100).collect());
        let parts: Vec<&str> = text.split('/').collect();
        let (os, os_version) = match parts.first().and_then(|os| os.strip_suffix(')')?.split_once('(')) {
            Some((os, version)) => (os, Some(version)),
            None => (*parts.first().ok_or_else(malformed)?, None),
        };
        let mut components = parts.iter().skip(1).copied().chain([os]).chain(os_version);
        if !components.all(is_component) {
            return Err(malformed());
        }
        let mut platform = match parts.as_slice() {
            [_] => single(os)?,
            [_, architecture] => Self::new(os, architecture),
            [_, architecture, variant] => {
                let (architecture, variant) = normalise_architecture(architecture, variant);
                // Asked for by name, the default variant of arm64 is kept, as containerd does.
                let variant = variant.or_else(|| (architecture == "arm64").then(|| "v8".to_owned()));
                Self { architecture, variant, ..Self::new(os, "") }
            }
            _ => return Err(malformed()),
        };
        if parts.len() == 2 && platform.architecture == "arm" && platform.variant.as_deref() == Some("v7") {
            platform.variant = None;
        }
        platform.os_version = os_version.map(str::to_owned);
        Ok(platform)
    }
}

/// Reads `linux` or `arm64` alone; the other half is the host's.
fn single(text: &str) -> Result<Platform, PlatformError> {
    const OSES: [&str; 15] = [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "hurd",
        "illumos",
        "ios",
        "js",
        "linux",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "windows",
    ];
    const ARCHITECTURES: [&str; 14] = [
        "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
        "ppc64le", "riscv64", "s390x", "wasm",
    ];
    let host = Platform::host();
    let os = normalise_os(text);
    if OSES.contains(&os.as_str()) {
        return Ok(Platform { os, ..host });
    }
    let platform = Platform { os: host.os, ..Platform::new("", text) };
    match ARCHITECTURES.contains(&platform.architecture.as_str()) {
        true => Ok(platform),
        false => Err(PlatformError::Unknown(text.to_owned())),
    }
}

fn is_component(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn variant_level(variant: Option<&str>) -> Option<u32> {
    variant?.strip_prefix('v')?.parse().ok().filter(|level| (1..=9).contains(level))
}

fn normalise_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normalise_architecture(architecture: &str, variant: &str) -> (String, Option<String>) {
    let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64", variant) => ("ppc64le", variant),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), Some(variant).filter(|variant| !variant.is_empty()).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn parses_and_normalises() {
        let check = |text: &str, expect: Result<&str, &str>| {
            let got = text
                .parse::<Platform>()
                .map(|platform| platform.to_string())
                .map_err(|error| error.to_string());
            assert_eq!(got, expect.map(str::to_owned).map_err(str::to_owned), "{text}");
        };
        check("linux/amd64", Ok("linux/amd64"));
        check("Linux/X86_64", Ok("linux/amd64"));
        check("linux/arm64/v8", Ok("linux/arm64/v8"));
        check("linux/aarch64", Ok("linux/arm64"));
        check("linux/arm", Ok("linux/arm"));
        check("linux/arm/7", Ok("linux/arm/v7"));
        check("linux/armhf", Ok("linux/arm"));
        check("linux/armel", Ok("linux/arm/v6"));
        check("linux/i386", Ok("linux/386"));
        check("macos/arm64", Ok("darwin/arm64"));
        check("windows(10.0.17763)/amd64", Ok("windows(10.0.17763)/amd64"));
        check("plan10", Err("\"plan10\" is neither an operating system nor an architecture"));
        check("", Err("platform \"\" is not os, os/architecture or os/architecture/variant"));
        check("linux/", Err("platform \"linux/\" is not os, os/architecture or os/architecture/variant"));
        check("a/b/c/d", Err("platform \"a/b/c/d\" is not os, os/architecture or os/architecture/variant"));
        check(
            "linux/a$b",
            Err("platform \"linux/a$b\" is not os, os/architecture or os/architecture/variant"),
        );
    }

    #[test]
    fn half_a_platform_takes_the_hosts_other_half() {
        let host = Platform::host();
        assert_eq!("linux".parse(), Ok(Platform { os: "linux".to_owned(), ..host.clone() }));
        assert_eq!("s390x".parse::<Platform>().map(|platform| platform.os), Ok(host.os));
    }

    #[test]
    fn select_takes_the_best() {
        let offer = |list: &[&str]| -> Vec<Descriptor> {
            let descriptor = |text: &&str| Descriptor {
                platform: (!text.is_empty()).then(|| text.parse().unwrap()),
                ..Descriptor::new("m", Digest::of(text.as_bytes()), 1)
            };
            list.iter().map(descriptor).collect()
        };
        let check = |wanted: &str, offered: &[&str], expect: Option<usize>| {
            let offered = offer(offered);
            let got = wanted.parse::<Platform>().unwrap().select(&offered);
            assert_eq!(got, expect.map(|index| &offered[index]), "{wanted} {offered:?}");
        };
        check("linux/amd64", &["linux/arm64", "linux/amd64"], Some(1));
        check("linux/amd64", &["linux/386", "linux/amd64"], Some(1));
        check("linux/amd64", &["linux/386", "linux/arm64"], Some(0));
        check("linux/amd64", &["linux/amd64/v2"], None);
        check("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2"], Some(1));
        check("linux/arm64", &["linux/arm/v7", "linux/arm64/v8"], Some(1));
        check("linux/arm64/v8", &["linux/arm64"], Some(0));
        check("linux/arm", &["linux/arm/v6", "linux/arm/v5"], Some(0));
        check("linux/arm/v6", &["linux/arm/v7", "linux/arm/v6"], Some(1));
        check("linux/s390x", &["linux/amd64", "unknown/unknown"], None);
        check("linux/s390x", &["unknown/unknown", ""], Some(1));
        check("linux/s390x", &[], None);
    }
}
