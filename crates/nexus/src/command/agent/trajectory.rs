//! `nexus agent trajectory`: what an agent heard and decided in one tick, opened with a reader's key.

use comfy_table::Cell;
use nexus_client::Error;
use nexus_client::view::Viewer;
use nexus_core::Npub;
use serde_json::{Value, json};

use crate::cli::TrajectoryArgs;
use crate::command::token::path_part;
use crate::output::{field, moment, printable};
use crate::session::Session;

/// Ticks among which the last one with thoughts is looked for.
const LOOKED_THROUGH: u32 = 200;

pub async fn run(session: &Session, args: &TrajectoryArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let keys = session.owner_keys()?;
    let viewer = Viewer::open(&session.as_owner(&keys), &npub, &keys).await?;
    let id = match &args.tick {
        Some(id) => id.clone(),
        None => last(session, &npub, &args.agent).await?,
    };
    let tick = session.api.get(&format!("/v1/agents/{npub}/ticks/{}", path_part(&id)?)).await?;
    let thoughts = opened(&viewer, &tick)?;
    if session.output.json {
        session.output.document(&json!({ "tick": without_sealed(tick), "trajectory": thoughts }));
    } else {
        show(session, &tick, &thoughts);
    }
    Ok(())
}

/// The newest tick of which something can be read.
async fn last(session: &Session, npub: &Npub, agent: &str) -> Result<String, Error> {
    let page = session.api.get(&format!("/v1/agents/{npub}/ticks?limit={LOOKED_THROUGH}")).await?;
    let ticks = page["ticks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = ticks.iter().find(|tick| tick["sealed_bytes"].as_u64().unwrap_or(0) > 0);
    found.and_then(|tick| tick["id"].as_str()).map(str::to_owned).ok_or_else(|| {
        Error::NotFound(format!("it has no thoughts among its last ticks\n  next: `nexus agent ticks {agent}`"))
    })
}

/// What was sealed of a tick, if it is of this very tick.
fn opened(viewer: &Viewer, tick: &Value) -> Result<Value, Error> {
    let Some(sealed) = tick["sealed"].as_str() else {
        let text = "nothing is kept of what it thought in this tick\n  next: `nexus agent ticks A --id TICK` shows why it ended";
        return Err(Error::NotFound(text.to_owned()));
    };
    let odd = |why: &str| Error::Refused(format!("{why}\n  next: ask the operator; the host changed or lost history"));
    let text = viewer.text(sealed).ok_or_else(|| odd("what is kept of this tick does not open with your key"))?;
    let thoughts: Value =
        serde_json::from_str(text.expose()).map_err(|_| odd("what is kept of this tick is no trajectory"))?;
    if thoughts["tick_id"] != tick["id"] {
        return Err(odd("what the host gives is another tick's"));
    }
    Ok(thoughts)
}

fn without_sealed(mut tick: Value) -> Value {
    if let Some(members) = tick.as_object_mut() {
        members.remove("sealed");
    }
    tick
}

fn show(session: &Session, tick: &Value, thoughts: &Value) {
    let output = session.output;
    let started = tick["started_at_ms"].as_i64().map_or("-".to_owned(), |at| format!("{} UTC", moment(at)));
    output.line(output.pairs([
        ("tick", Cell::new(field(tick, "id"))),
        ("cause", Cell::new(field(tick, "trigger"))),
        ("started", Cell::new(started)),
        ("result", output.state(tick["status"].as_str().unwrap_or("-"))),
    ]));
    let rows = |name: &str| thoughts[name].as_array().cloned().unwrap_or_default();
    output.line("\nHeard");
    for message in rows("messages") {
        let (from, cause) = (field(&message, "from"), field(&message, "trigger"));
        output.line(format!("  {from} ({cause}): {}", printable(message["text"].as_str().unwrap_or_default())));
    }
    output.line("\nDecided");
    for action in rows("actions") {
        output.line(format!("  {}", printable(&action.to_string())));
    }
}
