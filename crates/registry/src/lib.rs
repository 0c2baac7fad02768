//! Images on the wire: a distribution client with authentication, retries and verification.

pub mod challenge;
mod client;
mod copy;
pub mod credentials;
mod download;
mod error;
mod exchange;
mod hosts;
mod manifests;
mod remote;
mod retry;
mod scope;
mod tls;
mod token;
mod upload;

pub use client::{Client, ClientOptions, Proxies};
pub use copy::{CopyError, CopyOptions, Progress, Transfer, copy, copy_manifest};
pub use credentials::{Credential, Credentials, CredentialsError};
pub use error::{Actual, Error, Refusal, RegistryError, redact};
pub use remote::Remote;
pub use retry::RetryPolicy;
pub use tls::TlsError;
