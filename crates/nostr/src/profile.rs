//! The agent's public face: its profile (39200), its kind 0 and its relay lists (10002, 10050).

use nexus_core::Npub;
use nostr::event::{Event, Tag, UnsignedEvent};
use serde::{Deserialize, Serialize};

use crate::event::{self, EventError, Head, tag};
use crate::kinds;

/// The public profile of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    pub name: String,
    pub about: String,
    pub picture: String,
    pub capabilities: Vec<String>,
    /// `supervised`, `bounded` or `autonomous`.
    pub autonomy_level: String,
    pub version: String,
    /// Who runs the host.
    pub operator: Option<Npub>,
    /// Lightning address (LUD-16).
    pub lud16: Option<String>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Content {
    name: String,
    about: String,
    picture: String,
    capabilities: Vec<String>,
    autonomy_level: String,
    version: String,
}

/// Kind 39200, `d` = `profile`: one key signs for the agent, so the threshold is one of one.
pub fn agent_profile(head: Head, profile: &Profile) -> UnsignedEvent {
    let author = head.author.to_hex();
    let mut tags = vec![tag(["d", "profile"]), tag(["threshold", "1", "1"]), tag(["signer", &author])];
    if let Some(operator) = &profile.operator {
        tags.push(tag(["operator", &operator.to_hex()]));
    }
    if let Some(address) = &profile.lud16 {
        tags.push(tag(["lud16", address]));
    }
    let content = Content {
        name: profile.name.clone(),
        about: profile.about.clone(),
        picture: profile.picture.clone(),
        capabilities: profile.capabilities.clone(),
        autonomy_level: profile.autonomy_level.clone(),
        version: profile.version.clone(),
    };
    head.unsigned(kinds::PROFILE, tags, serde_json::to_string(&content).unwrap_or_default())
}

/// Reads a 39200. An event of the same kind with another `d` is none.
pub fn read_agent_profile(event: &Event) -> Result<Profile, EventError> {
    event::expect_kind(event, kinds::PROFILE)?;
    if event::first(event, "d").is_some_and(|d| d != "profile") {
        return Err(EventError::Invalid("not a profile"));
    }
    let content: Content = serde_json::from_str(&event.content).map_err(|_| EventError::Malformed)?;
    Ok(Profile {
        name: content.name,
        about: content.about,
        picture: content.picture,
        capabilities: content.capabilities,
        autonomy_level: content.autonomy_level,
        version: content.version,
        operator: event::first(event, "operator").and_then(|hex| hex.parse().ok()),
        lud16: event::first(event, "lud16").map(str::to_owned),
    })
}

/// Kind 0, for clients that know nothing of agents. `bot` marks it as one (NIP-24).
pub fn metadata(head: Head, profile: &Profile) -> UnsignedEvent {
    let mut content = serde_json::json!({ "name": profile.name, "about": profile.about, "bot": true });
    if !profile.picture.is_empty() {
        content["picture"] = profile.picture.clone().into();
    }
    if let Some(address) = &profile.lud16 {
        content["lud16"] = address.clone().into();
    }
    head.unsigned(kinds::METADATA, Vec::new(), content.to_string())
}

/// What a relay in a 10002 list is for. One that is for both has no marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Read,
    Write,
    Both,
}

/// Kind 10002 (NIP-65).
pub fn relay_list<'a>(head: Head, relays: impl IntoIterator<Item = (&'a str, Use)>) -> UnsignedEvent {
    let tags = relays.into_iter().map(|(url, usage)| match usage {
        Use::Read => tag(["r", url, "read"]),
        Use::Write => tag(["r", url, "write"]),
        Use::Both => tag(["r", url]),
    });
    head.unsigned(kinds::RELAY_LIST, tags.collect(), "")
}

/// Reads a 10002, at most 32 relays.
pub fn read_relay_list(event: &Event) -> Result<Vec<(String, Use)>, EventError> {
    event::expect_kind(event, kinds::RELAY_LIST)?;
    let entry = |row: &[String]| {
        let usage = match row.get(2).map(String::as_str) {
            Some("read") => Use::Read,
            Some("write") => Use::Write,
            Some(_) | None => Use::Both,
        };
        row.get(1).map(|url| (url.clone(), usage))
    };
    Ok(event::rows(event, "r").filter_map(entry).take(32).collect())
}

/// Kind 10050 (NIP-17): where to send this agent's private messages.
pub fn dm_relays<'a>(head: Head, relays: impl IntoIterator<Item = &'a str>) -> UnsignedEvent {
    let tags: Vec<Tag> = relays.into_iter().map(|url| tag(["relay", url])).collect();
    head.unsigned(kinds::DM_RELAYS, tags, "")
}

/// Reads a 10050, at most 32 relays.
pub fn read_dm_relays(event: &Event) -> Result<Vec<String>, EventError> {
    event::expect_kind(event, kinds::DM_RELAYS)?;
    Ok(event::values(event, "relay").take(32).map(str::to_owned).collect())
}
