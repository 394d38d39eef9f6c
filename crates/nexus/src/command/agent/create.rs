//! `nexus agent create`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexus_client::bunker::Bunker;
use nexus_client::create::{Draft, prepare};
use nexus_client::pool::Offer;
use nexus_client::{Error, file, pool};
use nexus_core::agent::HeartbeatWhen;
use nexus_core::policy::Custody;
use nexus_core::{AgentConfig, Npub};
use nexus_seal::{Passphrase, SecretText, SignedPool};
use serde_json::{Value, json};

use crate::cli::{CreateArgs, CustodyArg};
use crate::command::not_yet;
use crate::output::field;
use crate::prompt;
use crate::session::Session;

pub async fn run(session: &Session, args: CreateArgs) -> anyhow::Result<()> {
    match args.custody {
        CustodyArg::Sealed | CustodyArg::Attended | CustodyArg::Bunker => {}
        CustodyArg::Threshold => return not_yet("agent create --custody threshold", "use --custody sealed"),
    }
    let (passphrase, generated) = passphrase(session, args.passphrase_file.as_deref())?;
    let mut draft = draft(&args, passphrase)?;
    draft.check()?;
    let custody = draft.custody;
    draft.bunker = bunker(session, custody, args.bunker_file.as_deref(), &args.nostrconnect).await?;
    let made = make(session, draft, generated, args.start).await?;
    session.output.either(&made.status, || made.said.clone());
    Ok(())
}

/// An agent that was made, and what to say of it.
pub(super) struct Made {
    pub status: Value,
    pub said: String,
}

/// Makes an agent of a draft and starts it if that is wanted; `generated`: its passphrase has to be shown.
pub(super) async fn make(session: &Session, draft: Draft, generated: bool, start: bool) -> anyhow::Result<Made> {
    draft.check()?;
    let (name, custody, passphrase) = (draft.name.clone(), draft.custody, draft.passphrase.clone());
    let keys = session.owner_keys()?;
    let (offer, signed) = pinned_pool(session).await?;
    let prepared = prepare(&session.api, &keys, &offer, &signed, draft).await?;
    let npub = prepared.npub();
    let envelope = keep_envelope(session, &prepared.npub(), prepared.envelope())?;
    if generated {
        // Before anything is sent: an agent whose passphrase nobody saw could never be taken elsewhere.
        prompt::say(format!(
            "Passphrase of this agent's mnemonic, shown once. Without it nobody can take the agent elsewhere:\n\n    {}\n",
            passphrase.expose()
        ));
    }
    let mut status = prepared.send(&session.as_owner(&keys)).await?;
    if start {
        status = session.api.post(&format!("/v1/agents/{npub}/start"), &json!({})).await?;
    }
    let reason = field(&status["reason"], "text");
    let next = match (start, custody) {
        (false, _) => "start",
        (true, Custody::Attended) => "unlock",
        (true, Custody::Sealed | Custody::Bunker | Custody::Threshold) => "fund",
    };
    let said = format!(
        "Created {name} ({npub})\n{reason}\nIts mnemonic, under the passphrase: {kept} (`age -d` opens it)\nNext: nexus agent {next} {name}",
        kept = envelope.display(),
    );
    Ok(Made { status, said })
}

/// The owner's signer, for the custody that needs one.
pub(super) async fn bunker(
    session: &Session,
    custody: Custody,
    file: Option<&Path>,
    relays: &[String],
) -> Result<Option<Bunker>, Error> {
    let (clock, entropy) = (Arc::clone(&session.clock), Arc::clone(&session.entropy));
    match (custody, file, relays) {
        (Custody::Bunker, None, []) => Err(Error::Usage(
            "custody bunker needs your signer\n  next: give --bunker-file FILE with its bunker:// URI, or --nostrconnect RELAY"
                .to_owned(),
        )),
        (Custody::Bunker, Some(path), _) => {
            let uri = file::read_secret(path)?;
            Bunker::connect(&uri, clock, entropy).await.map(Some)
        }
        (Custody::Bunker, None, relays) => {
            let show = |uri: &str| prompt::say(format!("Give this to your signer, which has five minutes:\n\n    {uri}\n"));
            Bunker::wait(relays.to_vec(), show, clock, entropy).await.map(Some)
        }
        (_, None, []) => Ok(None),
        (_, _, _) => Err(Error::Usage("a signer is for custody bunker alone\n  next: leave it out, or create the agent with --custody bunker".to_owned())),
    }
}

