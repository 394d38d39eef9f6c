//! A wire between a client and a server that a test can hold, cut, or make lose what comes back.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes that [`Proxy::said`] keeps at most.
pub const SAID: usize = 1024 * 1024;

/// Where the server is.
#[derive(Debug, Clone)]
pub enum Upstream {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What the wire does with bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Rule {
    #[default]
    Pass,
    /// What the client sends from these bytes on waits (all of it, if empty). What it sent before went through. As long as
    /// clients are held they are not told that the server closed.
    HoldBefore(Vec<u8>),
    /// So many bytes more of each connection go through; what the client sends after them waits.
    HoldAfter(usize),
    /// The client's bytes go through, but from these on nothing comes back.
    Mute(Vec<u8>),
    /// Both ends find their connection closed; new ones are refused.
    Cut,
}

/// A proxy on a loopback port. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    rule: watch::Sender<Rule>,
    /// How often a held or muted place was met.
    met: watch::Receiver<u32>,
    cuts: watch::Sender<u32>,
    said: Arc<Mutex<Vec<u8>>>,
    accept: JoinHandle<()>,
}

#[derive(Clone)]
struct Wire {
    rule: watch::Receiver<Rule>,
    met: Arc<watch::Sender<u32>>,
    cuts: watch::Receiver<u32>,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    /// Needs a Tokio runtime as long as it lives.
    pub async fn start(upstream: Upstream) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (rule, rules) = watch::channel(Rule::Pass);
        let (meet, met) = watch::channel(0);
        let said = Arc::default();
        let (cuts, cut) = watch::channel(0);
        let wire = Wire { rule: rules, met: Arc::new(meet), cuts: cut, said: Arc::clone(&said) };
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, upstream.clone(), wire.clone()));
            }
        });
        Self { address, rule, met, cuts, said, accept }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn set(&self, rule: Rule) {
        self.said().clear();
        self.rule.send_replace(rule);
    }

    /// Both ends of every connection of this moment find it closed, and nothing more goes through them, whatever the rule
    /// says next. New ones are let in.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// What clients sent through it since the rule was last set, the first [`SAID`] bytes.
    pub fn said(&self) -> MutexGuard<'_, Vec<u8>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the place that the rule names was met, `times` times since the start.
    pub async fn met(&self, times: u32) {
        let mut met = self.met.clone();
        met.wait_for(|met| *met >= times).await.expect("the proxy lives");
    }
}

impl Wire {
    fn note(&self, bytes: &[u8]) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let room = SAID.saturating_sub(said.len());
        said.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
        self.rule.send_replace(Rule::Cut);
    }
}

async fn serve(client: TcpStream, upstream: Upstream, mut wire: Wire) {
    let _ = client.set_nodelay(true);
    let (from, to) = client.into_split();
    let (muted, heard) = watch::channel(false);
    let cut = {
        let (mut rule, mut cuts) = (wire.rule.clone(), wire.cuts.clone());
        cuts.mark_unchanged();
        async move {
            tokio::select! {
                _ = rule.wait_for(|rule| *rule == Rule::Cut) => {}
                _ = cuts.changed() => {}
            }
        }
    };
    let held = wire.rule.clone();
    let pump = async {
        match upstream {
            Upstream::Tcp(address) => {
                let server = TcpStream::connect(address).await?;
                server.set_nodelay(true)?;
                let (back, forth) = server.into_split();
                tokio::try_join!(forward(from, forth, &mut wire, &muted), answer(back, to, heard, held))
            }
            Upstream::Unix(path) => {
                let (back, forth) = UnixStream::connect(path).await?.into_split();
                tokio::try_join!(forward(from, forth, &mut wire, &muted), answer(back, to, heard, held))
            }
        }
    };
    tokio::select! {
        biased;
        () = cut => {}
        _ = pump => {}
    }
}

/// From the client to the server, by the rule of the moment. An end of either is an error, so that both end.
async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    wire: &mut Wire,
    muted: &watch::Sender<bool>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut passed = 0;
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        let bytes = &buffer[..read];
        if wire.rule.has_changed().unwrap_or(false) {
            passed = 0;
        }
        let rule = wire.rule.borrow_and_update().clone();
        wire.note(bytes);
        match rule {
            Rule::Pass | Rule::Cut => to.write_all(bytes).await?,
            Rule::HoldBefore(ref place) => match find(bytes, place) {
                None => to.write_all(bytes).await?,
                Some(at) => hold(bytes, at, &mut to, wire, &rule).await?,
            },
            Rule::HoldAfter(count) => match count.checked_sub(passed) {
                Some(left) if left >= read => {
                    passed += read;
                    to.write_all(bytes).await?;
                }
                left => hold(bytes, left.unwrap_or(0), &mut to, wire, &rule).await?,
            },
            Rule::Mute(ref place) => {
                if find(bytes, place).is_some() {
                    muted.send_replace(true);
                    wire.met.send_modify(|met| *met += 1);
                }
                to.write_all(bytes).await?;
            }
        }
    }
}

/// Lets what stands before `at` through, and the rest when the rule is another one.
async fn hold(
    bytes: &[u8],
    at: usize,
    to: &mut (impl AsyncWrite + Unpin),
    wire: &mut Wire,
    rule: &Rule,
) -> std::io::Result<()> {
    to.write_all(&bytes[..at]).await?;
    to.flush().await?;
    wire.met.send_modify(|met| *met += 1);
    let _ = wire.rule.clone().wait_for(|now| now != rule).await;
    to.write_all(&bytes[at..]).await
}

async fn answer(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    muted: watch::Receiver<bool>,
    mut rule: watch::Receiver<Rule>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            // A client that stands still does not see that it was left.
            let _ = rule.wait_for(|rule| !matches!(rule, Rule::HoldBefore(_) | Rule::HoldAfter(_))).await;
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        // A muted wire goes on swallowing.
        if !*muted.borrow() {
            to.write_all(&buffer[..read]).await?;
        }
    }
}

fn find(bytes: &[u8], place: &[u8]) -> Option<usize> {
    if place.is_empty() {
        return Some(0);
    }
    bytes.windows(place.len()).position(|window| window == place)
}
