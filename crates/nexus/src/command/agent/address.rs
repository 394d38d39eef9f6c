//! `nexus agent address`

use nexus_client::api::Call;
use reqwest::Method;
use serde_json::json;

use crate::cli::AddressArgs;
use crate::output::field;
use crate::session::Session;

pub async fn run(session: &Session, args: &AddressArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let path = format!("/v1/agents/{npub}/address");
    let status = match &args.set {
        Some(name) => session.api.call(Call::new(Method::PUT, path).json(&json!({ "name": name }))).await?.body,
        None if args.release => session.api.call(Call::new(Method::DELETE, path)).await?.body,
        None => session.api.get(&format!("/v1/agents/{npub}")).await?,
    };
    let address = field(&status, "lightning_address");
    let document = json!({ "npub": npub, "address": address });
    session.output.either(&document, || {
        if args.set.is_some() {
            format!("{} is paid and found at {address} now.", args.agent)
        } else if args.release {
            format!("The name is free again. {} is paid at {address}.", args.agent)
        } else {
            address.clone()
        }
    });
    Ok(())
}
