//! Starting, stopping, ticking, deleting.

use std::sync::Arc;

use nexus_client::api::Call;
use nexus_client::{Error, file};
use nexus_core::time::random;
use nexus_seal::{Recipient, seal_to_recipient_armored};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::{DeleteArgs, StopArgs, TickArgs};
use crate::output::field;
use crate::prompt;
use crate::session::Session;

pub async fn start(session: &Session, agent: &str) -> anyhow::Result<()> {
    let npub = session.agent(agent).await?;
    let status = session.api.post(&format!("/v1/agents/{npub}/start"), &json!({})).await?;
    let next =
        if status["lifecycle"] == "spawning" { format!("fund {agent}") } else { format!("events {agent} --follow") };
    say(session, &status, "started", &next);
    Ok(())
}

pub async fn stop(session: &Session, args: &StopArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let when = if args.now { "now" } else { "after_tick" };
    let status = session.api.post(&format!("/v1/agents/{npub}/stop"), &json!({ "when": when })).await?;
    say(session, &status, "stopped", &format!("status {}", args.agent));
    Ok(())
}

fn say(session: &Session, status: &Value, what: &str, next: &str) {
    session.output.either(status, || {
        let reason = field(&status["reason"], "text");
        format!("{} {what}: {reason}\nNext: nexus agent {next}", field(status, "name"))
    });
}

/// What it is told is sealed to the agent here: the host cannot read it.
pub async fn tick(session: &Session, args: &TickArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let mut body = json!({});
    if let Some(path) = &args.text_file {
        let text = file::read_secret(path)?;
        let status = session.api.get(&format!("/v1/agents/{npub}")).await?;
        body["sealed_text"] = json!(seal(&status, &text)?);
    }
    let key = hex::encode(random::<16>(&*Arc::clone(&session.entropy)));
    let call = Call::new(Method::POST, format!("/v1/agents/{npub}/ticks")).json(&body).header("idempotency-key", &key);
    let answer = session.api.call(call).await?.body;
    session.output.either(&answer, || {
        let reason = field(&answer["reason"], "text");
        format!("Asked for a tick: {reason}\nNext: nexus agent events {} --follow", args.agent)
    });
    Ok(())
}

fn seal(status: &Value, text: &str) -> Result<String, Error> {
    let recipient: Recipient =
        status["inbox_recipient"].as_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
            Error::Failed("the agent has no inbox key yet\n  next: start it once, then try again".to_owned())
        })?;
    seal_to_recipient_armored(&recipient, text.as_bytes())
        .map_err(|error| Error::Failed(format!("sealing the text: {error}")))
}

pub async fn delete(session: &Session, args: &DeleteArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let question = if args.forfeit {
        format!("Delete {} and give up the sats in its wallet?", args.agent)
    } else {
        format!("Delete {} from this host?", args.agent)
    };
    if !args.yes && !prompt::confirm(&question) {
        return Err(Error::Usage("nothing was deleted\n  next: answer y, or give --yes".to_owned()).into());
    }
    let api = if args.forfeit { session.as_owner(&session.owner_keys()?) } else { session.api.clone() };
    let query = if args.forfeit { "?forfeit=true" } else { "" };
    api.call(Call::new(Method::DELETE, format!("/v1/agents/{npub}{query}"))).await?;
    session.output.either(&json!({ "deleted": npub }), || {
        format!("{} is gone from this host. Its identity and wallet live on with its mnemonic.", args.agent)
    });
    Ok(())
}
