//! When a failed request is worth another try, and how long to wait before it.

use std::error::Error as StdError;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;

use crate::client::Client;
use crate::error::Error;

/// How often, and for how long, a request that failed for a temporary reason is sent again.
///
/// Waiting grows exponentially from [`first_delay`](Self::first_delay) to [`longest_delay`](Self::longest_delay), each delay
/// drawn between half and the whole of it, so that the pods of one pipeline do not come back in step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all when the registry answers with a temporary status or breaks the connection.
    pub attempts: u32,
    /// Tries in all when no connection comes about: a name that does not resolve, a port that refuses.
    pub connect_attempts: u32,
    /// The delay before the second try.
    pub first_delay: Duration,
    /// The longest delay between two tries, `Retry-After` aside.
    pub longest_delay: Duration,
    /// The total time one request may spend waiting; a `Retry-After` beyond what is left ends the tries.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 12,
            connect_attempts: 5,
            first_delay: Duration::from_millis(150),
            longest_delay: Duration::from_secs(5),
            budget: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// The policy that never tries again.
    pub fn never() -> Self {
        Self { attempts: 1, connect_attempts: 1, ..Self::default() }
    }
}

/// Why a failure may pass by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temporary {
    /// No connection came about.
    Unreachable,
    /// The connection broke, or the registry said "later", perhaps how much later.
    Transient(Option<Duration>),
}

/// A request that failed for a temporary reason and will be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// What failed, in one line: method, redacted URL and reason.
    pub failure: String,
    /// How often it was tried since something last moved.
    pub tries: u32,
    /// How long until the next try.
    pub delay: Duration,
}

/// Hears of retries, from several tasks at once.
pub(crate) type OnRetry = Arc<dyn Fn(&Retry) + Send + Sync>;

/// The tries of one request.
pub(crate) struct Attempts {
    policy: RetryPolicy,
    on_retry: Option<OnRetry>,
    failed: u32,
    waited: Duration,
}

impl Attempts {
    pub(crate) fn new(client: &Client) -> Self {
        Self::with_policy(client, client.options().retry.clone())
    }

    pub(crate) fn with_policy(client: &Client, policy: RetryPolicy) -> Self {
        Self { policy, on_retry: client.hook(), failed: 0, waited: Duration::ZERO }
    }

    /// Counts a failure and returns the delay before the next try, `None` when this was the last one.
    ///
    /// `jitter` lies in 0..=1.
    pub(crate) fn next_delay(&mut self, temporary: Temporary, jitter: f64) -> Option<Duration> {
        let allowed = match temporary {
            Temporary::Unreachable => self.policy.connect_attempts,
            Temporary::Transient(_) => self.policy.attempts,
        };
        let doubled = self.policy.first_delay.saturating_mul(1 << self.failed.min(16));
        self.failed = self.failed.saturating_add(1);
        if self.failed >= allowed {
            return None;
        }
        let backoff = doubled.min(self.policy.longest_delay).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let delay = match temporary {
            Temporary::Transient(Some(asked)) => asked.max(backoff),
            _ => backoff,
        };
        self.waited = self.waited.saturating_add(delay);
        (self.waited <= self.policy.budget).then_some(delay)
    }

    /// Counts a failure and waits before the next try; `false` when there is none.
    pub(crate) async fn again(&mut self, error: &Error) -> bool {
        let Some(temporary) = error.temporary() else {
            self.failed = self.failed.saturating_add(1);
            return false;
        };
        let Some(delay) = self.next_delay(temporary, random_fraction()) else { return false };
        if let Some(on_retry) = &self.on_retry {
            on_retry(&Retry { failure: one_line(error), tries: self.failed, delay });
        }
        tokio::time::sleep(delay).await;
        true
    }

    /// Starts counting anew after progress was made; the time waited stays counted.
    pub(crate) fn progressed(&mut self) {
        self.failed = 0;
    }

    /// How many tries have failed.
    pub(crate) fn failed(&self) -> u32 {
        self.failed
    }
}

/// The error and its innermost cause, which says what the connection did.
fn one_line(error: &Error) -> String {
    let mut innermost: Option<&dyn StdError> = None;
    while let Some(cause) = innermost.map_or(StdError::source(error), StdError::source) {
        innermost = Some(cause);
    }
    match innermost {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// A number in 0..1 from the standard library's per-process hash seed: jitter needs no better source.
fn random_fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or(0)) / f64::from(u32::MAX)
}

