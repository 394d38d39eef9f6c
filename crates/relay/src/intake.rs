//! Taking an event: checked, stored together with the inbox rows of the agents it wakes, then passed on.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use nexus_bus::{SharedBus, Wake};
use nexus_core::trigger::Trigger;
use nexus_core::{Clock, Hash32, Npub};
use nexus_nostr::event::{self, Retention};
use nexus_nostr::{kinds, trigger};
use nexus_store::hosted::{self, Hosted};
use nexus_store::inbox::{self, NewItem};
use nexus_store::relay_event::{self, NewRelayEvent, Stored};
use nexus_store::{Conflict, Store, StoreError};
use nostr::event::Event;

use crate::RelayConfig;
use crate::access::{self, Parties};
use crate::hub::{Hub, Live};
use crate::quota::Quotas;

/// What the client hears (NIP-01: a prefix for machines, then words).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) accepted: bool,
    pub(crate) message: String,
    /// The signature was wrong: no honest client sends that.
    pub(crate) forged: bool,
}

impl Answer {
    fn yes(message: &str) -> Self {
        Self { accepted: true, message: message.to_owned(), forged: false }
    }

    fn no(message: impl Into<String>) -> Self {
        Self { accepted: false, message: message.into(), forged: false }
    }
}

/// Everything that taking an event needs.
pub(crate) struct Intake {
    pub(crate) store: Store,
    pub(crate) bus: SharedBus,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: Arc<RelayConfig>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) quotas: Arc<Quotas>,
}

impl Intake {
    /// Takes an event from a client at `address` that authenticated as `keys`.
    ///
    /// `OK true` means: it is on disk, and so is the inbox row of every hosted agent that it wakes.
    pub(crate) async fn take(&self, event: Event, address: IpAddr, keys: &HashSet<Npub>) -> Answer {
        let json = event::to_json(&event);
        if let Err(problem) = self.check(&event, &json, keys) {
            return Answer::no(problem);
        }
        if self.quotas.address_is_full(address) {
            return Answer::no("rate-limited: slow down");
        }
        if let Err(error) = event::verify(&event) {
            self.quotas.address_may_write(address);
            return Answer { forged: true, ..Answer::no(format!("invalid: {error}")) };
        }
        let author = event::npub(&event.pubkey);
        let (agents, members) = match self.parties(&event, author).await {
            Ok(found) => found,
            Err(error) => return failed(&error),
        };
        let from_agent = agents.iter().any(|agent| agent.npub == author);
        let within = || self.quotas.address_may_write(address) && self.quotas.key_may_write(author, address);
        if !from_agent && !within() {
            return Answer::no("rate-limited: slow down");
        }
        match self.allowed(&event, author, from_agent, &agents, &members).await {
            Ok(true) => {}
            Ok(false) => return Answer::no("blocked: only events from or to those who live here"),
            Err(error) => return failed(&error),
        }
        let live = Arc::new(Live { event, json });
        self.keep(live, &agents).await.unwrap_or_else(|error| failed(&error))
    }

    /// Takes a verified event that was found elsewhere: for the inboxes of those it names alone, and once.
    pub(crate) async fn take_outside(&self, event: &Event, address: IpAddr) -> Result<(), StoreError> {
        let json = event::to_json(event);
        let author = event::npub(&event.pubkey);
        if self.check(event, &json, &HashSet::new()).is_err() || !self.quotas.key_may_write(author, address) {
            return Ok(());
        }
        let (agents, _) = self.parties(event, author).await?;
        let live = Live { event: event.clone(), json };
        for item in self.inbox_items(&live, &agents) {
            let npub = item.npub;
            match inbox::put(&self.store, item).await? {
                inbox::Put::Stored => self.bus.publish(Wake::Agent { npub }),
                // A full inbox takes what its agent gets here, and nothing from elsewhere.
                inbox::Put::Duplicate | inbox::Put::NoAgent | inbox::Put::Full => {}
            }
        }
        Ok(())
    }

