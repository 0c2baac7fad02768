//! The form in which a registry takes uploads, found out by trying.

use reqwest::StatusCode;

use crate::error::Error;
use crate::upload::Step;

/// What a request is cut to when a registry, or the proxy before it, finds bodies too large, in bytes: GHCR's limit of a
/// part first, nginx's default second.
const LENGTHS: [u64; 3] = [4 << 20, 1 << 20, 256 << 10];

/// How uploads are sent to one registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Which requests carry bytes.
    kind: Kind,
    /// The longest body of a PUT, in bytes.
    longest_whole: Option<u64>,
    /// The longest body of a PATCH, in bytes.
    longest_part: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// PUT of the whole blob at first, PATCH of what is missing after a break.
    Any,
    /// PUT only, as Google's Artifact Registry wants it.
    Whole,
    /// PATCH only.
    Parts,
}

impl Form {
    /// What is known of a registry before the first upload.
    pub(crate) fn of(registry: &str) -> Self {
        let longest_part = LENGTHS.first().copied().filter(|_| registry == "ghcr.io");
        Self { kind: Kind::Any, longest_whole: None, longest_part }
    }

    /// Tells whether a blob of `size` bytes is sent in one PUT.
    pub(crate) fn takes_whole(&self, size: u64) -> bool {
        size == 0
            || self.kind == Kind::Whole
            || (self.kind == Kind::Any && self.longest_whole.is_none_or(|most| size <= most))
    }

    pub(crate) fn takes_parts(&self) -> bool {
        self.kind != Kind::Whole
    }

    /// Tells whether a part may be a stream without end.
    pub(crate) fn streams(&self) -> bool {
        self.takes_parts() && self.longest_part.is_none()
    }

    /// The length of the next part when `left` bytes are missing; the registry wants `least` at least.
    pub(crate) fn part(&self, left: u64, least: u64) -> u64 {
        self.longest_part.map_or(left, |longest| left.min(longest.max(least)))
    }

    /// Another form to try after a request was refused; `None` when the form is not to blame.
    pub(crate) fn after(self, step: Step, error: &Error) -> Option<Self> {
        let status = error.status()?;
        if error.has_code("DIGEST_INVALID") {
            return None;
        }
        let unknown = matches!(
            status,
            StatusCode::BAD_REQUEST
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::LENGTH_REQUIRED
                | StatusCode::RANGE_NOT_SATISFIABLE
                | StatusCode::NOT_IMPLEMENTED
        );
        let too_large = status == StatusCode::PAYLOAD_TOO_LARGE;
        match step {
            Step::Whole(length) if too_large && self.kind == Kind::Any => {
                let longest = shorter(length)?;
                Some(Self { longest_whole: Some(longest), longest_part: Some(longest), ..self })
            }
            Step::Whole(_) if unknown && self.kind == Kind::Any => Some(Self { kind: Kind::Parts, ..self }),
            Step::Part(None) if too_large || status == StatusCode::LENGTH_REQUIRED => {
                Some(Self { longest_part: LENGTHS.first().copied(), ..self })
            }
            // GHCR's 416 to a part that follows the one before means its length.
            Step::Part(Some(length)) if too_large => {
                Some(Self { longest_part: Some(shorter(length)?), ..self })
            }
            Step::Part(_)
                if unknown && status != StatusCode::RANGE_NOT_SATISFIABLE && self.kind == Kind::Any =>
            {
                Some(Self { kind: Kind::Whole, ..self })
            }
            _ => None,
        }
    }
}

fn shorter(length: u64) -> Option<u64> {
    LENGTHS.into_iter().find(|shorter| *shorter < length)
}
