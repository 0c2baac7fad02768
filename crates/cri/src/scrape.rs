//! Metrics for Prometheus, over HTTP.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::event::Metrics;

/// Answers `GET /metrics` until it is dropped.
///
/// # Errors
/// The socket fails.
pub async fn serve_metrics(listener: &TcpListener, metrics: Arc<Metrics>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted?,
        };
        let metrics = Arc::clone(&metrics);
        connections.spawn(async move {
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let answer = match request.uri().path() {
                    "/metrics" => page(metrics.text()),
                    _ => missing(),
                };
                std::future::ready(Ok::<_, Infallible>(answer))
            });
            let _ =
                http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn page(text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn missing() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
