//! What a registry asks for with `401`: the `WWW-Authenticate` challenges.

use std::collections::BTreeMap;

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// One authentication challenge.
///
/// # References
/// RFC 9110 section 11.6.1; RFC 6750 section 3; distribution's "Token Authentication Specification".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// `Basic`: a user name and a password with every request.
    Basic,
    /// `Bearer`: a token fetched from `realm`.
    Bearer(Bearer),
    /// A scheme this client does not speak, by its lower-cased name.
    Other(String),
}

/// Where a bearer token is to be had, and for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bearer {
    /// The URL of the token service.
    pub realm: String,
    /// The name under which the token service knows the registry.
    pub service: Option<String>,
    /// The scopes the refused request needs, such as `repository:library/debian:pull`.
    pub scopes: Vec<String>,
    /// Why the registry refused, in words of RFC 6750: `invalid_token`, `insufficient_scope`.
    pub error: Option<String>,
}

impl Challenge {
    /// Collects the challenges of a response: several headers, and several challenges within one.
    pub fn from_headers(headers: &HeaderMap) -> Vec<Self> {
        headers.get_all(WWW_AUTHENTICATE).iter().flat_map(|value| Self::parse(value.as_bytes())).collect()
    }

    /// Parses one header value.
    ///
    /// Reading stops at the first byte that fits no grammar; what stood before it counts.
    pub fn parse(header: &[u8]) -> Vec<Self> {
        let mut cursor = Cursor { rest: header };
        let mut found = Vec::new();
        loop {
            cursor.skip(b" \t,");
            let scheme = cursor.token();
            if scheme.is_empty() {
                return found;
            }
            let params = cursor.params();
            found.push(Self::from_parts(&scheme.to_ascii_lowercase(), params));
        }
    }

    fn from_parts(scheme: &str, mut params: BTreeMap<String, String>) -> Self {
        match scheme {
            "basic" => Self::Basic,
            "bearer" => Self::Bearer(Bearer {
                realm: params.remove("realm").unwrap_or_default(),
                service: params.remove("service"),
                scopes: params
                    .remove("scope")
                    .map(|scope| scope.split_ascii_whitespace().map(str::to_owned).collect())
                    .unwrap_or_default(),
                error: params.remove("error"),
            }),
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Bytes not yet read. Every method moves forward or leaves the position alone; none can fail.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    fn skip(&mut self, set: &[u8]) {
        while let Some((first, rest)) = self.rest.split_first() {
            if !set.contains(first) {
                return;
            }
            self.rest = rest;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> String {
        let length = self.rest.iter().position(|byte| !accept(*byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        String::from_utf8_lossy(taken).into_owned()
    }

    fn token(&mut self) -> String {
        self.take_while(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    }

    /// Reads `name=value` pairs up to the next scheme; a `token68` in their place is passed over.
    fn params(&mut self) -> BTreeMap<String, String> {
        let mut params = BTreeMap::new();
        if self.token68() {
            return params;
        }
        loop {
            let mut ahead = *self;
            ahead.skip(b" \t,");
            let name = ahead.token();
            ahead.skip(b" \t");
            // A name without `=` is the scheme of the next challenge.
            if name.is_empty() || !ahead.eat(b'=') {
                return params;
            }
            ahead.skip(b" \t");
            let value = if ahead.eat(b'"') { ahead.quoted() } else { ahead.token() };
            // RFC 9110 allows each parameter once; the first one stands.
            params.entry(name.to_ascii_lowercase()).or_insert(value);
            *self = ahead;
        }
    }

    fn token68(&mut self) -> bool {
        let mut ahead = *self;
        ahead.skip(b" ");
        let text = ahead.take_while(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
        let padding = ahead.take_while(|byte| byte == b'=');
        ahead.skip(b" \t");
        let ends = ahead.rest.first().is_none_or(|byte| *byte == b',');
        // `Basic, Bearer …`: a scheme alone has neither parameters nor a token68.
        let found = ends && !text.is_empty() && (!padding.is_empty() || self.rest.first() == Some(&b' '));
        if found {
            *self = ahead;
        }
        found
    }

    fn quoted(&mut self) -> String {
        let mut bytes = Vec::new();
        while let Some((first, rest)) = self.rest.split_first() {
            self.rest = rest;
            match first {
                b'"' => break,
                b'\\' => {
                    if let Some((escaped, rest)) = self.rest.split_first() {
                        bytes.push(*escaped);
                        self.rest = rest;
                    }
                }
                byte => bytes.push(*byte),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scopes: &[&str]) -> Challenge {
        Challenge::Bearer(Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            error: None,
        })
    }

    #[track_caller]
    fn check(header: &str, expect: &[Challenge]) {
        assert_eq!(Challenge::parse(header.as_bytes()), expect, "{header:?}");
    }

    #[test]
    fn challenges() {
        check("", &[]);
        check("Basic", &[Challenge::Basic]);
        check(r#"bAsIc realm="Registry Realm""#, &[Challenge::Basic]);
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            &[bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                &["repository:a/b:pull,push"],
            )],
        );
        check(
            r#"Bearer realm="https://r/t", scope="repository:a:pull repository:b:pull""#,
            &[bearer("https://r/t", None, &["repository:a:pull", "repository:b:pull"])],
        );
        check("Bearer realm=https", &[bearer("https", None, &[])]);
        check(r#"Bearer realm = "x" , service = y"#, &[bearer("x", Some("y"), &[])]);
        check(r#"Bearer realm="a\"b\\c""#, &[bearer(r#"a"b\c"#, None, &[])]);
    }

    #[test]
    fn several_in_one_header() {
        check(
            r#"Basic realm="x", Bearer realm="https://r/t",service="s""#,
            &[Challenge::Basic, bearer("https://r/t", Some("s"), &[])],
        );
        check(r#"Basic, Bearer realm="r""#, &[Challenge::Basic, bearer("r", None, &[])]);
        check(
            r#"Negotiate oRQwEqADCgEDo==, Bearer realm="r""#,
            &[Challenge::Other("negotiate".into()), bearer("r", None, &[])],
        );
        check(
            r#"NTLM abc , Digest realm="x", qop="auth,auth-int" ,Basic"#,
            &[Challenge::Other("ntlm".into()), Challenge::Other("digest".into()), Challenge::Basic],
        );
    }

    #[test]
    fn several_headers() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic realm=\"x\"".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "Bearer realm=\"y\"".parse().unwrap());
        assert_eq!(Challenge::from_headers(&headers), [Challenge::Basic, bearer("y", None, &[])]);
    }

    #[test]
    fn hostile_headers_end_and_do_not_panic() {
        check(r#"Bearer realm="unfinished"#, &[bearer("unfinished", None, &[])]);
        check(r#"Bearer realm="x\"#, &[bearer("x", None, &[])]);
        check("Bearer realm=", &[bearer("", None, &[])]);
        check("=,=,=", &[]);
        check("Bearer realm=a, realm=b", &[bearer("a", None, &[])]);
        assert_eq!(Challenge::parse(&[0xff, 0xfe, b'=']), []);
        assert_eq!(Challenge::parse(b"Bearer realm=\"\xff\""), [bearer("\u{fffd}", None, &[])]);
        Challenge::parse(",".repeat(1 << 20).as_bytes());
    }
}
