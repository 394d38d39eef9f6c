//! `nexus agent set`

use nexus_client::api::Call;
use nexus_client::{Error, file};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::ConfigArgs;
use crate::command::agent::status;
use crate::session::Session;

pub async fn run(session: &Session, args: &ConfigArgs) -> anyhow::Result<()> {
    let change = wanted(args)?;
    if change.is_empty() {
        return Err(Error::Usage(
            "nothing to change\n  next: give --heartbeat, --about, --relay, --label, --region, --failover or --file"
                .to_owned(),
        )
        .into());
    }
    let npub = session.agent(&args.agent).await?;
    let path = format!("/v1/agents/{npub}");
    let read = session.api.call(Call::new(Method::GET, path.as_str())).await?;
    let call = Call::new(Method::PATCH, path).json(&json!({ "config": change }));
    let call = call.header("if-match", read.etag.as_deref().unwrap_or("*"));
    let changed = session.api.call(call).await?.body;
    status::show(session, &changed);
    Ok(())
}

/// A JSON merge patch (RFC 7396) of the configuration.
fn wanted(args: &ConfigArgs) -> Result<Map<String, Value>, Error> {
    let mut change = match &args.file {
        None => Map::new(),
        Some(path) => match serde_json::from_str(&file::read_secret(path)?) {
            Ok(Value::Object(members)) => members,
            _ => {
                return Err(Error::Usage(format!(
                    "{} holds no JSON object\n  next: write {{\"heartbeat_secs\": 60}}, for example",
                    path.display()
                )));
            }
        },
    };
    if let Some(secs) = args.heartbeat {
        change.insert("heartbeat_secs".to_owned(), json!(secs));
    }
    if let Some(about) = &args.about {
        change.insert("about".to_owned(), json!(about));
    }
    if let Some(region) = &args.region {
        change.insert("region".to_owned(), json!(region));
    }
    if let Some(failover) = args.failover {
        change.insert("failover".to_owned(), json!(nexus_core::placement::Failover::from(failover)));
    }
    if !args.relay.is_empty() {
        change.insert("relays".to_owned(), json!(args.relay));
    }
    if !args.label.is_empty() {
        let labels: Map<String, Value> = args.label.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        change.insert("labels".to_owned(), Value::Object(labels));
    }
    Ok(change)
}
