//! The client against registries that misbehave in every way we know of, and against a real one.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and say why they are skipped"
)]

mod auth;
mod copying;
mod forms;
mod growing;
mod lossy;
mod pull;
mod push;
mod ranges;
mod real;
mod referrers;
mod support;
mod tls;
