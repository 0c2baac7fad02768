//! Nothing that belongs to one origin arrives at another.

use rbuild_image::{Descriptor, ManifestOrIndex, Memory, Sink as _, Source as _, StoreErrorKind, media_type};
use rbuild_registry::{Client, ClientOptions, Credential, Credentials, Error, Fallback, Hosts};
use rbuild_test_registry::{Act, Demand, Fault, Options, Registry};

use crate::{client, kind, pull};

const SECRET: &str = "hunter2";

fn basic() -> Credential {
    Credential::Basic { username: "me".into(), password: SECRET.into() }
}

/// A client that has a password and a header for `registry`, and nothing for others.
fn knows(registry: &Registry, credential: Credential) -> Client {
    let tree = tempfile::tempdir().unwrap().keep();
    let own = tree.join(registry.host());
    std::fs::create_dir(&own).unwrap();
    let text = format!("server = \"http://{}\"\n[header]\nX-Key = \"{SECRET}\"\n", registry.host());
    std::fs::write(own.join("hosts.toml"), text).unwrap();
    let hosts = Hosts { trees: vec![tree], ..Hosts::none() };
    let credentials = Credentials::none().with(registry.host(), credential);
    client(ClientOptions { credentials, hosts, ..ClientOptions::default() })
}

#[track_caller]
fn saw_no_secrets(foreign: &Registry) {
    let encoded = "bWU6aHVudGVyMg==";
    for logged in foreign.log() {
        let shown = format!("{logged:?}");
        assert!(
            !logged.headers.contains_key("authorization") && !logged.headers.contains_key("x-key"),
            "{shown}"
        );
        assert!(!shown.contains(SECRET) && !shown.contains(encoded), "{shown}");
    }
}

/// Asserts that the registry itself did get both.
#[track_caller]
fn saw_both(registry: &Registry) {
    let log = registry.log();
    assert!(log.iter().any(|logged| logged.headers.contains_key("authorization")), "{log:?}");
    assert!(
        log.iter()
            .filter(|logged| logged.target.starts_with("/v2/"))
            .all(|logged| logged.headers.contains_key("x-key"))
    );
}

async fn pair(demand: Demand) -> (Registry, Registry) {
    let registry = Registry::start(demand).await;
    registry.put_image("team/app", "1", &["a layer".into()]);
    let foreign = Registry::start(Options::default()).await;
    foreign.put_image("team/app", "1", &["a layer".into()]);
    (registry, foreign)
}

fn bearer(realm: Option<String>) -> Demand {
    Demand::Bearer { realm, account: Some("me:hunter2"), expires_in: None }
}

#[tokio::test]
async fn redirects() {
    for demand in [Demand::Basic("me:hunter2"), bearer(None)] {
        for what in ["/manifests/", "/blobs/"] {
            let (registry, foreign) = pair(demand.clone()).await;
            let client = knows(&registry, basic());
            let name = registry.name("team/app:1");
            pull(&client, &name).await.unwrap();
            let image = client.remote(&name).resolve(&name).await.unwrap();
            let ManifestOrIndex::Manifest(manifest) =
                ManifestOrIndex::parse(&image.descriptor.media_type, image.bytes).unwrap()
            else {
                panic!("an index")
            };
            let target = match what {
                "/blobs/" => format!("/v2/team/app/blobs/{}", manifest.value().layers[0].digest),
                _ => "/v2/team/app/manifests/1".to_owned(),
            };
            let location = foreign.url(&target);
            registry.fault(
                Fault::on("GET", &target).times(9).act(Act::Answer(307, vec![("location", location)])),
            );
            pull(&client, &name).await.unwrap();
            assert!(!foreign.requests().is_empty());
            saw_no_secrets(&foreign);
            saw_both(&registry);
        }
    }
}

