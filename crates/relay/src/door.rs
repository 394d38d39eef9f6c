//! The way in: connections are counted before a byte is read, and have a moment to become WebSockets.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};

use crate::quota::{Place, Quotas};

/// A listener that turns away what is over the bounds.
pub(crate) struct Door {
    listener: TcpListener,
    quotas: Arc<Quotas>,
    /// How long a connection may take to ask for what it wants, and to be told.
    handshake: Duration,
}

impl Door {
    pub(crate) fn new(listener: TcpListener, quotas: Arc<Quotas>, handshake: Duration) -> Self {
        Self { listener, quotas, handshake }
    }
}

impl Listener for Door {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            let Some(place) = self.quotas.connect(address.ip()) else { continue };
            // Small answers must not wait for acknowledgements of earlier ones.
            let _ = stream.set_nodelay(true);
            let deadline = Box::pin(sleep(self.handshake));
            return (Guest { stream, established: Arc::default(), deadline, _place: place }, address);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A counted connection.
pub(crate) struct Guest {
    stream: TcpStream,
    established: Arc<AtomicBool>,
    deadline: Pin<Box<Sleep>>,
    /// Given back when the connection is dropped.
    _place: Place,
}

/// Who is at the other end, as the router's handlers see it.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    established: Arc<AtomicBool>,
}

impl Peer {
    /// The connection became a WebSocket: its own timeouts apply from now on.
    pub(crate) fn establish(&self) {
        self.established.store(true, Ordering::Release);
    }
}

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self { address: *stream.remote_addr(), established: stream.io().established.clone() }
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self { address: *stream.remote_addr(), established: Arc::default() }
    }
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.established.load(Ordering::Acquire) && self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
