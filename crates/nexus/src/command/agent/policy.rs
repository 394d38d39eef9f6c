//! `nexus agent policy`: show it, or sign the next version.

use std::io::{Read, Write};
use std::process::Command;

use nexus_client::{Error, file, policy};
use nexus_core::policy::Policy;
use nexus_core::rent::Rent;
use nexus_core::{Msat, Npub};
use serde_json::json;

use crate::cli::{PolicyArgs, RentArgs};
use crate::output::sats;
use crate::prompt;
use crate::session::Session;

/// Largest document that is taken back from an editor, in bytes.
const MAX_EDITED: u64 = 256 * 1024;

pub async fn run(session: &Session, args: &PolicyArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let owner = session.context.owner.as_ref().map(nexus_client::OwnerKey::npub);
    let owner = owner.ok_or_else(|| Error::NoOwnerKey(session.context.name.clone()))?;
    let current = policy::stored(&session.api, &npub, &owner).await?.map(|signed| signed.policy);
    let edited = match (&args.file, args.edit) {
        (Some(path), _) => file::read_secret(path)?.as_str().to_owned(),
        (None, true) => edit(&current.clone().unwrap_or_else(|| Policy::default_for(npub)))?,
        (None, false) => return show(session, current.as_ref()),
    };
    let next = policy::next_version(&edited, &npub, current.as_ref())?;
    sign(session, &npub, current.as_ref(), &next).await
}

/// `nexus agent freeze` and `thaw`: the next version of the policy, and nothing else in it changed.
pub async fn freeze(session: &Session, agent: &str, frozen: bool) -> anyhow::Result<()> {
    let npub = session.agent(agent).await?;
    let owner = session.context.owner.as_ref().map(nexus_client::OwnerKey::npub);
    let owner = owner.ok_or_else(|| Error::NoOwnerKey(session.context.name.clone()))?;
    let current = policy::stored(&session.api, &npub, &owner).await?.map(|signed| signed.policy);
    let before = current.clone().unwrap_or_else(|| Policy::default_for(npub));
    let version = current.as_ref().map_or(1, |policy| policy.version + 1);
    sign(session, &npub, current.as_ref(), &Policy { version, frozen, ..before }).await
}

/// `nexus agent rent`: shows what it pays of its own hosting, or signs the next version that says what it may.
pub async fn rent(session: &Session, args: &RentArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let owner = session.context.owner.as_ref().map(nexus_client::OwnerKey::npub);
    let owner = owner.ok_or_else(|| Error::NoOwnerKey(session.context.name.clone()))?;
    let current = policy::stored(&session.api, &npub, &owner).await?.map(|signed| signed.policy);
    let rent = match (args.month_cap, args.off) {
        (None, false) => return show_rent(session, &npub, current.as_ref()).await,
        (None, true) => None,
        (Some(sats), _) => {
            let plans = session.api.get("/v1/plans").await?;
            let Some(payee) = plans["node"].as_str() else {
                let text = "this host does not say which node hosting is paid to, or charges nothing\n  next: nexus hosting plans";
                return Err(Error::Refused(text.to_owned()).into());
            };
            Some(Rent { month_msat: Msat::sats(sats), payee: payee.to_owned() })
        }
    };
    let before = current.clone().unwrap_or_else(|| Policy::default_for(npub));
    let version = current.as_ref().map_or(1, |policy| policy.version + 1);
    sign(session, &npub, current.as_ref(), &Policy { version, rent, ..before }).await
}

