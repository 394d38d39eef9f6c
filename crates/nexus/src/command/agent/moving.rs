//! `nexus agent export` and `nexus agent import`

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nexus_client::bunker::Bunker;
use nexus_client::moving::{self, Wanted};
use nexus_client::{Error, backup, file, pool};
use nexus_core::policy::Custody;
use nexus_nostr::{PoolConfig, RelayPool};
use nexus_seal::backup::MAX_BACKUP;
use nexus_seal::{Passphrase, VerifiedBackup};
use nexus_vault::{OpenedBackup, VaultError};
use serde_json::{Value, json};

use super::create::{bunker, keep_envelope, keep_pin};
use crate::cli::{ExportArgs, ImportArgs};
use crate::prompt;
use crate::session::Session;

/// How long `--move` waits for the running tick and for what is in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(500);
/// How long relays have to take the claim.
const RELAY_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn export(session: &Session, args: &ExportArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    if args.stop {
        stop(session, &npub.to_string()).await?;
    }
    let bytes = session.api.download(&format!("/v1/agents/{npub}/export")).await?;
    let Some(path) = &args.out else {
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        return Ok(out.write_all(&bytes).and_then(|()| out.flush())?);
    };
    file::write_private(path, &bytes)?;
    let answer = json!({ "npub": npub, "file": path, "bytes": bytes.len() });
    session.output.either(&answer, || {
        format!(
            "Wrote {} ({} bytes)\nNext, with the new host's context: nexus agent import {0}",
            path.display(),
            bytes.len()
        )
    });
    Ok(())
}

/// Stops it, and waits until nothing of it is in flight.
pub(super) async fn stop(session: &Session, npub: &str) -> Result<(), Error> {
    session.api.post(&format!("/v1/agents/{npub}/stop"), &json!({ "when": "after_tick" })).await?;
    stopped(session, npub).await
}

