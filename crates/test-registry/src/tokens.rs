//! The token service, and what a request must show.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use axum::http::Method;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::serve::{Answer, Asked, json, refuse, with};
use crate::{Demand, Registry};

/// Tokens that were given out.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    issued: BTreeMap<String, Token>,
    count: usize,
}

#[derive(Debug)]
struct Token {
    scopes: BTreeSet<String>,
    /// `None` for ever.
    expires: Option<Instant>,
}

impl Tokens {
    pub(crate) fn clear(&mut self) {
        self.issued.clear();
    }

    fn issue(&mut self, scopes: BTreeSet<String>, lifetime: Option<u64>) -> String {
        self.count += 1;
        let token = format!("token-{}", self.count);
        let lifetime = lifetime.filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let expires = lifetime.map(|lifetime| Instant::now() + lifetime);
        self.issued.insert(token.clone(), Token { scopes, expires });
        token
    }

    fn permits(&self, token: &str, repository: &str, action: &str) -> bool {
        let Some(token) = self.issued.get(token) else { return false };
        let permits = |scope: &String| {
            scope.rsplit_once(':').is_some_and(|(resource, actions)| {
                resource == format!("repository:{repository}") && actions.split(',').any(|own| own == action)
            })
        };
        token.expires.is_none_or(|expires| Instant::now() < expires) && token.scopes.iter().any(permits)
    }
}

impl Registry {
    /// Answers a request for a token.
    pub(crate) fn token(&self, asked: &Asked, body: &[u8]) -> Answer {
        let Demand::Bearer { account, expires_in, .. } = &self.options.demand else {
            return refuse(404, "UNSUPPORTED");
        };
        let form: BTreeMap<String, String> =
            url::form_urlencoded::parse(body).map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
        let known = match account {
            None => true,
            Some(account) if asked.method == Method::POST => {
                form.get("refresh_token").map(String::as_str) == Some(account)
            }
            Some(account) => asked.authorization() == Some(&basic(account)),
        };
        if !known {
            return refuse(401, "UNAUTHORIZED");
        }
        let scopes = match form.get("scope") {
            Some(scope) => scope.split(' ').map(str::to_owned).collect(),
            None => asked.queries("scope").collect(),
        };
        let token = self.inside().tokens.issue(scopes, *expires_in);
        let mut answer = serde_json::json!({"access_token": token});
        if let Some(seconds) = expires_in {
            answer["expires_in"] = (*seconds).into();
        }
        json(&answer)
    }

    /// The `401` for a request that is not authorized.
    pub(crate) fn challenge(&self, asked: &Asked, repository: &str) -> Option<Answer> {
        let reads = matches!(asked.method, Method::GET | Method::HEAD) && !asked.path().contains("/uploads/");
        let challenge = match &self.options.demand {
            Demand::Nothing => return None,
            Demand::Basic(account) if asked.authorization() == Some(&basic(account)) => return None,
            Demand::Basic(_) => "Basic realm=\"test\"".to_owned(),
            Demand::Bearer { realm, .. } => {
                let token = asked.authorization().and_then(|header| header.strip_prefix("Bearer "));
                let action = if reads { "pull" } else { "push" };
                let inside = self.inside();
                if token.is_some_and(|token| inside.tokens.permits(token, repository, action)) {
                    return None;
                }
                let realm = realm.clone().unwrap_or_else(|| self.url("/token"));
                let actions = if reads { "pull" } else { "pull,push" };
                let scope = format!("repository:{repository}:{actions}");
                format!(r#"Negotiate, Bearer realm="{realm}",service="test",scope="{scope}""#)
            }
        };
        Some(with(refuse(401, "UNAUTHORIZED"), "www-authenticate", challenge))
    }
}

fn basic(account: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(account))
}
