//! At placement: whether the stored state is the newest that the agent ever had, and whether it lives here, by its own
//! public word.

use std::sync::Arc;
use std::time::Duration;

use nexus_bus::Wake;
use nexus_core::rollback::{Accepted, Mark, Rollback, Standing, compare};
use nexus_nostr::event::{created_at, npub, public_key};
use nexus_nostr::kinds;
use nexus_nostr::relay_pool::{Fetched, Interest};
use nexus_nostr::state::read_anchor;
use nexus_seal::claim::{CLAIM_KIND, Weighed, verify_claim, weigh};
use nexus_seal::rollback::{ASK_ACCEPT, ASK_ROLLBACK, Offered, path};
use nexus_seal::{OwnerCommand, Signer};
use nexus_store::agent::{self, Agent, Departure};
use nexus_store::wallet_request::{Answer, WalletRequest};
use nexus_store::{Audit, Conflict};
use nostr::event::{Event, Kind};
use nostr::filter::Filter;

use crate::error::TurnError;
use crate::host::Host;
use crate::profile::relays;
use crate::unlock::{Opened, save_state};
use crate::wallet::say;

/// How long relays are asked, once for each placement.
const LOOKUP: Duration = Duration::from_millis(1_500);
/// Anchors, and claims, looked at: one for each relay is usual.
const MAX_EVENTS: usize = 16;
/// What anchors are signed along.
const ANCHOR: &str = "39201:state";
/// After this the relays are asked again, as long as some of them did not answer.
const AGAIN_MS: u64 = 300_000;

/// What speaks against a stored state: the anchors that relays have, and what follows from them.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub rollback: Rollback,
    stored: Option<Mark>,
    anchors: Vec<Mark>,
    /// When the latest of them was signed, in seconds.
    last_at: i64,
}

/// Compares what is stored with the agent's own public word, once at each placement: its state's anchors, and where it
/// says that it lives. An agent that lives elsewhere leaves here; nothing of it is carried on.
pub(crate) async fn look(
    host: &Host,
    agent: &Agent,
    claim: Option<&str>,
    stored: Option<Mark>,
) -> Result<Option<Found>, TurnError> {
    if host.attended().is_anchored(&agent.npub, agent.generation, host.mono()) {
        return Ok(None);
    }
    let Fetched { events: word, answered, asked } = public_word(host, agent).await;
    if let Some(departure) = elsewhere(host, agent, claim, &word) {
        return Err(leave(host, agent, departure).await?);
    }
    let marks = word.iter().filter_map(|event| read_anchor(event).ok());
    let marks = marks.map(|anchor| Mark { version: anchor.version, digest: anchor.digest });
    let anchors: Vec<Mark> = marks.take(MAX_EVENTS).collect();
    Ok(match compare(stored, &anchors, None) {
        Ok(Standing::Unanchored | Standing::Anchored | Standing::Ahead { .. } | Standing::Accepted) => {
            // Where no relay answered nothing is known, and the next turn asks again; where some did not, a later one.
            if answered > 0 {
                let until = (answered < asked).then(|| host.mono().plus_ms(AGAIN_MS));
                host.attended().note_anchored(agent.npub, agent.generation, until);
            }
            None
        }
        Err(rollback) => {
            let anchors_at = word.iter().filter(|event| read_anchor(event).is_ok()).map(|event| created_at(event));
            Some(Found { rollback, stored, anchors, last_at: anchors_at.max().unwrap_or(0) })
        }
    })
}

/// The agent's own anchors and claims, as its relays have them. Events that come out of relays here were verified.
async fn public_word(host: &Host, agent: &Agent) -> Fetched {
    let of = |kind: u16, name: &str| {
        let filter = Filter::new().kind(Kind::from_u16(kind)).author(public_key(&agent.npub));
        filter.identifier(name).limit(MAX_EVENTS)
    };
    let filters = vec![of(kinds::STATE, "state"), of(CLAIM_KIND, "host")];
    let interest = Interest { relays: relays(host, agent), filters, auth: Vec::new() };
    let mut fetched = host.relays.fetch(interest, LOOKUP).await;
    fetched.events.retain(|event| npub(&event.pubkey) == agent.npub);
    fetched
}

/// The claim that wins over what this host holds and names another.
fn elsewhere(host: &Host, agent: &Agent, held: Option<&str>, word: &[Arc<Event>]) -> Option<Departure> {
    let own = host.runner.get()?.public_key();
    let read = |event: &Event| verify_claim(event, &agent.npub, host.now()).ok();
    let known = held.and_then(|text| serde_json::from_str::<Event>(text).ok()).and_then(|event| read(&event));
    let claims = word.iter().filter_map(|event| Some((event, read(event)?)));
    let (event, newest) = claims.reduce(|best, next| if next.1.supersedes(&best.1) { next } else { best })?;
    match weigh(known.as_ref(), &newest, &own) {
        Weighed::Fenced { url, .. } => {
            let claim = serde_json::to_string(&**event).ok()?;
            Some(Departure { url, claim, held: held.map(str::to_owned) })
        }
        Weighed::Known | Weighed::Stale | Weighed::Ours => None,
    }
}

/// Fences the agent here: its keys are deleted, and this turn is over.
async fn leave(host: &Host, agent: &Agent, departure: Departure) -> Result<TurnError, TurnError> {
    let url = departure.url.clone();
    let audit = Audit {
        at: host.now(),
        account: Some(agent.account),
        actor: agent.npub.to_string(),
        action: "agent.left".to_owned(),
        target: agent.npub.to_string(),
        detail: serde_json::json!({ "url": url, "found": "relay" }).to_string(),
    };
    match agent::leave(&host.store, agent.npub, departure, audit).await {
        Ok(()) => {}
        // Another claim was kept meanwhile: it is weighed in the next turn.
        Err(error) if error.conflict() == Some(&Conflict::Version) => return Ok(TurnError::Interrupted),
        Err(error) => return Err(error.into()),
    }
    tracing::warn!(npub = %agent.npub.short(), url, "its own claim on a relay says that it lives elsewhere; it leaves");
    host.bus.publish(Wake::Agent { npub: agent.npub });
    Ok(TurnError::Stale)
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
    // The older state does not remember when it was signed last: relays would take what is no later for the older one.
    let stamp = opened.state.created_at.entry(ANCHOR.to_owned()).or_insert(found.last_at);
    *stamp = (*stamp).max(found.last_at);
    opened.state.note_command(verified.id);
    save_state(host, agent.generation, opened).await?;
    opened.rollback = None;
    host.attended().note_anchored(agent.npub, agent.generation, None);
    tracing::warn!(npub = %agent.npub.short(), "its owner accepts an older state");
    Ok(Ok(offered(opened)))
}
