//! Named contexts: which name replaces which image or stage.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_image::{Platform, Reference};

/// The names of `--build-context`, comparable with image names.
#[derive(Debug, Clone, Default)]
pub(super) struct NamedContexts(BTreeMap<String, String>);

impl NamedContexts {
    /// Reads names as given: `name` or `name::platform`. A name that is no image name can replace nothing.
    pub(super) fn new(names: &BTreeSet<String>) -> Self {
        let entry = |name: &String| {
            let (image, platform) =
                name.split_once("::").map_or((name.as_str(), None), |(i, p)| (i, Some(p)));
            let image = normalise(&image.parse().ok()?);
            let key = match platform {
                Some(platform) => format!("{image}::{}", platform.parse::<Platform>().ok()?.normalised()),
                None => image,
            };
            Some((key, name.clone()))
        };
        Self(names.iter().filter_map(entry).collect())
    }

    /// Finds the context that replaces an image or stage; one for the platform goes first. `scratch` and `context`
    /// are never replaced.
    pub(super) fn find(&self, name: &Reference, platform: &Platform) -> Option<String> {
        let name = normalise(name);
        if ["scratch", "context"].iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            return None;
        }
        let of_platform = self.0.get(&format!("{name}::{}", platform.normalised()));
        of_platform.or_else(|| self.0.get(&name)).cloned()
    }
}

/// The familiar form without the default tag.
fn normalise(name: &Reference) -> String {
    let familiar = name.familiar();
    match familiar.strip_suffix(":latest") {
        Some(short) => short.to_owned(),
        None => familiar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_by_image_name() {
        let names =
            ["debian", "docker.io/library/alpine:latest", "a/b:1", "base::linux/arm64", "base", "scratch"];
        let contexts = NamedContexts::new(&names.iter().map(|&name| name.to_owned()).collect());
        let check = |name: &str, platform: &str, expect: Option<&str>| {
            let found = contexts.find(&name.parse().expect(name), &platform.parse().expect(platform));
            assert_eq!(found.as_deref(), expect, "{name} {platform}");
        };
        check("debian", "linux/amd64", Some("debian"));
        check("debian:latest", "linux/amd64", Some("debian"));
        check("docker.io/library/debian", "linux/amd64", Some("debian"));
        check("debian:12", "linux/amd64", None);
        check("alpine", "linux/amd64", Some("docker.io/library/alpine:latest"));
        check("a/b:1", "linux/amd64", Some("a/b:1"));
        check("a/b", "linux/amd64", None);
        check("base", "linux/arm64", Some("base::linux/arm64"));
        check("base", "linux/arm64/v8", Some("base::linux/arm64"));
        check("base", "linux/amd64", Some("base"));
        check("scratch", "linux/amd64", None);
    }
}
