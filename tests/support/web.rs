//! A web server for one test.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
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

/// A web server for one test. Its thread goes with the test's process.
pub(crate) struct Web {
    pub(crate) address: String,
    pub(crate) requests: Arc<AtomicUsize>,
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
}

impl Web {
    pub(crate) fn serve(answers: impl IntoIterator<Item = (&'static str, Answer)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let answers: BTreeMap<_, _> = answers.into_iter().collect();
        let (requests, heads) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, seen) = (Arc::clone(&requests), Arc::clone(&heads));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = answer(stream, &answers, &seen);
            }
        });
        Self { address, requests, heads }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn answer(
    mut stream: TcpStream,
    answers: &BTreeMap<&'static str, Answer>,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    while reader.read_line(&mut head)? > 2 {}
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
