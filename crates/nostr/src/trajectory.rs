//! The steps of a session (39231), and the hash over them. Opt-in; what is published is redacted before it is signed,
//! since a deletion is only a request.
//!
//! Each step has a `d` of its own (`<session>:<seq>`), because relays keep one event for each address. The draft leaves
//! the algorithm of `trajectory_hash` open: ours is the one in use, SHA-256 of the contents in order of `seq`, joined by
//! line feeds.

use nexus_core::{Hash32, Npub};
use nostr::event::{Event, UnsignedEvent};
use serde_json::{Map, Value};

use crate::event::{self, EventError, Head, tag};
use crate::{kinds, series, session};

/// Most steps of one session that are put in order.
pub const MAX_STEPS: usize = 10_000;

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepType {
    User,
    Agent,
    Tool,
    ToolStart,
    ToolProgress,
    Observation,
    Thinking,
    Subagent,
    Delegation,
    Question,
    Todos,
    Phase,
    SessionEnd,
}

impl StepType {
    pub const ALL: [Self; 13] = [
        Self::User,
        Self::Agent,
        Self::Tool,
        Self::ToolStart,
        Self::ToolProgress,
        Self::Observation,
        Self::Thinking,
        Self::Subagent,
        Self::Delegation,
        Self::Question,
        Self::Todos,
        Self::Phase,
        Self::SessionEnd,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Agent => "agent",
            Self::Tool => "tool",
            Self::ToolStart => "tool_start",
            Self::ToolProgress => "tool_progress",
            Self::Observation => "observation",
            Self::Thinking => "thinking",
            Self::Subagent => "subagent",
            Self::Delegation => "delegation",
            Self::Question => "question",
            Self::Todos => "todos",
            Self::Phase => "phase",
            Self::SessionEnd => "session_end",
        }
    }

    fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == text)
    }

    /// OpenAgents' `step` tag.
    fn read_openagents(text: &str) -> Option<Self> {
        match text {
            "ToolUse" => Some(Self::ToolStart),
            "ToolResult" => Some(Self::Observation),
            "Message" => Some(Self::Agent),
            "Thinking" => Some(Self::Thinking),
            _ => None,
        }
    }
}

/// Where a step belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place<'a> {
    pub session: &'a str,
    /// The id of the session's first version, and a relay that has it.
    pub root: (Hash32, &'a str),
    /// The step before it.
    pub previous: Option<(Hash32, &'a str)>,
    /// Counts from 1.
    pub seq: u32,
}

/// What a step may say about itself, for those who audit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    pub action_type: Option<String>,
    pub tool_invoked: Option<String>,
    pub input_hash: Option<Hash32>,
    pub output_hash: Option<Hash32>,
    /// The guardian's 39213.
    pub approval: Option<Hash32>,
    pub credit: Option<String>,
    pub parent_session: Option<String>,
    pub group: Option<String>,
}

/// Kind 39231. `body` may not have a `type` of its own: it would stand beside the step's.
pub fn step(head: Head, place: &Place<'_>, step: StepType, body: &Map<String, Value>, audit: &Audit) -> UnsignedEvent {
    let (root, relay) = &place.root;
    let mut tags =
        vec![tag(["d", &format!("{}:{:06}", place.session, place.seq)]), tag(["e", &root.to_string(), relay, "root"])];
    tags.extend(place.previous.map(|(id, relay)| tag(["e", &id.to_string(), relay, "reply"])));
    tags.push(tag(["a", &session::address(&head.author, place.session)]));
    tags.push(tag(["seq", &place.seq.to_string()]));
    let hash = |hash: Option<Hash32>| hash.map(|hash| hash.to_string());
    let optional = [
        ("action_type", audit.action_type.clone()),
        ("tool_invoked", audit.tool_invoked.clone()),
        ("input_hash", hash(audit.input_hash)),
        ("output_hash", hash(audit.output_hash)),
        ("guardian_approval_ref", hash(audit.approval)),
        ("credit", audit.credit.clone()),
        ("parent_session", audit.parent_session.clone()),
        ("h", audit.group.clone()),
    ];
    tags.extend(optional.into_iter().filter_map(|(name, value)| Some(tag([name, &value?]))));
    head.unsigned(kinds::TRAJECTORY, tags, content(step, body))
}

