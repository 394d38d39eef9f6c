//! What does the thinking: one trait, two implementations.

mod openai;
mod sse;

use std::fmt;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

pub use openai::OpenAiBackend;

/// What a customer wants answered. Its text is private.
#[derive(Clone, PartialEq)]
pub struct Prompt {
    pub text: String,
    pub max_tokens: u32,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<u32>,
    pub frequency_penalty: Option<f64>,
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prompt")
            .field("text", &"[redacted]")
            .field("max_tokens", &self.max_tokens)
            .finish_non_exhaustive()
    }
}

/// An answer. Its text is private.
#[derive(Clone, PartialEq, Eq)]
pub struct Completion {
    pub text: String,
    /// Tokens of prompt and answer together, where the backend counted them.
    pub tokens: Option<u64>,
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").field("text", &"[redacted]").field("tokens", &self.tokens).finish()
    }
}

/// Why there is no answer. Says nothing of the prompt, so that it may be logged and told to the customer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Another attempt may succeed: no connection, 408, 429, 5xx, or a stream that was cut.
    #[error("the model server is unavailable: {0}")]
    Unavailable(String),
    /// Another attempt would end the same way.
    #[error("the model server refused the request: {0}")]
    Refused(String),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

impl BackendError {
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Refused(_) | Self::TooLarge(_) => false,
        }
    }
}

/// Answers prompts. Time is bounded by the caller, who drops the future; size by the implementation.
pub trait Backend: Send + Sync + 'static {
    /// The models it answers as; the first is the default.
    fn models(&self) -> Vec<String>;

    /// Answers one prompt. Pieces of the answer go to `partial` as they come; nobody may be listening.
    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt,
        partial: mpsc::Sender<String>,
    ) -> BoxFuture<'a, Result<Completion, BackendError>>;
}
