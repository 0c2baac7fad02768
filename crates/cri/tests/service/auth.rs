//! Credentials of requests.

use rbuild_cri::messages::cri::AuthConfig;
use rbuild_test_registry::Demand;
use tonic::Code;

use crate::support::{Node, put};

fn basic(username: &str, password: &str, server_address: &str) -> Option<AuthConfig> {
    Some(AuthConfig {
        username: username.into(),
        password: password.into(),
        server_address: server_address.into(),
        ..AuthConfig::default()
    })
}

#[tokio::test]
async fn good_and_bad_ones() {
    let node = Node::with(Demand::Basic("user:secret"), |_| {}).await;
    put(&node.registry, "app", "1", "", &["one".into()]);
    let (name, host) = (node.name("app:1"), node.registry.host());
    for auth in [None, basic("user", "wrong", ""), basic("user", "secret", "https://other.example/v1/")] {
        let error = node.pull_as(&name, auth).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{error}");
        assert!(!error.message().contains("secret"), "{error}");
    }
    assert_eq!(node.list(None).await, []);
    // A refusal is not remembered: kubelets try one credential after the other.
    node.pull_as(&name, basic("user", "secret", &format!("https://{host}/"))).await.unwrap();
    let encoded = AuthConfig { auth: "dXNlcjpzZWNyZXQ=".into(), ..AuthConfig::default() };
    node.pull_as(&name, Some(encoded)).await.unwrap();
    // What is there already is for those who may have it.
    assert!(node.pull(&name).await.is_err());
}

#[tokio::test]
async fn tokens() {
    let demand = Demand::Bearer { realm: None, account: Some("refresh"), expires_in: None };
    let node = Node::with(demand, |_| {}).await;
    put(&node.registry, "app", "1", "", &["one".into()]);
    let token = |token: &str| Some(AuthConfig { identity_token: token.into(), ..AuthConfig::default() });
    assert!(node.pull_as(&node.name("app:1"), token("wrong")).await.is_err());
    node.pull_as(&node.name("app:1"), token("refresh")).await.unwrap();
}
