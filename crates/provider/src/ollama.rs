//! Finding a model server on this machine.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use crate::config::Endpoint;
use crate::http;

const ADDRESS: &str = "http://127.0.0.1:11434/";
/// `nexus dev` is ready in about a second, so a machine without Ollama must not wait for it.
const PATIENCE: Duration = Duration::from_millis(200);
const MAX_BODY: usize = 256 * 1024;

#[derive(Deserialize)]
struct Tags {
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
}

/// The endpoint of an Ollama on 127.0.0.1:11434 that has a model to chat with; answers within 200 ms.
pub async fn detect_ollama() -> Option<Endpoint> {
    detect_at(&Url::parse(ADDRESS).ok()?).await
}

/// The same for another address.
pub async fn detect_at(base: &Url) -> Option<Endpoint> {
    let tags = tokio::time::timeout(PATIENCE, list_models(base)).await.ok()??;
    let model = tags.models.into_iter().map(|tag| tag.name).find(|name| !name.contains("embed"))?;
    Some(Endpoint { url: base.join("v1").ok()?, model, api_key_file: None })
}

async fn list_models(base: &Url) -> Option<Tags> {
    let client = http::client(true).ok()?;
    let mut response = client.get(base.join("api/tags").ok()?).send().await.ok()?.error_for_status().ok()?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY {
            return None;
        }
    }
    serde_json::from_slice(&body).ok()
}
