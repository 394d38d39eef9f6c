//! HTTP/1.1 over one fresh connection, with a hold on the moment the first byte of each request leaves.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nexus_core::{Clock, MonoMs};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const CONNECT_MS: u64 = 2_000;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// The deadline passed; no byte left.
    Late,
    /// No byte left.
    Unsent(String),
    /// Some did, or may have.
    Lost(String),
    /// They did, and within so many milliseconds nothing came back.
    Silent(u64),
}

/// The last moment that a request may leave.
#[derive(Clone)]
pub(crate) struct Deadline {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) at: Option<MonoMs>,
}

impl Deadline {
    pub(crate) fn passed(&self) -> bool {
        self.at.is_some_and(|at| self.clock.mono() >= at)
    }
}

/// What happens at the gate. A connection that was not told of a request lets nothing out.
#[derive(Default)]
enum Passage {
    #[default]
    Shut,
    Armed(Deadline),
    Left,
    Late,
}

/// A connection that asks the clock right before a request's first byte is handed down, and never after. Above TLS that
/// is the byte in clear: it is encrypted and given to the kernel in the same call.
struct Gate<S> {
    stream: S,
    passage: Arc<Mutex<Passage>>,
}

fn lock(passage: &Mutex<Passage>) -> std::sync::MutexGuard<'_, Passage> {
    passage.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> Gate<S> {
    fn open(&self) -> io::Result<()> {
        let mut passage = lock(&self.passage);
        match &*passage {
            Passage::Left => Ok(()),
            Passage::Armed(deadline) if !deadline.passed() => {
                *passage = Passage::Left;
                Ok(())
            }
            Passage::Armed(_) | Passage::Late => {
                *passage = Passage::Late;
                Err(io::Error::new(io::ErrorKind::TimedOut, "too late to send"))
            }
            Passage::Shut => Err(io::Error::other("nothing was to be sent")),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
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

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// One connection, for one request after another. It is driven by whoever waits on it and not by a task of its own: when
/// that future is dropped, nothing is sent behind the caller's back.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Option<Driver>,
    passage: Arc<Mutex<Passage>>,
    /// Why the connection ended, once it has.
    ended: Option<String>,
}

impl Connection {
    pub(crate) async fn over<S>(stream: S) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let passage = Arc::new(Mutex::new(Passage::default()));
        let gate = Gate { stream, passage: passage.clone() };
        let (sender, driver) = http1::handshake(TokioIo::new(gate)).await.map_err(|error| error.to_string())?;
        Ok(Self { sender, driver: Some(Box::pin(driver)), passage, ended: None })
    }

    /// Sends a request whose body is small, and gives the head of its answer. The answer before it must have been read
    /// to its end.
    pub(crate) async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
        deadline: Deadline,
        timeout_ms: u64,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let asked = tokio::time::timeout(Duration::from_millis(timeout_ms), self.ask_untimed(request, deadline)).await;
        let why = match asked {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(why)) => Some(self.ended.clone().unwrap_or(why)),
            Err(_) => None,
        };
        Err(match (&*lock(&self.passage), why) {
            (Passage::Left, Some(why)) => NoAnswer::Lost(why),
            (Passage::Left, None) => NoAnswer::Silent(timeout_ms),
            (Passage::Late, _) => NoAnswer::Late,
            (Passage::Shut | Passage::Armed(_), why) => {
                NoAnswer::Unsent(why.unwrap_or_else(|| format!("nothing could be sent within {timeout_ms} ms")))
            }
        })
    }

    async fn ask_untimed(
        &mut self,
        request: Request<Full<Bytes>>,
        deadline: Deadline,
    ) -> Result<Response<Incoming>, String> {
        *lock(&self.passage) = Passage::Shut;
        let Self { sender, driver, passage, ended } = self;
        let work = async {
            sender.ready().await.map_err(|error| error.to_string())?;
            *lock(passage) = if deadline.passed() { Passage::Late } else { Passage::Armed(deadline) };
            sender.send_request(request).await.map_err(|error| error.to_string())
        };
        alongside(driver, ended, work).await
    }

    /// The whole of a body of at most `max` bytes.
    pub(crate) async fn whole(&mut self, mut body: Incoming, max: usize, timeout_ms: u64) -> Result<Bytes, String> {
        let read = async {
            let mut bytes = Vec::new();
            while let Some(more) = self.more(&mut body).await? {
                if bytes.len() + more.len() > max {
                    return Err(format!("an answer of more than {max} bytes"));
                }
                bytes.extend_from_slice(&more);
            }
            Ok(bytes.into())
        };
        let read = tokio::time::timeout(Duration::from_millis(timeout_ms), read).await;
        read.unwrap_or_else(|_| Err(format!("an answer that did not end within {timeout_ms} ms")))
    }

    /// The next bytes of a body; none at its regular end. May be dropped and called again.
    pub(crate) async fn more(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, String> {
        loop {
            match alongside(&mut self.driver, &mut self.ended, body.frame()).await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.ended.clone().unwrap_or_else(|| error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// Does `work` while the connection is driven.
async fn alongside<T>(driver: &mut Option<Driver>, ended: &mut Option<String>, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if let Some(connection) = driver {
        tokio::select! {
            done = &mut work => return done,
            end = connection => *ended = end.err().map(|error| error.to_string()),
        }
        *driver = None;
    }
    work.await
}

/// Sends `request` on a connection of its own and reads an answer of at most `max` bytes, within `timeout_ms` of the
/// connection standing.
pub(crate) async fn send(
    addr: SocketAddr,
    request: Request<Full<Bytes>>,
    deadline: Deadline,
    max: usize,
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
    let mut connection = Connection::over(stream).await.map_err(NoAnswer::Unsent)?;
    let answer = connection.ask(request, deadline, timeout_ms).await?;
    let status = answer.status();
    let body = connection.whole(answer.into_body(), max, timeout_ms).await.map_err(NoAnswer::Lost)?;
    Ok((status, body))
}
