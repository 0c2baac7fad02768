//! Named contexts: what `--build-context NAME=VALUE` puts in the place of an image or a stage.

use std::path::PathBuf;

use rbuild_image::{Digest, Reference};
use thiserror::Error;

use super::git_ref::{GitRef, WrittenIn};

/// Where a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// An image in an OCI layout directory.
    Layout {
        /// The directory.
        dir: PathBuf,
        /// Which image of it.
        image: LayoutImage,
    },
    /// Another image name (`docker-image://`); it is looked up as if it had been written.
    Image(Box<Reference>),
    /// No files (`docker-image://scratch`).
    Scratch,
    /// A local directory with its own `.dockerignore`, or a tar archive.
    Directory(PathBuf),
    /// The files of a git repository.
    Git(Box<GitRef>),
    /// One file, called `context`, of a web server.
    Web(String),
}

/// Which image of a layout is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutImage {
    /// The only one.
    Only,
    /// The one with this tag (`org.opencontainers.image.ref.name`).
    Tag(String),
    /// The one with this manifest digest.
    Digest(Digest),
}

/// A value that names no context.
#[derive(Debug, Error)]
pub enum NamedContextError {
    /// The `NAME=` part is missing.
    #[error("invalid build context {0:?}: want NAME=VALUE")]
    NoName(String),
    /// BuildKit keeps these names for itself.
    #[error("build context {0:?} cannot be replaced")]
    Reserved(String),
    /// The kind of value is known but not supported.
    #[error(
        "build context {name:?}: {value:?} is not supported; use a path, a git or http URL, oci-layout:// or docker-image://"
    )]
    Unsupported {
        /// The context's name.
        name: String,
        /// The value as written.
        value: String,
    },
    /// The part after the scheme is malformed.
    #[error("build context {name:?}: invalid value {value:?}: {reason}")]
    Invalid {
        /// The context's name.
        name: String,
        /// The value as written.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl NamedContext {
    /// Reads `NAME=VALUE`.
    ///
    /// # Errors
    /// [`NamedContextError`]
    pub fn parse(text: &str) -> Result<(String, Self), NamedContextError> {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| NamedContextError::NoName(text.to_owned()))?;
        if matches!(name, "scratch" | "context") {
            return Err(NamedContextError::Reserved(name.to_owned()));
        }
        let invalid = |reason: String| NamedContextError::Invalid {
            name: name.to_owned(),
            value: value.to_owned(),
            reason,
        };
        let context = if let Some(image) = value.strip_prefix("docker-image://") {
            match image {
                "scratch" => Self::Scratch,
                _ => Self::Image(Box::new(image.parse().map_err(|error| invalid(format!("{error}")))?)),
            }
        } else if let Some(layout) = value.strip_prefix("oci-layout://") {
            layout_context(layout).map_err(invalid)?
        } else if let Some(wanted) =
            GitRef::parse(value, WrittenIn::CommandLine).map_err(|error| invalid(error.to_string()))?
        {
            Self::Git(Box::new(wanted))
        } else if value.starts_with("http://") || value.starts_with("https://") {
            Self::Web(value.to_owned())
        } else if is_unknown(value) {
            return Err(NamedContextError::Unsupported { name: name.to_owned(), value: value.to_owned() });
        } else {
            Self::Directory(PathBuf::from(value))
        };
        Ok((name.to_owned(), context))
    }
}

fn layout_context(text: &str) -> Result<NamedContext, String> {
    if let Some((dir, digest)) = text.rsplit_once('@') {
        let digest = digest.parse().map_err(|error| format!("{error}"))?;
        let dir = dir.rsplit_once(':').filter(|(_, tag)| is_tag(tag)).map_or(dir, |(dir, _)| dir);
        return Ok(NamedContext::Layout { dir: dir.into(), image: LayoutImage::Digest(digest) });
    }
    Ok(match text.rsplit_once(':').filter(|(_, tag)| is_tag(tag)) {
        Some((dir, tag)) => NamedContext::Layout { dir: dir.into(), image: LayoutImage::Tag(tag.to_owned()) },
        None => NamedContext::Layout { dir: text.into(), image: LayoutImage::Only },
    })
}

fn is_tag(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

fn is_unknown(value: &str) -> bool {
    ["target:", "input:"].iter().any(|prefix| value.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values() {
        let check = |text: &str, expect: Option<(&str, NamedContext)>| {
            let expect = expect.map(|(name, context)| (name.to_owned(), context));
            assert_eq!(NamedContext::parse(text).ok(), expect, "{text}");
        };
        let layout = |dir: &str, image| NamedContext::Layout { dir: dir.into(), image };
        check("a=oci-layout:///l", Some(("a", layout("/l", LayoutImage::Only))));
        check("a=oci-layout:///l:1.2", Some(("a", layout("/l", LayoutImage::Tag("1.2".into())))));
        let digest = Digest::of(b"");
        check(&format!("a=oci-layout:///l@{digest}"), Some(("a", layout("/l", LayoutImage::Digest(digest)))));
        check("a=oci-layout:///l@md5:00", None);
        check("busybox:latest=docker-image://scratch", Some(("busybox:latest", NamedContext::Scratch)));
        check("busybox:1=.", Some(("busybox:1", NamedContext::Directory(".".into()))));
        check("a=https://x/y", Some(("a", NamedContext::Web("https://x/y".into()))));
        assert!(
            matches!(NamedContext::parse("a::linux/arm64=https://x/y.git#b"), Ok((name, NamedContext::Git(wanted))) if name == "a::linux/arm64" && wanted.reference.as_deref() == Some("b"))
        );
        check("a=https://x/y.git?depth=1", None);
        check("a=target:x", None);
        check("scratch=.", None);
        check("noname", None);
    }
}
