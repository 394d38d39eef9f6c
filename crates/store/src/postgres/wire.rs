//! One connection, byte by byte: how it begins, and messages back and forth.
//!
//! Everything that is to be said is written first and sent at once, while what comes back is read: neither side waits
//! for the other with full buffers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::config::PostgresConfig;
use super::tls::Tls;

/// Bytes of one answer at most: a page of the largest rows, with much to spare.
const MAX_MESSAGE: usize = 256 * 1024 * 1024;
/// A peer that is cut off is noticed: after so long without a byte it is asked so often, as often as this.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(1);
pub(crate) const KEEPALIVES: u32 = 2;
/// Messages of the greeting at most.
const MAX_GREETING: usize = 200;

/// What the server said of a statement. The connection lives on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SqlError {
    /// SQLSTATE.
    pub(crate) code: String,
    pub(crate) message: String,
}

/// Why something could not be had from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection is of no more use.
    Lost(String),
    Sql(SqlError),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(why) => f.write_str(why),
            Self::Sql(error) => write!(f, "{error}"),
        }
    }
}

impl std::fmt::Display for SqlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// A server that was shut down or is starting: worth another try. Wrong names and passwords are not.
impl Failure {
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            // Connection exceptions, operator intervention, too many connections.
            Self::Sql(error) => ["08", "57", "53"].iter().any(|class| error.code.starts_with(class)),
        }
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub(crate) struct Wire {
    stream: Stream,
    input: BytesMut,
    output: BytesMut,
    /// The server's process.
    pid: i32,
    /// Longest time without a byte while an answer is due.
    silence: Duration,
}

impl Wire {
    /// Connects, authenticates and settles the session: what an operator's defaults may not weaken.
    pub(crate) async fn connect(
        config: &PostgresConfig,
        tls: Option<&Tls>,
        statement_ms: u64,
        settings: &str,
    ) -> Result<Self, Failure> {
        let greeting = async {
            let stream = dial(config, tls).await?;
            let (input, output) = (BytesMut::with_capacity(64 * 1024), BytesMut::with_capacity(64 * 1024));
            let mut wire = Self { stream, input, output, pid: 0, silence: PostgresConfig::silence(statement_ms) };
            wire.greet(config).await?;
            Ok::<_, Failure>(wire)
        };
        let late = |_| Failure::Lost("no connection within connect_timeout_ms".into());
        let mut wire = timeout(config.connect_timeout(), greeting).await.map_err(late)??;
        wire.simple(settings).await?;
        Ok(wire)
    }

    /// The session's number, by which others see it.
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// What will be sent with the next exchange.
    pub(crate) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Sends the output and hands every answer to `take`, until the server was ready `syncs` times.
    pub(crate) async fn exchange(
        &mut self,
        mut syncs: usize,
        mut take: impl FnMut(Message) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self { stream, input, output, silence, .. } = self;
        let sent = output.split();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let write = async {
            let written = async {
                writer.write_all(&sent).await?;
                writer.flush().await
            };
            timeout(*silence, written).await.map_err(|_| silent())?.map_err(Failure::from)
        };
        let read = async {
            while syncs > 0 {
                match next(&mut reader, input, *silence).await? {
                    message @ Message::ReadyForQuery(_) => {
                        syncs -= 1;
                        take(message)?;
                    }
                    Message::ErrorResponse(body) => {
                        let (error, fatal) = read_error(&body)?;
                        if fatal {
                            return Err(Failure::Lost(error.to_string()));
                        }
                        take(Message::ErrorResponse(body))?;
                    }
                    Message::NoticeResponse(_) | Message::ParameterStatus(_) | Message::NotificationResponse(_) => {}
                    message => take(message)?,
                }
            }
            Ok(())
        };
        tokio::try_join!(write, read).map(|_| ())
    }

