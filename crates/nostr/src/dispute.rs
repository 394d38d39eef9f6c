//! A dispute's evidence, as one file that anybody can check: the request that was published, what the provider said of it,
//! the invoice, and the preimage that proves its payment. Pure: whoever checks a file asks nobody.

use nexus_core::dispute::{DisputeId, DisputeState};
use nexus_core::{Hash32, Msat, Npub, UnixMs};
use nostr::event::Event;
use serde::{Deserialize, Serialize};

use crate::event::{self, EventError};
use crate::job::{self, Readable, Status, UpdateBody, read_update};
use crate::kinds;

/// Version of the form.
pub const FORMAT: u32 = 1;
/// Largest file that is read, in bytes: a request, a result, and what is kept of feedback.
pub const MAX_BUNDLE: usize = 512 * 1024;
/// Events of the provider in one file.
const MAX_EVENTS: usize = 32;

/// What is kept of a job under the view key: the part of a bundle that is not for everybody.
#[derive(Clone, Serialize, Deserialize)]
pub struct Evidence {
    pub dispute_id: DisputeId,
    /// The signed request (5050), as it was published.
    pub request: Event,
    /// Signed words of the provider (7000).
    pub heard: Vec<Event>,
    pub bolt11: String,
    /// None while it is not known whether the money arrived, or where the wallet gives none.
    pub preimage: Option<Hash32>,
    /// A result (6050) that came too late for its tick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Event>,
    /// Where the job was published.
    #[serde(default)]
    pub relays: Vec<String>,
}

impl std::fmt::Debug for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence").field("dispute_id", &self.dispute_id).finish_non_exhaustive()
    }
}

/// The whole file: the evidence, and what its owner says besides.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bundle {
    pub nexus_dispute: u32,
    pub agent: Npub,
    pub provider: Npub,
    #[serde(rename = "amount_msat")]
    pub amount: Msat,
    #[serde(rename = "fee_msat")]
    pub fee: Msat,
    #[serde(rename = "paid_at_ms")]
    pub paid_at: Option<UnixMs>,
    /// When waiting for a result ended. The agent's own word: silence leaves no proof.
    #[serde(rename = "silent_at_ms")]
    pub silent_at: UnixMs,
    pub state: DisputeState,
    #[serde(flatten)]
    pub evidence: Evidence,
}

/// What an invoice says of itself, read by whoever can decode one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invoice {
    pub hash: Hash32,
    pub amount: Option<Msat>,
}

/// What a bundle proves. All that is said here was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Proven {
    pub agent: Npub,
    pub provider: Npub,
    pub request: Hash32,
    pub payment_hash: Hash32,
    #[serde(rename = "amount_msat")]
    pub amount: Msat,
    /// The provider's signed request for exactly this payment.
    pub asked_by: Hash32,
    /// A result, signed by the provider, came after all.
    pub answered: Option<Hash32>,
}

/// Why a bundle proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    #[error("a file of more than {MAX_BUNDLE} bytes")]
    TooLarge,
    #[error("it is no dispute's evidence: {0}")]
    Malformed(String),
    #[error("it has format {0}, this program reads {FORMAT}")]
    Format(u32),
    #[error("the request: {0}")]
    Request(EventError),
    #[error("the request was signed by another key than the agent's")]
    OtherAgent,
    #[error("the request is addressed to another provider")]
    OtherProvider,
    #[error("the provider's event {0}: {1}")]
    Heard(Hash32, String),
    #[error("the invoice can't be read: {0}")]
    Invoice(String),
    #[error("no event signed by the provider asks for this invoice in readable form")]
    NotAsked,
    #[error("the amount is not the invoice's")]
    OtherAmount,
    #[error("it has no preimage: nothing shows that the invoice was paid")]
    NoPreimage,
    #[error("the preimage is not the invoice's: nothing shows that it was paid")]
    WrongPreimage,
}

impl Bundle {
    /// Reads a file without believing it.
    pub fn read(bytes: &[u8]) -> Result<Self, Unproven> {
        if bytes.len() > MAX_BUNDLE {
            return Err(Unproven::TooLarge);
        }
        serde_json::from_slice(bytes).map_err(|error| Unproven::Malformed(error.to_string()))
    }
}

