//! What a customer hears about its job.

use nexus_core::{Hash32, Msat, Npub};
use nexus_seal::Signer;
use nostr::event::{Event, Kind, Tag};
use nostr::filter::Filter;

use super::{Feedback, HOLD, JobError, Quote, Readable, Status, read_amount};
use crate::event::{self, EventError};
use crate::kinds;
use crate::sealed::Sealed;

/// One event about a job, from the provider that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    pub id: Hash32,
    /// Seconds, as the provider says.
    pub created_at: i64,
    pub body: UpdateBody,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateBody {
    Feedback(Feedback),
    Result(JobResult),
}

impl UpdateBody {
    /// What the provider wants to be paid, when it says so.
    pub fn quote(&self) -> Option<Quote> {
        let (amount, bolt11) = match self {
            Self::Feedback(feedback) => (feedback.amount, feedback.bolt11.clone()),
            Self::Result(result) => (result.amount, result.bolt11.clone()),
        };
        (amount.is_some() || bolt11.is_some()).then_some(Quote { amount, bolt11 })
    }
}

/// The answer. It may precede, follow or do without payment.
#[derive(Clone, PartialEq, Eq)]
pub struct JobResult {
    pub content: String,
    /// Set when it is to be paid for afterwards.
    pub amount: Option<Msat>,
    pub bolt11: Option<String>,
}

impl std::fmt::Debug for JobResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobResult")
            .field("content", &"[redacted]")
            .field("amount", &self.amount)
            .finish_non_exhaustive()
    }
}

/// All that can be said about one job, by the one who may say it.
pub fn await_filter(request: Hash32, provider: &Npub) -> Filter {
    Filter::new()
        .kinds([Kind::from_u16(kinds::JOB_TEXT_RESULT), Kind::from_u16(kinds::JOB_FEEDBACK)])
        .author(event::public_key(provider))
        .event(event::event_id(request))
}

/// Reads a verified 7000 or 6050 about `request`. Another author or another request is refused.
pub fn read_update(update: &Event, request: Hash32, provider: &Npub) -> Result<Readable<Update>, JobError> {
    check_origin(update, request, provider)?;
    if event::rows(update, "encrypted").next().is_some() && !update.content.is_empty() {
        return Ok(Readable::Sealed(Sealed::new(*provider, &update.content)));
    }
    let rows: Vec<&[String]> = update.tags.iter().map(Tag::as_slice).collect();
    read_rows(update, &rows, &update.content).map(Readable::Clear)
}

/// Reads an encrypted 7000 or 6050 with its decrypted content.
///
/// Some providers hide tags, status included, as a JSON array in the content; those win over the ones outside.
pub fn open_update(update: &Event, request: Hash32, provider: &Npub, plaintext: &str) -> Result<Update, JobError> {
    check_origin(update, request, provider)?;
    let outside = update.tags.iter().map(Tag::as_slice);
    let hidden: Option<Vec<Vec<String>>> =
        if plaintext.starts_with("[[") { serde_json::from_str(plaintext).ok() } else { None };
    let is_feedback = update.kind.as_u16() == kinds::JOB_FEEDBACK;
    match hidden.filter(|rows| is_feedback && rows.iter().any(|row| is(row, "status"))) {
        Some(hidden) => {
            let content = hidden.iter().find(|row| is(row, "content")).and_then(|row| row.get(1)).cloned();
            let rows: Vec<&[String]> = hidden.iter().map(Vec::as_slice).chain(outside).collect();
            read_rows(update, &rows, content.as_deref().unwrap_or_default())
        }
        None => read_rows(update, &outside.collect::<Vec<_>>(), plaintext),
    }
}

/// Reads a verified 7000 or 6050 as the customer that holds `signer`, decrypting where needed.
pub async fn receive_update(
    update: &Event,
    request: Hash32,
    provider: &Npub,
    signer: &dyn Signer,
) -> Result<Update, JobError> {
    match read_update(update, request, provider)? {
        Readable::Clear(update) => Ok(update),
        Readable::Sealed(sealed) => open_update(update, request, provider, &sealed.open(signer).await?),
    }
}

fn check_origin(update: &Event, request: Hash32, provider: &Npub) -> Result<(), JobError> {
    let kind = update.kind.as_u16();
    if kind != kinds::JOB_FEEDBACK && kind != kinds::JOB_TEXT_RESULT {
        return Err(EventError::WrongKind { expected: kinds::JOB_TEXT_RESULT, found: kind }.into());
    }
    if event::npub(&update.pubkey) != *provider {
        return Err(JobError::Invalid("not from the provider that was asked"));
    }
    let request = request.to_string();
    if event::values(update, "e").any(|id| id == request) {
        Ok(())
    } else {
        Err(JobError::Invalid("about another job"))
    }
}

fn is(row: &[String], name: &str) -> bool {
    row.first().is_some_and(|first| first == name)
}

fn read_rows(update: &Event, rows: &[&[String]], content: &str) -> Result<Update, JobError> {
    let find = |name: &str| rows.iter().find(|row| is(row, name)).copied();
    let body = if update.kind.as_u16() == kinds::JOB_TEXT_RESULT {
        let quote = find("amount").and_then(|row| read_amount(Some(row), ""));
        let (amount, bolt11) = quote.map_or((None, None), |quote| (quote.amount, quote.bolt11));
        UpdateBody::Result(JobResult { content: content.to_owned(), amount, bolt11 })
    } else {
        let status = find("status").ok_or(JobError::Invalid("feedback without a status"))?;
        let quote = read_amount(find("amount"), content);
        let (amount, bolt11) = quote.map_or((None, None), |quote| (quote.amount, quote.bolt11));
        UpdateBody::Feedback(Feedback {
            status: Status::read(status.get(1).map(String::as_str).unwrap_or_default()),
            text: status.get(2).cloned().unwrap_or_default(),
            amount,
            bolt11,
            hold: find(HOLD).is_some(),
            content: content.to_owned(),
        })
    };
    Ok(Update { id: event::hash(&update.id), created_at: event::created_at(update), body })
}
