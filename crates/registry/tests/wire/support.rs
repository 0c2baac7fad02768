//! Clients for tests, and bytes to send.

use std::time::Duration;

use bytes::Bytes;
use rbuild_registry::{Client, ClientOptions, Credential, Credentials, RetryPolicy};
pub(crate) use rbuild_test_registry::{Act, Demand, Fault, Options, Registry, Support, Unreliable, Uploads};

/// A client that does not wait long between tries.
pub(crate) fn client() -> Client {
    client_with(Credentials::none())
}

pub(crate) fn client_with(credentials: Credentials) -> Client {
    Client::new(ClientOptions { credentials, retry: quick(), ..ClientOptions::default() }).unwrap()
}

pub(crate) fn quick() -> RetryPolicy {
    RetryPolicy {
        attempts: 5,
        connect_attempts: 2,
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(2),
        budget: Duration::from_secs(5),
    }
}

pub(crate) fn basic(username: &str, password: &str) -> Credential {
    Credential::Basic { username: username.into(), password: password.into() }
}

/// Bytes that do not repeat early.
pub(crate) fn noise(length: usize) -> Bytes {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(step).collect()
}
