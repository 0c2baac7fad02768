//! Who sees which credentials.

use rbuild_image::{Memory, Sink as _, Source as _, StoreErrorKind};
use rbuild_registry::{Client, ClientOptions, CopyOptions, Credential, Credentials, Error, copy};
use rbuild_test_registry::Method;

use crate::support::{Act, Demand, Fault, Registry, basic, client, client_with, noise, quick};

fn bearer(account: Option<&'static str>) -> Demand {
    Demand::Bearer { realm: None, account, expires_in: Some(300) }
}

/// Pulls and pushes back with `credential`; the error's kind when that fails.
async fn check(demand: Demand, credential: Option<Credential>) -> Result<Registry, StoreErrorKind> {
    let registry = Registry::start(demand).await;
    registry.put_image("team/app", "1", &[noise(1000), noise(2000)]);
    let credentials = match credential {
        Some(credential) => Credentials::none().with(registry.host(), credential),
        None => Credentials::none(),
    };
    let client = client_with(credentials);
    let (from, to) = (registry.name("team/app:1"), registry.name("team/copy:1"));
    let memory = Memory::new();
    let tags = |name| CopyOptions { tags: vec![name], ..CopyOptions::default() };
    let kind = |error| match error {
        rbuild_registry::CopyError::Store(error) => error.kind().clone(),
        other => panic!("{other}"),
    };
    copy(&client.remote(&from), &memory, &from, &tags(from.clone())).await.map_err(kind)?;
    copy(&memory, &client.remote(&to), &from, &tags(to)).await.map_err(kind)?;
    assert!(registry.manifest("team/copy", "1").is_some());
    Ok(registry)
}

#[tokio::test]
async fn schemes() {
    let me = Some(basic("me", "secret"));
    let not_me = Some(basic("me", "wrong"));
    let identity = |token: &str| Some(Credential::IdentityToken(token.to_owned()));
    let unauthorized = StoreErrorKind::Unauthorized;
    for (demand, credential, expect) in [
        (Demand::Nothing, None, Ok(())),
        (Demand::Nothing, me.clone(), Ok(())),
        (Demand::Basic("me:secret"), me.clone(), Ok(())),
        (Demand::Basic("me:secret"), not_me.clone(), Err(unauthorized.clone())),
        (Demand::Basic("me:secret"), None, Err(unauthorized.clone())),
        (bearer(None), None, Ok(())),
        (bearer(Some("me:secret")), me.clone(), Ok(())),
        (bearer(Some("me:secret")), not_me, Err(unauthorized.clone())),
        (bearer(Some("me:secret")), None, Err(unauthorized.clone())),
        (bearer(Some("refresh")), identity("refresh"), Ok(())),
        (bearer(Some("refresh")), identity("other"), Err(unauthorized.clone())),
        (bearer(None), Some(Credential::RegistryToken("made-up".into())), Err(unauthorized)),
    ] {
        let what = format!("{demand:?} {credential:?}");
        assert_eq!(check(demand, credential).await.map(drop), expect, "{what}");
    }
}

#[tokio::test]
async fn tokens_are_shared_and_renewed() {
    let registry = check(bearer(None), None).await.unwrap();
    assert_eq!(registry.count(Method::GET, "/token"), 2, "one to pull, one to push");
    // Tokens that live no time at all: each request asks for its own.
    let demand = Demand::Bearer { realm: None, account: None, expires_in: Some(0) };
    let registry = check(demand, None).await.unwrap();
    assert!(registry.count(Method::GET, "/token") > 10);
}