/// What a step's content is: what the hash over a session is made of.
pub fn content(step: StepType, body: &Map<String, Value>) -> String {
    let mut content = Map::new();
    content.insert("type".to_owned(), step.as_str().into());
    content.extend(body.iter().filter(|(name, _)| *name != "type").map(|(name, value)| (name.clone(), value.clone())));
    Value::Object(content).to_string()
}

/// A step as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenStep {
    pub event_id: Hash32,
    pub author: Npub,
    /// None for a type that is not known here.
    pub step: Option<StepType>,
    pub seq: u64,
    pub root: Option<Hash32>,
    pub previous: Option<Hash32>,
    /// The session's id, from the address or from OpenAgents' `session`.
    pub session: Option<String>,
    pub audit: Audit,
    /// As published: JSON in the draft, anything in OpenAgents'.
    pub content: String,
}

/// Reads a step of either series, or OpenAgents'.
pub fn read_step(event: &Event) -> Result<SeenStep, EventError> {
    series::expect(event, kinds::TRAJECTORY)?;
    let text = |name| event::first(event, name).map(str::to_owned);
    let hash = |name| event::first(event, name).and_then(|hex| hex.parse().ok());
    let marked = |marker: &'static str| {
        let row = event::rows(event, "e").find(|row| row.get(3).is_some_and(|found| found == marker));
        row.and_then(|row| row.get(1)?.parse().ok())
    };
    let content: Value = serde_json::from_str(&event.content).unwrap_or_default();
    let named = content.get("type").and_then(Value::as_str).and_then(StepType::read);
    let in_address = text("a").and_then(|address| address.splitn(3, ':').nth(2).map(str::to_owned));
    Ok(SeenStep {
        event_id: event::hash(&event.id),
        author: event::npub(&event.pubkey),
        step: named.or_else(|| StepType::read_openagents(event::first(event, "step")?)),
        seq: text("seq").and_then(|seq| seq.parse().ok()).ok_or(EventError::Invalid("a step without its number"))?,
        root: marked("root"),
        previous: marked("reply"),
        session: in_address.or_else(|| text("session")),
        audit: Audit {
            action_type: text("action_type"),
            tool_invoked: text("tool_invoked"),
            input_hash: hash("input_hash"),
            output_hash: hash("output_hash"),
            approval: hash("guardian_approval_ref"),
            credit: text("credit"),
            parent_session: text("parent_session"),
            group: text("h"),
        },
        content: event.content.clone(),
    })
}

/// SHA-256 of contents, in the order given, joined by line feeds.
pub fn hash_contents<'a>(contents: impl IntoIterator<Item = &'a str>) -> Hash32 {
    let contents: Vec<&str> = contents.into_iter().collect();
    Hash32::sha256(contents.join("\n").as_bytes())
}

/// Why steps are no whole trajectory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("more than {MAX_STEPS} steps")]
    TooMany,
    #[error("step {0} is there twice, with different contents")]
    Twice(u64),
    #[error("step {0} is missing")]
    Missing(u64),
    #[error("step {0} was signed by somebody else")]
    Author(u64),
}

/// The hash of a session's steps, which may come in any order and more than once: each of one author, counted without
/// gaps from the lowest.
pub fn hash_steps(author: &Npub, steps: &[SeenStep]) -> Result<Hash32, Broken> {
    if steps.len() > MAX_STEPS {
        return Err(Broken::TooMany);
    }
    if let Some(foreign) = steps.iter().find(|step| step.author != *author) {
        return Err(Broken::Author(foreign.seq));
    }
    let mut ordered: Vec<&SeenStep> = steps.iter().collect();
    ordered.sort_by_key(|step| step.seq);
    ordered.dedup_by(|after, before| after.seq == before.seq && after.content == before.content);
    for pair in ordered.windows(2) {
        match pair[1].seq - pair[0].seq {
            0 => return Err(Broken::Twice(pair[0].seq)),
            1 => {}
            _ => return Err(Broken::Missing(pair[0].seq + 1)),
        }
    }
    Ok(hash_contents(ordered.iter().map(|step| step.content.as_str())))
}
