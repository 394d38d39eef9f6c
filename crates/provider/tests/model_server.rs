//! The model server's client against a real HTTP server.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
use nexus_provider::{Backend, BackendError, Completion, Endpoint, OpenAiBackend, Prompt};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// What the server answers, and what it was asked.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
}

type Answer = fn() -> Response;

async fn serve(answer: Answer) -> Server {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server { address: listener.local_addr().unwrap(), asked: Arc::default() };
    let app = Router::new()
        .route("/v1/chat/completions", post(move |state, headers, body| complete(state, headers, body, answer)))
        .route(
            "/api/tags",
            get(|| async { Json(json!({"models": [{"name": "nomic-embed-text"}, {"name": "llama3:8b"}]})) }),
        )
        .with_state(server.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    server
}

async fn complete(
    State(server): State<Server>,
    headers: HeaderMap,
    Json(body): Json<Value>,
    answer: Answer,
) -> Response {
    server.asked.lock().unwrap().push((headers, body));
    answer()
}

impl Server {
    fn backend(&self, key: Option<&std::path::Path>) -> OpenAiBackend {
        let endpoint = Endpoint {
            url: format!("http://{}/v1", self.address).parse().unwrap(),
            model: "llama3:8b".into(),
            api_key_file: key.map(Into::into),
        };
        OpenAiBackend::new(&endpoint, 1_000).unwrap()
    }

    async fn ask(&self) -> (Result<Completion, BackendError>, Vec<String>) {
        ask(&self.backend(None)).await
    }
}

async fn ask(backend: &OpenAiBackend) -> (Result<Completion, BackendError>, Vec<String>) {
    let prompt = Prompt {
        text: "hello".into(),
        max_tokens: 99,
        temperature: Some(0.5),
        top_p: None,
        top_k: None,
        frequency_penalty: None,
    };
    let (send, mut receive) = mpsc::channel(64);
    let listen = async {
        let mut pieces = Vec::new();
        while let Some(piece) = receive.recv().await {
            pieces.push(piece);
        }
        pieces
    };
    tokio::join!(backend.complete(&prompt, send), listen)
}

fn stream(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], body.into()).into_response()
}

fn piece(text: &str) -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}))
}

const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7}}\n\n";

