//! The connections: counted, slowed down, in TLS where that is wanted.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

/// Bytes that went over all connections, above TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Read from clients.
    pub received: u64,
    /// Written to clients.
    pub sent: u64,
}

/// Counts and slows down what goes over all connections.
#[derive(Debug)]
pub(crate) struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
    bandwidth: Option<u64>,
    /// When the next byte may be read, and written.
    free: Mutex<[Option<Instant>; 2]>,
}

#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

impl Meter {
    pub(crate) fn new(bandwidth: Option<u64>) -> Self {
        Self { received: AtomicU64::new(0), sent: AtomicU64::new(0), bandwidth, free: Mutex::default() }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Traffic { received: load(&self.received), sent: load(&self.sent) }
    }

    /// Counts bytes, and returns when the next may follow.
    fn count(&self, way: Way, bytes: usize) -> Option<Instant> {
        let (counter, index) = match way {
            Way::In => (&self.received, 0),
            Way::Out => (&self.sent, 1),
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        let bandwidth = self.bandwidth.filter(|_| bytes > 0)?;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = free.get_mut(index)?;
        let begin = slot.unwrap_or_else(Instant::now).max(Instant::now());
        let took = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / bandwidth.max(1));
        *slot = Some(begin + took);
        *slot
    }
}

/// What a request can find out about its connection.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    written: Arc<AtomicU64>,
    /// How much had been written when the connection was last flushed.
    flushed: Arc<watch::Sender<u64>>,
}

impl Line {
    fn new() -> Self {
        Self { written: Arc::default(), flushed: Arc::new(watch::Sender::new(0)) }
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` in all have been written and flushed.
    pub(crate) async fn flushed(&self, bytes: u64) {
        let _ = self.flushed.subscribe().wait_for(|flushed| *flushed >= bytes).await;
    }
}

impl Connected<IncomingStream<'_, Listener>> for Line {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.io().line.clone()
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connections that are ready to be spoken over.
pub(crate) struct Listener {
    ready: mpsc::Receiver<(Box<dyn Stream>, SocketAddr)>,
    address: io::Result<SocketAddr>,
    meter: Arc<Meter>,
}

impl Listener {
    pub(crate) fn new(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        meter: Arc<Meter>,
    ) -> Self {
        let (sender, ready) = mpsc::channel(16);
        let address = listener.local_addr();
        let acceptor = tls.map(TlsAcceptor::from);
        tokio::spawn(async move {
            while !sender.is_closed() {
                let Ok((stream, peer)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                let (sender, acceptor) = (sender.clone(), acceptor.clone());
                // A client that does not come to terms must not hold up the others.
                tokio::spawn(async move {
                    if let Ok(stream) = shake_hands(stream, acceptor).await {
                        let _ = sender.send((stream, peer)).await;
                    }
                });
            }
        });
        Self { ready, address, meter }
    }
}

async fn shake_hands(stream: TcpStream, acceptor: Option<TlsAcceptor>) -> io::Result<Box<dyn Stream>> {
    match acceptor {
        None => Ok(Box::new(stream)),
        Some(acceptor) => Ok(Box::new(acceptor.accept(stream).await?)),
    }
}

impl axum::serve::Listener for Listener {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        match self.ready.recv().await {
            Some((stream, peer)) => (Wire::new(stream, Arc::clone(&self.meter)), peer),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address.as_ref().map(|address| *address).map_err(|error| error.kind().into())
    }
}

/// One connection.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    meter: Arc<Meter>,
    line: Line,
    pause_in: Option<Pin<Box<Sleep>>>,
    pause_out: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    fn new(stream: Box<dyn Stream>, meter: Arc<Meter>) -> Self {
        Self { stream, meter, line: Line::new(), pause_in: None, pause_out: None }
    }
}

/// Waits out a pause.
fn pass(pause: &mut Option<Pin<Box<Sleep>>>, context: &mut Context<'_>) -> Poll<()> {
    if let Some(sleep) = pause {
        ready!(sleep.as_mut().poll(context));
        *pause = None;
    }
    Poll::Ready(())
}

fn pause_until(instant: Option<Instant>) -> Option<Pin<Box<Sleep>>> {
    instant.map(|instant| Box::pin(tokio::time::sleep_until(instant)))
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(pass(&mut wire.pause_in, context));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut wire.stream).poll_read(context, buffer))?;
        wire.pause_in = pause_until(wire.meter.count(Way::In, buffer.filled().len().saturating_sub(before)));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        ready!(pass(&mut wire.pause_out, context));
        let count = ready!(Pin::new(&mut wire.stream).poll_write(context, bytes))?;
        wire.pause_out = pause_until(wire.meter.count(Way::Out, count));
        wire.line.written.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(Pin::new(&mut wire.stream).poll_flush(context))?;
        wire.line.flushed.send_replace(wire.line.written());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
