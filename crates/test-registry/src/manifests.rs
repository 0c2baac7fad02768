//! Manifests, tags and what refers to what.

use axum::body::Body;
use axum::http::{Method, Response, header};
use bytes::Bytes;
use rbuild_image::{Digest, media_type};
use serde_json::{Value, json as value};

use crate::serve::{Answer, Asked, answer, json, refuse, with};
use crate::{Inside, Registry, Support};

impl Registry {
    pub(crate) fn manifests(&self, asked: &Asked, repository: &str, key: &str, body: &Bytes) -> Answer {
        let place = (repository.to_owned(), key.to_owned());
        match asked.method {
            Method::PUT => self.put(asked, repository, key, body),
            Method::DELETE => match self.inside().manifests.remove(&place) {
                Some(_) => answer(202),
                None => refuse(404, "MANIFEST_UNKNOWN"),
            },
            _ => match self.inside().manifests.get(&place) {
                None => refuse(404, "MANIFEST_UNKNOWN"),
                Some((media_type, bytes)) => {
                    let found = Response::new(Body::from(bytes.clone()));
                    let found = with(found, "content-type", media_type);
                    let found = with(found, "content-length", bytes.len().to_string());
                    with(found, "docker-content-digest", Digest::of(bytes).to_string())
                }
            },
        }
    }

    fn put(&self, asked: &Asked, repository: &str, key: &str, body: &Bytes) -> Answer {
        let Some(media_type) = asked.header(header::CONTENT_TYPE) else {
            return refuse(400, "MANIFEST_INVALID");
        };
        let Ok(document) = serde_json::from_slice::<Value>(body) else {
            return refuse(400, "MANIFEST_INVALID");
        };
        let digest = Digest::of(body);
        if key.parse::<Digest>().is_ok_and(|named| named != digest) {
            return refuse(400, "DIGEST_INVALID");
        }
        if let Some(missing) = self.inside().missing(repository, &document) {
            return refuse(400, missing);
        }
        self.put_manifest(repository, key, media_type, body.clone());
        let created = with(answer(201), "location", format!("/v2/{repository}/manifests/{digest}"));
        let created = with(created, "docker-content-digest", digest.to_string());
        match (document["subject"]["digest"].as_str(), self.options.referrers) {
            (Some(subject), Support::Yes) => with(created, "oci-subject", subject),
            _ => created,
        }
    }

    pub(crate) fn referrers(&self, asked: &Asked, repository: &str, subject: &str) -> Answer {
        if self.options.referrers == Support::No {
            return refuse(404, "UNSUPPORTED");
        }
        let wanted = asked.query("artifactType");
        let inside = self.inside();
        let own = inside.manifests.iter().filter(|((own, key), _)| own == repository && is_digest(key));
        let found: Vec<Value> = own
            .filter_map(|(_, (media_type, bytes))| {
                let document: Value = serde_json::from_slice(bytes).ok()?;
                (document["subject"]["digest"] == subject).then(|| describe(media_type, bytes, &document))
            })
            .filter(|found| wanted.as_ref().is_none_or(|wanted| found["artifactType"] == wanted.as_str()))
            .collect();
        let index = value!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": found});
        let answer = with(json(&index), "content-type", media_type::OCI_INDEX);
        if wanted.is_some() { with(answer, "oci-filters-applied", "artifactType") } else { answer }
    }

    pub(crate) fn tags(&self, asked: &Asked, repository: &str) -> Answer {
        let inside = self.inside();
        let after = asked.query("last").unwrap_or_default();
        let own = inside.manifests.keys().filter(|(own, key)| own == repository && !is_digest(key));
        let mut tags: Vec<&str> =
            own.map(|(_, tag)| tag.as_str()).filter(|tag| *tag > after.as_str()).collect();
        let limit = asked.query("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let more = tags.len() > limit;
        tags.truncate(limit);
        let list = json(&value!({"name": repository, "tags": tags}));
        match tags.last().filter(|_| more) {
            Some(last) => {
                let next = format!("</v2/{repository}/tags/list?n={limit}&last={last}>; rel=\"next\"");
                with(list, "link", next)
            }
            None => list,
        }
    }

    pub(crate) fn catalog(&self) -> Answer {
        let inside = self.inside();
        let mut names: Vec<&str> = inside.manifests.keys().map(|(name, _)| name.as_str()).collect();
        names.dedup();
        json(&value!({"repositories": names}))
    }
}

impl Inside {
    /// The code for a document that points to what is not there. A subject may come later.
    fn missing(&self, repository: &str, document: &Value) -> Option<&'static str> {
        let list = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        let digest =
            |child: &Value| child["digest"].as_str().and_then(|digest| digest.parse::<Digest>().ok());
        let blobs = list("layers").into_iter().chain([document["config"].clone()]);
        let own = blobs.filter(|blob| blob["urls"].as_array().is_none_or(Vec::is_empty));
        let has_blob = |digest: Digest| self.blobs.contains_key(&(repository.to_owned(), digest));
        if own.filter_map(|blob| digest(&blob)).any(|digest| !has_blob(digest)) {
            return Some("MANIFEST_BLOB_UNKNOWN");
        }
        let has = |digest: Digest| {
            let place = (repository.to_owned(), digest.to_string());
            // An index of a build cache points to blobs.
            self.manifests.contains_key(&place) || has_blob(digest)
        };
        let lacks = list("manifests").iter().filter_map(digest).any(|digest| !has(digest));
        lacks.then_some("MANIFEST_UNKNOWN")
    }
}

fn is_digest(key: &str) -> bool {
    key.contains(':')
}

/// A manifest as an index of referrers lists it.
///
/// # References
/// OCI distribution specification 1.1, "Listing Referrers".
fn describe(media_type: &str, bytes: &Bytes, document: &Value) -> Value {
    let kind = document["artifactType"].as_str().or(document["config"]["mediaType"].as_str());
    let mut found = value!({
        "mediaType": media_type,
        "digest": Digest::of(bytes).to_string(),
        "size": bytes.len(),
        "artifactType": kind,
    });
    if document["annotations"].is_object() {
        found["annotations"] = document["annotations"].clone();
    }
    found
}
