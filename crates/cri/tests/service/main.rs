//! The service as kubelets see it: over its socket, against registries that fail on demand.

#![expect(clippy::unwrap_used, reason = "support is not itself a test")]

mod auth;
mod faults;
mod images;
mod support;
