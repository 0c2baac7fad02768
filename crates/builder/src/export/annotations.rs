//! Where the annotations of the command line go.

use std::collections::BTreeMap;

use rbuild_image::Platform;

use crate::error::BuildError;
use crate::platforms::Shape;

type Map = BTreeMap<String, String>;

/// Annotations by what they are put on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Annotations {
    manifest: Vec<Annotation>,
    manifest_descriptor: Vec<Annotation>,
    /// On the index itself.
    pub index: Map,
    /// On the entry that lists the index in a layout.
    pub index_descriptor: Map,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Annotation {
    platform: Option<Platform>,
    key: String,
    value: String,
}

impl Annotations {
    /// Reads keys of the form `[TYPE[PLATFORM],…:]NAME`; without a type the manifest is meant.
    ///
    /// # Errors
    /// A type is unknown, a platform malformed, or an index is meant and the result is none.
    ///
    /// # References
    /// <https://docs.docker.com/build/metadata/annotations/#specify-annotation-level>
    pub(crate) fn new(annotations: &Map, shape: Shape) -> Result<Self, BuildError> {
        let mut out = Self::default();
        for (written, value) in annotations {
            let invalid =
                |reason: String| BuildError::Option { option: "annotation", value: written.clone(), reason };
            let (types, key) = written.split_once(':').unwrap_or(("manifest", written));
            for one in types.split(',') {
                let (kind, platform) = match one.strip_suffix(']').and_then(|one| one.split_once('[')) {
                    Some((kind, platform)) => {
                        let platform = platform.parse::<Platform>();
                        (kind, Some(platform.map_err(|error| invalid(error.to_string()))?))
                    }
                    None => (one, None),
                };
                let entry = Annotation { platform, key: key.to_owned(), value: value.clone() };
                match kind {
                    "manifest" => out.manifest.push(entry),
                    "manifest-descriptor" => out.manifest_descriptor.push(entry),
                    "index" | "index-descriptor" if shape == Shape::Image => {
                        return Err(invalid("the result is a single image, which has no index".to_owned()));
                    }
                    "index" => drop(out.index.insert(entry.key, entry.value)),
                    "index-descriptor" => drop(out.index_descriptor.insert(entry.key, entry.value)),
                    _ => {
                        let known = "manifest, manifest-descriptor, index and index-descriptor";
                        return Err(invalid(format!("unknown type {kind:?}, there are {known}")));
                    }
                }
            }
        }
        Ok(out)
    }

    /// Those of a platform's manifest.
    pub(crate) fn manifest(&self, platform: &Platform) -> Map {
        of_platform(&self.manifest, platform)
    }

    /// Those of the entry that lists a platform's manifest.
    pub(crate) fn manifest_descriptor(&self, platform: &Platform) -> Map {
        of_platform(&self.manifest_descriptor, platform)
    }
}

/// Those that say no platform, then those that say this one.
fn of_platform(list: &[Annotation], platform: &Platform) -> Map {
    let wanted = platform.normalised();
    let of = |named: bool| list.iter().filter(move |entry| entry.platform.is_some() == named);
    of(false)
        .chain(
            of(true)
                .filter(|entry| entry.platform.as_ref().map(Platform::normalised) == Some(wanted.clone())),
        )
        .map(|entry| (entry.key.clone(), entry.value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_where_annotations_go() {
        let check = |key: &str, shape: Shape, expect: Option<[&str; 4]>| {
            let annotations = [(key.to_owned(), "v".to_owned())].into();
            let keys = |map: Map| map.into_keys().collect::<Vec<_>>().join(" ");
            let arm = Platform::new("linux", "arm64");
            let got = Annotations::new(&annotations, shape).ok().map(|got| {
                [got.manifest(&arm), got.manifest_descriptor(&arm), got.index, got.index_descriptor].map(keys)
            });
            assert_eq!(got, expect.map(|expect| expect.map(str::to_owned)), "{key}");
        };
        check("a.b", Shape::Image, Some(["a.b", "", "", ""]));
        check("manifest:a", Shape::Image, Some(["a", "", "", ""]));
        check("manifest[linux/arm64/v8]:a", Shape::Index, Some(["a", "", "", ""]));
        check("manifest[linux/amd64]:a", Shape::Index, Some(["", "", "", ""]));
        check("manifest-descriptor,index:a:b", Shape::Index, Some(["", "a:b", "a:b", ""]));
        check("index-descriptor:a", Shape::Index, Some(["", "", "", "a"]));
        check("index:a", Shape::Image, None);
        check("layer:a", Shape::Index, None);
        check("manifest[x]:a", Shape::Index, None);
    }
}