#[tokio::test]
async fn tokens_that_die_early_are_replaced_once() {
    let registry = Registry::start(bearer(Some("me:secret"))).await;
    let image = registry.put_image("team/app", "1", &[]);
    let name = registry.name("team/app:1");
    let remote = client_with(Credentials::none().with(registry.host(), basic("me", "secret"))).remote(&name);
    remote.resolve(&name).await.unwrap();
    registry.revoke_tokens();
    remote.manifest(&image).await.unwrap();
    assert_eq!(registry.count(Method::GET, "/token"), 2);
    registry.fault(
        Fault::on(Method::GET, "/manifests/")
            .times(99)
            .act(Act::Answer(401, vec![("www-authenticate", challenge(&registry))])),
    );
    let error = remote.manifest(&image).await.unwrap_err();
    assert_eq!(error.kind(), &StoreErrorKind::Unauthorized);
    let hint = Error::find(&error).and_then(Error::hint).unwrap();
    let host = registry.host();
    let used = format!("given for {host}: user name `me` and a password, of `{host}`");
    assert_eq!(hint, format!("{host} does not accept the credentials found for it in {used}"));
    assert_eq!(registry.count(Method::GET, "/token"), 3, "once, not for ever");
}

fn challenge(registry: &Registry) -> String {
    format!(r#"Bearer realm="{}",service="test""#, registry.url("/token"))
}

#[tokio::test]
async fn missing_credentials_are_named() {
    let registry = Registry::start(Demand::Basic("me:secret")).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.json");
    let auths = format!(r#"{{"auths": {{"{}/other": {{"auth": "bWU6c2VjcmV0"}}}}}}"#, registry.host());
    std::fs::write(&path, auths).unwrap();
    let client = client_with(Credentials::from_file(&path).unwrap());
    let name = registry.name("team/app:1");
    let error = client.remote(&name).resolve(&name).await.unwrap_err();
    let hint = Error::find(&error).and_then(Error::hint).unwrap();
    let tried = format!("tried {}: no entry", path.display());
    assert_eq!(hint, format!("no credentials for {}; {tried}", registry.host()));
    // The same file has one for another path of the registry.
    registry.put_image("other/app", "1", &[]);
    let name = registry.name("other/app:1");
    client.remote(&name).resolve(&name).await.unwrap();
}

/// Asserts that `foreign` was asked something, and never with credentials.
fn saw_no_credentials(foreign: &Registry) {
    let log = foreign.log();
    assert!(!log.is_empty(), "the test is empty when nothing arrived");
    for logged in log {
        assert!(!logged.headers.contains_key("authorization"), "{logged:?}");
        assert!(!logged.target.contains("secret"), "{logged:?}");
    }
}

#[tokio::test]
async fn redirects_carry_no_credentials_to_other_hosts() {
    for demand in [Demand::Basic("me:secret"), bearer(Some("me:secret"))] {
        let registry = Registry::start(demand).await;
        // It asks for credentials of its own, in vain.
        let foreign = Registry::start(Demand::Basic("me:secret")).await;
        let image = registry.put_image("team/app", "1", &[]);
        let client = client_with(Credentials::none().with(registry.host(), basic("me", "secret")));
        let name = registry.name("team/app:1");
        let remote = client.remote(&name);
        // First make sure that credentials are known and used.
        remote.resolve(&name).await.unwrap();
        let elsewhere = foreign.url("/v2/team/app/manifests/1");
        registry.fault(
            Fault::on(Method::GET, "/manifests/").act(Act::Answer(307, vec![("location", elsewhere)])),
        );
        let error = remote.manifest(&image).await.unwrap_err();
        assert_eq!(error.kind(), &StoreErrorKind::Unauthorized);
        saw_no_credentials(&foreign);
        assert_eq!(foreign.requests().len(), 1);
    }
}

#[tokio::test]
async fn uploads_sent_elsewhere_carry_no_credentials() {
    let registry = Registry::start(Demand::Basic("me:secret")).await;
    let foreign = Registry::start(Demand::Nothing).await;
    let bytes = noise(5000);
    let memory = Memory::new();
    let descriptor = registry.put_blob("unused", bytes.clone());
    memory.put(bytes.clone());
    let client = client_with(Credentials::none().with(registry.host(), basic("me", "secret")));
    let location = foreign.url(&format!("/v2/store/blobs/uploads/{}", foreign.open_session()));
    registry
        .fault(Fault::on(Method::POST, "/uploads/").times(9).act(Act::Headers(vec![("location", location)])));
    let remote = client.remote(&registry.name("team/app"));
    remote.push(&descriptor, memory.content(&descriptor).await.unwrap()).await.unwrap();
    assert_eq!(foreign.blob("store", descriptor.digest), Some(bytes));
    saw_no_credentials(&foreign);
}

#[tokio::test]
async fn credentials_go_to_no_token_service_in_plain_http() {
    // 192.0.2.0/24 is for documentation: a request there would time out, not be refused at once.
    let realm = Some("http://192.0.2.1/token".to_owned());
    let registry = Registry::start(Demand::Bearer { realm, account: None, expires_in: None }).await;
    for credentials in [Credentials::none(), Credentials::none().with(registry.host(), basic("me", "secret"))]
    {
        let name = registry.name("team/app:1");
        let error = client_with(credentials).remote(&name).resolve(&name).await.unwrap_err();
        assert_eq!(error.kind(), &StoreErrorKind::Unauthorized);
        let Some(Error::Authentication { source, .. }) = Error::find(&error) else { panic!("{error:?}") };
        assert!(matches!(**source, Error::InsecureRealm { .. }), "{source:?}");
    }
}

#[tokio::test]
async fn token_services_cannot_send_credentials_on() {
    let foreign = Registry::start(Demand::Nothing).await;
    for (method, credential) in
        [(Method::GET, basic("me", "secret")), (Method::POST, Credential::IdentityToken("secret".into()))]
    {
        let registry = Registry::start(bearer(Some("me:secret"))).await;
        let elsewhere = Act::Answer(307, vec![("location", foreign.url("/token"))]);
        registry.fault(Fault::on(method, "/token").act(elsewhere));
        let name = registry.name("team/app:1");
        let client = client_with(Credentials::none().with(registry.host(), credential));
        client.remote(&name).resolve(&name).await.unwrap_err();
    }
    saw_no_credentials(&foreign);
    assert_eq!(foreign.count(Method::POST, ""), 0, "the refresh token is in the body");
}

#[tokio::test]
async fn credentials_of_one_registry_are_not_for_another() {
    let registry = Registry::start(Demand::Nothing).await;
    let foreign = Registry::start(bearer(Some("me:secret"))).await;
    let client = client_with(Credentials::none().with(registry.host(), basic("me", "secret")));
    let name = foreign.name("team/app:1");
    let error = client.remote(&name).resolve(&name).await.unwrap_err();
    assert_eq!(error.kind(), &StoreErrorKind::Unauthorized);
    saw_no_credentials(&foreign);
}

#[tokio::test]
async fn the_token_service_is_tried_again_too() {
    let service = Registry::start(bearer(None)).await;
    service.fault(Fault::on(Method::GET, "/token").times(2).act(Act::answer(503)));
    let realm = Some(service.url("/token"));
    let registry = Registry::start(Demand::Bearer { realm, account: None, expires_in: None }).await;
    let name = registry.name("team/app:1");
    let error = client().remote(&name).resolve(&name).await.unwrap_err();
    // The registry does not know the other one's tokens.
    assert_eq!(error.kind(), &StoreErrorKind::Unauthorized);
    assert_eq!(service.count(Method::GET, "/token"), 3);
}

#[tokio::test]
async fn requests_say_who_asks() {
    let registry = Registry::start(Demand::Nothing).await;
    registry.put_image("team/app", "1", &[]);
    let options =
        ClientOptions { user_agent: "embedder/2".into(), retry: quick(), ..ClientOptions::default() };
    let name = registry.name("team/app:1");
    Client::new(options).unwrap().remote(&name).resolve(&name).await.unwrap();
    let log = registry.log();
    assert_eq!(log[0].headers["user-agent"], "embedder/2");
    let accept = log[0].headers["accept"].to_str().unwrap();
    assert_eq!(accept.split(", ").count(), 4, "{accept}");
}
