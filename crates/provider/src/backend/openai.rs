//! A client for OpenAI-compatible chat completions, streaming.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use url::Url;

use super::sse::Decoder;
use super::{Backend, BackendError, Completion, Prompt};
use crate::config::{ConfigError, Endpoint};
use crate::http;

/// Longest time without a byte from the server.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest response, framing included, as a multiple of the largest answer: a streamed token of 4 bytes comes in
/// some 250 bytes of JSON.
const FRAMING_FACTOR: usize = 96;
/// Largest key file, in bytes.
const MAX_KEY_FILE: u64 = 4_096;

/// A server that speaks `POST {base}/chat/completions`.
pub struct OpenAiBackend {
    client: reqwest::Client,
    url: Url,
    model: String,
    authorization: Option<HeaderValue>,
    max_answer: usize,
}

impl std::fmt::Debug for OpenAiBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenAiBackend")
            .field("url", &self.url.as_str())
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl OpenAiBackend {
    /// Reads the key file and makes the client; does not connect. Answers above `max_answer` bytes are errors.
    pub fn new(endpoint: &Endpoint, max_answer: usize) -> Result<Self, ConfigError> {
        let error = |what: &str| ConfigError(format!("backend: {what}"));
        if !matches!(endpoint.url.scheme(), "http" | "https") {
            return Err(error("url: expected http:// or https://"));
        }
        let mut url = endpoint.url.clone();
        url.path_segments_mut()
            .map_err(|()| error("url: expected http:// or https://"))?
            .pop_if_empty()
            .extend(["chat", "completions"]);
        Ok(Self {
            client: http::client(http::is_local(&url)).map_err(|_| error("no HTTP client could be made"))?,
            url,
            model: endpoint.model.clone(),
            authorization: endpoint.api_key_file.as_deref().map(read_key).transpose()?,
            max_answer,
        })
    }

    async fn request(&self, prompt: &Prompt) -> Result<Response, BackendError> {
        let body = Body {
            model: &self.model,
            messages: [Message { role: "user", content: &prompt.text }],
            stream: true,
            stream_options: StreamOptions { include_usage: true },
            max_tokens: prompt.max_tokens,
            temperature: prompt.temperature,
            top_p: prompt.top_p,
            top_k: prompt.top_k,
            frequency_penalty: prompt.frequency_penalty,
        };
        let mut request = self.client.post(self.url.clone()).json(&body);
        if let Some(authorization) = &self.authorization {
            request = request.header(reqwest::header::AUTHORIZATION, authorization);
        }
        let response = tokio::time::timeout(IDLE_TIMEOUT, request.send())
            .await
            .map_err(|_| unavailable("no response"))?
            .map_err(|error| unavailable(if error.is_connect() { "no connection" } else { "the request failed" }))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status if may_pass(status) => Err(BackendError::Unavailable(format!("HTTP {}", status.as_u16()))),
            status => Err(BackendError::Refused(format!("HTTP {}", status.as_u16()))),
        }
    }

    async fn read_stream(
        &self,
        response: Response,
        partial: &mpsc::Sender<String>,
    ) -> Result<Completion, BackendError> {
        let mut answer = Answer { text: String::new(), tokens: None, finished: false, max: self.max_answer };
        let mut decoder = Decoder::default();
        let mut body = Bounded::new(response, self.max_answer);
        while let Some(bytes) = body.next().await? {
            let events = decoder.push(&bytes).map_err(|_| unavailable("not an event stream"))?;
            for data in events {
                if data == "[DONE]" {
                    return answer.end(true);
                }
                if let Some(piece) = answer.take(&data)? {
                    // Nobody listening is no reason to stop.
                    let _ = partial.send(piece).await;
                }
            }
        }
        match decoder.finish() {
            Some(data) if data == "[DONE]" => answer.end(true),
            Some(data) => {
                answer.take(&data)?;
                answer.end(false)
            }
            None => answer.end(false),
        }
    }

    /// A server that does not stream answers with one JSON document.
    async fn read_whole(&self, response: Response) -> Result<Completion, BackendError> {
        let mut bytes = Vec::new();
        let mut body = Bounded::new(response, self.max_answer);
        while let Some(chunk) = body.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(bytes).map_err(|_| unavailable("a response that is not UTF-8"))?;
        let mut answer = Answer { text: String::new(), tokens: None, finished: false, max: self.max_answer };
        answer.take(&text)?;
        answer.end(true)
    }
}

