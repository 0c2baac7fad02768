//! The other side of gRPC: calls over a unix socket.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::Uri;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Code, IntoRequest, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// The largest message either side may send, in bytes: 16 MiB, as kubelets and containerd have it.
const MAX_MESSAGE: usize = 16 << 20;

/// Calls a gRPC service on a unix socket; connects when needed, and again after the service was restarted. Clones share
/// the connection.
#[derive(Clone)]
pub struct Channel {
    path: PathBuf,
    connection: Arc<tokio::sync::Mutex<Option<SendRequest<Body>>>>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.path).finish()
    }
}

impl Channel {
    /// Names the socket. Nothing is opened yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), connection: Arc::default() }
    }

    /// Asks one message and gets one: `method` is `/package.Service/Method`.
    ///
    /// # Errors
    /// The status of a call that failed; `UNAVAILABLE` when nobody answers at the socket.
    pub async fn unary<Q, A>(&self, method: &'static str, ask: impl IntoRequest<Q>) -> Result<A, Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.call(method, ask.into_request()).await
    }

    /// As [`Channel::unary`], with metadata.
    pub(crate) async fn call<Q, A>(&self, method: &'static str, ask: Request<Q>) -> Result<A, Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let method = PathAndQuery::from_static(method);
        let codec = ProstCodec::<Q, A>::default();
        self.grpc().await?.unary(ask, method, codec).await.map(tonic::Response::into_inner)
    }

    /// Asks one message and gets a stream of them.
    ///
    /// # Errors
    /// As [`Channel::unary`].
    pub async fn server_streaming<Q, A>(
        &self,
        method: &'static str,
        ask: impl IntoRequest<Q>,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.call_for_stream(method, ask.into_request()).await
    }

    /// As [`Channel::server_streaming`], with metadata.
    pub(crate) async fn call_for_stream<Q, A>(
        &self,
        method: &'static str,
        ask: Request<Q>,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let method = PathAndQuery::from_static(method);
        let codec = ProstCodec::<Q, A>::default();
        let answered = self.grpc().await?.server_streaming(ask, method, codec).await;
        answered.map(tonic::Response::into_inner)
    }

    /// Sends a stream of messages and gets one.
    pub(crate) async fn streaming<Q, A, S>(
        &self,
        method: &'static str,
        messages: Request<S>,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
        S: Stream<Item = Q> + Send + 'static,
    {
        let method = PathAndQuery::from_static(method);
        let codec = ProstCodec::<Q, A>::default();
        let answered = self.grpc().await?.streaming(messages, method, codec).await;
        answered.map(tonic::Response::into_inner)
    }

    async fn grpc(&self) -> Result<Grpc<Sender>, Status> {
        let sender = self.sender().await.map_err(|error| {
            Status::unavailable(format!("cannot connect to `{}`: {error}", self.path.display()))
        })?;
        let mut grpc = Grpc::with_origin(Sender(sender), Uri::from_static("http://localhost"))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        grpc.ready().await.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
        Ok(grpc)
    }

    async fn sender(&self) -> io::Result<SendRequest<Body>> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = UnixStream::connect(&self.path).await?;
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(io::Error::other)?;
        // Calls that are under way hear of what breaks it.
        tokio::spawn(async move { drop(driver.await) });
        *connection = Some(sender.clone());
        Ok(sender)
    }
}

/// A connection as the service that tonic wants.
struct Sender(SendRequest<Body>);

impl Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
