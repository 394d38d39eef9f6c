//! Agents that come from Pylon and OpenAgents, and go there: `nexus agent import FILE…`, `nexus agent export --format pylon`.

use std::io::Read;
use std::path::{Path, PathBuf};

use nexus_client::create::Draft;
use nexus_client::pylon::{self, Artefact, Found};
use nexus_client::{Error, file};
use nexus_core::Npub;
use nexus_core::policy::Custody;
use nexus_seal::Passphrase;
use nexus_vault::{Mnemonic, VaultError, open_mnemonic, seal_pylon_identity};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::create;
use crate::cli::{ExportArgs, ImportArgs};
use crate::output::printable;
use crate::prompt;
use crate::session::Session;

/// Largest file that is looked at, in bytes.
const MAX_FILE: u64 = 1024 * 1024;
const MAX_FILES: usize = 4;
const IDENTITY: &str = "identity.enc";
const WORDS: &str = "identity.mnemonic";
const CONFIG: &str = "config.toml";

/// Whether these are files of Pylon's or OpenAgents', and not a backup of ours.
pub fn is_foreign(files: &[PathBuf]) -> bool {
    match files {
        [] => false,
        [one] if one == Path::new("-") => false,
        [one] => read(one).is_ok_and(|text| pylon::detect(&text).is_ok()),
        _ => true,
    }
}

/// Takes an agent over: its key and what stands in its files are its owner's, who closes them here.
pub async fn import(session: &Session, args: &ImportArgs) -> anyhow::Result<()> {
    if args.bunker_file.is_some() || !args.nostrconnect.is_empty() {
        let why = "these files hold the key itself\n  next: leave the signer out; custody is `sealed`";
        return Err(Error::Usage(why.to_owned()).into());
    }
    let mut found = gather(args).await?;
    let mnemonic = Mnemonic::parse(found.mnemonic.expose()).map_err(refused)?;
    let npub = mnemonic.npub().map_err(refused)?;
    drop(mnemonic);
    let name = args.name.clone().or(found.name.take()).ok_or_else(|| {
        Error::Usage("these files name no agent\n  next: give --name, for example --name ada".to_owned())
    })?;
    prompt::say(format!("An agent of Pylon's or OpenAgents': {npub}, to be {name:?} here"));
    if !found.config.relays.is_empty() {
        prompt::say(format!("  relays     {}", found.config.relays.join(" ")));
    }
    prompt::say(format!("  heartbeat  every {} s", found.config.heartbeat_secs));
    prompt::say(format!("  limits     {} a day, {} a tick", found.limits.day_msat, found.limits.tick_msat));
    for warning in &found.warnings {
        prompt::say(format!("- {}", printable(warning)));
    }
    if !args.yes && prompt::terminal() && !prompt::confirm("Make it an agent of this host?") {
        return Err(Error::Usage("nothing was imported\n  next: answer y, or give --yes".to_owned()).into());
    }
    let (passphrase, generated) = create::passphrase(session, args.passphrase_file.as_deref())?;
    let policy = json!({ "autonomy": found.autonomy, "limits": found.limits });
    let draft = Draft {
        name,
        config: found.config,
        mnemonic: Some(found.mnemonic),
        passphrase,
        policy: Some(policy.to_string()),
        persona: String::new(),
        goals: Vec::new(),
        custody: Custody::Sealed,
        bunker: None,
    };
    let made = create::make(session, draft, generated, args.start).await?;
    let document = json!({ "imported": made.status, "from": "pylon", "warnings": found.warnings });
    session.output.either(&document, || {
        format!("{}\nWhat lies in clear in those files is the agent's key: delete them once it runs here", made.said)
    });
    Ok(())
}

/// One file holds the key, others add to it.
async fn gather(args: &ImportArgs) -> Result<Found, Error> {
    if args.files.len() > MAX_FILES {
        return Err(Error::Usage(format!(
            "at most {MAX_FILES} files make one agent\n  next: import one agent at a time"
        )));
    }
    let (mut found, mut configs): (Option<Found>, Vec<Zeroizing<String>>) = (None, Vec::new());
    for path in &args.files {
        let text = read(path)?;
        let said = |error: Error| named(path, error);
        let one = match pylon::detect(&text).map_err(said)? {
            Artefact::Config => {
                configs.push(text);
                continue;
            }
            Artefact::Agent => pylon::read_agent(&text).map_err(said)?,
            Artefact::Words => pylon::read_words(&text).map_err(said)?,
            Artefact::Identity => identity(text, args.identity_password_file.as_deref()).await.map_err(said)?,
        };
        found = Some(match found {
            None => one,
            Some(known) => same(known, one)?,
        });
    }
    let mut found = found.ok_or_else(|| {
        let why = "none of these files holds a key\n  next: give agents/<npub>.toml, identity.enc or identity.mnemonic as well";
        Error::Usage(why.to_owned())
    })?;
    for config in configs {
        pylon::add_config(&mut found, &config)?;
    }
    Ok(found)
}

/// Two files of one agent: the one that says more is the proposal, and both have warnings.
fn same(mut known: Found, mut other: Found) -> Result<Found, Error> {
    if known.mnemonic.expose().split_whitespace().ne(other.mnemonic.expose().split_whitespace()) {
        let why = "these files hold the keys of two agents\n  next: import one agent at a time";
        return Err(Error::Refused(why.to_owned()));
    }
    if known.name.is_none() {
        std::mem::swap(&mut known, &mut other);
    }
    known
        .warnings
        .extend(other.warnings.into_iter().filter(|warning| !known.warnings.contains(warning)).collect::<Vec<_>>());
    Ok(known)
}

