//! The request (5050): what the customer writes and the provider reads.

use std::collections::BTreeMap;

use nexus_core::{Hash32, Msat, Npub};
use nexus_seal::Signer;
use nostr::event::{Event, Kind, Tag, UnsignedEvent};
use nostr::filter::Filter;
use nostr::types::Timestamp;

use super::{JobError, Readable};
use crate::event::{self, Head, tag};
use crate::kinds;
use crate::sealed::Sealed;

/// Longest prompt, in bytes: with the padding of NIP-44 and base64, a longer one does not fit an event that relays take.
pub const MAX_PROMPT: usize = 40_960;
const MAX_INPUTS: usize = 16;
const MAX_PARAMS: usize = 32;
/// Seconds after which relays may forget a request.
const EXPIRES_AFTER: i64 = 86_400;

/// What a customer wants computed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Job {
    pub prompt: String,
    pub params: Params,
    /// The MIME type wanted back.
    pub output: Option<String>,
    /// The most the customer will pay.
    pub bid: Option<Msat>,
    /// Where the answer should be published.
    pub relays: Vec<String>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("bid", &self.bid).field("prompt", &"[redacted]").finish_non_exhaustive()
    }
}

/// The `param` tags by key. Keys are kept with underscores: the examples of the NIP spell some with hyphens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        if self.0.len() < MAX_PARAMS {
            self.0.insert(key.replace('-', "_"), value.into());
        }
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn model(&self) -> Option<&str> {
        self.get("model").filter(|model| !model.is_empty())
    }

    pub fn max_tokens(&self) -> Option<u32> {
        self.get("max_tokens").and_then(|text| text.parse().ok())
    }

    /// A number such as `temperature` or `top_p`; none when it is not a finite one.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(|text| text.parse().ok()).filter(|number: &f64| number.is_finite())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// How a provider wants a clear request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// NIP-90: the prompt in an `i` tag.
    #[default]
    Standard,
    /// OpenAgents: the prompt in the content too.
    OpenAgents,
}

/// What kind of input an `i` tag names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    Text,
    Url,
    Event,
    Job,
}

/// One `i` tag.
#[derive(Clone, PartialEq, Eq)]
pub struct Input {
    pub kind: InputKind,
    pub data: String,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("kind", &self.kind).field("data", &"[redacted]").finish()
    }
}

/// A request as a provider reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub id: Hash32,
    pub customer: Npub,
    /// Whom it names; a request that names nobody is open to all.
    pub provider: Option<Npub>,
    pub created_at: i64,
    pub inputs: Vec<Input>,
    pub params: Params,
    pub output: Option<String>,
    pub bid: Option<Msat>,
    pub relays: Vec<String>,
    /// Whether it came encrypted: then the answer has to be, too.
    pub encrypted: bool,
    /// The request event, which the result quotes.
    pub json: String,
}

impl Request {
    /// The texts of the request, joined; empty when it has none.
    pub fn prompt(&self) -> String {
        let texts = self.inputs.iter().filter(|input| input.kind == InputKind::Text).map(|input| input.data.as_str());
        texts.collect::<Vec<_>>().join("\n")
    }
}

/// The part of a job that an encrypted request hides: a JSON array of its `i` and `param` tags.
pub fn private_part(job: &Job) -> Result<String, JobError> {
    if job.prompt.is_empty() || job.prompt.len() > MAX_PROMPT {
        return Err(JobError::Invalid("a prompt has 1 to 40960 bytes"));
    }
    let rows: Vec<Vec<String>> = hidden_tags(job).into_iter().map(Tag::to_vec).collect();
    serde_json::to_string(&rows).map_err(|_| JobError::Invalid("the job is not text"))
}

fn hidden_tags(job: &Job) -> Vec<Tag> {
    let params = job.params.iter().map(|(key, value)| tag(["param", key, value]));
    std::iter::once(tag(["i", &job.prompt, "text"])).chain(params).collect()
}

fn open_tags(head: Head, job: &Job) -> Vec<Tag> {
    let mut tags = vec![tag(["expiration", &head.created_at.saturating_add(EXPIRES_AFTER).to_string()])];
    if let Some(output) = &job.output {
        tags.push(tag(["output", output]));
    }
    if let Some(bid) = job.bid {
        tags.push(tag(["bid", &bid.as_u64().to_string()]));
    }
    if !job.relays.is_empty() {
        tags.push(Tag::custom("relays", job.relays.iter().take(8)));
    }
    tags
}

/// A request whose prompt and parameters are in `ciphertext`, made from [`private_part`] for `provider`.
pub fn encrypted_request(head: Head, provider: &Npub, job: &Job, ciphertext: &str) -> UnsignedEvent {
    let mut tags = vec![tag(["p", &provider.to_hex()]), tag(["encrypted"])];
    tags.extend(open_tags(head, job));
    head.unsigned(kinds::JOB_TEXT, tags, ciphertext)
}