/// Until no worker has it: its tick is over, and nothing of it is in flight.
async fn stopped(session: &Session, npub: &str) -> Result<(), Error> {
    let started = session.clock.mono();
    loop {
        let status = session.api.get(&format!("/v1/agents/{npub}")).await?;
        if status["placement"] == "unplaced" {
            return Ok(());
        }
        if u128::from(session.clock.mono().since(started)) > STOP_TIMEOUT.as_millis() {
            let reason = crate::output::field(&status["reason"], "text");
            return Err(Error::Failed(format!(
                "the agent has not come to rest ({reason})\n  next: try again later, or export without --move: what is unresolved is then listed"
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub async fn import(session: &Session, args: &ImportArgs) -> anyhow::Result<()> {
    let keys = session.owner_keys()?;
    let bytes = read(args.files.first().map(PathBuf::as_path))?;
    let verified = backup::read(&bytes, &keys.npub(), session.clock.now())?;
    prompt::say(backup::show(&verified));
    if !args.yes && prompt::terminal() && !prompt::confirm("Take this agent in, and sign that it lives here now?") {
        return Err(Error::Usage("nothing was imported\n  next: answer y, or give --yes".to_owned()).into());
    }
    let document = serde_json::from_slice(&bytes)?;
    let hosts = moving::find(&session.api, &verified.backup.npub, verified.claim.as_ref()).await?;
    if let Some((url, why)) = &hosts.silent
        && !args.old_host_is_gone
    {
        return Err(Error::Unreachable {
            url: url.to_string(),
            why: format!(
                "{why}; the agent may still run there. If that host is gone for good, give --old-host-is-gone"
            ),
        }
        .into());
    }
    let unresolved = verified.backup.unresolved.len();
    let config = verified.backup.config.relays.clone();
    let custody = verified.policy.as_ref().map_or_else(Custody::default, |signed| signed.policy.custody);
    let bunker = bunker(session, custody, args.bunker_file.as_deref(), &args.nostrconnect).await?;
    let opened = open(session, verified, bunker, args).await?;
    let npub = opened.verified().backup.npub;
    keep_envelope(session, &npub, &opened.verified().backup.mnemonic_encrypted)?;
    let offer = pool::fetch(&session.api).await?;
    let signed = offer.verify(session.context.pool.as_ref(), None, session.clock.now())?;
    keep_pin(session, &signed)?;
    let api = session.as_owner(&keys);
    let wanted = Wanted { document, found: hosts.found.as_ref(), name: args.name.clone() };
    let closed = moving::close(&api, &keys, &offer, &signed, opened, wanted).await?;
    let answer = closed.send(&api).await?;
    let relays = announce(session, &closed.claim, relays_of(session, config, &offer, &hosts.old).await).await;
    let mut told = Vec::new();
    for old in &hosts.old {
        let outcome = match closed.tell(&api, old).await {
            Ok(answer) => json!({ "url": old, "outcome": answer["outcome"] }),
            Err(error) => json!({ "url": old, "outcome": "not told", "why": error.to_string() }),
        };
        told.push(outcome);
    }
    let fenced = told.iter().all(|one| one["outcome"] == "fenced");
    // Two hosts that both run it would act twice: it starts only when the old one does not any more.
    if args.start && fenced {
        session.api.post(&format!("/v1/agents/{npub}/start"), &json!({})).await?;
    }
    let document = json!({ "imported": answer, "old_hosts": told, "relays": relays, "unresolved": unresolved });
    session.output.either(&document, || said(&answer, &told, unresolved, (args.start && fenced).then_some(custody)));
    if fenced {
        return Ok(());
    }
    let next = "deliver it again: import the same file once the old host answers, or stop the agent there";
    Err(Error::Failed(format!("the agent is here, but its old host was not told; it was not started\n  next: {next}"))
        .into())
}

/// The agent's own relays, and those of the hosts. An old host's takes the claim only as long as the agent lives there.
async fn relays_of(session: &Session, config: Vec<String>, offer: &pool::Offer, old: &[url::Url]) -> Vec<String> {
    let mut relays = config;
    relays.extend(offer.relay_url.clone());
    for url in old {
        if let Ok(Some(relay)) = pool::fetch(&session.api.elsewhere(url.clone())).await.map(|offer| offer.relay_url) {
            relays.push(relay);
        }
    }
    relays
}

/// Publishes the claim, as far as relays take it: hosts that were not told find it there.
async fn announce(session: &Session, claim: &nostr::event::Event, relays: Vec<String>) -> Vec<Value> {
    let config = PoolConfig { development: true, ..PoolConfig::default() };
    let pool = RelayPool::new(config, Arc::clone(&session.clock), Arc::clone(&session.entropy));
    let reports = pool.publish(claim, &relays, RELAY_TIMEOUT).await;
    pool.shutdown().await;
    reports.into_iter().map(|report| json!({ "relay": report.relay, "taken": report.outcome.is_ok() })).collect()
}

fn said(answer: &Value, told: &[Value], unresolved: usize, started: Option<Custody>) -> String {
    use crate::output::field;
    let name = field(answer, "name");
    let mut text =
        format!("{name} ({}) lives here now, by its claim of epoch {}", field(answer, "npub"), answer["epoch"]);
    for one in told {
        text.push_str(&format!("\n{}: {}", field(one, "url"), field(one, "outcome")));
    }
    if unresolved > 0 {
        text.push_str(&format!(
            "\n{unresolved} payments were unresolved at the old host; none of them is sent again here"
        ));
    }
    let next = match started {
        None => "start",
        Some(Custody::Attended) => "unlock",
        Some(Custody::Sealed | Custody::Bunker | Custody::Threshold) => "events",
    };
    text.push_str(&format!("\nNext: nexus agent {next} {name}"));
    text
}

async fn open(
    session: &Session,
    verified: VerifiedBackup,
    bunker: Option<Bunker>,
    args: &ImportArgs,
) -> Result<OpenedBackup, Error> {
    let what = "passphrase of the agent's mnemonic";
    let passphrase = prompt::secret(what, args.passphrase_file.as_deref(), "--passphrase-file")?;
    let passphrase = Passphrase::existing(passphrase.as_str());
    let opened = match bunker {
        Some(Bunker { signer, remote }) => OpenedBackup::open_at(verified, &passphrase, signer, remote).await,
        None => OpenedBackup::open(verified, &passphrase, Arc::clone(&session.entropy)).await,
    };
    opened.map_err(|error| match error {
        VaultError::WrongPassphrase => {
            Error::NotAllowed("the passphrase does not open the agent's mnemonic\n  next: try again".to_owned())
        }
        VaultError::Signer(error) => nexus_client::proof::signing(error),
        VaultError::NpubMismatch { named, derived } => Error::Refused(format!(
            "the key that was given is {derived}, the agent is {named}\n  next: give the signer that holds the agent's key"
        )),
        other => Error::Refused(format!(
            "the backup does not open: {other}\n  next: do not use it; use another copy, or export it again"
        )),
    })
}

/// The file, or standard input.
fn read(path: Option<&Path>) -> Result<Vec<u8>, Error> {
    let shown = path.unwrap_or(Path::new("-")).to_owned();
    let failed = |source| Error::File { attempted: "reading", path: shown.clone(), source };
    let mut bytes = Vec::new();
    let most = MAX_BACKUP as u64 + 1;
    match path.filter(|path| *path != Path::new("-")) {
        Some(path) => std::fs::File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?,
        None => std::io::stdin().take(most).read_to_end(&mut bytes).map_err(failed)?,
    };
    Ok(bytes)
}
