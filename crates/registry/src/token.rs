//! Authorization for one registry: which scheme it wants, and the tokens we hold for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::{Host, Url};

use crate::challenge::{Bearer, Challenge};
use crate::client::Client;
use crate::credentials::{Credential, Outcome, Tried};
use crate::error::{Error, redact};
use crate::exchange::{Body, Fetched, Request, protocol};
use crate::hosts::Home;
use crate::scope::Scopes;

/// The longest answer of a token service that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// How long a token is good for when the service does not say.
///
/// # References
/// distribution, "Token Authentication Specification", `expires_in`.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);

/// What a request is authorized for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access<'a> {
    /// Decides which credentials are used.
    pub(crate) repository: &'a str,
    pub(crate) scopes: &'a Scopes,
}

/// Authorizes requests to one registry, and only to it.
///
/// Tokens are asked for when a request needs one, never ahead. At most one is being fetched at a time: requests that
/// wait for the same token then share it.
#[derive(Debug)]
pub(crate) struct Authenticator {
    home: Arc<Home>,
    state: Mutex<State>,
    /// No connection came about when one was last tried, with all the patience of the settings.
    unreachable: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// The challenge the registry last answered with; it tells where the next token comes from.
    challenge: Option<Challenge>,
    tokens: Vec<Token>,
    /// Basic authorization by repository.
    basic: BTreeMap<String, HeaderValue>,
    /// Where the last lookup looked.
    tried: Option<Vec<Tried>>,
}

#[derive(Debug)]
struct Token {
    header: HeaderValue,
    scopes: Scopes,
    expires: Instant,
}

impl Authenticator {
    pub(crate) fn new(home: Arc<Home>) -> Self {
        Self { home, state: Mutex::default(), unreachable: AtomicBool::new(false) }
    }

    /// The registry's own place, whose origin alone may see what this returns.
    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    pub(crate) fn is_unreachable(&self) -> bool {
        self.unreachable.load(Ordering::Relaxed)
    }

    pub(crate) fn note_unreachable(&self) {
        self.unreachable.store(true, Ordering::Relaxed);
    }

    /// Tells whether the registry has asked for authorization so far.
    pub(crate) async fn was_challenged(&self) -> bool {
        self.state.lock().await.challenge.is_some()
    }

    /// The `Authorization` a request should carry by all that is known so far; `None` for none.
    pub(crate) async fn current(
        &self,
        client: &Client,
        access: Access<'_>,
    ) -> Result<Option<HeaderValue>, Error> {
        let mut state = self.state.lock().await;
        match state.challenge.clone() {
            None => Ok(None),
            Some(challenge) => self.authorize(&mut state, client, &challenge, access).await,
        }
    }

    /// Answers the challenges to a refused request.
    ///
    /// `None` when there is nothing better to say than what was `refused`.
    pub(crate) async fn answer(
        &self,
        client: &Client,
        challenges: &[Challenge],
        refused: Option<&HeaderValue>,
        access: Access<'_>,
    ) -> Result<Option<HeaderValue>, Error> {
        let is_bearer = |challenge: &Challenge| matches!(challenge, Challenge::Bearer(_));
        let chosen = challenges.iter().find(|challenge| is_bearer(challenge));
        let Some(challenge) = chosen.or_else(|| challenges.iter().find(|c| **c == Challenge::Basic)) else {
            return Ok(None);
        };
        let mut state = self.state.lock().await;
        // Another request may have replaced the refused token while this one waited for the lock.
        state.tokens.retain(|token| Some(&token.header) != refused);
        state.basic.retain(|_, header| Some(&*header) != refused);
        // What was asked for in answer to this very request belongs to it, under whatever name: a mirror's repository may
        // be called otherwise there.
        let own = match challenge {
            Challenge::Bearer(bearer) => access.scopes.clone().and_all(&bearer.scopes),
            _ => access.scopes.clone(),
        };
        let header = self.authorize(&mut state, client, challenge, Access { scopes: &own, ..access }).await?;
        state.challenge = Some(challenge.clone());
        Ok(header.filter(|header| Some(header) != refused))
    }