    /// What can be said without the database and without arithmetic on curves.
    fn check(&self, event: &Event, json: &str, keys: &HashSet<Npub>) -> Result<(), String> {
        let (config, now) = (&self.config, self.clock.now().secs());
        let (kind, at) = (event.kind.as_u16(), event::created_at(event));
        if json.len() > config.max_event_bytes {
            return Err(format!("invalid: larger than {} bytes", config.max_event_bytes));
        }
        event::check_shape(event).map_err(|error| format!("invalid: {error}"))?;
        if event.tags.len() > config.max_tags {
            return Err(format!("invalid: more than {} tags", config.max_tags));
        }
        if kind == kinds::AUTH {
            return Err("invalid: kind 22242 goes into AUTH".into());
        }
        if at > now.saturating_add(config.max_future_secs) {
            return Err("invalid: created_at is too far in the future".into());
        }
        if Retention::of(kind) == Retention::Ephemeral && at < now.saturating_sub(config.max_ephemeral_age_secs) {
            return Err("invalid: too old for an ephemeral event".into());
        }
        if event::expiration(event).is_some_and(|expires| expires <= now) {
            return Err("invalid: it has expired".into());
        }
        if event.is_protected() && !keys.contains(&event::npub(&event.pubkey)) {
            return Err("auth-required: this event may be published by its author alone".into());
        }
        Ok(())
    }

    /// Who of the event's author and receivers lives here.
    async fn parties(&self, event: &Event, author: Npub) -> Result<(Vec<Hosted>, Vec<Npub>), StoreError> {
        let mut keys = event::mentioned(event, trigger::MAX_TARGETS);
        if !keys.contains(&author) {
            keys.push(author);
        }
        let agents = hosted::agents_among(&self.store, &keys).await?;
        let members = if self.config.open { Vec::new() } else { hosted::members_among(&self.store, &keys).await? };
        Ok((agents, members))
    }

    async fn allowed(
        &self,
        event: &Event,
        author: Npub,
        from_agent: bool,
        agents: &[Hosted],
        members: &[Npub],
    ) -> Result<bool, StoreError> {
        if self.config.open {
            return Ok(true);
        }
        let kind = event.kind.as_u16();
        let mut parties = Parties {
            from_agent,
            from_owner: members.contains(&author),
            to_us: agents.iter().any(|agent| agent.npub != author) || members.iter().any(|member| *member != author),
            from_provider: self.config.providers.contains(&author),
            deletes_own: false,
        };
        if kind == kinds::DELETION && !access::may_write(kind, &parties) {
            parties.deletes_own = self.has_any_of(author, &referenced(event)).await?;
        }
        Ok(access::may_write(kind, &parties))
    }

    async fn has_any_of(&self, author: Npub, ids: &[Hash32]) -> Result<bool, StoreError> {
        if ids.is_empty() {
            return Ok(false);
        }
        let filter = relay_event::Filter {
            ids: ids.to_vec(),
            authors: vec![author],
            limit: Some(1),
            ..relay_event::Filter::default()
        };
        Ok(!relay_event::query(&self.store, &filter, self.clock.now()).await?.is_empty())
    }

    /// Stores, wakes and passes on.
    async fn keep(&self, live: Arc<Live>, agents: &[Hosted]) -> Result<Answer, StoreError> {
        let items = self.inbox_items(&live, agents);
        let retention = Retention::of(live.event.kind.as_u16());
        let outcome = match retention {
            Retention::Ephemeral => self.wake_only(&items).await?,
            Retention::Regular | Retention::Replaceable | Retention::Addressable => {
                if live.event.kind.as_u16() == kinds::DELETION {
                    self.delete(&live.event).await?;
                }
                let also = items.iter().flat_map(inbox::put_statements).collect();
                relay_event::put(&self.store, self.row(&live), also).await?
            }
        };
        match outcome {
            Stored::Duplicate => return Ok(Answer::yes("duplicate: already have this event")),
            Stored::Superseded => return Ok(Answer::no("replaced: a newer event is here, or it was deleted")),
            Stored::Stored => {}
        }
        for item in &items {
            self.bus.publish(Wake::Agent { npub: item.npub });
        }
        self.hub.publish(live);
        Ok(Answer::yes(""))
    }