/// Tells whether an answer with this status may turn out differently later.
pub(crate) fn temporary_status(status: StatusCode, retry_after: Option<Duration>) -> Option<Temporary> {
    let temporary = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    temporary.then_some(Temporary::Transient(retry_after))
}

/// Tells whether a request that got no answer is worth another try.
///
/// A certificate that is not trusted stays so. Bodies that break off are "decode" errors to the HTTP client.
pub(crate) fn temporary_failure(error: &reqwest::Error) -> Option<Temporary> {
    if error.is_builder() || chain_has::<rustls::Error>(error) {
        return None;
    }
    if error.is_connect() {
        return Some(Temporary::Unreachable);
    }
    Some(Temporary::Transient(None))
}

/// Looks for an error type in a chain of sources, inside of [`io::Error`] too, whose `source` passes over what it wraps.
pub(crate) fn find_in_chain<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn chain_has<E: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    find_in_chain::<E>(error).is_some()
}

/// Reads a `Retry-After` value: seconds, or an HTTP date seen from `now`; a date gone by is zero.
///
/// # References
/// RFC 9110 section 10.2.3.
pub(crate) fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_values() {
        let now: Timestamp = "2015-10-21T07:27:00Z".parse().unwrap();
        #[track_caller]
        fn check(value: &str, now: Timestamp, expect: Option<u64>) {
            assert_eq!(parse_retry_after(value, now), expect.map(Duration::from_secs), "{value:?}");
        }
        check("120", now, Some(120));
        check(" 0 ", now, Some(0));
        check("Wed, 21 Oct 2015 07:28:00 GMT", now, Some(60));
        check("Wed, 21 Oct 2015 07:26:00 GMT", now, Some(0));
        check("soon", now, None);
        check("-1", now, None);
        check("", now, None);
        check("99999999999999999999999", now, None);
    }

    #[test]
    fn statuses() {
        for (status, expect) in [
            (408, true),
            (429, true),
            (500, true),
            (502, true),
            (503, true),
            (504, true),
            (200, false),
            (400, false),
            (401, false),
            (403, false),
            (404, false),
            (413, false),
            (501, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(temporary_status(status, None).is_some(), expect, "{status}");
        }
    }

    /// The delays in milliseconds that a series of equal failures gets.
    fn delays(policy: &RetryPolicy, temporary: Temporary, jitter: f64) -> Vec<u128> {
        let (policy, on_retry) = (policy.clone(), None);
        let mut attempts = Attempts { policy, on_retry, failed: 0, waited: Duration::ZERO };
        std::iter::from_fn(|| attempts.next_delay(temporary, jitter)).map(|delay| delay.as_millis()).collect()
    }

    #[test]
    fn backoff() {
        let policy = RetryPolicy {
            attempts: 6,
            connect_attempts: 3,
            first_delay: Duration::from_millis(100),
            longest_delay: Duration::from_millis(500),
            budget: Duration::from_secs(60),
        };
        let transient = Temporary::Transient(None);
        assert_eq!(delays(&policy, transient, 1.0), [100, 200, 400, 500, 500]);
        assert_eq!(delays(&policy, transient, 0.0), [50, 100, 200, 250, 250]);
        assert_eq!(delays(&policy, Temporary::Unreachable, 1.0), [100, 200]);
        assert_eq!(delays(&RetryPolicy::never(), transient, 1.0), [0; 0]);
        let asked = |seconds| Temporary::Transient(Some(Duration::from_secs(seconds)));
        assert_eq!(delays(&policy, asked(2), 1.0), [2000; 5]);
        assert_eq!(delays(&policy, asked(25), 1.0), [25_000; 2], "the third would pass the budget");
        assert_eq!(delays(&policy, asked(61), 1.0), [0; 0]);
        assert_eq!(delays(&policy, asked(0), 1.0), [100, 200, 400, 500, 500], "zero does not mean at once");
    }

    #[test]
    fn errors_are_found_inside_of_io_errors() {
        let tls = rustls::Error::HandshakeNotComplete;
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
        assert!(chain_has::<rustls::Error>(&wrapped));
        assert!(!chain_has::<rustls::Error>(&io::Error::other("plain")));
    }
}
