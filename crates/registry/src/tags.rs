//! The tags of a repository, and manifests that go.

use rbuild_image::manifest::MAX_DOCUMENT;
use rbuild_image::{Digest, StoreError};
use reqwest::header::LINK;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::error::Error;
use crate::exchange::{Request, protocol};
use crate::remote::Remote;

/// How many tags are asked for at once.
const PAGE: usize = 1000;

/// How many pages are read: a registry may ignore where the list is to begin.
const MAX_PAGES: usize = 100;

/// Whether a registry removed a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, or was gone before.
    Removed,
    /// The registry removes nothing, or not for these credentials.
    Unsupported,
}

#[derive(Deserialize)]
struct TagList {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Remote {
    /// Lists the tags that begin with `prefix`, sorted. A repository that does not exist has none.
    ///
    /// # Errors
    /// When the registry cannot be asked, or answers no list.
    ///
    /// # References
    /// OCI distribution specification 1.1, "Listing Tags".
    pub async fn tags(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let name = self.name();
        let doing = format!("cannot list the tags of {}/{}", name.registry(), name.repository());
        self.list_tags(prefix).await.map_err(|error| error.into_store(doing))
    }

    /// Removes a manifest, and with it every tag that stands for it. Its blobs go when the registry collects garbage.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn remove_manifest(&self, digest: Digest) -> Result<Removal, StoreError> {
        let name = self.name();
        let doing = format!("cannot remove {digest} from {}/{}", name.registry(), name.repository());
        self.delete_manifest(digest).await.map_err(|error| error.into_store(doing))
    }

    async fn list_tags(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        // What begins with the prefix comes after it, but for itself.
        let mut last = Some(prefix.to_owned());
        for _ in 0..MAX_PAGES {
            let mut url = self.url("tags/list")?;
            url.query_pairs_mut().append_pair("n", &PAGE.to_string());
            if let Some(last) = &last {
                url.query_pairs_mut().append_pair("last", last);
            }
            let request = Request::new(Method::GET, url);
            let fetched = match self.fetch(&request, &self.pull_scopes(), MAX_DOCUMENT as u64).await {
                Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => break,
                fetched => fetched?,
            };
            let list: TagList = serde_json::from_slice(&fetched.body).map_err(|_| {
                protocol(&Method::GET, &fetched.url, "the list of tags is malformed".to_owned())
            })?;
            let tags = list.tags.unwrap_or_default();
            let beyond = tags.iter().any(|tag| tag.as_str() > prefix && !tag.starts_with(prefix));
            found.extend(tags.into_iter().filter(|tag| tag.starts_with(prefix)));
            let next =
                fetched.headers.get(LINK).and_then(|link| next_after(link.to_str().ok()?, &fetched.url));
            // A registry that goes on where it was is not asked a third time.
            if beyond || next.is_none() || next == last {
                break;
            }
            last = next;
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    async fn delete_manifest(&self, digest: Digest) -> Result<Removal, Error> {
        let url = self.url(&format!("manifests/{digest}"))?;
        let scopes = self.push_scopes().and(&format!("repository:{}:delete", self.repository()));
        match self.send(&Request::new(Method::DELETE, url), &scopes).await {
            Ok(_) => Ok(Removal::Removed),
            Err(error) => match error.status() {
                Some(StatusCode::NOT_FOUND) => Ok(Removal::Removed),
                Some(status) if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                    Ok(Removal::Unsupported)
                }
                _ => Err(error),
            },
        }
    }
}

/// The tag after which the next page begins, as a `Link` header says. Nothing else of the link counts.
fn next_after(link: &str, base: &Url) -> Option<String> {
    let target = link.split_once('<')?.1.split_once('>')?.0;
    let next = base.join(target).ok()?;
    next.query_pairs().find(|(key, _)| key == "last").map(|(_, last)| last.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_said_by_its_first_tag() {
        let base = Url::parse("https://r.example/v2/a/tags/list?n=2").expect("a URL");
        let check = |link: &str, expect: Option<&str>| {
            assert_eq!(next_after(link, &base).as_deref(), expect, "{link}");
        };
        check("</v2/a/tags/list?n=2&last=v1>; rel=\"next\"", Some("v1"));
        check("<https://other.example/x?last=v%2B1>; rel=\"next\"", Some("v+1"));
        check("<>; rel=\"next\"", None);
        check("", None);
    }
}
