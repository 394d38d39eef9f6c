//! TLS, HTTP, and what goes wrong on the way.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc;
use futures::{Stream, StreamExt as _};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::calls::{self, Call};
use super::{Course, Shared, Wire, World};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer of the node, before the wire has its way with it.
pub(super) enum Answer {
    Whole(Value),
    /// gRPC code and message.
    Error(u32, String),
    /// Lines, each under `result`; an error ends it.
    Stream(mpsc::UnboundedReceiver<Result<Value, (u32, String)>>),
}

pub(super) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    world: Arc<World>,
    shared: Arc<Shared>,
) {
    // Dropped with this future, and each connection with it.
    let mut connections = JoinSet::new();
    let acceptor = TlsAcceptor::from(tls);
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(connection(stream, acceptor.clone(), world.clone(), shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, world: Arc<World>, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let (world, shared) = (world.clone(), shared.clone());
        async move { handle(&world, &shared, request).await }
    });
    // A cut answer ends the connection with an error, as it should.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn handle(
    world: &Arc<World>,
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let macaroon = head.headers.get("grpc-metadata-macaroon").and_then(|it| it.to_str().ok()).map(str::to_owned);
    let (course, wire) = {
        let mut state = shared.lock();
        let at = state.rules.iter().position(|rule| path.starts_with(rule.path));
        let rule = at.and_then(|at| state.rules.remove(at));
        rule.map_or((Course::Plain, Wire::Whole), |rule| (rule.course, rule.wire))
    };
    shared.lock().arrived.push(format!("{} {path}", head.method));
    match &wire {
        Wire::Dropped => return Err(io::Error::other("dropped")),
        Wire::Instead { status, body } => {
            let status = StatusCode::from_u16(*status).expect("a status");
            return Ok(response(status, body.clone().into()));
        }
        Wire::Whole | Wire::Slow { .. } | Wire::Cut { .. } | Wire::Garbled { .. } | Wire::Mute | Wire::Huge { .. } => {}
    }
    let heard = Heard { method: head.method, path, body, macaroon, course };
    let answer = match wire {
        // Bytes on their way arrive, whether or not their sender still lives.
        Wire::Slow { ms } => {
            let (world, shared) = (world.clone(), shared.clone());
            let late = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                answered(&world, &shared, &heard)
            });
            late.await.map_err(io::Error::other)?
        }
        Wire::Whole
        | Wire::Dropped
        | Wire::Cut { .. }
        | Wire::Instead { .. }
        | Wire::Garbled { .. }
        | Wire::Mute
        | Wire::Huge { .. } => answered(world, shared, &heard),
    };
    match wire {
        Wire::Cut { lines: 0, within: false } => Err(io::Error::other("cut")),
        Wire::Mute => std::future::pending().await,
        Wire::Garbled { body } => Ok(response(StatusCode::OK, body.into())),
        Wire::Huge { bytes } => Ok(response(StatusCode::OK, vec![b'x'; bytes].into())),
        Wire::Cut { lines, within } => Ok(told(answer, Some((lines, within))).await),
        Wire::Whole | Wire::Slow { .. } | Wire::Dropped | Wire::Instead { .. } => Ok(told(answer, None).await),
    }
}

/// An answer that is no stream, or half of it.
fn single(status: StatusCode, body: &Value, cut: bool) -> Response<Body> {
    let mut bytes = body.to_string().into_bytes();
    if !cut {
        return response(status, bytes.into());
    }
    bytes.truncate(bytes.len() / 2);
    let parts = futures::stream::once(async { Ok(Frame::data(bytes.into())) }).chain(broken());
    let mut response = Response::new(StreamBody::new(parts).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// The end of a connection, once what was said before is on its way.
fn broken() -> impl Stream<Item = Result<Frame<Bytes>, io::Error>> + Send {
    futures::stream::once(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(io::Error::other("cut"))
    })
}

/// A request that reached the node.
struct Heard {
    method: hyper::Method,
    path: String,
    body: Bytes,
    macaroon: Option<String>,
    course: Course,
}

fn answered(world: &Arc<World>, shared: &Arc<Shared>, heard: &Heard) -> Answer {
    shared.lock().heard.push(format!("{} {}", heard.method, heard.path));
    let Heard { method, path, body, macaroon, course } = heard;
    let call = Call { method: method.as_str(), path, body, macaroon: macaroon.as_deref(), course: *course };
    calls::answer(world, shared, &call)
}

/// gRPC's codes as the gateway turns them into HTTP's.
fn status(code: u32) -> StatusCode {
    match code {
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn response(status: StatusCode, body: Bytes) -> Response<Body> {
    let body = Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
    response
}

fn error(code: u32, message: &str) -> Value {
    json!({ "code": code, "message": message, "details": [] })
}

/// A stream's error before its first line has the error's status and is wrapped; one after it is a line.
async fn told(answer: Answer, cut: Option<(usize, bool)>) -> Response<Body> {
    let mut lines = match answer {
        Answer::Whole(body) => return single(StatusCode::OK, &body, cut.is_some()),
        Answer::Error(code, message) => return single(status(code), &error(code, &message), cut.is_some()),
        Answer::Stream(lines) => lines,
    };
    // No head before the first line.
    let first = match lines.next().await {
        Some(Ok(first)) => first,
        Some(Err((code, message))) => {
            return single(status(code), &json!({ "error": error(code, &message) }), cut.is_some());
        }
        None => return response(StatusCode::OK, Bytes::new()),
    };
    let all = futures::stream::once(async { Ok(first) }).chain(lines);
    let parts = all.enumerate().flat_map(move |(at, line)| {
        let line = match line {
            Ok(result) => json!({ "result": result }),
            Err((code, message)) => json!({ "error": error(code, &message) }),
        };
        let mut bytes = format!("{line}\n").into_bytes();
        let cut_here = cut.is_some_and(|(lines, _)| at >= lines);
        if cut_here {
            let half = if cut.is_some_and(|(_, within)| within) { bytes.len() / 2 } else { 0 };
            bytes.truncate(half);
        }
        let part = futures::stream::once(async { Ok(Frame::data(Bytes::from(bytes))) });
        if cut_here { part.chain(broken()).boxed() } else { part.boxed() }
    });
    let mut response = Response::new(StreamBody::new(parts).boxed_unsync());
    response.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
    response
}
