//! The agent's public face: profile and relay lists, published when they change.

use nexus_core::Hash32;
use nexus_core::policy::Autonomy;
use nexus_core::tick::SignedEvent;
use nexus_nostr::profile::{Profile, Use, agent_profile, dm_relays, metadata, relay_list};
use nexus_nostr::{Head, kinds};
use nexus_store::agent::Agent;
use nexus_store::publication::NewPublication;
use nexus_store::side::Side;
use nostr::event::UnsignedEvent;

use crate::error::TurnError;
use crate::host::Host;
use crate::ledger::Pen;
use crate::secrets::signer_problem;
use crate::unlock::{Opened, save_state};

/// The relays that an agent reads and writes: the host's own first.
pub(crate) fn relays(host: &Host, agent: &Agent) -> Vec<String> {
    let mut relays = vec![host.config.own_relay.clone()];
    relays.extend(agent.config.relays.iter().filter(|url| **url != host.config.own_relay).cloned());
    relays
}

/// Where it is paid (LUD-16) and, if it has a name there, found (NIP-05).
fn lightning_address(host: &Host, agent: &Agent) -> Option<String> {
    let at = host.config.address_host.as_ref()?;
    Some(match &agent.address {
        Some(name) => format!("{name}@{at}"),
        None => format!("{}@{at}", agent.npub),
    })
}

/// Signs an event at a strictly increasing time of its address.
pub(crate) async fn sign(
    opened: &mut Opened,
    address: &str,
    now: nexus_core::UnixMs,
    build: impl FnOnce(Head) -> UnsignedEvent,
) -> Result<SignedEvent, TurnError> {
    let created_at = opened.state.next_created_at(address, now);
    let unsigned = build(Head::new(opened.npub, created_at));
    let event = opened.signer.sign(unsigned).await.map_err(|error| signer_problem(&error))?;
    Ok(signed(&event))
}

/// An event as the journal keeps it.
pub(crate) fn signed(event: &nostr::event::Event) -> SignedEvent {
    SignedEvent {
        id: nexus_nostr::event::hash(&event.id),
        kind: event.kind.as_u16(),
        created_at: nexus_nostr::event::created_at(event),
        json: nexus_nostr::event::to_json(event),
    }
}

pub(crate) fn publication(event: &SignedEvent, relays: &[String], at: nexus_core::UnixMs) -> Side {
    Side::PutPublication(NewPublication {
        event_id: event.id,
        kind: event.kind,
        json: event.json.clone(),
        relays: relays.to_vec(),
        next_attempt_at: at,
    })
}

/// Puts profile and relay lists on their way if they are not what was last published.
pub(crate) async fn announce(pen: &Pen<'_>, agent: &Agent, opened: &mut Opened) -> Result<(), TurnError> {
    let Some(policy) = opened.policy() else { return Ok(()) };
    let autonomy_level = match policy.autonomy {
        Autonomy::Supervised => "supervised",
        Autonomy::Bounded => "bounded",
        Autonomy::Autonomous => "autonomous",
    };
    let profile = Profile {
        name: agent.name.clone(),
        about: agent.config.about.clone(),
        capabilities: vec!["text-generation".into()],
        autonomy_level: autonomy_level.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        lud16: lightning_address(pen.host, agent),
        nip05: agent.address.as_ref().and_then(|_| lightning_address(pen.host, agent)),
        ..Profile::default()
    };
    let relays = relays(pen.host, agent);
    let digest = Hash32::sha256(
        serde_json::json!([
            profile.name,
            profile.about,
            profile.autonomy_level,
            profile.version,
            relays,
            profile.lud16
        ])
        .to_string()
        .as_bytes(),
    );
    if opened.state.profile_digest == Some(digest) {
        return Ok(());
    }
    let now = pen.now();
    let own = pen.host.config.own_relay.clone();
    let events = [
        sign(opened, "0", now, |head| metadata(head, &profile)).await?,
        sign(opened, "39200:profile", now, |head| agent_profile(head, &profile)).await?,
        sign(opened, "10002", now, |head| relay_list(head, relays.iter().map(|url| (url.as_str(), Use::Both)))).await?,
        sign(opened, "10050", now, |head| dm_relays(head, [own.as_str()])).await?,
    ];
    pen.apply(events.iter().map(|event| publication(event, &relays, now)).collect()).await?;
    opened.state.profile_digest = Some(digest);
    save_state(pen.host, pen.generation, opened).await
}

/// The public address of an event of a kind: what its `created_at` increases along.
pub(crate) fn address(kind: u16) -> String {
    match kind {
        kinds::STATE => "39201:state".into(),
        other => other.to_string(),
    }
}
