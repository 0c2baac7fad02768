//! What a token permits.

use std::collections::{BTreeMap, BTreeSet};

/// A set of permissions: for each resource, such as `repository:library/debian`, the actions on it.
///
/// # References
/// distribution, "Token Scope Documentation".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    pub(crate) fn pull(repository: &str) -> Self {
        Self::default().and(&format!("repository:{repository}:pull"))
    }

    pub(crate) fn push(repository: &str) -> Self {
        Self::default().and(&format!("repository:{repository}:pull,push"))
    }

    /// Adds what one scope in text form permits.
    #[must_use]
    pub(crate) fn and(mut self, scope: &str) -> Self {
        // The resource may hold colons (`repository:host:5000/name`); the actions may not.
        let (resource, actions) = scope.rsplit_once(':').unwrap_or((scope, ""));
        let actions = actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned);
        self.0.entry(resource.to_owned()).or_default().extend(actions);
        self
    }

    /// Adds what a challenge asks for.
    #[must_use]
    pub(crate) fn and_all(self, scopes: &[String]) -> Self {
        scopes.iter().fold(self, |all, scope| all.and(scope))
    }

    /// Tells whether a token for `self` is good for `other` too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|(resource, wanted)| self.0.get(resource).is_some_and(|have| wanted.is_subset(have)))
    }

    /// Tells whether both speak about one resource at least.
    pub(crate) fn shares_resource_with(&self, other: &Self) -> bool {
        self.0.keys().any(|resource| other.0.contains_key(resource))
    }

    /// The scopes in text form, one for each resource.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(resource, actions)| {
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            if actions.is_empty() { resource.clone() } else { format!("{resource}:{}", actions.join(",")) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let check = |scopes: &[&str], expect: &[&str]| {
            let scopes = scopes.iter().fold(Scopes::default(), |all, scope| all.and(scope));
            assert_eq!(scopes.texts().collect::<Vec<_>>(), expect);
        };
        check(&["repository:a:push", "repository:a:pull,push"], &["repository:a:pull,push"]);
        check(&["repository:b:pull", "repository:a:pull"], &["repository:a:pull", "repository:b:pull"]);
        check(&["repository:host:5000/a:pull"], &["repository:host:5000/a:pull"]);
        check(&["registry:catalog:*"], &["registry:catalog:*"]);
        check(&["aws"], &["aws"]);
    }

    #[test]
    fn covering() {
        let check = |have: Scopes, want: Scopes, expect: bool| {
            assert_eq!(have.covers(&want), expect, "{have:?} {want:?}");
        };
        check(Scopes::push("a"), Scopes::pull("a"), true);
        check(Scopes::pull("a"), Scopes::push("a"), false);
        check(Scopes::pull("a"), Scopes::pull("b"), false);
        check(Scopes::push("a").and("repository:b:pull"), Scopes::pull("b"), true);
        check(Scopes::default(), Scopes::pull("a"), false);
    }
}
