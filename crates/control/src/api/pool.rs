//! What a client needs before it has an account: the worker pool's documents, and how this host calls itself.

use axum::Json;
use axum::extract::State;
use nexus_core::Npub;
use nexus_core::policy::WalletChoice;
use nexus_seal::pool::{fingerprint, verify_pool};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Answer;
use crate::app::Shared;
use crate::config::Registration;
use crate::problem::Problem;

/// This host.
#[derive(Debug, Serialize, ToSchema)]
pub struct PoolView {
    /// The chain of pool documents, oldest first, each signed by the root key and naming the one before it. Pin the
    /// root key at the first use; keys are sealed to the newest document's first recipient.
    #[schema(value_type = Vec<Object>)]
    pool: Value,
    /// The root key's fingerprint in words, for a person to compare.
    fingerprint: Option<String>,
    /// The key that signs tick requests here; none until the first worker ran.
    #[schema(value_type = Option<String>)]
    runner: Option<Npub>,
    /// What signed requests and host claims must name.
    public_origin: String,
    /// The relay on which this host's agents are reached.
    relay: Option<String>,
    /// `open`, `invite` or `closed`.
    registration: &'static str,
    /// Accounts that the operator keeps for agents at its own node (`wallet: lnd`); none if it keeps none.
    accounts: Option<AccountsView>,
}

/// Accounts at the operator's node.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccountsView {
    /// Who holds the money, in words.
    custody: &'static str,
    /// What one agent may have there, in sats.
    cap_sats: u64,
}

/// Describes this host: its worker pool, its runner, its name.
#[utoipa::path(get, path = "/v1/pool", tag = "about", responses((status = 200, description = "This host", body = PoolView)))]
pub async fn read(State(app): State<Shared>) -> Answer<Json<PoolView>> {
    let root = app.config.pool_documents.last().and_then(|event| verify_pool(event).ok()).map(|pool| pool.root);
    Ok(Json(PoolView {
        pool: json!(app.config.pool_documents),
        fingerprint: root.as_ref().map(fingerprint),
        runner: runner(&app).await?,
        public_origin: app.config.origin(),
        relay: app.config.relay_url.clone(),
        registration: match app.config.registration {
            Registration::Open => "open",
            Registration::Invite { .. } => "invite",
            Registration::Closed => "closed",
        },
        accounts: app.config.accounts.as_ref().map(|accounts| AccountsView {
            custody: WalletChoice::Lnd {}.custody(),
            cap_sats: accounts.cap.whole_sats(),
        }),
    }))
}

/// The installation's runner key, once a worker has made it.
pub async fn runner(app: &Shared) -> Result<Option<Npub>, Problem> {
    let stored = nexus_store::installation::get(&app.store, crate::RUNNER_PUBKEY).await?;
    Ok(stored.and_then(|text| text.parse().ok()))
}
