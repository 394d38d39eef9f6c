//! The one mapping from what went wrong to what the caller is told (RFC 9457, `application/problem+json`).

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use nexus_store::{Conflict, StoreError};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $title:literal;)*) => {
        /// What went wrong, by a name that programs may rely on: names are never changed or reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name),* }

        impl Code {
            /// Every code, for the human page.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status),* }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }
        }
    };
}

codes! {
    BadRequest = "bad_request", BAD_REQUEST, "The request is not understood";
    InvalidJson = "invalid_json", BAD_REQUEST, "The body is not the JSON that this call takes";
    Unauthorized = "unauthorized", UNAUTHORIZED, "Sign the request (NIP-98) or send a token";
    ProofReplayed = "proof_replayed", UNAUTHORIZED, "This signed request was used before";
    PaymentRequired = "payment_required", PAYMENT_REQUIRED, "Pay the invoice in WWW-Authenticate first (L402)";
    MissingScope = "missing_scope", FORBIDDEN, "The token lacks the scope for this call";
    OwnerKeyRequired = "owner_key_required", FORBIDDEN, "Only the owner's own key may do this, not a token";
    RegistrationClosed = "registration_closed", FORBIDDEN, "This host takes no new accounts";
    InviteRequired = "invite_required", FORBIDDEN, "This host takes new accounts by invitation";
    OriginRefused = "origin_refused", FORBIDDEN, "This web origin may not open a stream here";
    NotFound = "not_found", NOT_FOUND, "There is no such thing, or it is not yours";
    NotYet = "not_yet", NOT_IMPLEMENTED, "This call is planned and not there yet";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "This path does not take that method";
    AgentExists = "agent_exists", CONFLICT, "This agent is already hosted here";
    NameTaken = "name_taken", CONFLICT, "The name is taken on this host";
    Conflict = "conflict", CONFLICT, "Something changed meanwhile: read again and retry";
    IdempotencyInProgress = "idempotency_in_progress", CONFLICT, "The first request with this Idempotency-Key is still running";
    SecretShownOnce = "secret_shown_once", CONFLICT, "The first answer held a secret, which is not kept";
    BalanceRemains = "balance_remains", CONFLICT, "The wallet still holds sats";
    EffectsUnresolved = "effects_unresolved", CONFLICT, "A payment or event is still being resolved";
    PolicyTooOld = "policy_too_old", CONFLICT, "The policy's version is not higher than the stored one";
    ClaimStale = "claim_stale", CONFLICT, "A later host claim of this agent is known here";
    Moved = "moved", GONE, "The agent lives on another host now: see `url`";
    EventsPruned = "events_pruned", GONE, "These events are older than what is kept";
    PreconditionRequired = "precondition_required", PRECONDITION_REQUIRED, "Send If-Match with the ETag you read";
    PreconditionFailed = "precondition_failed", PRECONDITION_FAILED, "Somebody changed it since you read it";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    BodyTimeout = "body_timeout", REQUEST_TIMEOUT, "The body did not arrive in time";
    SecretInBody = "secret_in_body", UNPROCESSABLE_ENTITY, "The body holds a secret that must never leave your machine";
    IdempotencyMismatch = "idempotency_mismatch", UNPROCESSABLE_ENTITY, "This Idempotency-Key was used with another body";
    Invalid = "invalid", UNPROCESSABLE_ENTITY, "A field is not acceptable";
    ProofInvalid = "proof_invalid", UNPROCESSABLE_ENTITY, "Nexus-Proof does not prove that you hold the agent's key";
    EnvelopeInvalid = "envelope_invalid", UNPROCESSABLE_ENTITY, "An encrypted envelope does not have the required form";
    PolicyInvalid = "policy_invalid", UNPROCESSABLE_ENTITY, "The policy is not acceptable";
    DecisionInvalid = "decision_invalid", UNPROCESSABLE_ENTITY, "The signed answer does not answer this approval";
    WebhookRefused = "webhook_refused", UNAUTHORIZED, "The webhook is not signed with the hook's secret, or not lately";
    ClaimInvalid = "claim_invalid", UNPROCESSABLE_ENTITY, "The host claim is not acceptable";
    BackupInvalid = "backup_invalid", UNPROCESSABLE_ENTITY, "The backup is damaged, or not this agent's";
    PolicyMissing = "policy_missing", CONFLICT, "The agent has no signed policy";
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many requests";
    InboxFull = "inbox_full", TOO_MANY_REQUESTS, "The agent's inbox is full";
    TooManyStreams = "too_many_streams", TOO_MANY_REQUESTS, "Too many open event streams";
    QuotaExceeded = "quota_exceeded", FORBIDDEN, "The account's limit is reached";
    NotRunning = "not_running", CONFLICT, "The agent is stopped";
    CommandRefused = "command_refused", UNPROCESSABLE_ENTITY, "The agent's worker did not obey the owner's command";
    UnlockRefused = "unlock_refused", UNPROCESSABLE_ENTITY, "The agent's worker did not take the key";
    WalletRefused = "wallet_refused", UNPROCESSABLE_ENTITY, "The agent's worker did not take the wallet's connection";
    WalletUnavailable = "wallet_unavailable", SERVICE_UNAVAILABLE, "The agent's wallet can't be reached now";
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "The service can't do this now: retry";
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something failed here; it was recorded";
}

