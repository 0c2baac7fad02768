//! What refers to what: asked of the registry's API, or kept under a tag where there is none.

use bytes::Bytes;
use rbuild_image::manifest::MAX_DOCUMENT;
use rbuild_image::{Descriptor, Digest, Index, ManifestOrIndex, Raw, media_type};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};

use crate::error::{Error, redact};
use crate::exchange::{Body, Fetched, Request};
use crate::remote::Remote;

const INDEX: HeaderValue = HeaderValue::from_static(media_type::OCI_INDEX);

impl Remote {
    pub(crate) async fn list_referrers(
        &self,
        subject: Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error> {
        let mut url = self.url(&format!("referrers/{subject}"))?;
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let request = Request::new(Method::GET, url).with_header(ACCEPT, INDEX);
        let index = match self.fetch(&request, &self.pull_scopes(), MAX_DOCUMENT as u64).await {
            Ok(fetched) => parse(&fetched)?,
            Err(error) if is_missing(&error) => self.tagged_referrers(subject).await?,
            Err(error) => return Err(error),
        };
        // Filtering is a registry's choice.
        let wanted = |found: &Descriptor| {
            artifact_type.is_none_or(|wanted| found.artifact_type.as_deref() == Some(wanted))
        };
        Ok(index.manifests.into_iter().filter(wanted).collect())
    }

    /// Lists a manifest that was just stored under the tag of its subject, if it has one.
    ///
    /// # References
    /// OCI distribution specification 1.1, "Pushing Manifests with Subject".
    pub(crate) async fn note_referrer(&self, descriptor: &Descriptor, bytes: &Bytes) -> Result<(), Error> {
        let Ok(document) = ManifestOrIndex::parse(&descriptor.media_type, bytes.clone()) else {
            return Ok(());
        };
        let (subject, artifact_type, annotations) = match &document {
            ManifestOrIndex::Manifest(manifest) => {
                let manifest = manifest.value();
                let kind = manifest.artifact_type.clone().unwrap_or(manifest.config.media_type.clone());
                (&manifest.subject, Some(kind), &manifest.annotations)
            }
            ManifestOrIndex::Index(index) => {
                let index = index.value();
                (&index.subject, index.artifact_type.clone(), &index.annotations)
            }
        };
        let Some(subject) = subject else { return Ok(()) };
        let mut index = self.tagged_referrers(subject.digest).await?;
        if index.manifests.iter().any(|known| known.digest == descriptor.digest) {
            return Ok(());
        }
        let plain = Descriptor::new(document.media_type(), descriptor.digest, descriptor.size);
        index.manifests.push(Descriptor { artifact_type, annotations: annotations.clone(), ..plain });
        let bytes = Raw::from_value(index).bytes().clone();
        let request = Request::new(Method::PUT, self.url(&format!("manifests/{}", tag(subject.digest)))?)
            .with_header(CONTENT_TYPE, INDEX)
            .with_body(Body::Bytes(bytes));
        self.send(&request, &self.push_scopes()).await.map(drop)
    }

    /// What stands under the tag of a subject; an empty index when nothing does.
    async fn tagged_referrers(&self, subject: Digest) -> Result<Index, Error> {
        match self.fetch_manifest(&tag(subject)).await {
            Ok(fetched) => parse(&fetched),
            Err(error) if is_missing(&error) => Ok(Index::new(Vec::new())),
            Err(error) => Err(error),
        }
    }
}

/// The tag under which clients list what refers to `subject`.
fn tag(subject: Digest) -> String {
    format!("sha256-{}", subject.hex())
}

fn is_missing(error: &Error) -> bool {
    error.status() == Some(StatusCode::NOT_FOUND)
}

fn parse(fetched: &Fetched) -> Result<Index, Error> {
    let parsed = Raw::<Index>::parse(fetched.body.clone());
    let digest = Digest::of(&fetched.body);
    let url = redact(&fetched.url);
    parsed.map(Raw::into_value).map_err(|source| Error::Document { digest, url, source })
}