impl Backend for OpenAiBackend {
    fn models(&self) -> Vec<String> {
        vec![self.model.clone()]
    }

    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt,
        partial: mpsc::Sender<String>,
    ) -> BoxFuture<'a, Result<Completion, BackendError>> {
        Box::pin(async move {
            let response = self.request(prompt).await?;
            let streams = response
                .headers()
                .get(CONTENT_TYPE)
                .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
            if streams { self.read_stream(response, &partial).await } else { self.read_whole(response).await }
        })
    }
}

fn unavailable(why: &str) -> BackendError {
    BackendError::Unavailable(why.to_owned())
}

/// Statuses after which the same request may succeed.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

fn read_key(path: &Path) -> Result<HeaderValue, ConfigError> {
    let error = |what: &str| ConfigError(format!("backend: api_key_file {}: {what}", path.display()));
    let length = std::fs::metadata(path).map_err(|cause| error(&cause.to_string()))?.len();
    if length > MAX_KEY_FILE {
        return Err(error("larger than 4,096 bytes"));
    }
    let key = std::fs::read_to_string(path).map_err(|cause| error(&cause.to_string()))?;
    let mut value =
        HeaderValue::from_str(&format!("Bearer {}", key.trim())).map_err(|_| error("not a bearer token"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: [Message<'a>; 1],
    stream: bool,
    stream_options: StreamOptions,
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

/// One chunk of a stream, or a whole response: they differ in `delta` and `message`.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(alias = "message", default)]
    delta: Delta,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize, Default)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    total_tokens: Option<u64>,
}

/// What was read of an answer so far.
struct Answer {
    text: String,
    tokens: Option<u64>,
    finished: bool,
    max: usize,
}

impl Answer {
    /// Takes one chunk and returns the text that it added.
    fn take(&mut self, data: &str) -> Result<Option<String>, BackendError> {
        let chunk: Chunk =
            serde_json::from_str(data).map_err(|_| unavailable("a response that is not a completion"))?;
        if chunk.error.is_some() {
            return Err(unavailable("it reported an error"));
        }
        if let Some(total) = chunk.usage.and_then(|usage| usage.total_tokens) {
            self.tokens = Some(total);
        }
        let Some(choice) = chunk.choices.into_iter().next() else {
            return Ok(None);
        };
        self.finished |= choice.finish_reason.is_some();
        let piece = choice.delta.content.unwrap_or_default();
        if self.text.len() + piece.len() > self.max {
            return Err(BackendError::TooLarge(self.max));
        }
        self.text.push_str(&piece);
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// An answer counts only when the server said that it was over: half an answer is none.
    fn end(self, told: bool) -> Result<Completion, BackendError> {
        if !told && !self.finished {
            return Err(unavailable("the answer was cut off"));
        }
        if self.text.is_empty() {
            return Err(unavailable("an empty answer"));
        }
        Ok(Completion { text: self.text, tokens: self.tokens })
    }
}

/// A response body with a bound on its size and on silence.
struct Bounded {
    stream: futures::stream::BoxStream<'static, Result<bytes::Bytes, reqwest::Error>>,
    left: usize,
    max_answer: usize,
}

impl Bounded {
    fn new(response: Response, max_answer: usize) -> Self {
        let left = max_answer.saturating_mul(FRAMING_FACTOR).saturating_add(64 * 1024);
        Self { stream: response.bytes_stream().boxed(), left, max_answer }
    }

    async fn next(&mut self) -> Result<Option<bytes::Bytes>, BackendError> {
        let next = tokio::time::timeout(IDLE_TIMEOUT, self.stream.next());
        let Some(chunk) = next.await.map_err(|_| unavailable("it went silent"))? else {
            return Ok(None);
        };
        let chunk = chunk.map_err(|_| unavailable("the connection was cut"))?;
        self.left = self.left.checked_sub(chunk.len()).ok_or(BackendError::TooLarge(self.max_answer))?;
        Ok(Some(chunk))
    }
}
