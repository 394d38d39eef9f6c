//! `nexus agent events`

use std::ops::ControlFlow;

use nexus_client::Error;
use nexus_client::events::{Chain, Heard, follow};
use nexus_client::view::Viewer;
use nexus_core::{Hash32, Npub};
use serde_json::{Value, json};

use crate::cli::EventsArgs;
use crate::command::agent::ticks::action;
use crate::output::{field, group, moment, printable};
use crate::prompt;
use crate::session::Session;

/// Events shown before those to come, when nothing else was asked for.
const BEFORE: u64 = 10;
/// Pages that one reading takes at most.
const MAX_PAGES: usize = 100_000;
/// Readings of a chain that is pruned meanwhile.
const MAX_WALKS: usize = 3;

pub async fn run(session: &Session, args: &EventsArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    if args.verify {
        return verify(session, &npub).await;
    }
    let viewer = match args.open {
        true => {
            let keys = session.owner_keys()?;
            Some(Viewer::open(&session.as_owner(&keys), &npub, &keys).await?)
        }
        false => None,
    };
    if args.follow {
        return watch(session, &npub, args.after, viewer.as_ref()).await;
    }
    let mut shown = 0_usize;
    each(session, &npub, args.after.unwrap_or(0), |event| {
        shown += 1;
        show(session, &event, viewer.as_ref());
        Ok(())
    })
    .await?;
    if shown == 0 && !session.output.json {
        session.output.line("No events.");
    }
    Ok(())
}

