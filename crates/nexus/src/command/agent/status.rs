//! `nexus agent status`

use comfy_table::Cell;
use serde_json::Value;

use crate::command::agent::ticks;
use crate::output::{Output, field, group, moment, printable, relative};
use crate::session::Session;

pub async fn run(session: &Session, agent: &str) -> anyhow::Result<()> {
    let npub = session.agent(agent).await?;
    let status = session.api.get(&format!("/v1/agents/{npub}")).await?;
    show(session, &status);
    Ok(())
}

/// The status of an agent, as an answer holds it.
pub fn show(session: &Session, status: &Value) {
    let output = session.output;
    if output.json {
        output.document(status);
        return;
    }
    let now = session.clock.now().0;
    output.line(output.pairs(rows(&output, status, now)));
    let last = status["last_ticks"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !last.is_empty() {
        output.line(format!("\n{}", ticks::table(&output, last, now)));
    }
}

/// Where the money is, and who holds it.
fn wallet(wallet: &Value) -> String {
    let cap = wallet["cap_sats"].as_u64().map_or(String::new(), |cap| format!(", up to {} sats", group(cap)));
    match wallet["custody"].as_str() {
        Some(custody) => format!("{}; {}{cap}", field(wallet, "backend"), printable(custody)),
        None => "-".to_owned(),
    }
}

fn rows(output: &Output, status: &Value, now: i64) -> Vec<(&'static str, Cell)> {
    let state = |name: &str| output.state(status[name].as_str().unwrap_or("-"));
    let at = |name: &str| {
        let text =
            status[name].as_i64().map_or("-".to_owned(), |at| format!("{} ({} UTC)", relative(at, now), moment(at)));
        Cell::new(text)
    };
    let balance = match (status["balance_sats"].as_u64(), status["balance_at_ms"].as_i64()) {
        (Some(sats), Some(seen)) => format!("{} sats, seen {}", group(sats), relative(seen, now)),
        (Some(sats), None) => format!("{} sats", group(sats)),
        (None, _) => "not seen yet".to_owned(),
    };
    let runway = status["runway_days"].as_u64().map_or("-".to_owned(), |days| format!("{} days", group(days)));
    let heartbeat =
        status["config"]["heartbeat_secs"].as_u64().map_or("-".to_owned(), |secs| format!("every {secs} s"));
    let mut rows = vec![
        ("name", Cell::new(field(status, "name"))),
        ("npub", Cell::new(field(status, "npub"))),
        ("address", Cell::new(field(status, "lightning_address"))),
        ("wanted", state("desired")),
        ("funds", state("lifecycle")),
        ("hosting", state("hosting")),
        ("key", state("custody")),
        ("worker", state("placement")),
        ("reason", Cell::new(field(&status["reason"], "text"))),
        ("next attempt", at("next_attempt_at_ms")),
        ("balance", Cell::new(balance)),
        ("wallet", Cell::new(wallet(&status["wallet"]))),
        ("runway", Cell::new(runway)),
        ("heartbeat", Cell::new(heartbeat)),
        ("next tick", at("next_tick_at_ms")),
        ("next schedule", at("next_schedule_at_ms")),
        ("policy", Cell::new(status["policy_version"].as_i64().map_or("none".to_owned(), |v| format!("version {v}")))),
        ("waiting", Cell::new(format!("{} in the inbox", field(status, "inbox_waiting")))),
    ];
    rows.extend(status["relays"].as_array().into_iter().flatten().map(|relay| {
        let heard = relay["heard_at_ms"]
            .as_i64()
            .map_or("not heard yet".to_owned(), |at| format!("heard {}", relative(at, now)));
        let problem = relay["problem"].as_str().map_or(String::new(), |problem| format!("; {}", printable(problem)));
        ("relay", Cell::new(format!("{}: {heard}{problem}", field(relay, "url"))))
    }));
    rows
}
