//! The agent's public face: its profile (39200), its kind 0 and its relay lists (10002, 10050).

use nexus_core::Npub;
use nostr::event::{Event, Tag, UnsignedEvent};
use serde::{Deserialize, Serialize};

use crate::event::{self, EventError, Head, tag};
use crate::{kinds, series};

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
    /// Name on a host that confirms it (NIP-05). In kind 0 alone.
    pub nip05: Option<String>,
    /// Keys that sign together, if it is not one key alone: needed, of how many, and whose (marketplace, guardian).
    pub threshold: Option<Threshold>,
    /// Federations it takes, `id@domain`, and mints with an optional keyset; the order is its preference.
    pub federations: Vec<String>,
    pub cashu_mints: Vec<(String, Option<String>)>,
    /// It is a guardian of others.
    pub guardian: bool,
    pub security_posture: Option<SecurityPosture>,
}

/// How many of which keys sign for an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threshold {
    pub needed: u32,
    pub of: u32,
    pub signers: Vec<Npub>,
}

/// What an agent says about how it resists being talked into things. Its own words, and nothing more.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityPosture {
    pub instruction_data_separation: bool,
    pub tool_use_requires_guardian: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hijacking_resistance_tier: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub evaluation_ref: String,
}

/// Most signers, federations or mints that are read.
const MAX_LISTED: usize = 64;
/// The `t` of a guardian's profile.
const GUARDIAN: &str = "sa-guardian-profile";

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Content {
    name: String,
    about: String,
    picture: String,
    capabilities: Vec<String>,
    autonomy_level: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    security_posture: Option<SecurityPosture>,
}

/// Kind 39200, `d` = `profile`. Where no threshold is given one key signs for the agent: one of one.
pub fn agent_profile(head: Head, profile: &Profile) -> UnsignedEvent {
    let one = || Threshold { needed: 1, of: 1, signers: vec![head.author] };
    let threshold = profile.threshold.clone().unwrap_or_else(one);
    let (needed, of) = (threshold.needed.to_string(), threshold.of.to_string());
    let mut tags = vec![tag(["d", "profile"]), tag(["threshold", &needed, &of])];
    tags.extend(threshold.signers.iter().map(|signer| tag(["signer", &signer.to_hex()])));
    if let Some(operator) = &profile.operator {
        tags.push(tag(["operator", &operator.to_hex()]));
    }
    if let Some(address) = &profile.lud16 {
        tags.push(tag(["lud16", address]));
    }
    tags.extend(profile.federations.iter().map(|federation| tag(["federation", federation])));
    tags.extend(profile.cashu_mints.iter().map(|(mint, keyset)| match keyset {
        Some(keyset) => tag(["cashu_mint", mint, keyset]),
        None => tag(["cashu_mint", mint]),
    }));
    if profile.guardian {
        tags.push(tag(["t", GUARDIAN]));
    }
    let content = Content {
        name: profile.name.clone(),
        about: profile.about.clone(),
        picture: profile.picture.clone(),
        capabilities: profile.capabilities.clone(),
        autonomy_level: profile.autonomy_level.clone(),
        version: profile.version.clone(),
        security_posture: profile.security_posture.clone(),
    };
    head.unsigned(kinds::PROFILE, tags, serde_json::to_string(&content).unwrap_or_default())
}

/// Reads a profile of either series. An event of the same kind with another `d` is none; the old 38000 must have it,
/// because mints are recommended under the same number (NIP-87).
pub fn read_agent_profile(event: &Event) -> Result<Profile, EventError> {
    series::expect(event, kinds::PROFILE)?;
    series::expect_identifier(event, "profile", "not a profile")?;
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
        nip05: None,
        threshold: read_threshold(event),
        federations: event::values(event, "federation").take(MAX_LISTED).map(str::to_owned).collect(),
        cashu_mints: event::rows(event, "cashu_mint")
            .filter_map(|row| Some((row.get(1)?.clone(), row.get(2).cloned())))
            .take(MAX_LISTED)
            .collect(),
        guardian: event::values(event, "t").any(|t| t == GUARDIAN),
        security_posture: content.security_posture,
    })
}

/// None for one of one, which is what an agent with a key of its own is.
fn read_threshold(event: &Event) -> Option<Threshold> {
    let row = event::rows(event, "threshold").next()?;
    let number = |at: usize| row.get(at).and_then(|n| n.parse::<u32>().ok());
    let (needed, of) = (number(1)?, number(2)?);
    let signers: Vec<Npub> =
        event::values(event, "signer").filter_map(|hex| hex.parse().ok()).take(MAX_LISTED).collect();
    let alone = (needed, of) == (1, 1) && signers.iter().all(|signer| *signer == event::npub(&event.pubkey));
    (!alone && needed > 0 && needed <= of).then_some(Threshold { needed, of, signers })
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
    if let Some(name) = &profile.nip05 {
        content["nip05"] = name.clone().into();
    }
    head.unsigned(kinds::METADATA, Vec::new(), content.to_string())
}

/// Where the author of a kind 0 says to be paid (LUD-16).
pub fn read_lud16(event: &Event) -> Option<String> {
    event::expect_kind(event, kinds::METADATA).ok()?;
    let content: serde_json::Value = serde_json::from_str(&event.content).ok()?;
    content["lud16"].as_str().map(str::to_owned)
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
