//! `nexus fleet`: workers, regions, and what agents wait for.

use comfy_table::Cell;
use serde_json::Value;

use crate::cli::Global;
use crate::output::{Output, group, printable};
use crate::session::Session;

pub async fn run(global: &Global, output: Output) -> anyhow::Result<()> {
    let session = Session::open(global, output)?;
    let fleet = session.api.get("/v1/fleet").await?;
    if output.json {
        output.document(&fleet);
        return Ok(());
    }
    let parts = [regions(&fleet, output), workers(&fleet, output), waiting(&fleet, output), agents(&fleet)];
    output.line(parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n"));
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

fn agents(fleet: &Value) -> Option<String> {
    let (agents, month) = (&fleet["agents"], &fleet["availability"]["this_month"]);
    Some(format!(
        "{} agents, {} to run; without a worker {}, away from home {}, overdue {}\nOn time this month: {:.3} % of {} due (target {} %), {} agents below",
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