async fn identity(text: Zeroizing<String>, password: Option<&Path>) -> Result<Found, Error> {
    let password = prompt::secret("password of identity.enc", password, "--identity-password-file")?;
    let password = Passphrase::existing(password.as_str());
    let opened = tokio::task::spawn_blocking(move || pylon::read_identity(&text, &password)).await;
    opened.map_err(|error| Error::Failed(format!("opening identity.enc: {error}")))?
}

/// What Pylon and OpenAgents read: `identity.enc`, `config.toml`, and the words in clear if they are asked for.
pub async fn export(session: &Session, args: &ExportArgs) -> anyhow::Result<()> {
    let Some(dir) = &args.out else {
        let why = "files of Pylon's go into a directory\n  next: give --out DIR";
        return Err(Error::Usage(why.to_owned()).into());
    };
    let npub = session.agent(&args.agent).await?;
    if args.stop {
        super::moving::stop(session, &npub.to_string()).await?;
    }
    let bytes = session.api.download(&format!("/v1/agents/{npub}/export")).await?;
    let backup: Value = serde_json::from_slice(&bytes).map_err(|error| Error::Protocol {
        attempted: "exporting an agent",
        why: format!("the answer is no backup: {error}"),
    })?;
    let envelope = backup["mnemonic_encrypted"].as_str().unwrap_or_default().to_owned();
    let passphrase =
        prompt::secret("passphrase of the agent's mnemonic", args.passphrase_file.as_deref(), "--passphrase-file")?;
    let passphrase = Passphrase::existing(passphrase.as_str());
    let password = match &args.identity_password_file {
        Some(path) => Passphrase::existing(file::read_secret(path)?.as_str()),
        None => passphrase.clone(),
    };
    let mnemonic = tokio::task::spawn_blocking(move || open_mnemonic(&envelope, &passphrase)).await?;
    let mnemonic = mnemonic.map_err(|error| match error {
        VaultError::WrongPassphrase => {
            Error::NotAllowed("the passphrase does not open the agent's mnemonic\n  next: try again".to_owned())
        }
        other => refused(other),
    })?;
    if mnemonic.npub().map_err(refused)? != npub {
        let why = "its Nostr key is in its owner's signer: there is nothing of it to export\n  next: use that signer there, too";
        return Err(Error::Refused(why.to_owned()).into());
    }
    let written = write(session, dir, &npub, &mnemonic, password, &backup["config"], args).await?;
    let document = json!({ "npub": npub, "format": "pylon", "files": written });
    session.output.either(&document, || {
        let files: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
        let mut text = format!("Wrote {}", files.join(", "));
        text.push_str(
            "\nNot in them: state, memory, policy and money. Limits are not enforced there as they are here.",
        );
        if !args.stop {
            text.push_str("\nIt lives on here: two that run with one key act twice. Next: nexus agent stop, or delete");
        }
        text
    });
    Ok(())
}

async fn write(
    session: &Session,
    dir: &Path,
    npub: &Npub,
    mnemonic: &Mnemonic,
    password: Passphrase,
    config: &Value,
    args: &ExportArgs,
) -> anyhow::Result<Vec<PathBuf>> {
    let at = |name: &str| dir.join(name);
    let mut files = vec![at(IDENTITY), at(CONFIG)];
    if args.with_clear_words {
        files.push(at(WORDS));
    }
    if let Some(there) = files.iter().find(|path| path.exists()) {
        let why = format!("{} is there already\n  next: give --out another directory", there.display());
        return Err(Error::Usage(why).into());
    }
    let (words, entropy) = (mnemonic.clone(), std::sync::Arc::clone(&session.entropy));
    let sealed = tokio::task::spawn_blocking(move || seal_pylon_identity(&words, &password, &*entropy)).await?;
    file::write_private(&at(IDENTITY), sealed.map_err(refused)?.as_bytes())?;
    let status = session.api.get(&format!("/v1/agents/{npub}")).await?;
    let table = toml::toml! {
        min_price_msats = 1000
        require_payment = true
    };
    let mut table = table;
    table.insert("name".to_owned(), toml::Value::String(crate::output::field(&status, "name")));
    table
        .insert("description".to_owned(), toml::Value::String(config["about"].as_str().unwrap_or_default().to_owned()));
    let relays = config["relays"].as_array().cloned().unwrap_or_default();
    let relays = relays.iter().filter_map(|relay| Some(toml::Value::String(relay.as_str()?.to_owned())));
    table.insert("relays".to_owned(), toml::Value::Array(relays.collect()));
    file::write_private(&at(CONFIG), table.to_string().as_bytes())?;
    if args.with_clear_words {
        file::write_private(&at(WORDS), mnemonic.expose().expose().as_bytes())?;
    }
    Ok(files)
}

fn refused(error: VaultError) -> Error {
    Error::Refused(format!("{error}\n  next: check that the file is whole"))
}

fn named(path: &Path, error: Error) -> Error {
    match error {
        Error::Usage(why) => Error::Usage(format!("{}: {why}", path.display())),
        Error::Refused(why) => Error::Refused(format!("{}: {why}", path.display())),
        other => other,
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    let failed = |source| Error::File { attempted: "reading", path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path).map_err(failed)?.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}
