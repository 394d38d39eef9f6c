//! `nexus agent hook`

use comfy_table::Cell;
use nexus_client::Error;
use nexus_client::api::Call;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::HookCommand;
use crate::command::token::path_part;
use crate::output::{field, moment};
use crate::session::Session;

pub async fn run(session: &Session, command: HookCommand) -> anyhow::Result<()> {
    match command {
        HookCommand::Add { agent, name } => add(session, &agent, &name).await,
        HookCommand::List { agent } => list(session, &agent).await,
        HookCommand::Remove { agent, id } => {
            let npub = session.agent(&agent).await?;
            let path = format!("/v1/agents/{npub}/hooks/{}", path_part(&id)?);
            session.api.call(Call::new(Method::DELETE, path)).await?;
            session
                .output
                .either(&json!({ "removed": id }), || format!("Nothing that comes to hook {id} is believed any more."));
            Ok(())
        }
    }
}

async fn add(session: &Session, agent: &str, name: &str) -> anyhow::Result<()> {
    let npub = session.agent(agent).await?;
    woken_by_webhooks(session, &format!("/v1/agents/{npub}")).await?;
    let made = session.api.post(&format!("/v1/agents/{npub}/hooks"), &json!({ "name": name })).await?;
    let Some(secret) = made["secret"].as_str() else {
        let why = "the answer holds no secret".to_owned();
        return Err(Error::Protocol { attempted: "making a hook", why }.into());
    };
    session.output.either(&made, || {
        format!(
            "Senders post to  {}\nSigned with      {secret}\n\nThe secret is shown once: put it into the sender's settings now (Standard Webhooks).",
            field(&made, "url")
        )
    });
    Ok(())
}

/// Adds the trigger to the configuration, unless it is there.
async fn woken_by_webhooks(session: &Session, path: &str) -> Result<(), Error> {
    let read = session.api.call(Call::new(Method::GET, path)).await?;
    let mut triggers = read.body["config"]["triggers"].as_array().cloned().unwrap_or_default();
    if triggers.iter().any(|trigger| trigger == "webhook") {
        return Ok(());
    }
    triggers.push(json!("webhook"));
    let call = Call::new(Method::PATCH, path).json(&json!({ "config": { "triggers": triggers } }));
    session.api.call(call.header("if-match", read.etag.as_deref().unwrap_or("*"))).await?;
    Ok(())
}

async fn list(session: &Session, agent: &str) -> anyhow::Result<()> {
    let npub = session.agent(agent).await?;
    let answer = session.api.get(&format!("/v1/agents/{npub}/hooks")).await?;
    if session.output.json {
        session.output.document(&answer);
        return Ok(());
    }
    let hooks = answer["hooks"].as_array().cloned().unwrap_or_default();
    let rows = hooks.iter().map(|hook: &Value| {
        let used = hook["last_used_at_ms"].as_i64().map_or("-".to_owned(), moment);
        [Cell::new(field(hook, "id")), Cell::new(field(hook, "name")), Cell::new(used), Cell::new(field(hook, "url"))]
    });
    session.output.line(session.output.table(["ID", "NAME", "LAST USED (UTC)", "ADDRESS"], rows));
    Ok(())
}
