//! `nexus agent withdraw`, `nexus agent accept-rollback`: owner commands.

use nexus_client::{Error, command};
use nexus_core::Msat;
use nexus_lightning::decode_bolt11;
use nexus_seal::withdrawal::Withdrawal;
use serde_json::json;

use crate::cli::{AcceptArgs, WithdrawArgs};
use crate::output::{field, group};
use crate::prompt;
use crate::session::Session;

pub async fn withdraw(session: &Session, args: &WithdrawArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let invoice = decode_bolt11(&args.to)
        .map_err(|error| Error::Usage(format!("--to: {error}\n  next: give a BOLT 11 invoice")))?;
    if invoice.amount != Some(Msat::sats(args.sats)) {
        let text = format!("the invoice is not for {} sats\n  next: give --sats as the invoice has it", args.sats);
        return Err(Error::Usage(text).into());
    }
    let keys = session.owner_keys()?;
    let asked = Withdrawal { amount_sats: args.sats, invoice: args.to.clone() };
    let view = command::withdraw(&session.as_owner(&keys), &npub, &asked).await?;
    if view["state"] == "failed" {
        let why = view["why"].as_str().unwrap_or("the wallet does not say why");
        let text =
            format!("nothing was paid: {why}\n  next: `nexus agent balance {}`, then try another invoice", args.agent);
        return Err(Error::Failed(text).into());
    }
    session.output.either(&view, || match view["state"].as_str() {
        Some("settled") => {
            format!("Paid {} sats, and {} sats of fee.", group(args.sats), field(&view, "fee_sats"))
        }
        _ => format!("On its way ({}). Next: nexus agent events {} --follow", field(&view, "state"), args.agent),
    });
    Ok(())
}

pub async fn accept_rollback(session: &Session, args: &AcceptArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let keys = session.owner_keys()?;
    let api = session.as_owner(&keys);
    let offered = command::rollback(&api, &npub).await?;
    let Some(text) = offered.text else {
        session.output.either(&json!({ "npub": npub, "accepted": false }), || "Its state is in order.".to_owned());
        return Ok(());
    };
    let Some(accept) = offered.accept else {
        return Err(Error::Refused(format!("{text}\n  next: restore the database; there is no state to accept")).into());
    };
    prompt::say(format!(
        "{text}\nWhat it did, spent and was told since then is forgotten if you accept the older state."
    ));
    if !args.yes && !prompt::confirm(&format!("Let {} go on with version {}?", args.agent, accept.state.version)) {
        return Err(Error::Usage("nothing was accepted\n  next: answer y, or give --yes".to_owned()).into());
    }
    command::accept_rollback(&api, &npub, &accept).await?;
    session.output.either(&json!({ "npub": npub, "accepted": true, "version": accept.state.version }), || {
        format!("{} goes on with the older state.\nNext: nexus agent status {}", args.agent, args.agent)
    });
    Ok(())
}
