//! Manifests, indexes and other small documents.

use bytes::Bytes;
use rbuild_image::manifest::MAX_DOCUMENT;
use rbuild_image::{Descriptor, Digest, ManifestOrIndex, Reference, Resolved, media_type};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use url::Url;

use crate::error::{Actual, Error, redact};
use crate::exchange::{Body, Fetched, Request, protocol};
use crate::remote::Remote;

/// The largest blob read into memory, in bytes: configs.
const MAX_BLOB_IN_MEMORY: u64 = 8 << 20;

/// A registry that keeps account of what refers to what says so with it.
const OCI_SUBJECT: &str = "oci-subject";

/// The digest a registry says its answer has.
const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";

impl Remote {
    /// Fetches what a name stands for with one request.
    pub(crate) async fn get_manifest(&self, name: &Reference) -> Result<Resolved, Error> {
        let key = name.manifest_key();
        let Fetched { url, headers, body } = self.fetch_manifest(&key).await?;
        let digest = Digest::of(&body);
        for expected in name.digest().into_iter().chain(header_digest(&headers)) {
            check_digest(&url, expected, digest)?;
        }
        let delivered = content_type(&headers);
        let document = ManifestOrIndex::parse(&delivered, body.clone())
            .map_err(|source| Error::Document { url: redact(&url), digest, source })?;
        let known = media_type::is_manifest(&delivered) || media_type::is_index(&delivered);
        let media_type = if known { &delivered } else { document.media_type() };
        Ok(Resolved { descriptor: Descriptor::new(media_type, digest, body.len() as u64), bytes: body })
    }

    /// Fetches a manifest, an index or a small blob, and verifies it.
    pub(crate) async fn get_document(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let Descriptor { media_type, digest, size, .. } = descriptor;
        let fetched = if is_document(media_type) {
            self.fetch_manifest(&digest.to_string()).await?
        } else {
            let request = Request::new(Method::GET, self.url(&format!("blobs/{digest}"))?);
            if *size > MAX_BLOB_IN_MEMORY {
                return Err(Error::TooLarge { url: redact(&request.url), limit: MAX_BLOB_IN_MEMORY });
            }
            self.fetch(&request, &self.pull_scopes(), MAX_BLOB_IN_MEMORY).await?
        };
        let Fetched { url, body, .. } = fetched;
        if body.len() as u64 != *size {
            let actual = Actual::Size(body.len() as u64);
            return Err(Error::Corrupt { url: redact(&url), expected: *digest, actual });
        }
        check_digest(&url, *digest, Digest::of(&body))?;
        Ok(body)
    }

    pub(crate) async fn fetch_manifest(&self, key: &str) -> Result<Fetched, Error> {
        let request = self.manifest_request(Method::GET, key)?;
        self.fetch(&request, &self.pull_scopes(), MAX_DOCUMENT as u64).await
    }

    /// Asks for the digest of the manifest of a tag or digest, with the scopes of the push that will follow.
    pub(crate) async fn head_manifest(&self, key: &str) -> Result<Option<Digest>, Error> {
        let request = self.manifest_request(Method::HEAD, key)?;
        Ok(header_digest(self.send(&request, &self.push_scopes()).await?.headers()))
    }

    fn manifest_request(&self, method: Method, key: &str) -> Result<Request, Error> {
        let accept = HeaderValue::try_from(media_type::ACCEPTED.join(", "));
        let accept = accept.unwrap_or(HeaderValue::from_static("*/*"));
        Ok(Request::new(method, self.url(&format!("manifests/{key}"))?).with_header(ACCEPT, accept))
    }

    /// Asks whether the content is there, with the scopes of the push that will follow if it is not.
    pub(crate) async fn head(&self, descriptor: &Descriptor) -> Result<(), Error> {
        self.send(&self.head_request(descriptor)?, &self.push_scopes()).await.map(drop)
    }

    pub(crate) fn head_request(&self, descriptor: &Descriptor) -> Result<Request, Error> {
        let Descriptor { media_type, digest, .. } = descriptor;
        let mut headers = HeaderMap::new();
        let url = if is_document(media_type) {
            headers.insert(ACCEPT, header(media_type, &self.url("manifests/")?)?);
            self.url(&format!("manifests/{digest}"))?
        } else {
            self.url(&format!("blobs/{digest}"))?
        };
        Ok(Request { headers, ..Request::new(Method::HEAD, url) })
    }

    /// Stores a manifest or an index under a tag or under its digest.
    pub(crate) async fn put_manifest(
        &self,
        descriptor: &Descriptor,
        bytes: Bytes,
        key: &str,
    ) -> Result<(), Error> {
        let url = self.url(&format!("manifests/{key}"))?;
        check_digest(&url, descriptor.digest, Digest::of(&bytes))?;
        let content_type = header(&descriptor.media_type, &url)?;
        let request = Request::new(Method::PUT, url.clone())
            .with_header(CONTENT_TYPE, content_type)
            .with_body(Body::Bytes(bytes.clone()));
        let response = self.send(&request, &self.push_scopes()).await?;
        // A registry that stores something else than it was sent breaks every digest that points here.
        if let Some(stored) = header_digest(response.headers()) {
            check_digest(&url, descriptor.digest, stored)?;
        }
        if response.headers().contains_key(OCI_SUBJECT) {
            return Ok(());
        }
        self.note_referrer(descriptor, &bytes).await
    }
}

/// Tells whether content of this type lives among the manifests; everything else is a blob.
fn is_document(media_type: &str) -> bool {
    media_type::is_manifest(media_type) || media_type::is_index(media_type)
}

fn header(media_type: &str, url: &Url) -> Result<HeaderValue, Error> {
    HeaderValue::try_from(media_type)
        .map_err(|_| protocol(&Method::PUT, url, format!("{media_type:?} cannot stand in a header")))
}

/// The type without its parameters, empty when there is none.
fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_owned()
}

/// Digests of other algorithms are not compared.
pub(crate) fn header_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

fn check_digest(url: &Url, expected: Digest, actual: Digest) -> Result<(), Error> {
    if expected == actual {
        return Ok(());
    }
    Err(Error::Corrupt { url: redact(url), expected, actual: Actual::Digest(actual) })
}
