//! Registries behind TLS with an authority of their own.

use std::sync::Arc;

use rbuild_image::{Source as _, StoreErrorKind};
use rbuild_registry::{Client, ClientOptions};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::support::{Options, Registry, quick};

/// A server's settings, which speak `protocol`, and its authority in PEM.
fn settings(protocol: &str) -> (Arc<rustls::ServerConfig>, String) {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (key, server_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let pem = authority.self_signed(&key).unwrap().pem();
    let server = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = server.signed_by(&server_key, &Issuer::new(authority, key)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(server_key.serialize_der()).into(),
        );
    let mut config = config.unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    (Arc::new(config), pem)
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for protocol in ["http/1.1", "h2"] {
        let (tls, pem) = settings(protocol);
        let registry = Registry::start(Options { tls: Some(tls), ..Options::default() }).await;
        let image = registry.put_image("team/app", "1", &[]);
        let file = directory.path().join("authority.pem");
        std::fs::write(&file, pem).unwrap();
        let name = registry.name("team/app:1");
        let (right, wrong) =
            (ClientOptions { retry: quick(), ..ClientOptions::default() }, settings(protocol).1);
        let ca = |path: &std::path::Path| [(registry.host(), path.to_owned())].into();
        let client = Client::new(ClientOptions { ca: ca(&file), ..right.clone() }).unwrap();
        let resolved = client.remote(&name).resolve(&name).await.unwrap();
        assert_eq!(resolved.descriptor.digest, image.digest, "{protocol}");
        let before = registry.requests().len();
        std::fs::write(&file, wrong).unwrap();
        let client = Client::new(ClientOptions { ca: ca(&file), ..right }).unwrap();
        let error = client.remote(&name).resolve(&name).await.unwrap_err();
        assert_eq!(error.kind(), &StoreErrorKind::Unavailable, "{error:?}");
        assert_eq!(registry.requests().len(), before, "{protocol}");
    }
}
