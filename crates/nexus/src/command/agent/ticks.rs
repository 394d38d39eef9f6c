//! `nexus agent ticks`

use comfy_table::Cell;
use nexus_core::Msat;
use serde_json::Value;

use crate::cli::TicksArgs;
use crate::command::token::path_part;
use crate::output::{Output, field, moment, printable, relative, sats};
use crate::session::Session;

pub async fn run(session: &Session, args: &TicksArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    if let Some(id) = &args.id {
        let tick = session.api.get(&format!("/v1/agents/{npub}/ticks/{}", path_part(id)?)).await?;
        show(session, &tick);
        return Ok(());
    }
    let page = session.api.get(&format!("/v1/agents/{npub}/ticks?limit={}", args.limit)).await?;
    let ticks = page["ticks"].as_array().map(Vec::as_slice).unwrap_or_default();
    if session.output.json {
        session.output.document(&page);
    } else if ticks.is_empty() {
        session.output.line(format!("No ticks yet. Next: nexus agent status {}", args.agent));
    } else {
        session.output.line(table(&session.output, ticks, session.clock.now().0));
    }
    Ok(())
}

/// Ticks, newest first.
pub fn table(output: &Output, ticks: &[Value], now: i64) -> String {
    let rows = ticks.iter().map(|tick| {
        let started = tick["started_at_ms"].as_i64().map_or("-".to_owned(), |at| relative(at, now));
        [
            Cell::new(field(tick, "id")),
            Cell::new(started),
            Cell::new(field(tick, "trigger")),
            output.state(tick["status"].as_str().unwrap_or("-")),
            Cell::new(cost(tick)),
            Cell::new(summary(tick)),
        ]
    });
    output.table(["TICK", "STARTED", "CAUSE", "RESULT", "COST", "WHAT"], rows)
}

fn cost(tick: &Value) -> String {
    let amount = tick["cost_msat"].as_u64().and_then(|msat| Msat::try_from(msat).ok());
    amount.map_or("-".to_owned(), sats)
}

/// Why it failed or was skipped, else the names of what it did.
fn summary(tick: &Value) -> String {
    if let Some(reason) = tick["reason"].as_str() {
        return printable(reason);
    }
    let actions = tick["actions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<String> = actions.iter().map(action).collect();
    if names.is_empty() { "nothing to do".to_owned() } else { names.join(", ") }
}

/// One action of a tick, for people.
pub fn action(action: &Value) -> String {
    let mut text = field(action, "type");
    if let Some(amount) = action["amount_sats"].as_u64() {
        text.push_str(&format!(" {amount} sats"));
    }
    match action["outcome"].as_str() {
        None | Some("done" | "ok" | "published" | "settled") => {}
        Some(outcome) => text.push_str(&format!(" ({})", printable(outcome))),
    }
    text
}

fn show(session: &Session, tick: &Value) {
    let output = session.output;
    if output.json {
        output.document(tick);
        return;
    }
    let at = |name: &str| tick[name].as_i64().map_or("-".to_owned(), |at| format!("{} UTC", moment(at)));
    output.line(output.pairs([
        ("tick", Cell::new(field(tick, "id"))),
        ("cause", Cell::new(field(tick, "trigger"))),
        ("result", output.state(tick["status"].as_str().unwrap_or("-"))),
        ("reason", Cell::new(field(tick, "reason"))),
        ("started", Cell::new(at("started_at_ms"))),
        ("ended", Cell::new(at("ended_at_ms"))),
        ("cost", Cell::new(cost(tick))),
    ]));
    for (head, name) in [("Steps", "steps"), ("Actions", "actions")] {
        let rows = tick[name].as_array().map(Vec::as_slice).unwrap_or_default();
        if !rows.is_empty() {
            output.line(format!("\n{head}"));
            rows.iter().for_each(|row| output.line(format!("  {}", printable(&row.to_string()))));
        }
    }
}
