//! Relays of others: what is addressed to agents there comes into the inbox as if it had come here.
//!
//! Agents name relays in their configuration. Each relay is asked for its agents in shards, public kinds and private
//! messages apart, since many relays refuse the latter to whoever can't sign as the reader. How far a relay was heard is
//! durable, so that what was sent while nobody listened is asked for; what comes twice is taken once. A relay that does not
//! answer, or ends what it was asked, shows as a problem until it does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use nexus_core::trigger::Trigger;
use nexus_core::{Npub, UnixMs};
use nexus_nostr::relay_pool::{Interest, Notice, Subscription};
use nexus_nostr::{RelayPool, trigger};
use nexus_store::StoreError;
use nexus_store::outside::{self, Outside};
use tokio::task::JoinSet;

use crate::Relay;

/// Between looks at who listens where.
const LOOK: Duration = Duration::from_secs(5);
/// A look is followed by so many times its own length without one.
const LOOK_SHARE: u64 = 20;
/// Agents that one shard holds at most, about: relays refuse long lists, some of them silently.
const SHARD: usize = 200;
/// Relays that are listened to at once.
const MAX_RELAYS: usize = 200;
/// What is asked again before a relay was last heard. Seconds.
const OVERLAP: i64 = 3_600;
/// How long a relay has to say that it sent what it has.
const ANSWER: Duration = Duration::from_secs(30);
/// A shard is asked anew this often: a relay that fell silent is found out, and gaps are filled.
const RENEW: Duration = Duration::from_secs(1_800);
/// How far a relay was heard is stored this often at most, in ms.
const NOTE_MS: i64 = 60_000;
/// A relay that nobody names is forgotten after this long.
const FORGET_MS: i64 = 30 * 86_400_000;
/// Whoever writes elsewhere has no address here: their keys alone are counted.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What is asked of a relay in one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Shard {
    relay: String,
    number: usize,
    private: bool,
}

/// Who is asked for, and which kinds beside the usual.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
struct Asked {
    agents: BTreeSet<Npub>,
    kinds: BTreeSet<u16>,
}

