//! `nexus agent wallet`: which wallet it has, and another one by the owner's signature.

use std::path::Path;

use nexus_client::api::Call;
use nexus_client::{Error, file, policy};
use nexus_core::policy::{Policy, WalletChoice};
use nexus_core::{Msat, Npub};
use nexus_lightning::nwc::Connection;
use nexus_seal::{Recipient, seal_to_recipient_armored};
use reqwest::Method;
use serde_json::{Value, json};

use super::policy::signed;
use crate::cli::{Backend, WalletArgs};
use crate::output::group;
use crate::prompt;
use crate::session::Session;

pub async fn run(session: &Session, args: &WalletArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let owner = session.context.owner.as_ref().map(nexus_client::OwnerKey::npub);
    let owner = owner.ok_or_else(|| Error::NoOwnerKey(session.context.name.clone()))?;
    let current = policy::stored(&session.api, &npub, &owner).await?.map(|signed| signed.policy);
    let status = session.api.get(&format!("/v1/agents/{npub}")).await?;
    let Some(backend) = &args.wallet else { return show(session, current.as_ref(), &status) };
    let connection = connection(backend, args.nwc_file.as_deref())?;
    let choice = match (backend, &connection) {
        (Backend::Dev, _) => WalletChoice::Dev {},
        (Backend::Cashu(mint), _) => WalletChoice::Cashu { mint: mint.clone() },
        (Backend::Spark, _) => WalletChoice::Spark {},
        (Backend::Lnd, _) => WalletChoice::Lnd {},
        (Backend::Nwc, Some((wallet, _))) => WalletChoice::Nwc { wallet: *wallet },
        (Backend::Nwc, None) => return Err(needs_file().into()),
    };
    // Sealed before anything is signed: an agent without an inbox key cannot be given a connection.
    let sealed = connection.map(|(_, uri)| seal(&status, &uri)).transpose()?;
    let before = current.clone().unwrap_or_else(|| Policy::default_for(npub));
    if before.wallet != choice && status["balance_sats"].as_u64().is_some_and(|sats| sats > 0) {
        prompt::say("What is in its wallet now stays there: `nexus agent withdraw` takes it out first.");
    }
    let version = current.as_ref().map_or(1, |policy| policy.version + 1);
    let next = Policy { version, wallet: choice, ..before };
    let changed = signed(session, &npub, current.as_ref(), &next).await?;
    let version = if changed { version } else { version - 1 };
    let balance = match sealed {
        Some(sealed) => Some(connect(session, &npub, &sealed).await?),
        None => None,
    };
    let document = json!({
        "npub": npub, "version": version, "changed": changed, "wallet": next.wallet, "balance_msat": balance,
    });
    session.output.either(&document, || {
        let (name, kind) = (&args.agent, words(&next.wallet));
        match (balance, changed) {
            (Some(balance), _) => {
                format!("{name} uses {kind}; {} sats can be spent from it.", group(balance.whole_sats()))
            }
            (None, true) => format!("{name} uses {kind} from policy version {version} on."),
            (None, false) => "Nothing changed.".to_owned(),
        }
    });
    Ok(())
}

fn needs_file() -> Error {
    Error::Usage(
        "`--wallet nwc` needs the wallet's connection\n  next: give --nwc-file FILE, with the nostr+walletconnect:// URI in it"
            .to_owned(),
    )
}

/// The wallet's key and the secret URI.
fn connection(backend: &Backend, path: Option<&Path>) -> Result<Option<(Npub, zeroize::Zeroizing<String>)>, Error> {
    match (backend, path) {
        (Backend::Nwc, Some(path)) => {
            let uri = file::read_secret(path)?;
            let usage = |error: String| {
                Error::Usage(format!(
                    "{}: {error}\n  next: make a connection in your wallet's settings",
                    path.display()
                ))
            };
            let read = Connection::parse(&uri).map_err(|error| usage(error.to_string()))?;
            let wallet = read.wallet().to_hex().parse::<Npub>().map_err(|error| usage(error.to_string()))?;
            Ok(Some((wallet, uri)))
        }
        (Backend::Nwc, None) => Err(needs_file()),
        (Backend::Dev | Backend::Cashu(_) | Backend::Spark | Backend::Lnd, Some(_)) => {
            Err(Error::Usage("--nwc-file goes with `--wallet nwc`\n  next: leave one of them out".to_owned()))
        }
        (Backend::Dev | Backend::Cashu(_) | Backend::Spark | Backend::Lnd, None) => Ok(None),
    }
}

fn seal(status: &Value, uri: &str) -> Result<String, Error> {
    let recipient = status["inbox_recipient"].as_str().and_then(|text| text.parse::<Recipient>().ok());
    let recipient = recipient.ok_or_else(|| {
        Error::Failed("the agent has no inbox key yet\n  next: start it once, then try again".to_owned())
    })?;
    seal_to_recipient_armored(&recipient, uri.as_bytes())
        .map_err(|error| Error::Failed(format!("sealing the connection: {error}")))
}

async fn connect(session: &Session, npub: &Npub, sealed: &str) -> Result<Msat, Error> {
    let call = Call::new(Method::PUT, format!("/v1/agents/{npub}/wallet")).json(&json!({ "sealed": sealed }));
    let keys = session.owner_keys()?;
    let answer = session.as_owner(&keys).call(call).await?;
    serde_json::from_value(answer.body["balance_msat"].clone())
        .map_err(|error| Error::Protocol { attempted: "reading the wallet's answer", why: error.to_string() })
}

/// A wallet in words: what it is, and who could run off with the money.
fn words(choice: &WalletChoice) -> String {
    match choice {
        WalletChoice::Dev {} => "a wallet on the development network (play money)".to_owned(),
        WalletChoice::Cashu { mint } => format!("ecash of {mint} (custodial: the mint holds the money)"),
        WalletChoice::Nwc { wallet } => {
            format!(
                "a wallet elsewhere over Nostr Wallet Connect, {} (whoever runs it holds the money)",
                wallet.short()
            )
        }
        WalletChoice::Spark {} => "a Spark wallet (experimental; shared with its operators)".to_owned(),
        WalletChoice::Lnd {} => "an account at this host's node (custodial: the operator holds the money)".to_owned(),
    }
}

fn show(session: &Session, current: Option<&Policy>, status: &Value) -> anyhow::Result<()> {
    let choice = current.map(|policy| policy.wallet.clone()).unwrap_or_default();
    let document = json!({
        "wallet": choice, "custody": choice.custody(), "signed": current.is_some(), "balance_sats": status["balance_sats"],
        "seen_at_ms": status["balance_at_ms"],
    });
    session.output.either(&document, || {
        let balance = match status["balance_sats"].as_u64() {
            Some(sats) => format!("{} sats", group(sats)),
            None => "not seen yet".to_owned(),
        };
        let signed = if current.is_some() { "" } else { " (no policy is signed: it may not spend)" };
        format!("Wallet   {}{signed}\nBalance  {balance}", words(&choice))
    });
    Ok(())
}