/// An error answer. `detail` is for people and holds nothing of the request that could be a secret.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    detail: Option<String>,
    extra: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The shape of every error answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Where the code is described, relative to this host.
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    /// Stable: programs may rely on it.
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Further members, named by the code's description.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Problem {
    pub fn new(code: Code) -> Self {
        Self { code, detail: None, extra: Map::new(), headers: Vec::new() }
    }

    pub fn with(code: Code, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(code);
        problem.detail = Some(detail.into());
        problem
    }

    /// Someone else's agent and no agent at all look the same.
    pub fn not_found() -> Self {
        Self::new(Code::NotFound)
    }

    /// What went wrong, in a sentence.
    pub fn words(&self) -> String {
        self.detail.clone().unwrap_or_else(|| self.code.title().to_owned())
    }

    pub fn invalid(field: &'static str, detail: impl Into<String>) -> Self {
        Self::with(Code::Invalid, detail).extra("field", field)
    }

    /// Something inside failed: recorded in the log, told to nobody.
    pub fn internal(what: &'static str, error: &dyn std::fmt::Display) -> Self {
        tracing::error!(what, error = %error, "request failed inside");
        Self::new(Code::Internal)
    }

    #[must_use]
    pub fn extra(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    #[must_use]
    pub fn retry_after_secs(mut self, secs: u64) -> Self {
        self.headers.push((header::RETRY_AFTER, HeaderValue::from(secs.max(1))));
        self
    }

    pub const fn code(&self) -> Code {
        self.code
    }
}

/// What the store could not do, as a caller is told. Conflicts that a call expects are mapped where they are expected.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Conflict { conflict: Conflict::NoAgent, .. } => Self::not_found(),
            StoreError::Conflict { conflict: Conflict::Unresolved, .. } => Self::new(Code::EffectsUnresolved),
            StoreError::Conflict { conflict: conflict @ (Conflict::ZeroByte | Conflict::TooLong), .. } => {
                Self::with(Code::Invalid, conflict.to_string())
            }
            StoreError::Conflict { conflict, .. } => Self::with(Code::Conflict, conflict.to_string()),
            StoreError::Object { problem, .. } => Self::with(Code::Unavailable, problem.to_string()),
            StoreError::Stale { .. } | StoreError::Duplicate { .. } => Self::new(Code::Conflict),
            StoreError::Database { .. }
            | StoreError::Uncertain { .. }
            | StoreError::Closed { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Open { .. }
            | StoreError::Unreachable { .. }
            | StoreError::Settings { .. }
            | StoreError::OlderSchema { .. }
            | StoreError::NewerSchema { .. }
            | StoreError::Migration { .. } => Self::internal("store", &error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let body = ProblemBody {
            kind: format!("/docs#{}", self.code.as_str()),
            title: self.code.title(),
            status: status.as_u16(),
            code: self.code.as_str(),
            detail: self.detail,
            extra: self.extra,
        };
        let mut response = (status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Nostr, Bearer"));
        }
        headers.extend(self.headers);
        response.extensions_mut().insert(self.code);
        response
    }
}
