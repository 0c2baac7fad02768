//! A private authority, client certificates and both versions of HTTP, set by flags' settings, `hosts.toml` and `certs.d`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_image::StoreErrorKind;
use rbuild_registry::{ClientCertificate, ClientOptions, Hosts};
use rbuild_test_registry::{Options, Registry};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use crate::{client, kind, pull};

/// Files of an authority, and of a client that it vouches for.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, directory: tempfile::tempdir().unwrap() };
        let (certificate, key) = authority.issue("client", ExtendedKeyUsagePurpose::ClientAuth);
        std::fs::write(authority.ca(), authority.issuer.pem()).unwrap();
        std::fs::write(authority.client().certificate, certificate.pem()).unwrap();
        std::fs::write(authority.client().key.unwrap(), key.serialize_pem()).unwrap();
        authority
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    fn client(&self) -> ClientCertificate {
        let path = |name: &str| self.directory.path().join(name);
        ClientCertificate { certificate: path("client.cert"), key: Some(path("client.key")) }
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// What a server needs that this authority vouches for, and that speaks these protocols.
    pub(crate) fn server(&self, wants_client: bool, protocols: &[&str]) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (certificate, key) = self.issue("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = match wants_client {
            true => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
            false => builder.with_no_client_auth(),
        };
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// Settings whose only tree of hosts is `tree`.
fn with_tree(tree: &Path) -> ClientOptions {
    ClientOptions {
        hosts: Hosts { trees: vec![tree.to_owned()], ..Hosts::none() },
        ..ClientOptions::default()
    }
}

/// Asks for TLS at a loopback host, and says nothing else.
fn plain_tls(host: &str) -> ClientOptions {
    let tree = tempfile::tempdir().unwrap();
    let own = tree.path().join(host);
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), format!("server = \"https://{host}\"")).unwrap();
    with_tree(&tree.keep())
}

#[tokio::test]
async fn certificates_decide() {
    let authority = Authority::new();
    for (wants_client, protocols) in
        [(false, ["http/1.1"].as_slice()), (false, &["h2"]), (true, &["http/1.1"]), (true, &["h2"])]
    {
        let tls = Some(authority.server(wants_client, protocols));
        let registry = Registry::start(Options { tls, ..Options::default() }).await;
        registry.put_image("team/app", "1", &["a layer".into(), "another".into()]);
        let (host, name) = (registry.host(), registry.name("team/app:1"));
        let tree = tempfile::tempdir().unwrap();
        let own = tree.path().join(host.replace(':', "_") + "_");
        std::fs::create_dir(&own).unwrap();

        // Nothing is known of the authority: a failure that no retry heals, and no request.
        let result = pull(&client(plain_tls(&host)), &name).await;
        assert_eq!(kind(result), Err(StoreErrorKind::Unavailable));
        assert_eq!(registry.requests(), [""; 0]);

        let settings = ClientOptions {
            ca: [(host.clone(), authority.ca())].into(),
            client_certificates: [(host.clone(), authority.client())].into(),
            ..ClientOptions::default()
        };
        kind(pull(&client(settings), &name).await).unwrap();
        let only_ca =
            ClientOptions { ca: [(host.clone(), authority.ca())].into(), ..ClientOptions::default() };
        assert_eq!(pull(&client(only_ca), &name).await.is_ok(), !wants_client);
        let anybody = ClientOptions { skip_tls_verify: [host.clone()].into(), ..ClientOptions::default() };
        assert_eq!(pull(&client(anybody), &name).await.is_ok(), !wants_client);

        // containerd's file.
        let client_file = authority.client();
        let text = format!(
            "server = \"https://{host}\"\nca = {:?}\nclient = [[{:?}, {:?}]]\n",
            authority.ca(),
            client_file.certificate,
            client_file.key.unwrap()
        );
        std::fs::write(own.join("hosts.toml"), text).unwrap();
        kind(pull(&client(with_tree(tree.path())), &name).await).unwrap();

        // docker's directory, whose files are found by their names.
        std::fs::remove_file(own.join("hosts.toml")).unwrap();
        for file in ["ca.crt", "client.cert", "client.key"] {
            std::fs::copy(authority.directory.path().join(file), own.join(file)).unwrap();
        }
        kind(pull(&client(with_tree(tree.path())), &name).await).unwrap();
    }
}