#[tokio::test]
async fn a_stream_comes_in_pieces_and_as_a_whole() {
    let server = serve(|| {
        let bytes = format!("{}{}{USAGE}data: [DONE]\n\n", piece("Hällo "), piece("wörld"));
        let chunks: Vec<Vec<u8>> = bytes.into_bytes().chunks(3).map(<[u8]>::to_vec).collect();
        stream(Body::from_stream(futures::stream::iter(chunks).map(Ok::<_, std::io::Error>)))
    })
    .await;
    let (answer, pieces) = server.ask().await;
    assert_eq!(answer, Ok(Completion { text: "Hällo wörld".into(), tokens: Some(7) }));
    assert_eq!(pieces, ["Hällo ", "wörld"]);
    let (_, body) = server.asked.lock().unwrap().pop().unwrap();
    let expected = json!({
        "model": "llama3:8b", "stream": true, "stream_options": {"include_usage": true},
        "max_tokens": 99, "temperature": 0.5, "messages": [{"role": "user", "content": "hello"}],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_understood() {
    let server = serve(|| {
        let choice = json!({"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"});
        Json(json!({"choices": [choice], "usage": {"total_tokens": 5}})).into_response()
    })
    .await;
    let (answer, pieces) = server.ask().await;
    assert_eq!(answer, Ok(Completion { text: "hi".into(), tokens: Some(5) }));
    assert!(pieces.is_empty());
}

#[tokio::test]
async fn half_an_answer_is_none() {
    let cut = serve(|| stream(piece("half an ans"))).await;
    assert_eq!(cut.ask().await.0, Err(BackendError::Unavailable("the answer was cut off".into())));
    let failing = serve(|| stream(format!("{}data: {{\"error\":{{\"message\":\"secret\"}}}}\n\n", piece("x")))).await;
    assert_eq!(failing.ask().await.0, Err(BackendError::Unavailable("it reported an error".into())));
    let broken = serve(|| {
        let error = std::io::Error::other("reset");
        let chunks = vec![Ok(piece("x").into_bytes()), Err(error)];
        stream(Body::from_stream(futures::stream::iter(chunks)))
    })
    .await;
    assert!(broken.ask().await.0.unwrap_err().is_transient());
    let empty = serve(|| stream("data: [DONE]\n\n")).await;
    assert_eq!(empty.ask().await.0, Err(BackendError::Unavailable("an empty answer".into())));
}

#[tokio::test]
async fn statuses_say_whether_to_try_again() {
    let busy = serve(|| StatusCode::TOO_MANY_REQUESTS.into_response()).await;
    assert_eq!(busy.ask().await.0, Err(BackendError::Unavailable("HTTP 429".into())));
    let down = serve(|| StatusCode::BAD_GATEWAY.into_response()).await;
    assert!(down.ask().await.0.unwrap_err().is_transient());
    let bad = serve(|| (StatusCode::BAD_REQUEST, "no such model: secret").into_response()).await;
    assert_eq!(bad.ask().await.0, Err(BackendError::Refused("HTTP 400".into())));
    let moved = serve(|| (StatusCode::FOUND, [(header::LOCATION, "http://127.0.0.1:1/")]).into_response()).await;
    assert_eq!(moved.ask().await.0, Err(BackendError::Refused("HTTP 302".into())));
}

#[tokio::test]
async fn nobody_there_is_worth_another_attempt() {
    let server = serve(|| StatusCode::OK.into_response()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gone = Server { address, ..server };
    assert_eq!(gone.ask().await.0, Err(BackendError::Unavailable("no connection".into())));
}

#[tokio::test]
async fn an_endless_answer_is_cut_short() {
    let server = serve(|| {
        let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(piece("blah blah ").into_bytes()));
        stream(Body::from_stream(endless))
    })
    .await;
    let (answer, _) = tokio::time::timeout(Duration::from_secs(10), server.ask()).await.unwrap();
    assert_eq!(answer, Err(BackendError::TooLarge(1_000)));
    let silly = serve(|| {
        let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(b": keep-alive\n\n".to_vec()));
        stream(Body::from_stream(endless))
    })
    .await;
    let (answer, _) = tokio::time::timeout(Duration::from_secs(10), silly.ask()).await.unwrap();
    assert_eq!(answer, Err(BackendError::TooLarge(1_000)));
}

#[tokio::test]
async fn the_key_goes_to_the_server_and_nowhere_else() {
    let server = serve(|| stream(format!("{}data: [DONE]\n\n", piece("hi")))).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "sk-very-secret\n").unwrap();
    let backend = server.backend(Some(&path));
    assert!(ask(&backend).await.0.is_ok());
    let (headers, _) = server.asked.lock().unwrap().pop().unwrap();
    assert_eq!(headers[header::AUTHORIZATION], "Bearer sk-very-secret");
    assert!(!format!("{backend:?}").contains("secret"));
    let missing = Endpoint {
        url: "http://127.0.0.1/v1/".parse().unwrap(),
        model: "m".into(),
        api_key_file: Some(dir.path().join("no such file")),
    };
    assert!(OpenAiBackend::new(&missing, 1).unwrap_err().to_string().contains("no such file"));
}

#[tokio::test]
async fn an_ollama_on_this_machine_is_found_in_time() {
    let server = serve(|| StatusCode::OK.into_response()).await;
    let base = format!("http://{}/", server.address).parse().unwrap();
    let endpoint = nexus_provider::ollama::detect_at(&base).await.unwrap();
    assert_eq!(endpoint.model, "llama3:8b");
    assert_eq!(endpoint.url.as_str(), format!("http://{}/v1", server.address));

    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/", silent.local_addr().unwrap()).parse().unwrap();
    let found = tokio::time::timeout(Duration::from_secs(2), nexus_provider::ollama::detect_at(&base)).await.unwrap();
    assert_eq!(found, None);
}