/// The host's pool, followed along the pin, which is kept.
pub async fn pinned_pool(session: &Session) -> Result<(Offer, SignedPool), Error> {
    let offer = pool::fetch(&session.api).await?;
    let signed = offer.verify(session.context.pool.as_ref(), None, session.clock.now())?;
    if session.context.pool.is_none() {
        prompt::say(format!("The host's root key, pinned from now on: {}", signed.fingerprint()));
    }
    keep_pin(session, &signed)?;
    Ok((offer, signed))
}

/// The owner's own copy of the mnemonic's envelope, which is on the host too.
pub fn keep_envelope(session: &Session, npub: &Npub, envelope: &str) -> Result<PathBuf, Error> {
    let path = session.contexts.dir().join("agents").join(format!("{npub}.age"));
    file::write_private(&path, envelope.as_bytes())?;
    Ok(path)
}

/// Later pool documents are followed from the last one that was believed.
pub fn keep_pin(session: &Session, signed: &SignedPool) -> Result<(), Error> {
    let pin = signed.pin();
    if session.context.pool.as_ref() == Some(&pin) {
        return Ok(());
    }
    let mut context = session.context.clone();
    context.pool = Some(pin);
    session.contexts.save(&context)
}

/// The envelope's passphrase, and whether it was generated here and must be shown.
pub fn passphrase(session: &Session, from: Option<&Path>) -> Result<(Passphrase, bool), Error> {
    let own = |text: &str| {
        Passphrase::own(text).map_err(|error| {
            Error::Usage(format!("{error}\n  next: choose another passphrase, or leave it empty for a generated one"))
        })
    };
    match from {
        Some(path) => Ok((own(&file::read_secret(path)?)?, false)),
        None if prompt::terminal() => match prompt::new_secret("passphrase for the agent's mnemonic")? {
            Some(text) => Ok((own(&text)?, false)),
            None => Ok((Passphrase::generate(&*session.entropy), true)),
        },
        None => Err(Error::Usage(
            "there is no terminal to ask for the passphrase of the agent's mnemonic\n  next: give --passphrase-file FILE".to_owned(),
        )),
    }
}

fn draft(args: &CreateArgs, passphrase: Passphrase) -> Result<Draft, Error> {
    let mut goals = args.goal.clone();
    if let Some(path) = &args.goals_file {
        let text = file::read_secret(path)?;
        goals.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    let read = |path: &Option<PathBuf>| path.as_deref().map(file::read_secret).transpose();
    let defaults = AgentConfig::default();
    let config = AgentConfig {
        heartbeat_secs: args.heartbeat.unwrap_or(defaults.heartbeat_secs),
        heartbeat_when: if args.always { HeartbeatWhen::Always } else { defaults.heartbeat_when },
        relays: args.relay.clone(),
        labels: args.label.iter().cloned().collect(),
        about: args.about.clone().unwrap_or_default(),
        region: args.region.clone(),
        failover: args.failover.map_or(defaults.failover, Into::into),
        ..defaults
    };
    Ok(Draft {
        name: args.name.clone(),
        config,
        mnemonic: read(&args.mnemonic_file)?.map(|text| SecretText::new(text.as_str())),
        passphrase,
        policy: read(&args.policy_file)?.map(|text| text.as_str().to_owned()),
        persona: read(&args.persona_file)?.map(|text| text.as_str().to_owned()).unwrap_or_default(),
        goals,
        bunker: None,
        custody: match args.custody {
            CustodyArg::Sealed => Custody::Sealed,
            CustodyArg::Attended => Custody::Attended,
            CustodyArg::Bunker => Custody::Bunker,
            CustodyArg::Threshold => Custody::Threshold,
        },
    })
}