/// A request in clear. Only for an owner whose policy allows it.
pub fn clear_request(head: Head, provider: Option<&Npub>, job: &Job, dialect: Dialect) -> UnsignedEvent {
    let mut tags = hidden_tags(job);
    tags.extend(provider.map(|provider| tag(["p", &provider.to_hex()])));
    tags.extend(open_tags(head, job));
    let content = match dialect {
        Dialect::Standard => "",
        Dialect::OpenAgents => job.prompt.as_str(),
    };
    head.unsigned(kinds::JOB_TEXT, tags, content)
}

/// Encrypts a job to a provider with the customer's key (NIP-44). The event is still to be signed.
pub async fn request_to(
    signer: &dyn Signer,
    created_at: i64,
    provider: &Npub,
    job: &Job,
) -> Result<UnsignedEvent, JobError> {
    let ciphertext = signer.nip44_encrypt(provider, &private_part(job)?).await?;
    Ok(encrypted_request(Head::new(signer.public_key(), created_at), provider, job, &ciphertext))
}

/// Reads a verified 5050.
pub fn read_request(request: &Event) -> Result<Readable<Request>, JobError> {
    event::expect_kind(request, kinds::JOB_TEXT)?;
    if event::rows(request, "encrypted").next().is_some() {
        return Ok(Readable::Sealed(Sealed::new(event::npub(&request.pubkey), &request.content)));
    }
    let rows: Vec<&[String]> = request.tags.iter().map(Tag::as_slice).collect();
    read_rows(request, &rows, false).map(Readable::Clear)
}

/// Reads an encrypted 5050 with its decrypted content.
pub fn open_request(request: &Event, plaintext: &str) -> Result<Request, JobError> {
    event::expect_kind(request, kinds::JOB_TEXT)?;
    let hidden: Vec<Vec<String>> =
        serde_json::from_str(plaintext).map_err(|_| JobError::Invalid("the encrypted part is not a list of tags"))?;
    let rows: Vec<&[String]> = hidden.iter().map(Vec::as_slice).collect();
    read_rows(request, &rows, true)
}

/// Reads a verified 5050 as the provider that holds `signer`, decrypting where needed.
pub async fn receive(request: &Event, signer: &dyn Signer) -> Result<Request, JobError> {
    match read_request(request)? {
        Readable::Clear(request) => Ok(request),
        Readable::Sealed(sealed) => open_request(request, &sealed.open(signer).await?),
    }
}

fn read_rows(request: &Event, rows: &[&[String]], encrypted: bool) -> Result<Request, JobError> {
    let mut inputs = Vec::new();
    let mut params = Params::default();
    for row in rows {
        match (row.first().map(String::as_str), row.get(1)) {
            (Some("i"), Some(data)) if inputs.len() < MAX_INPUTS => inputs.push(read_input(data, row.get(2))?),
            (Some("i"), Some(_)) => return Err(JobError::Invalid("more than 16 inputs")),
            (Some("param"), Some(key)) => params.set(key, row.get(2).cloned().unwrap_or_default()),
            _ => {}
        }
    }
    if inputs.is_empty() && !encrypted && !request.content.trim().is_empty() {
        inputs.push(Input { kind: InputKind::Text, data: request.content.clone() });
    }
    if inputs.is_empty() {
        return Err(JobError::Invalid("a request without input"));
    }
    let bid = event::first(request, "bid").and_then(|text| text.parse::<u64>().ok());
    let relays = event::rows(request, "relays").next().unwrap_or_default();
    Ok(Request {
        id: event::hash(&request.id),
        customer: event::npub(&request.pubkey),
        provider: event::mentioned(request, 1).pop(),
        created_at: event::created_at(request),
        inputs,
        params,
        output: event::first(request, "output").map(str::to_owned),
        bid: bid.and_then(|msat| Msat::try_from(msat).ok()),
        relays: relays.iter().skip(1).take(8).cloned().collect(),
        encrypted,
        json: event::to_json(request),
    })
}

/// `text` is the default; the page of kind 5050 says `prompt` in its own example.
fn read_input(data: &str, kind: Option<&String>) -> Result<Input, JobError> {
    let kind = match kind.map(String::as_str) {
        None | Some("" | "text" | "prompt") => InputKind::Text,
        Some("url") => InputKind::Url,
        Some("event") => InputKind::Event,
        Some("job") => InputKind::Job,
        Some(_) => return Err(JobError::Invalid("an input of unknown type")),
    };
    Ok(Input { kind, data: data.to_owned() })
}

/// What a provider listens to: every 5050 since a time. Those that name another provider it ignores.
pub fn request_filter(since: i64) -> Filter {
    let since = Timestamp::from_secs(u64::try_from(since).unwrap_or(0));
    Filter::new().kind(Kind::from_u16(kinds::JOB_TEXT)).since(since)
}