    /// Statements without parameters, in one round; the first column of each row as text. For sessions and migrations.
    pub(crate) async fn simple(&mut self, sql: &str) -> Result<Vec<String>, Failure> {
        frontend::query(sql, &mut self.output)?;
        let (mut texts, mut failed) = (Vec::new(), None);
        self.exchange(1, |message| {
            match message {
                Message::DataRow(row) => {
                    let first = fallible_iterator::FallibleIterator::next(&mut row.ranges())?.flatten();
                    let text = first.and_then(|range| row.buffer().get(range)).unwrap_or_default();
                    texts.push(String::from_utf8_lossy(text).into_owned());
                }
                Message::ErrorResponse(body) => failed = Some(read_error(&body)?.0),
                _ => {}
            }
            Ok(())
        })
        .await?;
        failed.map_or(Ok(texts), |error| Err(Failure::Sql(error)))
    }

    /// Longer for a migration, which may rewrite a table.
    pub(crate) fn be_patient(&mut self, silence: Duration) {
        self.silence = silence;
    }

    /// Says goodbye, as far as that is possible without waiting.
    pub(crate) async fn close(mut self) {
        frontend::terminate(&mut self.output);
        let sent = self.output.split();
        let _ = timeout(Duration::from_millis(100), async {
            self.stream.write_all(&sent).await?;
            self.stream.shutdown().await
        })
        .await;
    }

    async fn greet(&mut self, config: &PostgresConfig) -> Result<(), Failure> {
        let parameters = [
            ("user", config.user.as_str()),
            ("database", config.database.as_str()),
            ("client_encoding", "UTF8"),
            ("application_name", config.application_name.as_str()),
        ];
        frontend::startup_message(parameters, &mut self.output)?;
        let mut scram = None;
        for _ in 0..MAX_GREETING {
            let sent = self.output.split();
            self.stream.write_all(&sent).await?;
            self.stream.flush().await?;
            match next(&mut self.stream, &mut self.input, self.silence).await? {
                Message::ErrorResponse(body) => return Err(Failure::Sql(read_error(&body)?.0)),
                Message::ReadyForQuery(_) => return Ok(()),
                message => self.authenticate(message, config, &mut scram)?,
            }
        }
        Err(Failure::Lost("the server does not stop greeting".into()))
    }

    fn authenticate(
        &mut self,
        message: Message,
        config: &PostgresConfig,
        scram: &mut Option<ScramSha256>,
    ) -> Result<(), Failure> {
        match message {
            Message::AuthenticationCleartextPassword => {
                // Only where nobody listens.
                if !config.is_socket() && !matches!(self.stream, Stream::Tls(_)) {
                    return Err(refused("the server wants the password in clear, over a connection in clear"));
                }
                frontend::password_message(&password(config)?, &mut self.output)?;
            }
            Message::AuthenticationSasl(body) => {
                let mut offered = body.mechanisms();
                let mut known = false;
                while let Some(mechanism) = fallible_iterator::FallibleIterator::next(&mut offered)? {
                    known |= mechanism == SCRAM_SHA_256;
                }
                if !known {
                    return Err(refused("the server offers no SCRAM-SHA-256"));
                }
                let begun = ScramSha256::new(&password(config)?, ChannelBinding::unsupported());
                frontend::sasl_initial_response(SCRAM_SHA_256, begun.message(), &mut self.output)?;
                *scram = Some(begun);
            }
            Message::AuthenticationSaslContinue(body) => {
                let scram = scram.as_mut().ok_or_else(|| refused("SCRAM out of turn"))?;
                scram.update(body.data()).map_err(|error| refused(&error.to_string()))?;
                frontend::sasl_response(scram.message(), &mut self.output)?;
            }
            Message::AuthenticationSaslFinal(body) => {
                let scram = scram.as_mut().ok_or_else(|| refused("SCRAM out of turn"))?;
                scram.finish(body.data()).map_err(|error| refused(&error.to_string()))?;
            }
            Message::BackendKeyData(body) => self.pid = body.process_id(),
            Message::AuthenticationOk | Message::ParameterStatus(_) | Message::NoticeResponse(_) => {}
            _ => return Err(refused("the server wants a way of authentication other than SCRAM-SHA-256")),
        }
        Ok(())
    }
}