    /// An ephemeral event leaves no trace but the inbox rows of those who listen to its kind.
    async fn wake_only(&self, items: &[NewItem]) -> Result<Stored, StoreError> {
        for item in items {
            match inbox::put(&self.store, item.clone()).await? {
                inbox::Put::Stored | inbox::Put::Duplicate | inbox::Put::NoAgent => {}
                inbox::Put::Full => {
                    let conflict = Conflict::InboxFull;
                    return Err(StoreError::Conflict { attempted: "wake an agent", conflict });
                }
            }
        }
        Ok(Stored::Stored)
    }

    /// One inbox row for each hosted agent that the event names and that listens to its kind.
    fn inbox_items(&self, live: &Live, agents: &[Hosted]) -> Vec<NewItem> {
        let (pulled, targets) = trigger::targets(&live.event);
        // An owner's answer is heard whatever else wakes the agent.
        let wanted = |agent: &Hosted| pulled == Trigger::Approval || agent.config.triggers.contains(&pulled);
        let listens = |agent: &&Hosted| targets.contains(&agent.npub) && wanted(agent);
        let author = event::npub(&live.event.pubkey);
        let sender = if live.event.kind.as_u16() == kinds::GIFT_WRAP { None } else { Some(author) };
        let item = |agent: &Hosted| NewItem {
            npub: agent.npub,
            external_id: live.event.id.to_hex(),
            trigger: pulled,
            sender,
            received_at: self.clock.now(),
            payload: live.json.clone().into_bytes(),
        };
        agents.iter().filter(listens).map(item).collect()
    }

    fn row(&self, live: &Live) -> NewRelayEvent {
        let Live { event, json } = live;
        let kind = event.kind.as_u16();
        let d = || event::first(event, "d").unwrap_or_default().to_owned();
        NewRelayEvent {
            id: event::hash(&event.id),
            pubkey: event::npub(&event.pubkey),
            kind,
            created_at: event::created_at(event),
            d: (Retention::of(kind) == Retention::Addressable).then(d),
            expires_at: event::expiration(event),
            tags: indexed_tags(event),
            json: json.clone(),
            received_at: self.clock.now(),
        }
    }

    /// NIP-09: what the author names of its own, by id and by address up to the deletion's time.
    async fn delete(&self, deletion: &Event) -> Result<(), StoreError> {
        let author = event::npub(&deletion.pubkey);
        let ids = referenced(deletion);
        if !ids.is_empty() {
            relay_event::delete(&self.store, author, &ids, self.clock.now()).await?;
        }
        for address in event::values(deletion, "a").take(MAX_REFERENCES) {
            let mut parts = address.splitn(3, ':');
            let kind = parts.next().and_then(|kind| kind.parse::<u16>().ok());
            let owner = parts.next().and_then(|hex| hex.parse::<Npub>().ok());
            if let (Some(kind), Some(owner), Some(d)) = (kind, owner, parts.next())
                && owner == author
            {
                relay_event::delete_address(&self.store, author, kind, d, event::created_at(deletion)).await?;
            }
        }
        Ok(())
    }
}

/// Events that one deletion names at most; further ones are left.
const MAX_REFERENCES: usize = 256;

fn referenced(event: &Event) -> Vec<Hash32> {
    event::values(event, "e").filter_map(|hex| hex.parse().ok()).take(MAX_REFERENCES).collect()
}

/// Single-letter tags with their first values, without repetition: what filters can ask for.
fn indexed_tags(event: &Event) -> Vec<(char, String)> {
    let mut seen = HashSet::new();
    let tags = event.tags.iter().filter_map(|tag| Some((tag.single_letter_tag()?.as_char(), tag.content()?)));
    tags.filter(|tag| seen.insert(*tag)).map(|(name, value)| (name, value.to_owned())).collect()
}

fn failed(error: &StoreError) -> Answer {
    match error.conflict() {
        Some(Conflict::InboxFull) => Answer::no("rate-limited: the agent's inbox is full, try later"),
        Some(Conflict::NoAgent) => Answer::no("error: the agent has just left, try again"),
        Some(conflict @ (Conflict::ZeroByte | Conflict::TooLong)) => Answer::no(format!("invalid: {conflict}")),
        _ => {
            tracing::warn!(%error, "an event could not be stored");
            Answer::no("error: could not store it")
        }
    }
}
