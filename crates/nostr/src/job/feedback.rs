//! What a provider answers: feedback (7000) and the result (6050).

use nexus_core::Msat;
use nexus_seal::Signer;
use nostr::event::{Tag, UnsignedEvent};

use super::{HOLD, JobError, Request};
use crate::event::{Head, tag};
use crate::kinds;

/// Longest result or feedback content, in bytes.
const MAX_CONTENT: usize = 40_960;
/// Seconds after which relays may forget an answer.
const EXPIRES_AFTER: i64 = 7 * 86_400;

/// The `status` of a feedback event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    PaymentRequired,
    Processing,
    Error,
    /// Not a result: only a 6050 is one.
    Success,
    /// A piece of the answer, in the content.
    Partial,
    /// One that a dialect made up.
    Other(String),
}

impl Status {
    pub fn as_str(&self) -> &str {
        match self {
            Self::PaymentRequired => "payment-required",
            Self::Processing => "processing",
            Self::Error => "error",
            Self::Success => "success",
            Self::Partial => "partial",
            Self::Other(text) => text,
        }
    }

    /// Reads a status; an unknown one is kept, up to 64 bytes of it.
    pub fn read(text: &str) -> Self {
        match text {
            "payment-required" => Self::PaymentRequired,
            "processing" => Self::Processing,
            "error" => Self::Error,
            "success" => Self::Success,
            "partial" => Self::Partial,
            other => Self::Other(other.chars().take(64).collect()),
        }
    }
}

/// How a job is getting on.
#[derive(Clone, PartialEq, Eq)]
pub struct Feedback {
    pub status: Status,
    /// For people.
    pub text: String,
    pub amount: Option<Msat>,
    pub bolt11: Option<String>,
    /// The invoice is a hold invoice.
    pub hold: bool,
    /// The piece, for [`Status::Partial`].
    pub content: String,
}

impl std::fmt::Debug for Feedback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feedback").field("status", &self.status).field("amount", &self.amount).finish_non_exhaustive()
    }
}

impl Feedback {
    pub fn new(status: Status) -> Self {
        Self { status, text: String::new(), amount: None, bolt11: None, hold: false, content: String::new() }
    }

    pub fn payment_required(amount: Msat, bolt11: String) -> Self {
        Self { amount: Some(amount), bolt11: Some(bolt11), ..Self::new(Status::PaymentRequired) }
    }

    pub fn error(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::new(Status::Error) }
    }

    pub fn partial(content: impl Into<String>) -> Self {
        Self { content: content.into(), ..Self::new(Status::Partial) }
    }

    /// What an encrypted answer hides: the content, or else the text for people.
    fn private(&self) -> &str {
        if self.content.is_empty() { &self.text } else { &self.content }
    }
}

fn amount_tag(amount: Option<Msat>, bolt11: Option<&str>) -> Option<Tag> {
    let msat = amount?.as_u64().to_string();
    Some(match bolt11 {
        Some(invoice) => tag(["amount", &msat, invoice]),
        None => tag(["amount", &msat]),
    })
}

/// A hold invoice is named as one, encrypted or not: whoever pays must know how long the payment may take.
fn hold_tag(feedback: &Feedback) -> Option<Tag> {
    feedback.hold.then(|| tag([HOLD]))
}

fn reference(head: Head, request: &Request) -> Vec<Tag> {
    vec![
        tag(["e", &request.id.to_string()]),
        tag(["p", &request.customer.to_hex()]),
        tag(["expiration", &head.created_at.saturating_add(EXPIRES_AFTER).to_string()]),
    ]
}

/// Feedback to a request that came in clear.
pub fn build_feedback(head: Head, request: &Request, feedback: &Feedback) -> UnsignedEvent {
    let mut tags = reference(head, request);
    tags.push(if feedback.text.is_empty() {
        tag(["status", feedback.status.as_str()])
    } else {
        tag(["status", feedback.status.as_str(), &feedback.text])
    });
    tags.extend(amount_tag(feedback.amount, feedback.bolt11.as_deref()));
    tags.extend(hold_tag(feedback));
    head.unsigned(kinds::JOB_FEEDBACK, tags, feedback.content.as_str())
}

/// Feedback whose content and text are in `ciphertext`; status and amount stay readable.
pub fn encrypt_feedback(head: Head, request: &Request, feedback: &Feedback, ciphertext: &str) -> UnsignedEvent {
    let mut tags = reference(head, request);
    tags.push(tag(["status", feedback.status.as_str()]));
    tags.extend(amount_tag(feedback.amount, feedback.bolt11.as_deref()));
    tags.extend(hold_tag(feedback));
    if !ciphertext.is_empty() {
        tags.push(tag(["encrypted"]));
    }
    head.unsigned(kinds::JOB_FEEDBACK, tags, ciphertext)
}

/// Feedback in the form that the request came in. The event is still to be signed.
pub async fn feedback_to(
    signer: &dyn Signer,
    created_at: i64,
    request: &Request,
    feedback: &Feedback,
) -> Result<UnsignedEvent, JobError> {
    let head = Head::new(signer.public_key(), created_at);
    if feedback.private().len() > MAX_CONTENT {
        return Err(JobError::Invalid("feedback of more than 40960 bytes"));
    }
    if !request.encrypted {
        return Ok(build_feedback(head, request, feedback));
    }
    let ciphertext = match feedback.private() {
        "" => String::new(),
        text => signer.nip44_encrypt(&request.customer, text).await?,
    };
    Ok(encrypt_feedback(head, request, feedback, &ciphertext))
}

/// A result (6050). An encrypted one does not repeat the input.
pub fn build_result(head: Head, request: &Request, content: &str, amount: Option<(Msat, &str)>) -> UnsignedEvent {
    let mut tags = reference(head, request);
    if request.encrypted {
        tags.push(tag(["encrypted"]));
    } else if request.json.len() <= 8_192 {
        tags.push(tag(["request", &request.json]));
    }
    tags.extend(amount_tag(amount.map(|(amount, _)| amount), amount.map(|(_, bolt11)| bolt11)));
    head.unsigned(kinds::JOB_TEXT_RESULT, tags, content)
}

/// A result in the form that the request came in; with an amount and invoice when it is paid for afterwards.
pub async fn result_to(
    signer: &dyn Signer,
    created_at: i64,
    request: &Request,
    content: &str,
    amount: Option<(Msat, &str)>,
) -> Result<UnsignedEvent, JobError> {
    if content.len() > MAX_CONTENT {
        return Err(JobError::Invalid("a result of more than 40960 bytes"));
    }
    let head = Head::new(signer.public_key(), created_at);
    if !request.encrypted {
        return Ok(build_result(head, request, content, amount));
    }
    let ciphertext = signer.nip44_encrypt(&request.customer, content).await?;
    Ok(build_result(head, request, &ciphertext, amount))
}
