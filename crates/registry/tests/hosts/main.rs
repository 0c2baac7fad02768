//! Mirrors, private authorities and client certificates, and what never reaches another host.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod leaks;
mod mirrors;
mod tls;

use std::time::Duration;

use rbuild_image::{Memory, Reference, StoreError, StoreErrorKind};
use rbuild_registry::{Client, ClientOptions, CopyError, CopyOptions, RetryPolicy, copy};

/// A policy that gives up at once: what is temporary is not the subject here.
fn impatient() -> RetryPolicy {
    RetryPolicy {
        first_delay: Duration::from_millis(1),
        attempts: 2,
        connect_attempts: 1,
        ..RetryPolicy::default()
    }
}

fn client(options: ClientOptions) -> Client {
    Client::new(ClientOptions { retry: impatient(), ..options }).unwrap()
}

/// Pulls an image with all of its blobs.
async fn pull(client: &Client, name: &Reference) -> Result<(), StoreError> {
    let options = CopyOptions { tags: vec![name.clone()], ..CopyOptions::default() };
    match copy(&client.remote(name), &Memory::new(), name, &options).await {
        Ok(_) => Ok(()),
        Err(CopyError::Store(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

fn kind(result: Result<(), StoreError>) -> Result<(), StoreErrorKind> {
    result.map_err(|error| error.kind().clone())
}