/// Checks a bundle: that the agent asked, that the provider asked for this payment of this job, and that the payment was made.
/// `invoice` is what `bundle.evidence.bolt11` says, or why it can't be read.
pub fn verify(bundle: &Bundle, invoice: Result<Invoice, String>) -> Result<Proven, Unproven> {
    let Bundle { agent, provider, evidence, .. } = bundle;
    if bundle.nexus_dispute != FORMAT {
        return Err(Unproven::Format(bundle.nexus_dispute));
    }
    let request = check_request(agent, provider, &evidence.request)?;
    if evidence.heard.len() > MAX_EVENTS {
        return Err(Unproven::Malformed("too many events".into()));
    }
    let mut asked_by = None;
    for heard in &evidence.heard {
        if asks_for(heard, request, provider, &evidence.bolt11)? {
            asked_by = asked_by.or(Some(event::hash(&heard.id)));
        }
    }
    let answered = match &evidence.late {
        Some(late) => Some(check_result(late, request, provider)?),
        None => None,
    };
    let invoice = invoice.map_err(Unproven::Invoice)?;
    let asked_by = asked_by.ok_or(Unproven::NotAsked)?;
    if invoice.amount != Some(bundle.amount) {
        return Err(Unproven::OtherAmount);
    }
    let preimage = evidence.preimage.ok_or(Unproven::NoPreimage)?;
    if Hash32::sha256(preimage.as_bytes()) != invoice.hash {
        return Err(Unproven::WrongPreimage);
    }
    Ok(Proven {
        agent: *agent,
        provider: *provider,
        request,
        payment_hash: invoice.hash,
        amount: bundle.amount,
        asked_by,
        answered,
    })
}

fn check_request(agent: &Npub, provider: &Npub, request: &Event) -> Result<Hash32, Unproven> {
    event::check_shape(request).map_err(Unproven::Request)?;
    event::expect_kind(request, kinds::JOB_TEXT).map_err(Unproven::Request)?;
    event::verify(request).map_err(Unproven::Request)?;
    if event::npub(&request.pubkey) != *agent {
        return Err(Unproven::OtherAgent);
    }
    if !event::mentioned(request, 16).contains(provider) {
        return Err(Unproven::OtherProvider);
    }
    Ok(event::hash(&request.id))
}

/// Whether a provider's event, which must be its own and about this request, asks for exactly this invoice.
fn asks_for(heard: &Event, request: Hash32, provider: &Npub, bolt11: &str) -> Result<bool, Unproven> {
    let odd = |why: String| Unproven::Heard(event::hash(&heard.id), why);
    event::check_shape(heard).and_then(|()| event::verify(heard)).map_err(|error| odd(error.to_string()))?;
    // Amount and invoice stand beside an encrypted text, in most dialects.
    let tagged = || event::rows(heard, "amount").any(|row| row.get(2).is_some_and(|text| text == bolt11));
    Ok(match read_update(heard, request, provider).map_err(|error| odd(error.to_string()))? {
        Readable::Sealed(_) => tagged(),
        Readable::Clear(update) => match &update.body {
            UpdateBody::Feedback(feedback) => {
                feedback.status == Status::PaymentRequired && feedback.bolt11.as_deref() == Some(bolt11)
            }
            UpdateBody::Result(result) => result.bolt11.as_deref() == Some(bolt11),
        },
    })
}

fn check_result(late: &Event, request: Hash32, provider: &Npub) -> Result<Hash32, Unproven> {
    let odd = |why: String| Unproven::Heard(event::hash(&late.id), why);
    event::expect_kind(late, kinds::JOB_TEXT_RESULT)
        .and_then(|()| event::check_shape(late))
        .and_then(|()| event::verify(late))
        .map_err(|error| odd(error.to_string()))?;
    read_update(late, request, provider).map_err(|error| odd(error.to_string()))?;
    Ok(event::hash(&late.id))
}

/// The first result among events that were verified on their way in.
pub fn late_result(events: &[std::sync::Arc<Event>], request: Hash32, provider: &Npub) -> Option<Event> {
    let is_result = |event: &&std::sync::Arc<Event>| {
        event.kind.as_u16() == kinds::JOB_TEXT_RESULT && job::read_update(event, request, provider).is_ok()
    };
    events.iter().find(is_result).map(|event| Event::clone(event))
}
