//! What can go wrong between us and a registry.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rbuild_image::{Digest, DocumentError, StoreError, StoreErrorKind, VerifyError};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::credentials::CredentialsError;
use crate::hosts::HostsError;
use crate::retry::{self, Temporary};
use crate::tls::TlsError;

/// A failure of a registry operation. Every URL in it is redacted: see [`redact`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry answered, and the answer is no.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// No answer came.
    #[error("{method} {url}: no answer")]
    Transport {
        /// The request's method.
        method: Method,
        /// The request's URL, redacted.
        url: String,
        /// What broke.
        source: reqwest::Error,
    },
    /// The registry was silent for too long.
    #[error("{method} {url}: nothing heard for {} s", waited.as_secs())]
    Silent {
        /// The request's method.
        method: Method,
        /// The request's URL, redacted.
        url: String,
        /// How long we waited.
        waited: Duration,
    },
    /// The registry broke the protocol.
    #[error("{method} {url}: {reason}")]
    Protocol {
        /// The request's method.
        method: Method,
        /// The request's URL, redacted.
        url: String,
        /// What it did.
        reason: String,
    },
    /// The registry sent other bytes than those asked for.
    #[error("{url}: {} instead of {expected}", actual.describe())]
    Corrupt {
        /// The request's URL, redacted.
        url: String,
        /// The digest asked for.
        expected: Digest,
        /// What came.
        actual: Actual,
    },
    /// A manifest, an index or a config is larger than this client reads into memory.
    #[error("{url}: more than {limit} bytes")]
    TooLarge {
        /// The request's URL, redacted.
        url: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A manifest or an index is not what its media type says.
    #[error("{url}: cannot read manifest {digest}")]
    Document {
        /// The request's URL, redacted.
        url: String,
        /// The digest of its bytes.
        digest: Digest,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// No token could be had for the request.
    #[error("cannot authenticate at {registry}")]
    Authentication {
        /// The registry that asked for a token.
        registry: String,
        /// What went wrong.
        source: Box<Self>,
    },
    /// The registry's token service is at a place credentials must not be sent to.
    #[error("token service {realm} is neither HTTPS nor a host that may be spoken to without")]
    InsecureRealm {
        /// The token service, redacted.
        realm: String,
    },
    /// The registry's token service is at a host that is not known to be the registry's.
    #[error("{registry} sends its credentials on to {host}, which is not known to belong to it")]
    ForeignRealm {
        /// The registry that named the token service.
        registry: String,
        /// The token service's host.
        host: String,
    },
    /// The credentials cannot be read.
    #[error("cannot look up credentials")]
    Credentials(#[from] CredentialsError),
    /// The settings of this machine do not tell how to reach the registry, or forbid it.
    #[error("cannot find the way to the registry")]
    Hosts(#[source] Arc<HostsError>),
    /// A mirror failed, and the registry itself or the last mirror did.
    #[error("{last} (before it: {})", shown(earlier))]
    Everywhere {
        /// What the places said that were asked before.
        earlier: Vec<Self>,
        /// What the last place said.
        #[source]
        last: Box<Self>,
    },
    /// The registry has mirrors that do not serve such a name, and may not be asked itself.
    #[error("no mirror of {registry} serves this, and {registry} itself may not be asked")]
    NoPlace {
        /// The registry.
        registry: String,
    },
    /// TLS cannot be set up.
    #[error("cannot set up the connection to {host}")]
    Tls {
        /// The host.
        host: String,
        /// Why not.
        source: TlsError,
    },
    /// The HTTP client cannot be made.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// The registry's name cannot stand in a URL.
    #[error("`{0}` is no registry")]
    RegistryName(String),
    /// The name belongs to another repository than the one this [`Remote`](crate::Remote) speaks for.
    #[error("{name} is not in {repository}")]
    OtherRepository {
        /// The name.
        name: String,
        /// The repository.
        repository: String,
    },
    /// The registry finds that the content sent to it is not what it was announced as.
    #[error("the content sent is not {digest}")]
    Rejected {
        /// What it was announced as.
        digest: Digest,
        /// The registry's answer.
        source: Box<Self>,
    },
    /// Content that was sent while it was written came to no end.
    #[error("what was to be sent was given up by its writer")]
    Abandoned,
    /// A text that was to be a URL of the web is none.
    #[error("`{0}` is no http or https URL")]
    Address(String),
    /// What is to authorize a download cannot be in a header. The message does not show it.
    #[error("the authorization for {url} has a line break or another control character in it")]
    Authorization {
        /// The request's URL, redacted.
        url: String,
    },
    /// What was downloaded cannot be written.
    #[error("cannot save {url}")]
    Unsaved {
        /// The request's URL, redacted.
        url: String,
        /// What the file system said.
        source: io::Error,
    },
    /// The content to be sent cannot be read.
    #[error("cannot read {content} to send it")]
    Local {
        /// The content: a digest, while there is one.
        content: String,
        /// What the reader said.
        source: io::Error,
    },
}

/// What came in place of the content asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actual {
    /// Other content.
    Digest(Digest),
    /// So many bytes, and no more.
    Size(u64),
    /// More bytes than so many.
    MoreThan(u64),
}

impl Actual {
    fn describe(self) -> String {
        match self {
            Self::Digest(digest) => digest.to_string(),
            Self::Size(size) => format!("{size} bytes"),
            Self::MoreThan(size) => format!("more than {size} bytes"),
        }
    }
}

/// Errors with their causes, on one line.
fn shown(errors: &[Error]) -> String {
    let one = |error: &Error| {
        let mut text = error.to_string();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        text
    };
    errors.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// An answer that is not the one hoped for.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The request's method.
    pub method: Method,
    /// The request's URL, redacted.
    pub url: String,
    /// The answer's status.
    pub status: StatusCode,
    /// The registry's own errors, in the form of the distribution specification.
    pub errors: Vec<RegistryError>,
    /// How long the registry asks to wait.
    pub retry_after: Option<Duration>,
    /// How often the request was tried.
    pub tries: u32,
    /// What the user may do about it.
    pub hint: Option<String>,
}

/// One error as registries report it.
///
/// # References
/// OCI distribution specification 1.1, "Error Codes".
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RegistryError {
    /// The code, such as `MANIFEST_UNKNOWN`.
    #[serde(default)]
    pub code: String,
    /// The registry's words.
    #[serde(default)]
    pub message: String,
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.method, self.url, self.status)?;
        for RegistryError { code, message } in &self.errors {
            match (code.is_empty(), message.is_empty()) {
                (false, false) => write!(f, ": {code}: {message}")?,
                (false, true) => write!(f, ": {code}")?,
                (true, false) => write!(f, ": {message}")?,
                (true, true) => {}
            }
        }
        if self.tries > 1 {
            write!(f, " (tried {} times)", self.tries)?;
        }
        Ok(())
    }
}

