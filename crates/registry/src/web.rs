//! Files of any web server, fetched with the same connections, proxies and patience as images.

use std::fs::File;
use std::io::{self, Seek, Write};

use rbuild_image::{Digest, Digester};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, ETAG, HeaderValue, IF_NONE_MATCH, LAST_MODIFIED};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use crate::client::Client;
use crate::error::{Error, redact};
use crate::exchange::{Authorization, Downgrade, Request, Sender, refusal};
use crate::retry::{Attempts, RetryPolicy};

/// Tries in all: a file elsewhere is worth less waiting than an image that is needed in any case.
const ATTEMPTS: u32 = 4;

/// What to download.
#[derive(Debug, Clone, Copy)]
pub struct WebFile<'a> {
    /// An http or https URL.
    pub url: &'a str,
    /// Bytes it may have.
    pub limit: u64,
    /// The value of an `Authorization` header, which the URL's own origin alone gets to see.
    pub authorization: Option<&'a [u8]>,
    /// The entity tag of the content that is there already, as [`Download::etag`] had it.
    pub etag: Option<&'a str>,
}

/// What a download brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// The digest of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
    /// When the server says the file was changed, in seconds since 1970.
    pub last_modified: Option<i64>,
    /// The server's name for this state of the file.
    ///
    /// # References
    /// RFC 9110 section 8.8.3
    pub etag: Option<String>,
}

impl Client {
    /// Downloads what a URL names into `file`, which is emptied first, redirects followed; none when the server says that
    /// the content is still the one that `wanted.etag` names.
    ///
    /// No credentials are sent but `wanted.authorization` and those in the URL itself, and these to its own origin alone. A redirect from HTTPS to
    /// plain HTTP is followed, as BuildKit follows it: who needs the bytes to be certain gives a checksum. What breaks off
    /// is fetched again from its beginning.
    ///
    /// # Errors
    /// The URL is none of the web, the authorization cannot be in a header, the server refuses or breaks off, the file is
    /// longer than its limit or cannot be written.
    pub async fn download(&self, wanted: WebFile<'_>, file: &mut File) -> Result<Option<Download>, Error> {
        let WebFile { url, limit, authorization, etag } = wanted;
        let parsed =
            Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = parsed.ok_or_else(|| Error::Address(plain(url).to_owned()))?;
        let authorization = authorization.map(|value| sensitive(value, &url)).transpose()?;
        let mut request = Request::new(Method::GET, url)
            .with_header(ACCEPT, HeaderValue::from_static("*/*"))
            .with_header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
            .with_downgrade(Downgrade::Followed);
        if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            request = request.with_header(IF_NONE_MATCH, etag);
        }
        let policy = &self.options().retry;
        let mut attempts = Attempts::with_policy(
            self,
            RetryPolicy {
                attempts: policy.attempts.min(ATTEMPTS),
                connect_attempts: policy.connect_attempts.min(ATTEMPTS),
                ..policy.clone()
            },
        );
        loop {
            match self.download_once(&request, authorization.as_ref(), file, limit).await {
                Err(error) if attempts.again(&error).await => {}
                other => return other.map_err(|error| error.tried(attempts.failed())),
            }
        }
    }

    async fn download_once(
        &self,
        request: &Request,
        authorization: Option<&HeaderValue>,
        file: &mut File,
        limit: u64,
    ) -> Result<Option<Download>, Error> {
        let authorization = authorization.map(|header| Authorization { header, origin: &request.url });
        let mut response = self.follow(request, Sender { authorization, home: None }).await?;
        if response.status() == StatusCode::NOT_MODIFIED && request.headers.contains_key(IF_NONE_MATCH) {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(Error::Refused(Box::new(refusal(&request.method, response).await)));
        }
        let url = response.url().clone();
        let too_large = || Error::TooLarge { url: redact(&url), limit };
        let unsaved = |source: io::Error| Error::Unsaved { url: redact(&url), source };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(unsaved)?;
        let (mut digester, mut size) = (Digester::new(), 0u64);
        while let Some(piece) = self.piece(&request.method, &url, &mut response).await? {
            size = size.saturating_add(piece.len() as u64);
            if size > limit {
                return Err(too_large());
            }
            digester.update(&piece);
            file.write_all(&piece).map_err(unsaved)?;
        }
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let (digest, last_modified) = (digester.finish(), last_modified(&response));
        Ok(Some(Download { digest, size, last_modified, etag }))
    }
}

/// Makes a header of what no message shows.
fn sensitive(value: &[u8], url: &Url) -> Result<HeaderValue, Error> {
    let mut header = HeaderValue::from_bytes(value).map_err(|_| Error::Authorization { url: redact(url) })?;
    header.set_sensitive(true);
    Ok(header)
}

/// What of a malformed URL may be shown: no credentials, no query.
fn plain(url: &str) -> &str {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    url.rsplit('@').next().unwrap_or_default()
}

fn last_modified(response: &Response) -> Option<i64> {
    parse_date(response.headers().get(LAST_MODIFIED)?.to_str().ok()?)
}

/// Reads an HTTP date in any of its three forms.
///
/// # References
/// RFC 9110 section 5.6.7
fn parse_date(text: &str) -> Option<i64> {
    if let Ok(date) = jiff::fmt::rfc2822::parse(text) {
        return Some(date.timestamp().as_second());
    }
    let forms = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let date = forms.iter().find_map(|form| jiff::civil::DateTime::strptime(form, text).ok())?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (text, expect) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("yesterday", None),
        ] {
            assert_eq!(parse_date(text), expect, "{text}");
        }
    }
}
