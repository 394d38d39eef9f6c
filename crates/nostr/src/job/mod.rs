//! Buying and selling computation over NIP-90, for text generation (kind 5050).
//!
//! The request's prompt and parameters are encrypted to the provider unless the owner's policy allows clear text.
//! Amounts on the wire are millisats, whatever unit a tag claims.

/// A tag of ours, in announcements (31990) and requests for payment (7000): the invoice is a hold invoice, whose money is
/// taken with the result or given back.
pub const HOLD: &str = "hold";

mod feedback;
mod request;
mod update;

pub use feedback::{Feedback, Status, build_feedback, build_result, encrypt_feedback, feedback_to, result_to};
pub use request::{
    Dialect, Input, InputKind, Job, MAX_PROMPT, Params, Request, clear_request, encrypted_request, open_request,
    private_part, read_request, receive, request_filter, request_to,
};
pub use update::{JobResult, Update, UpdateBody, await_filter, open_update, read_update, receive_update};

use nexus_core::Msat;
use nexus_seal::SignerError;

use crate::event::EventError;
use crate::sealed::Sealed;

/// What a provider wants for a job, and the invoice if it came along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Absent when only an invoice was sent: its own amount counts.
    pub amount: Option<Msat>,
    pub bolt11: Option<String>,
}

/// Something that is either readable or sealed to its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readable<T> {
    Clear(T),
    Sealed(Sealed),
}

/// Why a job event was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Event(#[from] EventError),
    #[error("{0}")]
    Invalid(&'static str),
    #[error("the content could not be opened: {0}")]
    Signer(#[from] SignerError),
}

/// The amount of a tag `["amount", msat, bolt11?]`, and the invoice where there is one.
///
/// OpenAgents writes a unit where the invoice belongs, and the invoice into the content.
fn read_amount(row: Option<&[String]>, content: &str) -> Option<Quote> {
    let amount = row.and_then(|row| row.get(1)).and_then(|text| text.parse::<u64>().ok());
    let amount = amount.and_then(|msat| Msat::try_from(msat).ok());
    let tagged = row.and_then(|row| row.get(2)).map(String::as_str).filter(|text| is_invoice(text));
    let bolt11 = tagged.or_else(|| Some(content.trim()).filter(|text| is_invoice(text))).map(str::to_owned);
    (amount.is_some() || bolt11.is_some()).then_some(Quote { amount, bolt11 })
}

/// Whether a text looks like a BOLT11 invoice: decoding it is the wallet's business.
fn is_invoice(text: &str) -> bool {
    let network = text.get(..3).unwrap_or_default().to_ascii_lowercase();
    text.len() <= 4_096
        && matches!(network.as_str(), "lnb" | "lnt")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}
