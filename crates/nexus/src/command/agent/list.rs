//! `nexus agent list`

use comfy_table::Cell;
use nexus_client::Error;
use serde_json::{Value, json};

use crate::output::{field, group, relative};
use crate::session::Session;

/// Pages that one list reads at most: 200,000 agents.
const MAX_PAGES: usize = 1_000;

pub async fn run(session: &Session, state: Option<&str>, label: Option<&str>) -> anyhow::Result<()> {
    let agents = all(session, state, label).await?;
    if session.output.json {
        session.output.document(&json!({ "agents": agents }));
        return Ok(());
    }
    if agents.is_empty() {
        session.output.line("No agents. Next: nexus agent create NAME --goal TEXT --start");
        return Ok(());
    }
    let now = session.clock.now().0;
    let rows = agents.iter().map(|agent| {
        let state = |name: &str| session.output.state(agent[name].as_str().unwrap_or("-"));
        let balance = agent["balance_sats"].as_u64().map_or("-".to_owned(), group);
        let next = agent["next_tick_at_ms"].as_i64().map_or("-".to_owned(), |at| relative(at, now));
        [
            Cell::new(field(agent, "name")),
            state("desired"),
            state("lifecycle"),
            state("placement"),
            Cell::new(balance),
            Cell::new(next),
            Cell::new(field(&agent["reason"], "text")),
        ]
    });
    session
        .output
        .line(session.output.table(["NAME", "WANTED", "FUNDS", "WORKER", "SATS", "NEXT TICK", "REASON"], rows));
    Ok(())
}

pub async fn all(session: &Session, state: Option<&str>, label: Option<&str>) -> Result<Vec<Value>, Error> {
    let mut agents = Vec::new();
    let mut after = None;
    for _ in 0..MAX_PAGES {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", "200");
        for (name, value) in [("state", state), ("label", label), ("after", after.as_deref())] {
            value.map(|value| query.append_pair(name, value));
        }
        let mut page = session.api.get(&format!("/v1/agents?{}", query.finish())).await?;
        if let Value::Array(rows) = page["agents"].take() {
            agents.extend(rows);
        }
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    Ok(agents)
}