    /// Says what the user may do about a `401` or `403`: which credentials were used, or where none were found.
    pub(crate) async fn hint(&self, status: StatusCode) -> Option<String> {
        let registry = &self.home.registry;
        let state = self.state.lock().await;
        let tried = state.tried.as_ref()?;
        if let Some(used) = tried.iter().find(|tried| matches!(tried.outcome, Outcome::Used { .. })) {
            return Some(match status {
                StatusCode::UNAUTHORIZED => {
                    format!("{registry} does not accept the credentials found for it in {used}")
                }
                _ => format!("the credentials found for {registry} do not allow this: {used}"),
            });
        }
        let (absent, present): (Vec<&Tried>, Vec<&Tried>) =
            tried.iter().partition(|tried| matches!(tried.outcome, Outcome::Absent));
        let mut all: Vec<String> = present.iter().map(ToString::to_string).collect();
        if !absent.is_empty() {
            let names: Vec<&str> = absent.iter().map(|tried| tried.place.as_str()).collect();
            all.push(format!("no such file: {}", names.join(", ")));
        }
        Some(match all.is_empty() {
            true => format!("no credentials for {registry} were given"),
            false => format!("no credentials for {registry}; tried {}", all.join("; ")),
        })
    }

    async fn authorize(
        &self,
        state: &mut State,
        client: &Client,
        challenge: &Challenge,
        access: Access<'_>,
    ) -> Result<Option<HeaderValue>, Error> {
        match challenge {
            Challenge::Other(_) => Ok(None),
            Challenge::Basic => self.basic(state, client, access.repository).await,
            Challenge::Bearer(bearer) => {
                let now = Instant::now();
                state.tokens.retain(|token| token.expires > now);
                let wanted = access.scopes.clone().and_all(&bearer.scopes_for(access.scopes));
                if let Some(token) = state.tokens.iter().find(|token| token.scopes.covers(&wanted)) {
                    return Ok(Some(token.header.clone()));
                }
                let fetched = self.fetch(state, client, bearer, Access { scopes: &wanted, ..access }).await;
                let token = fetched.map_err(|source| Error::Authentication {
                    registry: self.home.registry.clone(),
                    source: Box::new(source),
                })?;
                let header = token.header.clone();
                state.tokens.push(token);
                Ok(Some(header))
            }
        }
    }

    async fn basic(
        &self,
        state: &mut State,
        client: &Client,
        repository: &str,
    ) -> Result<Option<HeaderValue>, Error> {
        if let Some(header) = state.basic.get(repository) {
            return Ok(Some(header.clone()));
        }
        let credential = self.credential(state, client, repository).await?;
        let Some(Credential::Basic { username, password }) = credential else { return Ok(None) };
        let header = basic_header(&username, &password);
        state.basic.insert(repository.to_owned(), header.clone());
        Ok(Some(header))
    }

    async fn fetch(
        &self,
        state: &mut State,
        client: &Client,
        bearer: &Bearer,
        access: Access<'_>,
    ) -> Result<Token, Error> {
        let Access { repository, scopes } = access;
        let started = Instant::now();
        let credential = self.credential(state, client, repository).await?;
        let realm = |is_secret| self.realm(client, bearer, is_secret);
        let mut request = match &credential {
            Some(Credential::RegistryToken(token)) => {
                let header = bearer_header(token, &self.home.api)?;
                return Ok(Token { header, scopes: scopes.clone(), expires: started + DEFAULT_LIFETIME });
            }
            Some(Credential::IdentityToken(token)) => exchange_request(realm(true)?, bearer, scopes, token),
            Some(Credential::Basic { username, .. }) => {
                token_request(realm(true)?, bearer, scopes, Some(username))
            }
            None => token_request(realm(false)?, bearer, scopes, None),
        };
        request.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let authorization = match &credential {
            Some(Credential::Basic { username, password }) => Some(basic_header(username, password)),
            _ => None,
        };
        let Fetched { url, body, .. } =
            client.fetch_bare(&request, authorization.as_ref(), &self.home, MAX_ANSWER).await?;
        // The parser's own message is left out: it may quote the token.
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| protocol(&request.method, &url, "the token service answered no JSON".to_owned()))?;
        let lifetime = answer.lifetime();
        let header = bearer_header(answer.token(), &url)?;
        Ok(Token { header, scopes: scopes.clone(), expires: started + lifetime })
    }

    async fn credential(
        &self,
        state: &mut State,
        client: &Client,
        repository: &str,
    ) -> Result<Option<Credential>, Error> {
        let found = client.options().credentials.find(&self.home.registry, repository).await?;
        state.tried = Some(found.tried);
        Ok(found.credential)
    }

    /// Where tokens come from, if credentials and tokens may travel there.
    ///
    /// The registry's word counts for the host only as far as nobody else's credentials could be meant: secrets go to its
    /// own host, to one of the same domain, and to those that settings name. Plain HTTP is for the registry's own host,
    /// when that is spoken to in plain HTTP anyway.
    fn realm(&self, client: &Client, bearer: &Bearer, carries_secret: bool) -> Result<Url, Error> {
        let realm = self.home.api.join(&bearer.realm).ok().filter(Url::has_host).ok_or_else(|| {
            protocol(&Method::GET, &self.home.api, "the challenge's realm is no URL".to_owned())
        })?;
        let same_host = self.home.api.host() == realm.host();
        let is_plain = same_host && self.home.api.scheme() == "http";
        match realm.scheme() {
            "https" => {}
            "http" if is_plain || client.routes().is_plain(&realm) => {}
            _ => return Err(Error::InsecureRealm { realm: redact(&realm) }),
        }
        let host = realm.host_str().unwrap_or_default();
        let named = client.options().token_services.get(&self.home.registry);
        let trusted = same_host
            || named.is_some_and(|hosts| hosts.contains(host))
            || if carries_secret { same_site(&self.home.api, &realm) } else { !is_internal(&realm) };
        if trusted {
            return Ok(realm);
        }
        Err(Error::ForeignRealm { registry: self.home.registry.clone(), host: host.to_owned() })
    }
}