/// Reads the body of a refusal. A body of another form gives no errors, or its text when that is short and plain.
pub(crate) fn registry_errors(body: &[u8]) -> Vec<RegistryError> {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<RegistryError>,
    }
    const LONGEST: usize = 500;
    let mut errors = match serde_json::from_slice::<Errors>(body) {
        Ok(parsed) => parsed.errors,
        Err(_) => {
            let text = String::from_utf8_lossy(body).trim().to_owned();
            let plain = !text.is_empty() && text.len() <= LONGEST && !text.starts_with(['<', '{']);
            if plain { vec![RegistryError { code: String::new(), message: text }] } else { Vec::new() }
        }
    };
    errors.truncate(8);
    for text in errors.iter_mut().flat_map(|error| [&mut error.code, &mut error.message]) {
        // What a registry says ends up on terminals.
        *text = text.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect();
    }
    errors
}

impl Error {
    /// What the user may do about the failure, when this client knows.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::Authentication { source, .. } => source.hint(),
            Self::Everywhere { last, .. } => last.hint(),
            Self::InsecureRealm { .. } => {
                Some("allow plain HTTP for the token service's host, or serve it over HTTPS".into())
            }
            Self::ForeignRealm { registry, host } => {
                Some(format!("if {host} is the token service of {registry}, name it as that in the settings"))
            }
            Self::Hosts(error) => match &**error {
                HostsError::Ambiguous { .. } => Some("write the name with its registry".to_owned()),
                _ => None,
            },
            Self::Transport { source, .. } if retry::find_in_chain::<rustls::Error>(source).is_some() => {
                Some(
                    "name the registry's certificate authority, or plain HTTP, in the settings for this host"
                        .into(),
                )
            }
            _ => None,
        }
    }

    /// The status the registry answered with, when it did.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            Self::Authentication { source, .. } => source.status(),
            Self::Everywhere { last, .. } => last.status(),
            _ => None,
        }
    }

    /// Finds the registry's failure in a chain of sources, such as a [`StoreError`] or an I/O error holds.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        retry::find_in_chain(error)
    }

    pub(crate) fn temporary(&self) -> Option<Temporary> {
        match self {
            Self::Transport { source, .. } => retry::temporary_failure(source),
            Self::Silent { .. } => Some(Temporary::Transient(None)),
            Self::Refused(refusal) => retry::temporary_status(refusal.status, refusal.retry_after),
            _ => None,
        }
    }

    /// Tells whether the registry gave this code of the distribution specification.
    pub(crate) fn has_code(&self, code: &str) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.errors.iter().any(|error| error.code == code))
    }

    /// Notes how often the request was tried.
    pub(crate) fn tried(mut self, tries: u32) -> Self {
        if let Self::Refused(refusal) = &mut self {
            refusal.tries = tries.max(1);
        }
        self
    }

    pub(crate) fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Everywhere { last, .. } => last.kind(),
            Self::NoPlace { .. } => StoreErrorKind::NotFound,
            Self::Hosts(error) if matches!(**error, HostsError::Blocked { .. }) => StoreErrorKind::Denied,
            Self::Refused(refusal) => match refusal.status {
                StatusCode::NOT_FOUND => StoreErrorKind::NotFound,
                StatusCode::UNAUTHORIZED => StoreErrorKind::Unauthorized,
                StatusCode::FORBIDDEN => StoreErrorKind::Denied,
                status if retry::temporary_status(status, None).is_some() => StoreErrorKind::Unavailable,
                _ => StoreErrorKind::Other,
            },
            Self::Authentication { source, .. } => match source.kind() {
                // The token service's 404 says nothing about the image.
                StoreErrorKind::Unavailable => StoreErrorKind::Unavailable,
                StoreErrorKind::Denied => StoreErrorKind::Denied,
                _ => StoreErrorKind::Unauthorized,
            },
            Self::Credentials(_) | Self::InsecureRealm { .. } | Self::ForeignRealm { .. } => {
                StoreErrorKind::Unauthorized
            }
            Self::Corrupt { expected, actual, .. } => StoreErrorKind::Corrupt {
                expected: *expected,
                actual: match actual {
                    Actual::Digest(digest) => Some(*digest),
                    Actual::Size(_) | Actual::MoreThan(_) => None,
                },
            },
            Self::Transport { .. } | Self::Silent { .. } => StoreErrorKind::Unavailable,
            Self::Rejected { digest, .. } => StoreErrorKind::Corrupt { expected: *digest, actual: None },
            // What is read may come from another registry; its failure is the one to act on.
            Self::Local { source, .. } => match (VerifyError::of(source), Self::find(source)) {
                (Some(error), _) => StoreError::io("", error.clone().into()).kind().clone(),
                (None, Some(error)) => error.kind(),
                (None, None) => StoreErrorKind::Io,
            },
            _ => StoreErrorKind::Other,
        }
    }

    /// Makes the error of a store operation; `doing` reads like "cannot fetch blob sha256:…".
    pub(crate) fn into_store(self, doing: impl Into<String>) -> StoreError {
        StoreError::new(self.kind(), doing).with_source(self)
    }
}