async fn show_rent(session: &Session, npub: &Npub, current: Option<&Policy>) -> anyhow::Result<()> {
    let hosting = session.api.get("/v1/hosting").await?;
    let agents = hosting["agents"].as_array().cloned().unwrap_or_default();
    let hosted = agents.into_iter().find(|agent| agent["npub"] == npub.to_string()).unwrap_or_default();
    let rent = current.and_then(|policy| policy.rent.as_ref());
    let fee = hosting["fee_sats"].as_u64().unwrap_or(0);
    let document = json!({
        "month_cap_sats": rent.map(|rent| rent.month_msat.whole_sats()),
        "payee": rent.map(|rent| rent.payee.clone()),
        "fee_sats": fee,
        "hosting": hosted["hosting"],
        "paid_until_ms": hosted["paid_until_ms"],
        "problem": hosted["rent_problem"],
    });
    session.output.either(&document, || match rent {
        None => format!(
            "It pays no rent. A month is {fee} sats, and the network's fee.\nNext: nexus agent rent A --month-cap SATS"
        ),
        Some(rent) => {
            let mut text = format!(
                "It pays its hosting itself: up to {} a month, to {}.\nA month is {fee} sats, and the network's fee. Hosting: {}.",
                sats(rent.month_msat),
                rent.payee,
                hosted["hosting"].as_str().unwrap_or("-")
            );
            if let Some(problem) = hosted["rent_problem"].as_str() {
                text.push_str(&format!("\nNot paid: {problem}"));
            }
            text
        }
    });
    Ok(())
}

fn show(session: &Session, current: Option<&Policy>) -> anyhow::Result<()> {
    let Some(policy) = current else {
        return Err(Error::NotFound(
            "the agent has no signed policy, so it may not spend\n  next: `nexus agent policy A --edit` signs one"
                .to_owned(),
        )
        .into());
    };
    if session.output.json {
        session.output.document(policy);
        return Ok(());
    }
    session.output.line(format!("Version {}, signed by you\n", policy.version));
    for (what, amount) in policy::limits(policy) {
        session.output.line(format!("  {what:<12} {}", sats(amount)));
    }
    session.output.line(format!("\n{}", serde_json::to_string_pretty(policy)?));
    Ok(())
}

async fn sign(session: &Session, npub: &Npub, current: Option<&Policy>, next: &Policy) -> anyhow::Result<()> {
    let changed = signed(session, npub, current, next).await?;
    let version = if changed { next.version } else { current.map_or(next.version, |current| current.version) };
    session.output.either(&json!({ "version": version, "changed": changed }), || match changed {
        true => format!("Policy version {version} is signed and stored."),
        false => "Nothing changed.".to_owned(),
    });
    Ok(())
}

/// Shows what changes, signs it and stores it; false, and nothing signed, if nothing does.
pub(super) async fn signed(
    session: &Session,
    npub: &Npub,
    current: Option<&Policy>,
    next: &Policy,
) -> anyhow::Result<bool> {
    if let Some(current) = current {
        let same = Policy { version: next.version, ..current.clone() };
        if same == *next {
            return Ok(false);
        }
        prompt::say(format!("You sign:\n{}", policy::changes(&same, next)?));
    }
    let keys = session.owner_keys()?;
    let event = policy::sign(&*keys.signer(), next, session.clock.now()).await?;
    policy::store(&session.as_owner(&keys), npub, &event).await?;
    Ok(true)
}

/// Opens the user's editor on the document. The policy holds no secret, but the file is private all the same.
fn edit(current: &Policy) -> anyhow::Result<String> {
    if !prompt::terminal() {
        return Err(Error::Usage("there is no terminal for an editor\n  next: give --file FILE".to_owned()).into());
    }
    let editor = ["NEXUS_EDITOR", "VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok());
    let editor = editor.filter(|text| !text.trim().is_empty()).unwrap_or_else(|| "vi".to_owned());
    let mut draft = tempfile::Builder::new().prefix("nexus-policy-").suffix(".json").tempfile()?;
    draft.write_all(policy::editable(current)?.as_bytes())?;
    draft.flush()?;
    // The variable may hold arguments, as in `code --wait`.
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = Command::new(program).args(words).arg(draft.path()).status().map_err(|error| {
        Error::Usage(format!(
            "the editor `{program}` does not start ({error})\n  next: set EDITOR, or give --file FILE"
        ))
    })?;
    if !status.success() {
        return Err(Error::Failed(
            "the editor ended with an error; nothing was signed\n  next: run the command again".to_owned(),
        )
        .into());
    }
    let mut text = String::new();
    std::fs::File::open(draft.path())?.take(MAX_EDITED).read_to_string(&mut text)?;
    Ok(text)
}
