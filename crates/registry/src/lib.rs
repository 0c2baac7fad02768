//! Images on the wire: a client for registries that speak the OCI distribution specification.
//!
//! A [`Client`] holds settings, connections and tokens. It makes a [`Remote`] for each repository, and a `Remote` is a
//! [`Source`](rbuild_image::Source) and a [`Sink`](rbuild_image::Sink) of images like a layout on disk or a store in
//! memory. [`copy`] moves what a name stands for from any source to any sink: pull, push and promotion between
//! registries are the same verb.
//!
//! ```no_run
//! use rbuild_image::{Layout, Reference};
//! use rbuild_registry::{Client, CopyOptions, copy};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::from_env()?; // docker's and podman's credentials, proxies
//!
//! // Pull one platform of debian into a directory.
//! let debian: Reference = "debian:bookworm".parse()?;
//! let layout = Layout::create("debian.oci")?;
//! let options = CopyOptions {
//!     platform: Some("linux/amd64".parse()?),
//!     tags: vec![debian.clone()],
//!     ..CopyOptions::default()
//! };
//! let pulled = copy(&client.remote(&debian), &layout, &debian, &options).await?;
//! println!("{}", pulled.digest);
//!
//! // Push it elsewhere, under two names.
//! let mirror: Reference = "registry.example/base/debian:bookworm".parse()?;
//! let tags = vec![mirror.clone(), mirror.with_tag("stable")?];
//! copy(&layout, &client.remote(&mirror), &debian, &CopyOptions { tags, ..CopyOptions::default() }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **Nothing unverified.** Manifests are compared with their digest before anybody sees them, and hold 4 MiB at most.
//!   Blobs are streamed, never longer than their descriptor says; the sink they are written to verifies them on the way,
//!   hashing once. Wrong bytes are [`Error::Corrupt`] or a sink's error of kind
//!   [`Corrupt`](rbuild_image::StoreErrorKind::Corrupt), and never land under a valid name.
//! - **Credentials stay at their origin.** They are sent to the registry they were found for and to the token service it
//!   names in its own domain, over HTTPS or where plain HTTP is allowed. No redirect and no upload location carries them elsewhere, and no
//!   error shows them: URLs in errors are [redacted](redact).
//! - **Tokens are asked for when needed** and shared between requests, so that a push at the end of a long build starts
//!   with a fresh one. A registry that refuses a token gets one new token, not two.
//! - **What is temporary is tried again** with growing, jittered delays within a budget ([`RetryPolicy`]): connections that
//!   fail or break, 408, 429 with its `Retry-After`, 500, 502, 503, 504. Broken downloads go on by `Range`, broken
//!   uploads from where the registry got to. Nothing else is tried again. [`Client::on_retry`] tells of each.
//! - **Registries get what they take.** A blob is mounted from another repository where that can be, else sent in one
//!   PUT; in parts of a length that passes where a registry or its proxy finds bodies too large; in whichever form the
//!   registry knows. A layer can be sent [while it is written](Remote::push_growing).
//! - **Large blobs arrive in several parts at once**, handed out in order, with 16 MiB of memory for each blob at most.
//! - **A name never stands for something incomplete.** Blobs go before manifests, children before parents, tags last.
//! - **The process stays yours.** No global TLS provider is installed. Credentials and proxies are read from the
//!   environment only by constructors named `from_env`; the system's
//!   certificates are found as OpenSSL does, `SSL_CERT_FILE` and `SSL_CERT_DIR` included.
//!
//! - **Mirrors are places of their own.** A [`Remote`] pulls from the mirrors that settings and [`Hosts`] name before it asks the
//!   registry; [`Fallback::Never`] leaves that out. Each place has its own credentials, headers and TLS, and no other sees them.
//!
//! # Settings
//!
//! ```
//! use rbuild_registry::{Client, ClientOptions, Credential, Credentials};
//!
//! let basic = Credential::Basic { username: "ci".into(), password: "secret".into() };
//! let client = Client::new(ClientOptions {
//!     credentials: Credentials::none().with("registry.local:5000", basic),
//!     insecure: ["registry.local:5000".to_owned()].into(),
//!     ..ClientOptions::default()
//! })?;
//! # Ok::<(), rbuild_registry::Error>(())
//! ```
//!
//! # Errors
//!
//! Sources and sinks return [`StoreError`](rbuild_image::StoreError), whose kind says what to do. The registry's own words
//! are in the chain below it: [`Error::find`] gets them out, with method, URL, status, the specification's code and a
//! [hint](Error::hint).
//!
//! # References
//!
//! [OCI distribution specification 1.1](https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md),
//! distribution's [token](https://distribution.github.io/distribution/spec/auth/token/) and
//! [OAuth2](https://distribution.github.io/distribution/spec/auth/oauth/) authentication.

pub mod challenge;
mod client;
mod copy;
pub mod credentials;
mod download;
mod error;
mod exchange;
mod form;
mod growing;
mod hosts;
mod manifests;
mod mirrors;
mod referrers;
mod remote;
mod retry;
mod scope;
mod tags;
mod tls;
mod token;
mod upload;
mod web;

pub use client::{Client, ClientOptions, Login, PROXY_VARIABLES, Proxies};
pub use copy::{CopyError, CopyOptions, Progress, Transfer, copy, copy_manifest};
pub use credentials::{
    Credential, CredentialEntry, CredentialFile, CredentialSource, Credentials, CredentialsError, Found,
    Kept, Outcome, Tried,
};
pub use error::{Actual, Error, Refusal, RegistryError, redact};
pub use growing::{Growing, GrowingFile, Growth};
pub use hosts::{ClientCertificate, Fallback, Hosts, HostsError, ShortNames};
pub use remote::Remote;
pub use retry::{Retry, RetryPolicy};
pub use tags::Removal;
pub use tls::TlsError;
pub use web::{Download, WebFile};
