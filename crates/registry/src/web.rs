//! Files of any web server, fetched with the same connections, proxies and patience as images.

use std::fs::File;
use std::io::{self, Seek, Write};

use rbuild_image::{Digest, Digester};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderValue, LAST_MODIFIED};
use reqwest::{Method, Response};
use url::Url;

use crate::client::Client;
use crate::error::{Error, redact};
use crate::exchange::{Request, refusal};
use crate::retry::{Attempts, RetryPolicy};

/// Tries in all: a file elsewhere is worth less waiting than an image that is needed in any case.
const ATTEMPTS: u32 = 4;

/// What a download brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// The digest of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
    /// When the server says the file was changed, in seconds since 1970.
    pub last_modified: Option<i64>,
}

impl Client {
    /// Downloads what `url` names into `file`, which is emptied first: at most `limit` bytes, redirects followed.
    ///
    /// No credentials are sent but those in the URL itself, and these to its own origin alone. What breaks off is
    /// fetched again from its beginning.
    ///
    /// # Errors
    /// The URL is none of the web, the server refuses or breaks off, the file is longer than `limit` or cannot be
    /// written.
    pub async fn download(&self, url: &str, file: &mut File, limit: u64) -> Result<Download, Error> {
        let parsed =
            Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = parsed.ok_or_else(|| Error::Address(plain(url).to_owned()))?;
        let request = Request::new(Method::GET, url)
            .with_header(ACCEPT, HeaderValue::from_static("*/*"))
            .with_header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let policy = &self.options().retry;
        let mut attempts = Attempts::new(&RetryPolicy {
            attempts: policy.attempts.min(ATTEMPTS),
            connect_attempts: policy.connect_attempts.min(ATTEMPTS),
            ..policy.clone()
        });
        loop {
            match self.download_once(&request, file, limit).await {
                Err(error) if attempts.again(&error).await => {}
                other => return other.map_err(|error| error.tried(attempts.failed())),
            }
        }
    }

    async fn download_once(&self, request: &Request, file: &mut File, limit: u64) -> Result<Download, Error> {
        let mut response = self.follow(request, None).await?;
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
        Ok(Download { digest: digester.finish(), size, last_modified: last_modified(&response) })
    }
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
