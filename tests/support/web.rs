//! A web server for one test.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a web server answers to one path.
pub(crate) struct Answer {
    pub(crate) status: &'static str,
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
    /// How many bytes the server says there are; as many as there are by default.
    pub(crate) promised: Option<usize>,
}

impl Answer {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: "200 OK", headers: Vec::new(), body: body.into(), promised: None }
    }

    pub(crate) fn redirect(location: impl std::fmt::Display) -> Self {
        let headers = vec![format!("Location: {location}")];
        Self { status: "302 Found", headers, body: Vec::new(), promised: None }
    }
}

/// A certificate for 127.0.0.1 and the authority that only this test knows.
pub(crate) struct Certificate {
    authority: String,
    server: Arc<rustls::ServerConfig>,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        use rustls::pki_types::PrivatePkcs8KeyDer;
        let key = || KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (authority_key, server_key) = (key(), key());
        let authority = params.self_signed(&authority_key).expect("an authority").pem();
        let params_of_server = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
        let issuer = Issuer::new(params, authority_key);
        let certificate = params_of_server.signed_by(&server_key, &issuer).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(server_key.serialize_der()).into(),
            );
        Self { authority, server: Arc::new(server.expect("a pair")) }
    }

    /// Writes the authority's certificate where others may be told to find it.
    pub(crate) fn write_authority(&self, path: &Path) {
        std::fs::write(path, &self.authority).expect("a certificate");
    }
}

/// A web server for one test. Its thread goes with the test's process.
pub(crate) struct Web {
    scheme: &'static str,
    pub(crate) address: String,
    pub(crate) requests: Arc<AtomicUsize>,
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
}

impl Web {
    pub(crate) fn serve(answers: impl IntoIterator<Item = (&'static str, Answer)>) -> Self {
        Self::start(None, answers)
    }

    /// Serves over TLS.
    pub(crate) fn serve_tls(
        certificate: &Certificate,
        answers: impl IntoIterator<Item = (&'static str, Answer)>,
    ) -> Self {
        Self::start(Some(Arc::clone(&certificate.server)), answers)
    }

    fn start(
        tls: Option<Arc<rustls::ServerConfig>>,
        answers: impl IntoIterator<Item = (&'static str, Answer)>,
    ) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let answers: BTreeMap<_, _> = answers.into_iter().collect();
        let (requests, heads) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, seen) = (Arc::clone(&requests), Arc::clone(&heads));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = match &tls {
                    None => answer(stream, &answers, &seen),
                    Some(tls) => rustls::ServerConnection::new(Arc::clone(tls))
                        .map_err(std::io::Error::other)
                        .and_then(|session| {
                            let mut stream = rustls::StreamOwned::new(session, stream);
                            answer(&mut stream, &answers, &seen)?;
                            stream.conn.send_close_notify();
                            stream.flush()
                        }),
                };
            }
        });
        Self { scheme, address, requests, heads }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn answer(
    stream: impl Read + Write,
    answers: &BTreeMap<&'static str, Answer>,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(stream);
    while reader.read_line(&mut head)? > 2 {}
    let mut stream = reader.into_inner();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    seen.lock().expect("no panic").push(head);
    let missing = Answer { status: "404 Not Found", ..Answer::ok("no such file") };
    let found = answers.get(path.as_str()).unwrap_or(&missing);
    let etag = found.headers.iter().find_map(|header| header.strip_prefix("ETag: "));
    let known = etag
        .is_some_and(|etag| seen.lock().expect("no panic").last().is_some_and(|head| head.contains(etag)));
    let unchanged = Answer { status: "304 Not Modified", ..Answer::ok("") };
    let found = if known { &unchanged } else { found };
    let length = found.promised.unwrap_or(found.body.len());
    write!(stream, "HTTP/1.1 {}\r\nConnection: close\r\nContent-Length: {length}\r\n", found.status)?;
    for header in &found.headers {
        write!(stream, "{header}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    stream.write_all(&found.body)
}
