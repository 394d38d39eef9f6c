//! Notices to the owner: private messages (NIP-17) of the installation's own key, since the agent's may be what is missing.
//!
//! One is written in the batch that notes that it was, and published as everything is. It says what the agent's status
//! says, which the operator sees as well, and nothing of what the agent thinks or reads.

use nexus_core::notice::{Notice, Shown, due};
use nexus_nostr::{Head, gift_wrap};
use nexus_seal::Signer;
use nexus_store::account;
use nexus_store::agent::Agent;
use nexus_store::side::Side;

use crate::error::TurnError;
use crate::host::Host;
use crate::ledger::Pen;
use crate::profile::{publication, relays, signed};

/// What pays for hosting.
const TOP_UP: &str = "nexus hosting invoice";

/// Tells the owner what the agent needs them for, if that is new; notes when it is over.
pub(crate) async fn tend(pen: &Pen<'_>, agent: &Agent) -> Result<(), TurnError> {
    let now = pen.now();
    let shown = Shown {
        desired: agent.desired,
        custody: agent.custody,
        lifecycle: agent.lifecycle,
        reason: agent.reason.as_ref().map(|reason| reason.code.as_str()),
        hosting: agent.hosting,
        hosting_notice: agent.hosting_notice,
        noticed: agent.noticed.as_deref(),
        noticed_at: agent.noticed_at,
    };
    match due(&shown, now) {
        None => Ok(()),
        Some(Notice::Over) => pen.apply(vec![Side::Noticed { code: None }]).await,
        Some(Notice::Tell(code)) => {
            let mut sides = vec![Side::Noticed { code: Some(code.to_owned()) }];
            sides.extend(message(pen.host, agent, &said(agent, code)).await?);
            pen.apply(sides).await
        }
    }
}

/// One message to the owner, for the batch that it belongs to; none while this worker has no key of the installation's.
pub(crate) async fn message(host: &Host, agent: &Agent, text: &str) -> Result<Option<Side>, TurnError> {
    let Some(runner) = host.runner.get() else { return Ok(None) };
    let Some(account) = account::get(&host.store, agent.account).await? else { return Ok(None) };
    let now = host.now();
    let rumor = gift_wrap::rumor(Head::new(runner.public_key(), now.secs()), &account.owner, text, None);
    match gift_wrap::gift_wrap(runner, &rumor, &account.owner, now.secs(), &*host.entropy).await {
        Ok(wrapped) => Ok(Some(publication(&signed(&wrapped), &relays(host, agent), now))),
        Err(error) => {
            tracing::warn!(npub = %agent.npub.short(), %error, "a notice to the owner could not be written");
            Ok(None)
        }
    }
}

fn said(agent: &Agent, code: &str) -> String {
    let (name, npub) = (&agent.name, agent.npub);
    let reason = agent.reason.as_ref().filter(|reason| reason.code == code).map(|reason| reason.text.as_str());
    let (what, next) = match code {
        "locked" => ("it waits for its key".to_owned(), format!("nexus agent unlock {name}")),
        "signer_offline" => ("its signer does not answer".to_owned(), "start the signer, or connect it".to_owned()),
        "low_balance" => ("its funds run low".to_owned(), format!("nexus agent fund {name}")),
        "hibernating" => ("it hibernates for lack of funds".to_owned(), format!("nexus agent fund {name}")),
        "dormant" => ("it has no funds".to_owned(), format!("nexus agent fund {name}")),
        "hosting_suspended" => ("its hosting is not paid: it does not tick".to_owned(), TOP_UP.to_owned()),
        "hosting_grace" => ("its hosting is not paid: it ticks on for a few days".to_owned(), TOP_UP.to_owned()),
        "hosting_ends_1" => {
            ("its hosting ends within a day, and there is no credit for more".to_owned(), TOP_UP.to_owned())
        }
        "hosting_ends_3" => {
            ("its hosting ends in 3 days, and there is no credit for more".to_owned(), TOP_UP.to_owned())
        }
        "hosting_ends_7" => {
            ("its hosting ends in a week, and there is no credit for more".to_owned(), TOP_UP.to_owned())
        }
        other => (reason.unwrap_or(other).to_owned(), format!("nexus agent status {name}")),
    };
    format!("{name} needs you: {what}\nNext: {next}\n{npub}")
}
