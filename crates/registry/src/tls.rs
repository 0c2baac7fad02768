//! TLS set up by hand: the process-wide default provider belongs to the embedding program.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::hosts::{ClientCertificate, Tls, Transport, Trust};

/// A reason why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates or of a private key cannot be read, or is no PEM.
    #[error("cannot use {}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// Neither the system nor this build has a certificate authority to trust.
    #[error("no certificate authority can be used: {0}")]
    Roots(String),
    /// The cryptography of this build does not do.
    #[error("cannot configure TLS")]
    Provider(#[from] rustls::Error),
}

/// Makes the configuration for one kind of transport. Reads the system's certificates: a few milliseconds.
pub(crate) fn config(transport: &Transport) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let nothing = Tls::default();
    let (builder, tls) = match transport {
        Transport::Plain => (builder.with_root_certificates(RootCertStore::empty()), &nothing),
        Transport::Tls(tls) => {
            let verifier: Arc<dyn ServerCertVerifier> = match tls.trust {
                Trust::Anybody => Arc::new(TrustEverybody(provider)),
                Trust::Verified => Arc::new(TrustToo::new(&tls.ca, provider)?),
            };
            (builder.dangerous().with_custom_certificate_verifier(verifier), tls)
        }
    };
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = read_identity(identity)?;
            let set_up = builder.with_client_auth_cert(chain, key);
            set_up.map_err(|error| unusable(&identity.certificate, invalid(error)))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read_identity(
    identity: &ClientCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let path = identity.key.as_ref().unwrap_or(&identity.certificate);
    // The reader's message does not quote the file.
    let key = PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::Io(source) => unusable(path, source),
        _ => unusable(path, invalid("no PEM private key in it")),
    })?;
    Ok((read_certificates(&identity.certificate)?, key))
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The roots the system trusts. Those compiled in serve only a system that has none, such as a `FROM scratch` container:
/// behind a proxy with a private authority the system's are the only right ones.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    }
    roots
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error: pem::Error| match error {
        pem::Error::Io(source) => unusable(path, source),
        other => unusable(path, invalid(other)),
    };
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let certificates = read.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if certificates.is_empty() {
        return Err(unusable(path, invalid("no PEM certificate in it")));
    }
    Ok(certificates)
}

fn unusable(path: &Path, source: io::Error) -> TlsError {
    TlsError::Ca { path: path.to_owned(), source }
}

/// Trusts the system's authorities, those of files, and the very certificates of the files.
///
/// `openssl req -x509`, with which most private registries get their certificate, makes one that is its own authority;
/// webpki does not accept that from a server (`CaUsedAsEndEntity`), while OpenSSL and Go do. Whoever names the
/// certificate itself trusts it; its name must still be the host's.
#[derive(Debug)]
struct TrustToo {
    authorities: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl TrustToo {
    fn new(paths: &[PathBuf], provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let (mut roots, mut certificates) = (system_roots(), Vec::new());
        for path in paths {
            for certificate in read_certificates(path)? {
                let added = roots.add(certificate.clone());
                added.map_err(|error| unusable(path, invalid(error)))?;
                certificates.push(certificate);
            }
        }
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let authorities = builder.build().map_err(|error| TlsError::Roots(error.to_string()))?;
        Ok(Self { authorities, certificates })
    }
}

impl ServerCertVerifier for TrustToo {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.certificates.iter().any(|trusted| trusted == certificate) {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.authorities.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Accepts any certificate, but only from who holds its key.
#[derive(Debug)]
struct TrustEverybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustEverybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transport_configures_without_a_process_default() {
        let anybody = Tls { trust: Trust::Anybody, ..Tls::default() };
        for transport in [Transport::Plain, Transport::Tls(Tls::default()), Transport::Tls(anybody)] {
            config(&transport).unwrap();
        }
        assert!(CryptoProvider::get_default().is_none());
    }

    #[test]
    fn certificate_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let check = |expect: &str| {
            let identity = ClientCertificate { certificate: path.clone(), key: None };
            let own = Tls { identity: Some(identity), ..Tls::default() };
            for tls in [Tls { ca: vec![path.clone()], ..Tls::default() }, own] {
                let error = config(&Transport::Tls(tls)).unwrap_err();
                let TlsError::Ca { source, .. } = &error else { panic!("{error}") };
                assert!(source.to_string().contains(expect), "{source}");
            }
        };
        check("No such file");
        std::fs::write(&path, "not PEM").unwrap();
        check("no PEM");
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        check("");
    }
}