/// Shows a URL without what may be secret in it: user, password, and query values but for those of the distribution API.
pub fn redact(url: &Url) -> String {
    const SHOWN: [&str; 9] =
        ["digest", "mount", "from", "n", "last", "ns", "scope", "service", "artifactType"];
    let mut shown = url.clone();
    // These fail for URLs without a host, which have no user either.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    shown.set_query(None);
    let mut text = shown.to_string();
    for (index, (key, value)) in url.query_pairs().enumerate() {
        let value = if SHOWN.contains(&key.as_ref()) { value } else { "…".into() };
        text.push(if index == 0 { '?' } else { '&' });
        text.push_str(&key);
        text.push('=');
        text.push_str(&value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redaction() {
        for (url, expect) in [
            ("https://r.example/v2/", "https://r.example/v2/"),
            ("https://user:pw@r.example/v2/a", "https://r.example/v2/a"),
            (
                "https://s3.example/b?X-Amz-Signature=abc&digest=sha256:0",
                "https://s3.example/b?X-Amz-Signature=…&digest=sha256:0",
            ),
            ("https://r.example/u?_state=secret#frag", "https://r.example/u?_state=…"),
        ] {
            assert_eq!(redact(&Url::parse(url).unwrap()), expect);
        }
    }

    #[test]
    fn bodies_of_refusals() {
        let check = |body: &[u8], expect: &[(&str, &str)]| {
            let found = registry_errors(body);
            let found: Vec<_> =
                found.iter().map(|error| (error.code.as_str(), error.message.as_str())).collect();
            assert_eq!(found, expect);
        };
        check(
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"x":1}}]}"#,
            &[("MANIFEST_UNKNOWN", "manifest unknown")],
        );
        check(br#"{"errors":[{"code":"DENIED"}]}"#, &[("DENIED", "")]);
        check(b"Too many requests\n", &[("", "Too many requests")]);
        check(b"<html>nginx</html>", &[]);
        check(b"", &[]);
        check(b"\x1b[31mred", &[("", "[31mred")]);
    }

    #[test]
    fn refusals_read_as_one_line() {
        let refusal = Refusal {
            method: Method::GET,
            url: "https://r.example/v2/a/manifests/1".into(),
            status: StatusCode::TOO_MANY_REQUESTS,
            errors: vec![RegistryError { code: "TOOMANYREQUESTS".into(), message: "slow down".into() }],
            retry_after: None,
            tries: 3,
            hint: None,
        };
        assert_eq!(
            Error::Refused(Box::new(refusal)).to_string(),
            "GET https://r.example/v2/a/manifests/1: 429 Too Many Requests: TOOMANYREQUESTS: slow down (tried 3 times)"
        );
    }
}
