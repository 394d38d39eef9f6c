//! Bearer tokens: 32 random bytes, stored as their SHA-256, so that a stolen database opens nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nexus_core::{Entropy, Hash32};
use nexus_store::{account, token};
use zeroize::Zeroizing;

use crate::app::Shared;
use crate::auth::{Caller, Via};
use crate::problem::{Code, Problem};

/// Lets people and secret scanners recognise a token.
const PREFIX: &str = "nexus_";
/// The last use is noted at most this often.
const TOUCH_MS: i64 = 60_000;

/// A new token. Shown once.
pub fn new_token(entropy: &dyn Entropy) -> Zeroizing<String> {
    let bytes = Zeroizing::new(nexus_core::time::random::<32>(entropy));
    Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(*bytes)))
}

/// Under what a token is stored. Tokens are random, so a plain hash does.
pub fn hash(token: &str) -> Hash32 {
    Hash32::sha256(token.as_bytes())
}

/// The caller that holds this token.
pub async fn find(app: &Shared, text: &str) -> Result<Caller, Problem> {
    let unknown = || Problem::with(Code::Unauthorized, "the token is unknown, expired or revoked");
    if !text.starts_with(PREFIX) || text.len() > 128 {
        return Err(unknown());
    }
    let now = app.now();
    let hash = hash(text);
    let found = token::find(&app.store, hash, now).await?.ok_or_else(unknown)?;
    let account = account::get(&app.store, found.account).await?.ok_or_else(unknown)?;
    if found.last_used_at.is_none_or(|at| now.0.saturating_sub(at.0) >= TOUCH_MS) {
        token::touch(&app.store, hash, now).await?;
    }
    let pubkey = account.owner;
    Ok(Caller { account, pubkey, via: Via::Token { id: found.id, hash, scopes: found.scopes } })
}