#[tokio::test]
async fn locations_of_uploads() {
    let (registry, foreign) = pair(Demand::Basic("me:hunter2")).await;
    let client = knows(&registry, basic());
    let (memory, bytes) = (Memory::new(), bytes::Bytes::from("pushed"));
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &bytes);
    memory.put(bytes);
    let location = foreign.url(&format!("/v2/x/blobs/uploads/{}", foreign.open_session()));
    registry.fault(Fault::on("POST", "/uploads/").times(9).act(Act::Headers(vec![("location", location)])));
    let remote = client.remote(&registry.name("team/new"));
    remote.push(&descriptor, memory.content(&descriptor).await.unwrap()).await.unwrap();
    assert!(foreign.blob("x", descriptor.digest).is_some());
    saw_no_secrets(&foreign);
    saw_both(&registry);
}

#[tokio::test]
async fn hijacked_realms() {
    for credential in [basic(), Credential::IdentityToken(SECRET.into())] {
        for scheme in ["http", "https"] {
            let foreign = Registry::start(bearer(None)).await;
            // The same machine under another name: what the registry says of it does not make it the registry's.
            let port = foreign.host().rsplit(':').next().unwrap().to_owned();
            let realm = format!("{scheme}://localhost:{port}/token");
            let (registry, _) = pair(bearer(Some(realm))).await;
            let client = knows(&registry, credential.clone());
            let name = registry.name("team/app:1");
            let error = client.remote(&name).resolve(&name).await.unwrap_err();
            assert_eq!(error.kind(), &StoreErrorKind::Unauthorized);
            let Some(Error::Authentication { source, .. }) = Error::find(&error) else { panic!("{error:?}") };
            assert!(
                matches!(&**source, Error::ForeignRealm { host, .. } if host == "localhost"),
                "{source:?}"
            );
            assert_eq!(foreign.requests(), [""; 0], "{scheme}");
            assert!(!format!("{error:?} {client:?}").contains(SECRET));
        }
    }
}

#[tokio::test]
async fn token_services_that_are_named_get_them() {
    let foreign = Registry::start(bearer(None)).await;
    let port = foreign.host().rsplit(':').next().unwrap().to_owned();
    let (registry, _) = pair(bearer(Some(format!("http://localhost:{port}/token")))).await;
    let client = client(ClientOptions {
        credentials: Credentials::none().with(registry.host(), basic()),
        token_services: [(registry.host(), ["localhost".to_owned()].into())].into(),
        ..ClientOptions::default()
    });
    let name = registry.name("team/app:1");
    // The registry does not know the other's tokens; that it was asked is the point.
    client.remote(&name).resolve(&name).await.unwrap_err();
    assert!(foreign.log().iter().any(|logged| logged.headers.contains_key("authorization")));
}

#[tokio::test]
async fn urls_of_layers() {
    let (registry, foreign) = pair(Demand::Basic("me:hunter2")).await;
    let image = registry.manifest("team/app", "1").unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&image).unwrap();
    manifest["layers"][0]["urls"] = serde_json::json!([foreign.url("/v2/team/app/blobs/x")]);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    registry.put_manifest("team/app", "foreign", media_type::OCI_MANIFEST, bytes.into());
    let client = knows(&registry, basic());
    pull(&client, &registry.name("team/app:foreign")).await.unwrap();
    assert_eq!(foreign.requests(), [""; 0]);
    saw_both(&registry);
}

#[tokio::test]
async fn mirrors_and_their_registry() {
    let (registry, _) = pair(Demand::Basic("me:hunter2")).await;
    // It asks for a password too, and has another one.
    let mirror = Registry::start(Demand::Basic("other:password")).await;
    let options = |credentials| ClientOptions {
        credentials,
        mirrors: [(registry.host(), vec![mirror.host()])].into(),
        ..ClientOptions::default()
    };
    let only_registry = Credentials::none().with(registry.host(), basic());
    let name = registry.name("team/app:1");
    pull(&client(options(only_registry.clone())), &name).await.unwrap();
    assert!(!mirror.requests().is_empty());
    saw_no_secrets(&mirror);
    let never = ClientOptions { fallback: Fallback::Never, ..options(only_registry) };
    assert_eq!(kind(pull(&client(never), &name).await), Err(StoreErrorKind::Unauthorized));
    saw_no_secrets(&mirror);
}