/// A failure that another try would meet again.
fn refused(message: &str) -> Failure {
    Failure::Sql(SqlError { code: "28000".into(), message: message.into() })
}

fn silent() -> Failure {
    Failure::Lost("the server fell silent".into())
}

fn password(config: &PostgresConfig) -> Result<zeroize::Zeroizing<Vec<u8>>, Failure> {
    if let Some(name) = &config.password_env {
        let Some(text) = std::env::var_os(name) else {
            return Err(refused(&format!("password_env: there is no variable {name}")));
        };
        return Ok(zeroize::Zeroizing::new(text.into_encoded_bytes()));
    }
    let Some(path) = &config.password_file else {
        return Err(refused("the server wants a password, and there is no password_file or password_env"));
    };
    let text = std::fs::read(path).map_err(|error| refused(&format!("password_file {}: {error}", path.display())))?;
    let text = zeroize::Zeroizing::new(text);
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(zeroize::Zeroizing::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec()))
}

async fn dial(config: &PostgresConfig, tls: Option<&Tls>) -> Result<Stream, Failure> {
    if config.is_socket() {
        let path = format!("{}/.s.PGSQL.{}", config.host, config.port);
        return Ok(Stream::Unix(UnixStream::connect(path).await?));
    }
    let mut stream = TcpStream::connect((config.host.as_str(), config.port)).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    let probes = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(KEEPALIVES);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(config.unacknowledged()))?;
    let Some(tls) = tls else { return Ok(Stream::Tcp(stream)) };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    // One byte, read alone: whatever followed it would have come before the encryption.
    if stream.read_u8().await? != b'S' {
        return Err(refused("the server does not speak TLS, and sslmode asks for it"));
    }
    let name: ServerName<'static> = tls.name.clone();
    let encrypted = TlsConnector::from(tls.config.clone()).connect(name, stream).await;
    Ok(Stream::Tls(Box::new(encrypted.map_err(tls_failure)?)))
}

/// A certificate that does not hold is refused for good; a broken handshake may pass.
fn tls_failure(error: io::Error) -> Failure {
    let certificate = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(|inner| matches!(inner, rustls::Error::InvalidCertificate(_)));
    if certificate { refused(&format!("TLS: {error}")) } else { Failure::Lost(format!("TLS: {error}")) }
}

async fn next(
    reader: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    silence: Duration,
) -> Result<Message, Failure> {
    loop {
        if let Some(message) = Message::parse(input)? {
            return Ok(message);
        }
        if input.len() > MAX_MESSAGE {
            return Err(Failure::Lost("a message beyond all bounds".into()));
        }
        let read = timeout(silence, reader.read_buf(input)).await.map_err(|_| silent())??;
        if read == 0 {
            return Err(Failure::Lost("the server closed the connection".into()));
        }
    }
}

/// The error, and whether it ends the connection.
pub(crate) fn read_error(body: &ErrorResponseBody) -> Result<(SqlError, bool), Failure> {
    let (mut code, mut message, mut fatal) = (String::new(), String::new(), false);
    let mut fields = body.fields();
    while let Some(field) = fallible_iterator::FallibleIterator::next(&mut fields)? {
        let text = String::from_utf8_lossy(field.value_bytes());
        match field.type_() {
            b'C' => code = text.into_owned(),
            b'M' => message = text.into_owned(),
            b'V' => fatal = matches!(text.as_ref(), "FATAL" | "PANIC"),
            // Details may quote rows; they stay in the server's log.
            _ => {}
        }
    }
    Ok((SqlError { code, message }, fatal))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