/// Listens until the process stops.
pub(crate) async fn run(relay: Arc<Relay>, pool: RelayPool) {
    let mut listening: HashMap<Shard, (u64, tokio::task::AbortHandle)> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next_look = relay.intake.clock.mono();
    loop {
        tokio::select! {
            () = relay.shutdown.cancelled() => break,
            Some(_) = tasks.join_next() => continue,
            _ = looks.tick() => {}
        }
        let now = relay.intake.clock.mono();
        if now < next_look {
            continue;
        }
        let wanted = match wanted(&relay).await {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::warn!(%error, "who listens to relays of others can't be read; tried again");
                continue;
            }
        };
        // Where many agents listen, looking takes its time: a twentieth of all, at most.
        let after = relay.intake.clock.mono();
        next_look = after.plus_ms(after.since(now) * LOOK_SHARE);
        listening.retain(|shard, (digest, task)| {
            let stays = wanted.get(shard).is_some_and(|asked| hash(asked) == *digest) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for (shard, asked) in wanted {
            listening.entry(shard.clone()).or_insert_with(|| {
                let (digest, relay, pool) = (hash(&asked), Arc::clone(&relay), pool.clone());
                (digest, tasks.spawn(async move { listen(&relay, &pool, shard, asked).await }))
            });
        }
    }
    tasks.abort_all();
    pool.shutdown().await;
}

fn hash(asked: &Asked) -> u64 {
    let mut hasher = DefaultHasher::new();
    asked.hash(&mut hasher);
    hasher.finish()
}

/// Every shard of every relay that some agent names, but for our own.
async fn wanted(relay: &Relay) -> Result<BTreeMap<Shard, Asked>, StoreError> {
    let mut by_relay: BTreeMap<String, Vec<(Npub, BTreeSet<u16>)>> = BTreeMap::new();
    let mut after = None;
    loop {
        let page = outside::listening(&relay.intake.store, after, outside::MAX_PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.npub);
        for agent in page {
            let kinds: BTreeSet<u16> = agent.config.triggers.iter().filter_map(custom).collect();
            for url in agent.config.relays.iter().filter(|url| !relay.is_ours(url)) {
                by_relay.entry(url.clone()).or_default().push((agent.npub, kinds.clone()));
            }
        }
    }
    if by_relay.len() > MAX_RELAYS {
        tracing::warn!(relays = by_relay.len(), most = MAX_RELAYS, "agents name more relays than are listened to");
    }
    let mut shards: BTreeMap<Shard, Asked> = BTreeMap::new();
    for (url, agents) in by_relay.into_iter().take(MAX_RELAYS) {
        let count = agents.len().div_ceil(SHARD).next_power_of_two();
        for (npub, kinds) in agents {
            // By the key, so that another agent changes one shard and leaves the others as they are.
            let [first, second, ..] = *npub.as_bytes();
            let number = usize::from(u16::from_be_bytes([first, second])) % count;
            for private in [false, true] {
                let asked = shards.entry(Shard { relay: url.clone(), number, private }).or_default();
                asked.agents.insert(npub);
                if !private {
                    asked.kinds.extend(kinds.iter().copied());
                }
            }
        }
    }
    Ok(shards)
}

const fn custom(trigger: &Trigger) -> Option<u16> {
    match trigger {
        Trigger::Kind(kind) => Some(*kind),
        _ => None,
    }
}

/// One shard at one relay, asked anew now and then.
async fn listen(relay: &Relay, pool: &RelayPool, shard: Shard, asked: Asked) {
    loop {
        let known = outside::get(&relay.intake.store, &shard.relay).await.ok().flatten();
        let now = relay.intake.clock.now().secs();
        let heard = known.and_then(|known| known.heard_at).map_or(now, UnixMs::secs);
        let agents: Vec<Npub> = asked.agents.iter().copied().collect();
        let filters = trigger::filters(&agents, &asked.kinds, shard.private, heard - OVERLAP, now);
        let interest = Interest { relays: vec![shard.relay.clone()], filters, auth: Vec::new() };
        let subscription = pool.subscribe(interest);
        if tokio::time::timeout(RENEW, hear(relay, &shard, subscription)).await.is_ok() {
            // Shut down, or nothing can be asked of it: not at once again.
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Takes what comes until the subscription ends.
async fn hear(relay: &Relay, shard: &Shard, mut subscription: Subscription) {
    let (mut answered, mut noted) = (false, 0);
    loop {
        let notice = if answered {
            subscription.next().await
        } else {
            match tokio::time::timeout(ANSWER, subscription.next()).await {
                Ok(notice) => notice,
                Err(_) => {
                    note(relay, shard, None, Some("it does not answer")).await;
                    // What it says after all is heard.
                    answered = true;
                    continue;
                }
            }
        };
        match notice {
            None => return,
            Some(Notice::Event { event, .. }) => {
                if let Err(error) = relay.intake.take_outside(&event, NOWHERE).await {
                    tracing::warn!(%error, relay = shard.relay, "an event from elsewhere was not stored; it is asked for again");
                    return;
                }
                let now = relay.intake.clock.now();
                if answered && now.0 - noted > NOTE_MS {
                    noted = now.0;
                    note(relay, shard, Some(now), None).await;
                }
            }
            Some(Notice::EndOfStored { .. }) => {
                answered = true;
                let now = relay.intake.clock.now();
                noted = now.0;
                note(relay, shard, Some(now), None).await;
            }
            Some(Notice::Closed { reason, .. }) => {
                answered = true;
                note(relay, shard, None, Some(&reason)).await;
            }
        }
    }
}

/// Notes how the relay is, for its agents' owners. Private messages are a favour: whoever does not serve them has no problem,
/// and only what public shards heard counts.
async fn note(relay: &Relay, shard: &Shard, heard_at: Option<UnixMs>, problem: Option<&str>) {
    if shard.private {
        return;
    }
    let now = relay.intake.clock.now();
    let problem = problem.map(|problem| problem.chars().filter(|c| !c.is_control()).take(200).collect::<String>());
    if let Some(problem) = &problem {
        tracing::warn!(
            relay = shard.relay,
            shard = shard.number,
            problem,
            "a relay that agents listen to is not heard"
        );
    }
    let outside = Outside { url: shard.relay.clone(), heard_at, problem, changed_at: now };
    if let Err(error) = outside::note(&relay.intake.store, outside).await {
        tracing::warn!(%error, "how far a relay was heard could not be noted");
    }
    if let Err(error) = outside::purge(&relay.intake.store, now.plus_ms(-FORGET_MS)).await {
        tracing::warn!(%error, "relays of others could not be forgotten");
    }
}
