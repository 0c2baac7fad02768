//! gRPC without generated code: tonic's framing and status codes over hyper's HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use hyper::body::Incoming;
use prost::Message;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// The answer to one call.
pub(crate) type Reply = http::Response<Body>;

/// Answers a call of one message with one message, within the caller's deadline.
///
/// Dropping the returned future ends the work: the connection does so when the caller gives up.
pub(crate) async fn unary<Q, A, F, W>(request: http::Request<Incoming>, act: F) -> Reply
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: FnMut(Q) -> W + Send,
    W: Future<Output = Result<A, Status>> + Send + 'static,
{
    let deadline = timeout(request.headers());
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default());
    within(deadline, grpc.unary(Call(act), request)).await
}

/// Answers a call of one message with a stream of them; the deadline is for its beginning.
pub(crate) async fn server_streaming<Q, S, A, F, W>(request: http::Request<Incoming>, act: F) -> Reply
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
    F: FnMut(Q) -> W + Send,
    W: Future<Output = Result<S, Status>> + Send + 'static,
{
    let deadline = timeout(request.headers());
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default());
    within(deadline, grpc.server_streaming(Call(act), request)).await
}

async fn within(deadline: Option<Duration>, work: impl Future<Output = Reply>) -> Reply {
    let Some(deadline) = deadline else { return work.await };
    match tokio::time::timeout(deadline, work).await {
        Ok(reply) => reply,
        Err(_) => Status::deadline_exceeded(format!("not done within {deadline:?}")).into_http(),
    }
}

/// A function as the service that tonic wants.
struct Call<F>(F);

impl<F, Q, A, W> Service<Request<Q>> for Call<F>
where
    F: FnMut(Q) -> W,
    W: Future<Output = Result<A, Status>> + Send + 'static,
{
    type Response = Response<A>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<A>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let work = (self.0)(request.into_inner());
        Box::pin(async move { work.await.map(Response::new) })
    }
}

/// What hyper wants a service to return.
pub(crate) fn answered(reply: Reply) -> Result<Reply, Infallible> {
    Ok(reply)
}

/// Reads how long the caller waits.
///
/// # References
/// gRPC over HTTP/2, "Timeout"
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let check = |text: &'static str, expect: Option<Duration>| {
            let headers = [("grpc-timeout".parse().unwrap(), text.parse().unwrap())].into_iter().collect();
            assert_eq!(timeout(&headers), expect, "{text}");
        };
        check("1m", Some(Duration::from_millis(1)));
        check("999999u", Some(Duration::from_micros(999_999)));
        check("2H", Some(Duration::from_secs(7200)));
        check("99999999S", Some(Duration::from_secs(99_999_999)));
        check("100000000S", None);
        check("-1S", None);
        check("S", None);
        check("1x", None);
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
