//! Bearer tokens with scopes, made and revoked with the owner's own key.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use nexus_core::UnixMs;
use nexus_core::status::Scope;
use nexus_store::Conflict;
use nexus_store::token::{self, Token};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{Answer, created};
use crate::app::Shared;
use crate::auth::{Caller, Via, token as secret};
use crate::gate::Raw;
use crate::idempotency::Secret;
use crate::problem::{Code, Problem, ProblemBody};

const DAY_SECS: u32 = 86_400;
const MAX_NAME: usize = 64;

/// A token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// For the list; at most 64 bytes.
    name: String,
    /// `read`, `operate`, `configure`, `billing`: at least one. No scope approves, signs policy or withdraws.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    /// 60 to 31,622,400 (366 days); 90 days if not given.
    #[serde(default = "ninety_days")]
    expires_in_secs: u32,
}

const fn ninety_days() -> u32 {
    90 * DAY_SECS
}

/// A token as lists show it.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenView {
    id: String,
    name: String,
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    #[schema(value_type = i64)]
    created_at_ms: UnixMs,
    #[schema(value_type = i64)]
    expires_at_ms: UnixMs,
    #[schema(value_type = Option<i64>)]
    last_used_at_ms: Option<UnixMs>,
}

impl From<Token> for TokenView {
    fn from(token: Token) -> Self {
        Self {
            id: token.id,
            name: token.name,
            scopes: token.scopes,
            created_at_ms: token.created_at,
            expires_at_ms: token.expires_at,
            last_used_at_ms: token.last_used_at,
        }
    }
}

/// A new token, shown once.
#[derive(Serialize, ToSchema)]
pub struct MadeToken {
    /// Send it as `Authorization: Bearer …`. It is stored hashed and can't be shown again.
    token: String,
    #[serde(flatten)]
    view: TokenView,
}

/// Makes a token. Only with the owner's own key.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "account", request_body = NewToken,
    security(("nip98" = [])),
    responses(
        (status = 201, description = "The token", body = MadeToken),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create(State(app): State<Shared>, caller: Caller, raw: Raw) -> Answer<Response> {
    caller.require_key()?;
    let NewToken { name, mut scopes, expires_in_secs } = raw.json()?;
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Problem::invalid("name", format!("1 to {MAX_NAME} bytes")));
    }
    scopes.sort_by_key(|scope| scope.as_str());
    scopes.dedup();
    if scopes.is_empty() {
        return Err(Problem::invalid("scopes", "at least one of read, operate, configure, billing"));
    }
    if !(60..=366 * DAY_SECS).contains(&expires_in_secs) {
        return Err(Problem::invalid("expires_in_secs", "60 to 31622400"));
    }
    let now = app.now();
    let text = secret::new_token(&*app.entropy);
    let row = Token {
        id: hex::encode(app.random::<8>()),
        account: caller.id(),
        hash: secret::hash(&text),
        name,
        scopes,
        created_at: now,
        expires_at: now.plus_ms(i64::from(expires_in_secs) * 1_000),
        last_used_at: None,
    };
    let audit = caller.audit(now, "token.create", &row.id, json!({ "scopes": row.scopes, "name": row.name }));
    token::create(&app.store, row.clone(), audit).await.map_err(|error| match error.conflict() {
        Some(Conflict::TooMany) => Problem::with(Code::QuotaExceeded, "too many live tokens: revoke one"),
        _ => error.into(),
    })?;
    let location = format!("/v1/tokens/{}", row.id);
    let mut response = created(location, MadeToken { token: text.to_string(), view: row.into() });
    response.extensions_mut().insert(Secret);
    Ok(response)
}

/// The account's live tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenList {
    tokens: Vec<TokenView>,
}

/// Lists the account's live tokens, without the tokens themselves.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "account",
    security(("nip98" = [])),
    responses(
        (status = 200, description = "The tokens", body = TokenList),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list(State(app): State<Shared>, caller: Caller) -> Answer<Json<TokenList>> {
    caller.require_key()?;
    let tokens = token::list(&app.store, caller.id(), app.now()).await?;
    Ok(Json(TokenList { tokens: tokens.into_iter().map(TokenView::from).collect() }))
}

/// Revokes a token, at once; its open streams end within 30 seconds. A token may revoke itself.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "account", params(("id" = String, Path, description = "The token's id")),
    security(("nip98" = [])),
    responses(
        (status = 204, description = "Revoked"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn revoke(State(app): State<Shared>, caller: Caller, Path(id): Path<String>) -> Answer<StatusCode> {
    match &caller.via {
        Via::Token { id: own, .. } if *own == id => {}
        Via::Key | Via::Token { .. } | Via::Ticket { .. } => caller.require_key()?,
    }
    let audit = caller.audit(app.now(), "token.revoke", &id, json!({}));
    token::revoke(&app.store, caller.id(), &id, audit).await.map_err(|error| match error.conflict() {
        Some(Conflict::NotFound) => Problem::not_found(),
        _ => error.into(),
    })?;
    Ok(StatusCode::NO_CONTENT)
}