async fn watch(session: &Session, npub: &Npub, after: Option<u64>, viewer: Option<&Viewer>) -> anyhow::Result<()> {
    let after = match after {
        Some(after) => after,
        None => {
            let status = session.api.get(&format!("/v1/agents/{npub}")).await?;
            status["event_seq"].as_u64().unwrap_or(0).saturating_sub(BEFORE)
        }
    };
    let hear = |heard: Heard<'_>| {
        match heard {
            Heard::Event(event) => show(session, event, viewer),
            Heard::Lost { why, again_in_ms } => {
                prompt::say(format!("The connection is lost ({}); again in {again_in_ms} ms.", printable(why)));
            }
        }
        ControlFlow::Continue(())
    };
    tokio::select! {
        ended = follow(&session.api, npub, Some(after), hear) => ended?,
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

/// Hands on every event that is kept after a number, page by page.
async fn each(
    session: &Session,
    npub: &Npub,
    mut after: u64,
    mut hand: impl FnMut(Value) -> Result<(), Error>,
) -> Result<(), Error> {
    for _ in 0..MAX_PAGES {
        let mut page = session.api.get(&format!("/v1/agents/{npub}/events?after={after}&limit=200")).await?;
        let next = page["next"].as_u64().unwrap_or(after);
        let Value::Array(events) = page["events"].take() else { break };
        if events.is_empty() {
            break;
        }
        events.into_iter().try_for_each(&mut hand)?;
        if next <= after {
            break;
        }
        after = next;
    }
    Ok(())
}

async fn verify(session: &Session, npub: &Npub) -> anyhow::Result<()> {
    let mut ends = ends(session, npub).await?;
    for _ in 0..MAX_WALKS {
        let walked = walk(session, npub, &ends).await;
        let now = self::ends(session, npub).await?;
        // Pruned while they were read: what was missing may just have served its time.
        if walked.is_ok() || now.pruned == ends.pruned {
            return verified(session, &walked?);
        }
        ends = now;
    }
    verified(session, &walk(session, npub, &ends).await?)
}

/// Where the host says that an agent's events begin and end.
struct Ends {
    pruned: (i64, Hash32),
    last: (i64, Hash32),
}

async fn ends(session: &Session, npub: &Npub) -> Result<Ends, Error> {
    let status = session.api.get(&format!("/v1/agents/{npub}")).await?;
    let end = |seq: &str, head: &str| Some((status[seq].as_i64()?, status[head].as_str()?.parse().ok()?));
    match (end("pruned_seq", "pruned_head"), end("event_seq", "event_head")) {
        (Some(pruned), Some(last)) => Ok(Ends { pruned, last }),
        _ => Err(Error::Protocol { attempted: "reading an agent", why: "its events have no ends".to_owned() }),
    }
}

async fn walk(session: &Session, npub: &Npub, ends: &Ends) -> Result<Chain, Error> {
    let broken = |why: String| {
        Error::Failed(format!(
            "the events do not verify: {why}\n  next: ask the operator; the host lost or changed history"
        ))
    };
    let (seq, head) = ends.pruned;
    let mut chain = Chain::after(*npub, seq, head);
    each(session, npub, u64::try_from(seq).unwrap_or(0), |event| chain.take(&event).map_err(broken)).await?;
    chain.reaches(ends.last.0, ends.last.1).map_err(broken)?;
    Ok(chain)
}

fn verified(session: &Session, chain: &Chain) -> anyhow::Result<()> {
    let head = chain.head().to_string();
    session.output.either(&json!({ "verified": true, "events": chain.checked(), "head": head }), || {
        format!("{} events follow from each other without a gap.", chain.checked())
    });
    Ok(())
}

fn show(session: &Session, event: &Value, viewer: Option<&Viewer>) {
    let opened = viewer.and_then(|viewer| viewer.text(event["sealed"].as_str()?));
    if session.output.json {
        let mut event = event.clone();
        if let Some(text) = &opened {
            event["opened"] = serde_json::from_str(text.expose()).unwrap_or_else(|_| json!(text.expose()));
        }
        session.output.record(&event);
        return;
    }
    let at = event["at"].as_i64().map_or("-".to_owned(), moment);
    session.output.line(format!("{:>6}  {at}  {}", field(event, "seq"), line(event)));
    if let Some(text) = opened {
        let pretty =
            serde_json::from_str::<Value>(text.expose()).and_then(|value| serde_json::to_string_pretty(&value));
        let text = pretty.unwrap_or_else(|_| text.expose().to_owned());
        printable(&text).lines().for_each(|line| session.output.line(format!("        {line}")));
    }
}

/// One event in words.
fn line(event: &Value) -> String {
    let sats = |name: &str| event[name].as_u64().map_or("?".to_owned(), group);
    match event["type"].as_str().unwrap_or("?") {
        "tick_started" => format!("tick started     {}", field(event, "tick_id")),
        "tick_completed" => {
            let actions = event["actions"].as_array().map(Vec::as_slice).unwrap_or_default();
            let done: Vec<String> = actions.iter().map(action).collect();
            let done = if done.is_empty() { "nothing to do".to_owned() } else { done.join(", ") };
            format!("tick completed   {done}")
        }
        "tick_failed" => format!("tick failed      {}", field(event, "reason")),
        "tick_skipped" => format!("tick skipped     {}: {}", field(event, "trigger"), field(event, "reason")),
        "balance_changed" => format!("balance          {} sats", sats("balance_sats")),
        "lifecycle_changed" => format!("funds            {}", field(event, "state")),
        "hosting_changed" => format!("hosting          {}", field(event, "state")),
        "hosting_ends" => format!("hosting          ends within {} days, and is not covered", field(event, "days")),
        "payment" => format!(
            "payment          {} sats + {} sats fee: {}",
            sats("amount_sats"),
            sats("fee_sats"),
            field(event, "state")
        ),
        "approval_requested" => format!("asks you         {}: {}", field(event, "action"), field(event, "approval_id")),
        "approval_changed" => format!("approval         {}: {}", field(event, "state"), field(event, "approval_id")),
        "placed" => format!("placed           on worker {}", field(event, "worker")),
        "restored" => format!("restored         from a backup; {} sats were missing", sats("missing_sats")),
        other => printable(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_in_words() {
        let completed = json!({ "type": "tick_completed", "actions": [
            { "type": "reply", "outcome": "done" }, { "type": "zap", "amount_sats": 21, "outcome": "refused: day limit" }
        ]});
        assert_eq!(line(&completed), "tick completed   reply, zap 21 sats (refused: day limit)");
        assert_eq!(line(&json!({ "type": "balance_changed", "balance_sats": 12345 })), "balance          12,345 sats");
        // A later host may send what this version does not know.
        assert_eq!(line(&json!({ "type": "new\u{1b}[2J" })), "new\u{fffd}[2J");
    }
}
