//! At placement: whether the stored state is the newest that the agent ever had, by its own public word.

use std::time::Duration;

use nexus_core::rollback::{Accepted, Mark, Rollback, Standing, compare};
use nexus_nostr::event::{npub, public_key};
use nexus_nostr::kinds;
use nexus_nostr::relay_pool::Interest;
use nexus_nostr::state::read_anchor;
use nexus_seal::OwnerCommand;
use nexus_seal::rollback::{ASK_ACCEPT, ASK_ROLLBACK, Offered, path};
use nexus_store::agent::Agent;
use nexus_store::wallet_request::{Answer, WalletRequest};
use nostr::event::Kind;
use nostr::filter::Filter;

use crate::error::TurnError;
use crate::host::Host;
use crate::profile::relays;
use crate::unlock::{Opened, save_state};
use crate::wallet::say;

/// How long relays are asked for anchors, once for each placement.
const LOOKUP: Duration = Duration::from_millis(1_500);
/// Anchors looked at: one for each relay is usual.
const MAX_ANCHORS: usize = 16;

/// What speaks against a stored state: the anchors that relays have, and what follows from them.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub rollback: Rollback,
    stored: Option<Mark>,
    anchors: Vec<Mark>,
}

/// Compares what is stored with the agent's anchors, until it was found in order once at this placement.
pub(crate) async fn look(host: &Host, agent: &Agent, stored: Option<Mark>) -> Option<Found> {
    if host.attended().is_anchored(&agent.npub, agent.generation) {
        return None;
    }
    let anchors = anchors(host, agent).await;
    match compare(stored, &anchors, None) {
        Ok(Standing::Unanchored | Standing::Anchored | Standing::Ahead { .. } | Standing::Accepted) => {
            host.attended().note_anchored(agent.npub, agent.generation);
            None
        }
        Err(rollback) => Some(Found { rollback, stored, anchors }),
    }
}

/// Events that come out of relays here were verified; these are the agent's own.
async fn anchors(host: &Host, agent: &Agent) -> Vec<Mark> {
    let filter = Filter::new().kind(Kind::from_u16(kinds::STATE)).author(public_key(&agent.npub)).identifier("state");
    let interest = Interest { relays: relays(host, agent), filters: vec![filter.limit(MAX_ANCHORS)], auth: Vec::new() };
    let events = host.relays.fetch(interest, LOOKUP).await;
    let own = events.iter().filter(|event| npub(&event.pubkey) == agent.npub);
    let marks = own.filter_map(|event| read_anchor(event).ok());
    marks.take(MAX_ANCHORS).map(|anchor| Mark { version: anchor.version, digest: anchor.digest }).collect()
}

/// Answers an owner who asks what stands against what, or accepts it; gives back what others answer.
pub(crate) async fn answer(
    host: &Host,
    agent: &Agent,
    opened: &mut Opened,
    requests: Vec<WalletRequest>,
) -> Result<Vec<WalletRequest>, TurnError> {
    let mut others = Vec::new();
    for request in requests {
        let said = match request.kind.as_str() {
            ASK_ROLLBACK => Ok(offered(opened)),
            ASK_ACCEPT => accept(host, agent, opened, &request.body).await?,
            _ => {
                others.push(request);
                continue;
            }
        };
        let said = match said {
            Ok(offered) => Answer::Done(serde_json::to_string(&offered).unwrap_or_default()),
            Err(why) => Answer::Failed(why),
        };
        say(host, agent, &request.id, said).await?;
    }
    Ok(others)
}

fn offered(opened: &Opened) -> Offered {
    let Some(found) = &opened.rollback else { return Offered { accept: None, text: None } };
    let accept = found.stored.map(|state| Accepted { state, in_spite_of: found.rollback.anchor() });
    Offered { accept, text: Some(found.rollback.to_string()) }
}

/// The owner's word for exactly this state in spite of exactly this anchor. What follows stands above the anchor.
async fn accept(
    host: &Host,
    agent: &Agent,
    opened: &mut Opened,
    body: &str,
) -> Result<Result<Offered, String>, TurnError> {
    let command: OwnerCommand = match serde_json::from_str(body) {
        Ok(command) => command,
        Err(_) => return Ok(Err("not an owner's command".to_owned())),
    };
    let verified = match command.verify("POST", &path(&agent.npub), &agent.npub, host.now()) {
        Ok(verified) if verified.by == opened.owner => verified,
        Ok(_) => return Ok(Err("signed by another key than the owner's".to_owned())),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let Ok(word) = serde_json::from_str::<Accepted>(&command.body) else {
        return Ok(Err("it does not say which state is accepted in spite of which anchor".to_owned()));
    };
    if opened.state.commands.contains(&verified.id) {
        return Ok(Err("this command was used before".to_owned()));
    }
    let Some(found) = opened.rollback.clone() else { return Ok(Ok(offered(opened))) };
    match compare(found.stored, &found.anchors, Some(word)) {
        Ok(Standing::Accepted) => {}
        Ok(_) | Err(_) => return Ok(Err("it names another state or another anchor: look again".to_owned())),
    }
    opened.overruled = i64::try_from(found.rollback.anchor().version).unwrap_or(i64::MAX - 1);
    opened.state.note_command(verified.id);
    save_state(host, agent.generation, opened).await?;
    opened.rollback = None;
    host.attended().note_anchored(agent.npub, agent.generation);
    tracing::warn!(npub = %agent.npub.short(), "its owner accepts an older state");
    Ok(Ok(offered(opened)))
}
