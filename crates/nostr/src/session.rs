//! A trajectory's session (39230, `d` = its id). Opt-in. It is published at the start and again at the end, so its
//! event id changes; what belongs to it names the first version's id, and its address.

use nexus_core::{Hash32, Npub};
use nostr::event::{Event, UnsignedEvent};

use crate::event::{self, EventError, Head, tag};
use crate::{kinds, series};

/// Most keys and longest text that are read of one.
const MAX_WITH: usize = 64;
const MAX_ID: usize = 128;

/// A run of an agent, as a story with steps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Session {
    /// Our own are tick ids.
    pub id: String,
    pub model: String,
    /// Seconds since 1970.
    pub started_at: i64,
    /// A group (NIP-29).
    pub group: Option<String>,
    /// Who takes part beside its author.
    pub with: Vec<Npub>,
    pub repo: Option<String>,
    /// A commit.
    pub sha: Option<String>,
    /// Over the contents of its steps, once they are all there (`trajectory::hash_contents`).
    pub trajectory_hash: Option<Hash32>,
}

/// The address by which events of the session find it, whatever its event id is by now.
pub fn address(author: &Npub, id: &str) -> String {
    format!("{}:{}:{id}", kinds::SESSION, author.to_hex())
}

/// Kind 39230.
pub fn session(head: Head, session: &Session) -> UnsignedEvent {
    let mut tags = vec![
        tag(["d", &session.id]),
        tag(["model", &session.model]),
        tag(["started_at", &session.started_at.to_string()]),
    ];
    tags.extend(session.group.as_ref().map(|group| tag(["h", group])));
    tags.extend(session.with.iter().map(|key| tag(["p", &key.to_hex()])));
    tags.extend(session.repo.as_ref().map(|repo| tag(["repo", repo])));
    tags.extend(session.sha.as_ref().map(|sha| tag(["sha", sha])));
    tags.extend(session.trajectory_hash.map(|hash| tag(["trajectory_hash", &hash.to_string()])));
    head.unsigned(kinds::SESSION, tags, "")
}

/// A session as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenSession {
    pub event_id: Hash32,
    pub author: Npub,
    pub session: Session,
    /// OpenAgents': the tick it belongs to.
    pub tick: Option<String>,
}

/// Reads a session of either series, or OpenAgents'. Without `d` there is nothing that its events could name.
pub fn read_session(event: &Event) -> Result<SeenSession, EventError> {
    series::expect(event, kinds::SESSION)?;
    let text = |name| event::first(event, name).map(str::to_owned);
    let id = text("d").filter(|id| (1..=MAX_ID).contains(&id.len()));
    // OpenAgents puts the rest into its content.
    let content: serde_json::Value = serde_json::from_str(&event.content).unwrap_or_default();
    let inside = |name: &str| content.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    let started_at = text("started_at").and_then(|at| at.parse().ok()).or_else(|| content.get("started_at")?.as_i64());
    Ok(SeenSession {
        event_id: event::hash(&event.id),
        author: event::npub(&event.pubkey),
        session: Session {
            id: id.ok_or(EventError::Invalid("a session without an id"))?,
            model: text("model").or_else(|| inside("model")).unwrap_or_default(),
            started_at: started_at.unwrap_or_else(|| event::created_at(event)),
            group: text("h"),
            with: event::mentioned(event, MAX_WITH),
            repo: text("repo"),
            sha: text("sha"),
            trajectory_hash: text("trajectory_hash").and_then(|hex| hex.parse().ok()),
        },
        tick: text("tick"),
    })
}
