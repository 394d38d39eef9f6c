//! `nexus login`: an owner key, a pinned host, and a token for everyday calls.

use std::path::Path;
use std::sync::Arc;

use nexus_client::{Auth, Context, Error, OwnerKey, OwnerKeys, file, pool};
use nexus_seal::Passphrase;
use serde_json::json;
use url::Url;

use crate::ambient::SystemEntropy;
use crate::cli::{Global, LoginArgs};
use crate::command::{not_yet, token};
use crate::output::Output;
use crate::prompt;
use crate::session::{self, Session};

/// Scopes of the token that everyday calls use. Policy, approvals and owner commands always need the key.
const EVERYDAY: [&str; 4] = ["read", "operate", "configure", "billing"];
const TOKEN_DAYS: u32 = 90;

pub async fn run(args: LoginArgs, global: &Global, output: Output) -> anyhow::Result<()> {
    if args.bunker_file.is_some() {
        return not_yet("login --bunker", "use --new or --key-file");
    }
    let contexts = session::contexts()?;
    let url = match &args.url {
        Some(url) => origin_of(url)?,
        None => contexts.select(global.context.as_deref())?.url,
    };
    let name = args.name.clone().unwrap_or_else(|| url.host_str().unwrap_or("host").replace([':', '[', ']'], "-"));
    let keys = take_key(&args, global)?;
    let mut context = Context::new(&name, url);
    // A context of this name is renewed, and what it pinned stays pinned.
    if let Ok(old) = contexts.load(&name) {
        if old.url == context.url {
            context.pool = old.pool;
        }
        (context.devnet, context.devnet_key) = (old.devnet, old.devnet_key);
    }
    context.owner = Some(OwnerKey::development(&keys));
    let session = Session::with(contexts, context, global, output)?;
    pin(&session, args.fingerprint.as_deref(), keys, args.development).await
}

async fn pin(session: &Session, expected: Option<&str>, keys: OwnerKeys, development: bool) -> anyhow::Result<()> {
    let offer = pool::fetch(&session.api.asked_by(Auth::Nobody)).await?;
    let known = session.context.pool.is_some();
    let signed = offer.verify(session.context.pool.as_ref(), expected, session.clock.now())?;
    if !known && expected.is_none() {
        prompt::say(format!(
            "The host's root key is: {}\nCompare it with what its operator published.",
            signed.fingerprint()
        ));
        if prompt::terminal() && !prompt::confirm("Is it the same?") {
            return Err(Error::NotAllowed(
                "the host's root key was not confirmed\n  next: ask its operator for the fingerprint".to_owned(),
            )
            .into());
        }
    }
    let mut context = session.context.clone();
    context.pool = Some(signed.pin());
    // Before the host knows of the key: one that can't be kept is not used.
    if !development {
        context.owner = Some(keep(session, &keys)?);
    }
    context.token = Some(token::create(&session.as_owner(&keys), &EVERYDAY, "nexus login", TOKEN_DAYS).await?.secret);
    session.contexts.save(&context)?;
    session.contexts.use_context(&context.name)?;
    let document = json!({
        "context": context.name, "url": context.url, "owner": keys.npub(), "root_fingerprint": signed.fingerprint(),
    });
    session.output.either(&document, || {
        format!("Logged in to {} as {}.\nNext: nexus agent create NAME --goal TEXT --start", context.url, keys.npub())
    });
    Ok(())
}

/// The key under a passphrase; generated and shown once when the user has none.
fn keep(session: &Session, keys: &OwnerKeys) -> Result<OwnerKey, Error> {
    let passphrase = match session.key_passphrase_file() {
        Some(path) => own(&file::read_secret(path)?)?,
        None if prompt::terminal() => match prompt::new_secret("passphrase for the owner key")? {
            Some(text) => own(&text)?,
            None => {
                let passphrase = Passphrase::generate(&*session.entropy);
                prompt::say(format!("Passphrase of your owner key, shown once:\n\n    {}\n", passphrase.expose()));
                passphrase
            }
        },
        None => {
            return Err(Error::Usage(
                "the owner key needs a passphrase\n  next: give --key-passphrase-file FILE".to_owned(),
            ));
        }
    };
    OwnerKey::encrypted(keys, &passphrase, &*session.entropy)
}

fn own(text: &str) -> Result<Passphrase, Error> {
    Passphrase::own(text).map_err(|error| {
        Error::Usage(format!("{error}\n  next: choose another, or leave it empty for a generated one"))
    })
}

fn take_key(args: &LoginArgs, global: &Global) -> Result<OwnerKeys, Error> {
    match &args.key_file {
        None => Ok(OwnerKeys::generate(Arc::new(SystemEntropy))),
        Some(path) => read_key(path, global.key_passphrase_file.as_deref()),
    }
}

fn read_key(path: &Path, passphrase_file: Option<&Path>) -> Result<OwnerKeys, Error> {
    let text = file::read_secret(path)?;
    if !text.trim().starts_with("ncryptsec1") {
        return OwnerKeys::parse(&text, Arc::new(SystemEntropy));
    }
    let passphrase = prompt::secret("passphrase of the key file", passphrase_file, "--key-passphrase-file")?;
    OwnerKeys::decrypt(&text, &Passphrase::existing(passphrase.as_str()), Arc::new(SystemEntropy))
}

fn origin_of(url: &Url) -> Result<Url, Error> {
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(Error::Usage(format!(
            "{url} is no http or https address\n  next: give the host's origin, like https://nexus.example"
        )));
    }
    let mut origin = url.clone();
    origin.set_path("/");
    origin.set_query(None);
    origin.set_fragment(None);
    Ok(origin)
}
