//! `nexus webhook`

use comfy_table::Cell;
use nexus_client::Error;
use nexus_client::api::Call;
use reqwest::Method;
use serde_json::{Value, json};

use super::token::path_part;
use crate::cli::{Global, WebhookCommand};
use crate::output::{Output, field, moment, relative};
use crate::session::Session;

pub async fn run(command: WebhookCommand, global: &Global, output: Output) -> anyhow::Result<()> {
    let session = Session::open(global, output)?;
    match command {
        WebhookCommand::Add { url, event } => add(&session, &url, &event).await,
        WebhookCommand::List => list(&session).await,
        WebhookCommand::Deliveries { id, state, limit } => deliveries(&session, &id, state.as_deref(), limit).await,
        WebhookCommand::Retry { id } => {
            let answer = session.api.post(&format!("/v1/webhooks/{}/retry", path_part(&id)?), &json!({})).await?;
            session.output.either(&answer, || format!("{} deliveries are tried again.", field(&answer, "deliveries")));
            Ok(())
        }
        WebhookCommand::Remove { id } => {
            let call = Call::new(Method::DELETE, format!("/v1/webhooks/{}", path_part(&id)?));
            session.api.call(call).await?;
            session.output.either(&json!({ "removed": id }), || format!("Nothing is sent to webhook {id} any more."));
            Ok(())
        }
    }
}

async fn add(session: &Session, url: &str, events: &[String]) -> anyhow::Result<()> {
    let made = session.api.post("/v1/webhooks", &json!({ "url": url, "events": events })).await?;
    let Some(secret) = made["secret"].as_str() else {
        let why = "the answer holds no secret".to_owned();
        return Err(Error::Protocol { attempted: "making a webhook", why }.into());
    };
    session.output.either(&made, || {
        format!(
            "Posted to    {}\nSigned with  {secret}\n\nThe secret is shown once: put it into the receiver's settings now (Standard Webhooks).\nNext: nexus webhook deliveries {}",
            field(&made, "url"),
            field(&made, "id")
        )
    });
    Ok(())
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let answer = session.api.get("/v1/webhooks").await?;
    if session.output.json {
        session.output.document(&answer);
        return Ok(());
    }
    let webhooks = answer["webhooks"].as_array().cloned().unwrap_or_default();
    let rows = webhooks.iter().map(|webhook: &Value| {
        let events = webhook["events"].as_array().cloned().unwrap_or_default();
        let events: Vec<&str> = events.iter().filter_map(Value::as_str).collect();
        let events = if events.is_empty() { "all".to_owned() } else { events.join(" ") };
        let gone = webhook["gone_at_ms"].as_i64().map_or("-".to_owned(), moment);
        [
            Cell::new(field(webhook, "id")),
            Cell::new(events),
            Cell::new(field(webhook, "pending")),
            Cell::new(field(webhook, "dead")),
            Cell::new(gone),
            Cell::new(field(webhook, "url")),
        ]
    });
    session.output.line(session.output.table(["ID", "EVENTS", "WAITING", "GIVEN UP", "GONE (UTC)", "POSTED TO"], rows));
    Ok(())
}

async fn deliveries(session: &Session, id: &str, state: Option<&str>, limit: u32) -> anyhow::Result<()> {
    let filter = state.map_or_else(String::new, |state| format!("&state={state}"));
    let path = format!("/v1/webhooks/{}/deliveries?limit={limit}{filter}", path_part(id)?);
    let answer = session.api.get(&path).await?;
    if session.output.json {
        session.output.document(&answer);
        return Ok(());
    }
    let now = session.clock.now().0;
    let listed = answer["deliveries"].as_array().cloned().unwrap_or_default();
    let rows = listed.iter().map(|delivery: &Value| {
        let next = delivery["next_at_ms"].as_i64().map_or("-".to_owned(), |at| relative(at, now));
        [
            Cell::new(delivery["at_ms"].as_i64().map_or("-".to_owned(), moment)),
            Cell::new(field(delivery, "kind")),
            session.output.state(&field(delivery, "state")),
            Cell::new(field(delivery, "attempts")),
            Cell::new(next),
            Cell::new(field(delivery, "said")),
        ]
    });
    session.output.line(session.output.table(["SINCE (UTC)", "EVENT", "STATE", "ATTEMPTS", "NEXT", "LAST"], rows));
    if state == Some("dead") && !listed.is_empty() {
        session.output.line(format!("Next: nexus webhook retry {id}"));
    }
    Ok(())
}
