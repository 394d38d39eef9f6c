//! The first request of an unknown key makes its account, where the operator allows it.

use axum::http::HeaderMap;
use nexus_core::status::Hosting;
use nexus_core::{AccountId, Hash32, Npub};
use nexus_store::account::{self, Account};
use nexus_store::{Audit, Conflict};

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
    let invite = match &app.config.registration {
        Registration::Open => None,
        Registration::Closed => return Err(Problem::new(Code::RegistrationClosed)),
        Registration::Invite { codes_sha256 } => Some(invited(headers, codes_sha256)?),
    };
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
    account::ensure_invited(&app.store, account, invite, audit).await.map_err(|error| match error.conflict() {
        Some(Conflict::Invite) => no_invite(),
        _ => error.into(),
    })
}

/// The invitation that a request carries, if it is one. It is spent with the account that is made of it.
fn invited(headers: &HeaderMap, codes: &[String]) -> Result<Hash32, Problem> {
    let code = headers.get(INVITE_HEADER).and_then(|value| value.to_str().ok()).ok_or_else(no_invite)?;
    let hash = Hash32::sha256(code.trim().as_bytes());
    let known = codes.iter().any(|stored| stored.eq_ignore_ascii_case(&hash.to_string()));
    if known { Ok(hash) } else { Err(no_invite()) }
}

fn no_invite() -> Problem {
    Problem::with(Code::InviteRequired, format!("send a valid code in `{INVITE_HEADER}`"))
}
