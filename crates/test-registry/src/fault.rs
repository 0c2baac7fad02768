//! What goes wrong, as data.

use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;

/// A rule for requests: what happens to the next so many that match.
#[derive(Clone, Debug)]
pub struct Fault {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) skip: usize,
    pub(crate) times: usize,
    pub(crate) act: Act,
}

impl Fault {
    /// A rule for one request of `method` (`"*"` for any) whose path and query hold `target`. It resets the connection
    /// unless [`Fault::act`] says otherwise.
    pub fn on(method: impl AsRef<str>, target: impl Into<String>) -> Self {
        let method = method.as_ref().to_owned();
        Self { method, target: target.into(), skip: 0, times: 1, act: Act::Reset }
    }

    /// What happens.
    #[must_use]
    pub fn act(self, act: Act) -> Self {
        Self { act, ..self }
    }

    /// How often it happens.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// How many matching requests are left alone first.
    #[must_use]
    pub fn after(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    /// Whether it acts on this request, which it counts.
    pub(crate) fn strikes(&mut self, method: &Method, target: &str) -> bool {
        let matches = self.method == "*" || self.method == method.as_str();
        if self.times == 0 || !matches || !target.contains(&self.target) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// It is answered with a status, headers and no body. What it sends is read first.
    Answer(u16, Vec<(&'static str, String)>),
    /// It is answered with `200` and these bytes, whatever was asked for.
    Body(Bytes),
    /// The connection is closed instead of answering.
    Reset,
    /// The answer announces its length, but the connection is closed after so many bytes of the body.
    ResetAfter(usize),
    /// So many bytes of an upload are read, and kept when partial uploads are; then the connection is closed.
    ResetUploadAfter(usize),
    /// What was asked for is done, and the connection closed instead of saying so.
    LoseAnswer,
    /// What was asked for is done, and headers of the answer are added or replaced.
    Headers(Vec<(&'static str, String)>),
    /// What was asked for is done after a while.
    Delay(Duration),
    /// No answer ever comes, and the connection stays open.
    Silence,
}

impl Act {
    /// An answer without headers.
    pub fn answer(status: u16) -> Self {
        Self::Answer(status, Vec::new())
    }
}

/// A bad line and an overloaded registry, the same for the same seed and order of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreliable {
    /// Where chance begins.
    pub seed: u64,
    /// Of a hundred requests, how many are reset: bodies at any byte of them, others before or after they were acted on.
    pub resets: u8,
    /// Of a hundred requests, how many are answered with 503, or with 429 and `Retry-After: 0`.
    pub refusals: u8,
}

impl Unreliable {
    /// Decides about a request that sends `length` bytes.
    pub(crate) fn strike(self, random: &mut Random, method: &Method, length: Option<usize>) -> Option<Act> {
        let die = random.below(100);
        if die < usize::from(self.refusals) {
            let busy = Act::Answer(429, vec![("retry-after", "0".to_owned())]);
            return Some(if random.below(2) == 0 { busy } else { Act::answer(503) });
        }
        if die >= usize::from(self.refusals) + usize::from(self.resets) {
            return None;
        }
        Some(match length {
            Some(length) if length > 0 => Act::ResetUploadAfter(random.below(length + 1)),
            _ if *method == Method::GET => Act::ResetAfter(random.below(usize::MAX)),
            _ if random.below(2) == 0 => Act::LoseAnswer,
            _ => Act::Reset,
        })
    }
}

/// Numbers that look random (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        usize::try_from(number).unwrap_or(usize::MAX) % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_as_asked_for() {
        let unreliable = Unreliable { seed: 7, resets: 30, refusals: 10 };
        let mut random = Random::new(unreliable.seed);
        let acts: Vec<_> =
            (0..10_000).filter_map(|_| unreliable.strike(&mut random, &Method::GET, None)).collect();
        let resets = acts.iter().filter(|act| matches!(act, Act::ResetAfter(_))).count();
        assert!((2800..3200).contains(&resets), "{resets}");
        assert!((800..1200).contains(&(acts.len() - resets)), "{}", acts.len());
    }

    #[test]
    fn faults_wear_off() {
        let mut fault = Fault::on("GET", "/blobs/").after(1).times(2);
        let mut strikes = || fault.strikes(&Method::GET, "/v2/a/blobs/x");
        assert_eq!([strikes(), strikes(), strikes(), strikes()], [false, true, true, false]);
        assert!(Fault::on("*", "").strikes(&Method::PUT, "/v2/"));
        assert!(!Fault::on("GET", "").strikes(&Method::PUT, "/v2/"));
    }
}
