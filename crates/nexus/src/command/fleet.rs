//! `nexus fleet`: workers, regions, and what agents wait for.

use comfy_table::Cell;
use serde_json::Value;

use crate::cli::{Global, ParkedArgs};
use crate::output::{Output, group, printable, relative};
use crate::session::Session;

pub async fn run(global: &Global, output: Output) -> anyhow::Result<()> {
    let session = Session::open(global, output)?;
    let fleet = session.api.get("/v1/fleet").await?;
    if output.json {
        output.document(&fleet);
        return Ok(());
    }
    let parts = [regions(&fleet, output), workers(&fleet, output), waiting(&fleet, output), counted(&fleet)];
    output.line(parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n"));
    Ok(())
}

/// One page of agents that should run and do not.
pub async fn agents(global: &Global, output: Output, args: &ParkedArgs) -> anyhow::Result<()> {
    let session = Session::open(global, output)?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &args.limit.to_string());
    for (name, value) in [("code", &args.code), ("after", &args.after)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let page = session.api.get(&format!("/v1/fleet/agents?{}", query.finish())).await?;
    if output.json {
        output.document(&page);
        return Ok(());
    }
    let agents = rows(&page, "agents");
    if agents.is_empty() {
        output.line("No agent waits.");
        return Ok(());
    }
    let now = session.clock.now().0;
    let line = |row: &Value| {
        let next = row["next_attempt_at_ms"].as_i64().map_or("-".to_owned(), |at| relative(at, now));
        let placement = output.state(row["placement"].as_str().unwrap_or("-"));
        let (npub, region) = (text(row, "npub"), text(row, "region"));
        let (code, why) = (text(row, "code"), text(row, "text"));
        [Cell::new(npub), Cell::new(region), placement, Cell::new(code), Cell::new(why), Cell::new(next)]
    };
    output.line(output.table(["AGENT", "HOME", "PLACED", "WAITS FOR", "", "AGAIN"], agents.iter().map(line)));
    if let Some(next) = page["next"].as_str() {
        output.line(format!("\nMore: --after {}", printable(next)));
    }
    Ok(())
}

fn rows(fleet: &Value, name: &str) -> Vec<Value> {
    fleet[name].as_array().cloned().unwrap_or_default()
}

fn text(row: &Value, name: &str) -> String {
    printable(row[name].as_str().unwrap_or("-"))
}

fn number(row: &Value, name: &str) -> String {
    row[name].as_u64().map_or_else(|| "-".to_owned(), group)
}

fn regions(fleet: &Value, output: Output) -> Option<String> {
    let regions = rows(fleet, "regions");
    let line = |row: &Value| {
        let workers = format!("{} of {}", number(row, "workers"), number(row, "desired_workers"));
        let load = format!("{} of {}", number(row, "load"), number(row, "capacity"));
        [text(row, "region"), text(row, "pool"), workers, load].map(Cell::new)
    };
    (!regions.is_empty()).then(|| output.table(["REGION", "POOL", "WORKERS", "AGENTS"], regions.iter().map(line)))
}

fn workers(fleet: &Value, output: Output) -> Option<String> {
    let workers = rows(fleet, "workers");
    let line = |row: &Value| {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let age = row["beat_age_ms"].as_u64().map_or(0.0, |ms| ms as f64 / 1_000.0);
        let load = format!("{} of {}", number(row, "load"), number(row, "capacity"));
        let state = output.state(row["state"].as_str().unwrap_or("-"));
        let (id, region, pool) = (text(row, "id"), text(row, "region"), text(row, "pool"));
        [Cell::new(id), Cell::new(region), Cell::new(pool), state, Cell::new(load), Cell::new(format!("{age:.1} s"))]
    };
    let head = ["WORKER", "REGION", "POOL", "STATE", "AGENTS", "BEAT"];
    (!workers.is_empty()).then(|| output.table(head, workers.iter().map(line)))
}

fn waiting(fleet: &Value, output: Output) -> Option<String> {
    let waiting = rows(fleet, "waiting");
    let line = |row: &Value| {
        [number(row, "agents"), text(row, "code"), text(row, "text"), text(row, "example")].map(Cell::new)
    };
    (!waiting.is_empty()).then(|| output.table(["AGENTS", "WAIT FOR", "", "SUCH AS"], waiting.iter().map(line)))
}

fn counted(fleet: &Value) -> Option<String> {
    let places = match fleet["reconciler"]["holder"].as_str() {
        Some(holder) => format!("Placed by {} (term {})", printable(holder), number(&fleet["reconciler"], "term")),
        None => "Nobody places agents: is a control plane running?".to_owned(),
    };
    let (agents, month) = (&fleet["agents"], &fleet["availability"]["this_month"]);
    Some(format!(
        "{} agents, {} to run; without a worker {}, away from home {}, overdue {}\nOn time this month: {:.3} % of {} due (target {} %), {} agents below\n{places}",
        number(agents, "all"),
        number(agents, "running"),
        number(agents, "unplaced"),
        number(agents, "away"),
        number(agents, "overdue"),
        month["percent"].as_f64().unwrap_or(100.0),
        number(month, "due"),
        fleet["availability"]["target_percent"].as_f64().unwrap_or(99.9),
        number(month, "below_target"),
    ))
}
