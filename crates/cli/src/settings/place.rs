//! Where `rbuild copy` takes images from and puts them: what SRC and DST mean.

use std::path::{Path, PathBuf};

use rbuild_image::{Layout, Reference};

use super::{Usage, reference};

/// A place of images, as it was typed.
#[derive(Debug, PartialEq)]
pub(crate) enum Place {
    /// `NAME` or `docker://NAME`.
    Registry(Reference),
    /// `store:NAME`.
    Store(Reference),
    /// `oci:DIR[:TAG]`, `oci-layout://DIR[:TAG]`, or a directory that is a layout.
    Layout(PathBuf, Option<String>),
    /// `oci-archive:FILE[:TAG]`.
    OciArchive(PathBuf, Option<String>),
    /// `docker-archive:FILE[:NAME]`.
    DockerArchive(PathBuf, Option<String>),
}

impl Place {
    /// Reads SRC or DST.
    ///
    /// # Errors
    /// When a name is malformed, or nothing follows the kind.
    pub(crate) fn parse(text: &str) -> Result<Self, Usage> {
        if let (Some(directory), tag) = split_layout(text) {
            return Ok(Self::Layout(filled(text, directory)?, tag.map(str::to_owned)));
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, tag) = split_file(rest);
            return Ok(Self::OciArchive(filled(text, file)?, tag));
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (file, name) = split_file(rest);
            return Ok(Self::DockerArchive(filled(text, file)?, name));
        }
        if let Some(name) = text.strip_prefix("store:") {
            return Ok(Self::Store(reference(name)?));
        }
        Ok(Self::Registry(reference(text.strip_prefix("docker://").unwrap_or(text))?))
    }
}

fn filled(text: &str, path: &Path) -> Result<PathBuf, Usage> {
    if path.as_os_str().is_empty() {
        return Err(Usage::new(format!("{text} names no file")));
    }
    Ok(path.to_owned())
}

/// Splits `FILE[:NAME]` at the first colon, which no name begins with.
fn split_file(text: &str) -> (&Path, Option<String>) {
    match text.split_once(':') {
        Some((file, name)) if !name.is_empty() => (Path::new(file), Some(name.to_owned())),
        _ => (Path::new(text), None),
    }
}

/// Splits `DIR[:TAG]`; no directory when the text is the name of an image.
pub(crate) fn split_layout(source: &str) -> (Option<&Path>, Option<&str>) {
    let bare = source.strip_prefix("oci-layout://").or_else(|| source.strip_prefix("oci:"));
    let text = bare.unwrap_or(source);
    let tagged = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
    match tagged {
        _ if is_layout(Path::new(text)) => (Some(Path::new(text)), None),
        Some((directory, tag)) if bare.is_some() || is_layout(Path::new(directory)) => {
            (Some(Path::new(directory)), Some(tag))
        }
        _ if bare.is_some() => (Some(Path::new(text)), None),
        _ => (None, None),
    }
}

/// Tells whether `path` is an OCI layout directory.
fn is_layout(path: &Path) -> bool {
    Layout::open(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_and_names_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app");
        Layout::create(&path).unwrap();
        let path = path.to_str().unwrap();
        let check = |source: &str, expect: (Option<&str>, Option<&str>)| {
            let expect = (expect.0.map(Path::new), expect.1);
            assert_eq!(split_layout(source), expect, "{source}");
        };
        check("app", (None, None));
        check("app:1", (None, None));
        check("localhost:5000/app", (None, None));
        check(path, (Some(path), None));
        check(&format!("{path}:1"), (Some(path), Some("1")));
        check(&format!("oci-layout://{path}:1"), (Some(path), Some("1")));
        check("oci:/nowhere:1", (Some("/nowhere"), Some("1")));
        check("oci:/nowhere", (Some("/nowhere"), None));
    }

    #[test]
    fn places() {
        let name = |text: &str| text.parse::<Reference>().unwrap();
        for (text, expect) in [
            ("reg.local:5000/app:1", Place::Registry(name("reg.local:5000/app:1"))),
            ("docker://debian", Place::Registry(name("debian"))),
            ("store:app", Place::Store(name("app"))),
            ("oci:out:1", Place::Layout("out".into(), Some("1".into()))),
            ("oci-archive:a.tar", Place::OciArchive("a.tar".into(), None)),
            ("oci-archive:/b/a.tar:1", Place::OciArchive("/b/a.tar".into(), Some("1".into()))),
            (
                "docker-archive:a.tar:reg.local:5000/app:1",
                Place::DockerArchive("a.tar".into(), Some("reg.local:5000/app:1".into())),
            ),
        ] {
            assert_eq!(Place::parse(text).unwrap(), expect, "{text}");
        }
        for text in ["oci-archive:", "oci:", "docker://", "UPPER case", "store:"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
