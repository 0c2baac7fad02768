//! What was meant: options resolved once, checked against each other, before anything happens.

mod build;
mod cache;
mod call;
mod node;
mod output;
mod place;
mod registry;
mod run;

use std::fmt;
use std::time::Duration;

use rbuild_image::{Platform, Reference};

pub(crate) use build::{BuildSettings, isolation, lint_options};
pub(crate) use cache::place_of as cache_place;
pub(crate) use call::Call;
pub(crate) use node::{Node, pull_options, socket};
pub(crate) use place::{Place, split_layout};
pub(crate) use registry::{client, client_as, client_options, credentials, credentials_in_files};
pub(crate) use run::bytes;

/// A mistake on the command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    message: String,
    /// What to do instead.
    pub(crate) hint: Option<String>,
}

impl Usage {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Usage {}

/// Where environment variables are looked up; tests give their own.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads an image name.
pub(crate) fn reference(text: &str) -> Result<Reference, Usage> {
    text.parse().map_err(|error: rbuild_image::ReferenceError| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Usage::new(format!("{error}{cause}"))
    })
}

/// Reads `--platform`; none is this machine's.
pub(crate) fn platform(text: Option<&str>) -> Result<Platform, Usage> {
    let Some(text) = text else { return Ok(Platform::host()) };
    text.parse()
        .map_err(|error| Usage::new(format!("--platform: {error}")).hint("as linux/amd64 or linux/arm64"))
}

/// Reads a duration as Go writes it, as `48h` or `30m`.
pub(crate) fn duration(option: &str, text: &str) -> Result<Duration, Usage> {
    rbuild_dockerfile::duration::parse(text)
        .ok_or_else(|| Usage::new(format!("{option}: {text:?} is no duration")).hint("as 30m, 48h or 168h"))
}

/// Splits `KEY=VALUE` of the repeatable option `option`.
fn key_value<'a>(option: &str, text: &'a str) -> Result<(&'a str, &'a str), Usage> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key, value)),
        _ => Err(Usage::new(format!("{option} {text:?} is not KEY=VALUE"))),
    }
}
