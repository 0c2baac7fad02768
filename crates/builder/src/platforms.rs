//! The platforms a build is asked for, and whether the result is an image or an index over one image each.

use std::collections::BTreeMap;

use rbuild_image::Platform;

use crate::error::BuildError;
use crate::options::BuildOptions;
use crate::plan::PlatformOrigin;

/// The build argument that asks for an index even of one platform.
const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";

/// What is built for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platforms {
    /// At least one, each once, in the order asked.
    pub list: Vec<Platform>,
    pub origin: PlatformOrigin,
    pub shape: Shape,
}

/// The form of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One image.
    Image,
    /// An index, also when it lists a single image.
    Index,
}

impl Platforms {
    /// Reads the options; no platform is the host's.
    ///
    /// # Errors
    /// `BUILDKIT_MULTI_PLATFORM` is no boolean, or says no where several platforms are asked for.
    pub(crate) fn new(options: &BuildOptions) -> Result<Self, BuildError> {
        let mut list: Vec<Platform> = Vec::new();
        for platform in &options.platforms {
            if list.iter().all(|other| other.normalised() != platform.normalised()) {
                list.push(platform.clone());
            }
        }
        let origin = if list.is_empty() { PlatformOrigin::Host } else { PlatformOrigin::Requested };
        if list.is_empty() {
            list.push(Platform::host());
        }
        let shape = match asked_for_index(&options.build_args)? {
            Some(false) if list.len() > 1 => {
                return Err(invalid("false", "several platforms are asked for"));
            }
            Some(true) => Shape::Index,
            _ if list.len() > 1 => Shape::Index,
            _ => Shape::Image,
        };
        Ok(Self { list, origin, shape })
    }
}

/// Reads a boolean as Go's `strconv.ParseBool` does.
fn asked_for_index(build_args: &BTreeMap<String, String>) -> Result<Option<bool>, BuildError> {
    match build_args.get(MULTI_PLATFORM).map(String::as_str) {
        None | Some("") => Ok(None),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(other) => Err(invalid(other, "want true or false")),
    }
}

fn invalid(value: &str, reason: &str) -> BuildError {
    BuildError::Option { option: MULTI_PLATFORM, value: value.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_asked_for() {
        let check = |platforms: &[&str], index: &str, expect: Option<(&[&str], Shape)>| {
            let options = BuildOptions {
                platforms: platforms.iter().map(|text| text.parse().expect(text)).collect(),
                build_args: [(MULTI_PLATFORM.to_owned(), index.to_owned())].into(),
                ..BuildOptions::default()
            };
            let got = Platforms::new(&options).ok();
            let got = got.map(|got| (got.list.iter().map(ToString::to_string).collect(), got.shape));
            let expect = expect
                .map(|(list, shape)| (list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>(), shape));
            assert_eq!(got, expect, "{platforms:?} {index}");
        };
        let host = Platform::host().to_string();
        check(&[], "", Some((&[host.as_str()], Shape::Image)));
        check(&["linux/arm64"], "", Some((&["linux/arm64"], Shape::Image)));
        check(&["linux/arm64"], "true", Some((&["linux/arm64"], Shape::Index)));
        let both: &[&str] = &["linux/arm64", "linux/amd64"];
        check(both, "", Some((both, Shape::Index)));
        check(&["linux/arm64", "linux/amd64", "linux/arm64/v8"], "1", Some((both, Shape::Index)));
        check(&["linux/arm64", "linux/aarch64"], "", Some((&["linux/arm64"], Shape::Image)));
        check(both, "false", None);
        check(&[], "yes", None);
    }
}