/// Tells whether a host belongs to whom the registry belongs to, as far as names tell: below the registry's own name, or
/// below the domain the registry stands in, if that has a dot itself.
///
/// `registry-1.docker.io` and `auth.docker.io`, `registry.gitlab.com` and `gitlab.com` do; no list of public suffixes
/// is needed for that, since the registry itself says so: the rule only bounds what it may say.
fn same_site(registry: &Url, realm: &Url) -> bool {
    let (Some(Host::Domain(registry)), Some(Host::Domain(realm))) = (registry.host(), realm.host()) else {
        return false;
    };
    let parent = registry.split_once('.').map(|(_, parent)| parent).filter(|parent| parent.contains('.'));
    let site = parent.unwrap_or(registry);
    realm.strip_suffix(site).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Tells whether a URL leads to an address of this machine or network: a registry elsewhere has no business there.
fn is_internal(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => {
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified()
        }
        Some(Host::Ipv6(ip)) => {
            ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local() || ip.is_unspecified()
        }
        _ => false,
    }
}

impl Bearer {
    /// The challenge's scopes, if they speak about what is `wanted` now: a challenge remembered from a request to
    /// another repository must not widen this one.
    fn scopes_for(&self, wanted: &Scopes) -> Vec<String> {
        let own = Scopes::default().and_all(&self.scopes);
        if own.shares_resource_with(wanted) { self.scopes.clone() } else { Vec::new() }
    }
}

fn token_request(mut realm: Url, bearer: &Bearer, scopes: &Scopes, account: Option<&String>) -> Request {
    {
        let mut query = realm.query_pairs_mut();
        query.extend_pairs(bearer.service.iter().map(|service| ("service", service)));
        query.extend_pairs(scopes.texts().map(|scope| ("scope", scope)));
        query.extend_pairs(account.map(|account| ("account", account)));
    }
    Request::new(Method::GET, realm)
}

/// Exchanges a refresh token for an access token.
///
/// # References
/// distribution, "OAuth2 Token Authentication"; RFC 6749 section 6.
fn exchange_request(realm: Url, bearer: &Bearer, scopes: &Scopes, refresh_token: &str) -> Request {
    let scope: Vec<String> = scopes.texts().collect();
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "refresh_token")
        .append_pair("service", bearer.service.as_deref().unwrap_or_default())
        .append_pair("scope", &scope.join(" "))
        .append_pair("client_id", "rbuild")
        .append_pair("refresh_token", refresh_token)
        .finish();
    let mut request = Request::new(Method::POST, realm).with_body(Body::Secret(Bytes::from(form)));
    request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    request
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<serde_json::Number>,
}

impl Answer {
    fn token(&self) -> &str {
        if self.token.is_empty() { &self.access_token } else { &self.token }
    }

