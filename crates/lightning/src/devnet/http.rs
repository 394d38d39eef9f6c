//! One HTTP/1.1 request over one fresh connection, with a hold on the moment its first byte leaves.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use nexus_core::{Clock, MonoMs};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::api::MAX_ANSWER_BYTES;

const CONNECT_MS: u64 = 2_000;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The deadline passed; no byte left.
    Late,
    /// No byte left.
    Unsent(String),
    /// Some did, or may have.
    Lost(String),
}

/// The last moment that a request may leave.
#[derive(Clone)]
pub(super) struct Deadline {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) at: Option<MonoMs>,
}

impl Deadline {
    fn passed(&self) -> bool {
        self.at.is_some_and(|at| self.clock.mono() >= at)
    }
}

/// What happened at the gate.
#[derive(Default)]
struct Passage {
    left: AtomicBool,
    late: AtomicBool,
}

/// A connection that asks the clock right before its first byte is handed to the kernel, and never after.
struct Gate {
    stream: TcpStream,
    deadline: Deadline,
    passage: Arc<Passage>,
}

impl Gate {
    fn open(&self) -> io::Result<()> {
        if self.passage.left.load(Ordering::SeqCst) {
            return Ok(());
        }
        if self.deadline.passed() {
            self.passage.late.store(true, Ordering::SeqCst);
            return Err(io::Error::new(io::ErrorKind::TimedOut, "too late to send"));
        }
        self.passage.left.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl AsyncRead for Gate {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gate {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.open()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.open()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Sends `request` and reads its whole answer, within `timeout_ms` of the connection standing.
pub(super) async fn send(
    addr: SocketAddr,
    request: Request<Full<Bytes>>,
    deadline: Deadline,
    timeout_ms: u64,
) -> Result<(StatusCode, Bytes), NoAnswer> {
    if deadline.passed() {
        return Err(NoAnswer::Late);
    }
    let connect = tokio::time::timeout(Duration::from_millis(CONNECT_MS), TcpStream::connect(addr));
    let stream = match connect.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(NoAnswer::Unsent(format!("{addr}: {error}"))),
        Err(_) => return Err(NoAnswer::Unsent(format!("{addr} does not accept connections"))),
    };
    // Small requests: waiting for more to send would only cost time.
    let _ = stream.set_nodelay(true);
    let passage = Arc::new(Passage::default());
    let gate = Gate { stream, deadline, passage: passage.clone() };
    match tokio::time::timeout(Duration::from_millis(timeout_ms), exchange(gate, request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => Err(no_answer(&passage, why)),
        Err(_) => Err(no_answer(&passage, format!("no answer within {timeout_ms} ms"))),
    }
}

fn no_answer(passage: &Passage, why: String) -> NoAnswer {
    if passage.left.load(Ordering::SeqCst) {
        NoAnswer::Lost(why)
    } else if passage.late.load(Ordering::SeqCst) {
        NoAnswer::Late
    } else {
        NoAnswer::Unsent(why)
    }
}

/// The connection is driven here and not by a task of its own: when this future is dropped, nothing is sent behind the
/// caller's back.
async fn exchange(gate: Gate, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(gate)).await.map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match answer.await {
            Err(why) => Err(ended.err().map_or(why, |error| error.to_string())),
            whole => whole,
        },
    }
}
