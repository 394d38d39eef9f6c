//! `nexus agent unlock`

use nexus_client::unlock::{Key, Unlocked, check, unlock};
use nexus_client::{Error, file, policy};
use nexus_core::Npub;
use nexus_seal::Passphrase;
use nexus_vault::{Mnemonic, VaultError, open_mnemonic};
use serde_json::json;

use crate::cli::UnlockArgs;
use crate::prompt;
use crate::session::Session;

pub async fn run(session: &Session, args: &UnlockArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let keys = session.owner_keys()?;
    let api = session.as_owner(&keys);
    let signed = policy::stored(&api, &npub, &keys.npub()).await?.ok_or_else(|| {
        Error::Refused("the agent has no signed policy\n  next: `nexus agent policy A --edit` signs one".to_owned())
    })?;
    check(&signed.policy)?;
    let (_, pool) = super::create::pinned_pool(session).await?;
    let mnemonic = mnemonic(session, args, &npub)?;
    let key = Key { policy: &signed.policy, pool: &pool, mnemonic: &mnemonic };
    let unlocked = unlock(&api, &keys, key).await?;
    session.output.either(&json!({ "npub": npub, "unlocked": true, "sent": unlocked == Unlocked::Now }), || {
        let name = &args.agent;
        match unlocked {
            Unlocked::Now => {
                format!("{name} is unlocked until its host places it anew.\nNext: nexus agent status {name}")
            }
            Unlocked::Already => format!("{name} is unlocked already."),
        }
    });
    Ok(())
}

/// From a file in clear, or from the envelope that `create` kept.
fn mnemonic(session: &Session, args: &UnlockArgs, npub: &Npub) -> Result<Mnemonic, Error> {
    if let Some(path) = &args.mnemonic_file {
        let words = file::read_secret(path)?;
        return Mnemonic::parse(&words)
            .map_err(|error| Error::Usage(format!("{error}\n  next: check the words in the mnemonic file")));
    }
    let kept = session.contexts.dir().join("agents").join(format!("{npub}.age"));
    let path = args.envelope_file.as_ref().unwrap_or(&kept);
    if !path.exists() {
        return Err(Error::NotFound(format!(
            "the agent's envelope is not at {}\n  next: give --envelope-file FILE, or --mnemonic-file FILE",
            path.display()
        )));
    }
    let envelope = file::read_secret(path)?;
    let passphrase =
        prompt::secret("passphrase of the agent's mnemonic", args.passphrase_file.as_deref(), "--passphrase-file")?;
    open_mnemonic(&envelope, &Passphrase::existing(passphrase.as_str())).map_err(|error| match error {
        VaultError::WrongPassphrase => {
            Error::NotAllowed("the passphrase does not open the agent's mnemonic\n  next: try again".to_owned())
        }
        other => Error::Failed(format!("{}: {other}\n  next: give --envelope-file FILE", path.display())),
    })
}