    /// How long the token is used: a tenth less than promised, at most half a minute less. Counted from before the
    /// request by our own clock; `issued_at` would need both clocks to agree.
    fn lifetime(&self) -> Duration {
        let promised = self.expires_in.as_ref().and_then(serde_json::Number::as_f64);
        let lifetime =
            promised.map_or(DEFAULT_LIFETIME, |seconds| Duration::from_secs_f64(seconds.clamp(0.0, 1e6)));
        lifetime.saturating_sub((lifetime / 10).min(Duration::from_secs(30)))
    }
}

fn basic_header(username: &str, password: &str) -> HeaderValue {
    let encoded = BASE64_STANDARD.encode(format!("{username}:{password}"));
    // Base64 is always a valid header value.
    secret(format!("Basic {encoded}")).unwrap_or(HeaderValue::from_static("Basic"))
}

fn bearer_header(token: &str, from: &Url) -> Result<HeaderValue, Error> {
    let header = if token.is_empty() { None } else { secret(format!("Bearer {token}")) };
    header.ok_or_else(|| protocol(&Method::GET, from, "the token cannot stand in a header".to_owned()))
}

fn secret(text: String) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let check = |json: &str, token: &str, seconds: f64| {
            let answer: Answer = serde_json::from_str(json).unwrap();
            assert_eq!(answer.token(), token, "{json}");
            assert_eq!(answer.lifetime(), Duration::from_secs_f64(seconds), "{json}");
        };
        check(r#"{"token": "t"}"#, "t", 54.0);
        check(r#"{"access_token": "a", "expires_in": 300}"#, "a", 270.0);
        check(r#"{"token": "t", "access_token": "a", "expires_in": 3600}"#, "t", 3570.0);
        check(r#"{"token": "t", "expires_in": 1}"#, "t", 0.9);
        check(r#"{"token": "t", "expires_in": 0}"#, "t", 0.0);
        check(r#"{"token": "t", "expires_in": -5}"#, "t", 0.0);
        check(r#"{"token": "t", "expires_in": 1e300}"#, "t", 1e6 - 30.0);
    }

    #[test]
    fn sites() {
        let check = |registry: &str, realm: &str, expect: bool| {
            let url = |host: &str| Url::parse(&format!("https://{host}/x")).unwrap();
            assert_eq!(same_site(&url(registry), &url(realm)), expect, "{registry} {realm}");
        };
        check("registry-1.docker.io", "auth.docker.io", true);
        check("registry.gitlab.com", "gitlab.com", true);
        check("quay.io", "auth.quay.io", true);
        check("registry.example:5000", "auth.registry.example", true);
        check("registry.corp.example", "login.corp.example:8443", true);
        check("ghcr.io", "quay.io", false);
        check("registry.example", "auth.example", false);
        check("registry.corp.example", "evilcorp.example", false);
        check("registry.corp.example", "corp.example.evil.test", false);
        check("localhost", "evil.localhost.test", false);
        check("10.0.0.1", "10.0.0.2", false);
        check("10.0.0.1", "0.0.1", false);
    }

    #[test]
    fn requests() {
        let bearer = Bearer { service: Some("reg & co".into()), ..Bearer::default() };
        let scopes = Scopes::push("a/b").and("repository:c:pull");
        let realm = Url::parse("https://auth.example/token?x=1").unwrap();
        let request = token_request(realm.clone(), &bearer, &scopes, Some(&"me".to_owned()));
        assert_eq!(
            request.url.as_str(),
            "https://auth.example/token?x=1&service=reg+%26+co&scope=repository%3Aa%2Fb%3Apull%2Cpush\
             &scope=repository%3Ac%3Apull&account=me"
        );
        let request = exchange_request(realm, &bearer, &scopes, "secret");
        let Body::Secret(form) = &request.body else { panic!() };
        assert_eq!(
            form,
            "grant_type=refresh_token&service=reg+%26+co&scope=repository%3Aa%2Fb%3Apull%2Cpush+repository%3Ac%3Apull\
             &client_id=rbuild&refresh_token=secret"
        );
    }

    #[test]
    fn headers_hide_secrets() {
        let header = basic_header("user", "pass");
        assert_eq!(header.as_bytes(), b"Basic dXNlcjpwYXNz");
        assert_eq!(format!("{header:?}"), "Sensitive");
        let url = Url::parse("https://r.example/").unwrap();
        assert!(bearer_header("a\nb", &url).is_err());
        assert!(bearer_header("", &url).is_err());
    }
}
