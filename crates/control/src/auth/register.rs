//! The first request of an unknown key makes its account, where the operator allows it.

use axum::http::HeaderMap;
use nexus_core::status::Hosting;
use nexus_core::{AccountId, Hash32, Npub, UnixMs};
use nexus_store::account::{self, Account};
use nexus_store::{Audit, replay};

use crate::app::Shared;
use crate::config::Registration;
use crate::problem::{Code, Problem};

/// Name of the header that carries an invitation.
pub const INVITE_HEADER: &str = "Nexus-Invite";

/// The account that this key is a member of, made if need be.
pub async fn account_of(app: &Shared, pubkey: Npub, headers: &HeaderMap) -> Result<Account, Problem> {
    if let Some((account, _)) = account::by_member(&app.store, pubkey).await? {
        return Ok(account);
    }
    match &app.config.registration {
        Registration::Open => {}
        Registration::Closed => return Err(Problem::new(Code::RegistrationClosed)),
        Registration::Invite { codes_sha256 } => use_invite(app, headers, codes_sha256).await?,
    }
    let now = app.now();
    let id = AccountId::new(now, app.random());
    let account = Account {
        id,
        owner: pubkey,
        name: String::new(),
        plan: app.config.plan.clone(),
        hosting: Hosting::Paid,
        created_at: now,
    };
    let audit = Audit {
        at: now,
        account: Some(id),
        actor: pubkey.to_string(),
        action: "account.create".to_owned(),
        target: id.to_string(),
        detail: "{}".to_owned(),
    };
    // Two first requests at once: both get the account that was made first.
    Ok(account::ensure(&app.store, account, audit).await?)
}

/// An invitation is spent before the account is made: a crash in between costs the invitation, never gives two.
async fn use_invite(app: &Shared, headers: &HeaderMap, codes: &[String]) -> Result<(), Problem> {
    let refused = || Problem::with(Code::InviteRequired, format!("send a valid code in `{INVITE_HEADER}`"));
    let code = headers.get(INVITE_HEADER).and_then(|value| value.to_str().ok()).ok_or_else(refused)?;
    let hash = Hash32::sha256(code.trim().as_bytes());
    let known = codes.iter().any(|stored| stored.eq_ignore_ascii_case(&hash.to_string()));
    if known && replay::use_once(&app.store, "invite", hash, UnixMs(i64::MAX)).await? { Ok(()) } else { Err(refused()) }
}
