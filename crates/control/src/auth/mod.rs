//! Who is calling: a Nostr key that signs each request (NIP-98), a scoped token, or a single-use ticket.

mod register;
pub mod ticket;
pub mod token;

use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use nexus_core::policy::Policy;
use nexus_core::status::Scope;
use nexus_core::{AccountId, Hash32, Npub, UnixMs};
use nexus_seal::proof::{PROOF_HEADER, WINDOW_SECS};
use nexus_seal::{Request, VerifiedRequest, verify_agent_proof, verify_nip98};
use nexus_store::account::Account;
use nexus_store::agent::Agent;
use nexus_store::{Audit, replay};
use nostr::event::Event;

use crate::app::Shared;
use crate::problem::{Code, Problem};

/// How a caller showed who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// The member's own key signed this request: everything the account may do.
    Key,
    Token {
        id: String,
        hash: Hash32,
        scopes: Vec<Scope>,
    },
    /// Good for one event stream of one agent.
    Ticket {
        agent: Npub,
    },
}

/// A caller with an account.
#[derive(Debug, Clone)]
pub struct Caller {
    pub account: Account,
    /// The member's key; for a token the account's owner.
    pub pubkey: Npub,
    pub via: Via,
}

impl Caller {
    /// Whether it may make calls of this scope. The owner's own key has all of them.
    pub fn require(&self, scope: Scope) -> Result<(), Problem> {
        let allowed = match &self.via {
            Via::Key => true,
            Via::Token { scopes, .. } => scopes.contains(&scope),
            Via::Ticket { .. } => false,
        };
        let denied =
            || Problem::with(Code::MissingScope, format!("needs scope `{scope}`")).extra("scope", scope.as_str());
        if allowed { Ok(()) } else { Err(denied()) }
    }

    /// For what no token may do: policy, tokens, giving up money.
    pub fn require_key(&self) -> Result<(), Problem> {
        match self.via {
            Via::Key => Ok(()),
            Via::Token { .. } | Via::Ticket { .. } => Err(Problem::new(Code::OwnerKeyRequired)),
        }
    }

    /// The account's own agent of this npub. Someone else's, none, and no npub at all look the same. One that has moved
    /// away is said to have.
    pub async fn agent(&self, app: &Shared, npub: &str) -> Result<Agent, Problem> {
        let agent = self.row(app, npub).await?;
        match &agent.moved_to {
            Some(url) => Err(Problem::with(Code::Moved, format!("it lives at {url}")).extra("url", url.clone())),
            None => Ok(agent),
        }
    }

    /// An agent whose events, ticks and approvals this caller may read: its account's own, or one whose signed policy names
    /// the caller's key as a reader.
    pub async fn readable(&self, app: &Shared, npub: &str) -> Result<Agent, Problem> {
        let own = self.agent(app, npub).await;
        if own.as_ref().is_err_and(|problem| problem.code() == Code::NotFound) {
            let npub = parse_npub(npub)?;
            let sealed = nexus_store::agent::sealed(&app.store, npub).await?;
            let policy = sealed.and_then(|sealed| sealed.policy).and_then(|policy| read_policy(&policy.event));
            if policy.is_some_and(|policy| policy.agent == npub && policy.readers.contains(&self.pubkey)) {
                let found = nexus_store::agent::get(&app.store, npub).await?;
                return found.filter(|agent| agent.moved_to.is_none()).ok_or_else(Problem::not_found);
            }
        }
        own
    }

    /// The same, and what is left here of one that has moved away.
    pub async fn row(&self, app: &Shared, npub: &str) -> Result<Agent, Problem> {
        let npub = parse_npub(npub)?;
        nexus_store::agent::get_owned(&app.store, self.account.id, npub).await?.ok_or_else(Problem::not_found)
    }

    pub fn id(&self) -> AccountId {
        self.account.id
    }

    /// The audit row of something this caller does. `detail` holds no secret.
    pub fn audit(&self, at: UnixMs, action: &'static str, target: impl ToString, detail: serde_json::Value) -> Audit {
        let actor = match &self.via {
            Via::Key | Via::Ticket { .. } => self.pubkey.to_string(),
            Via::Token { id, .. } => format!("token:{id}"),
        };
        Audit {
            at,
            account: Some(self.id()),
            actor,
            action: action.to_owned(),
            target: target.to_string(),
            detail: detail.to_string(),
        }
    }
}

/// An npub in a path: the bech32 form only, so that an agent has one address.
pub fn parse_npub(text: &str) -> Result<Npub, Problem> {
    let npub: Option<Npub> = text.starts_with("npub1").then(|| text.parse().ok()).flatten();
    npub.ok_or_else(Problem::not_found)
}

/// The event by which the caller's own key signed a request: what is passed on to a worker with the raw body.
#[derive(Debug, Clone)]
pub struct SignedRequest(pub Event);

/// The agent's proof that came with a request, unverified: who has to have signed it is known only with the body.
#[derive(Debug, Clone)]
pub struct AgentProof {
    header: String,
    method: String,
    url: String,
}

impl AgentProof {
    /// Checks that `agent` signed this very request for `owner`, and uses the proof up.
    pub async fn verify(&self, app: &Shared, body: &[u8], agent: &Npub, owner: &Npub) -> Result<(), Problem> {
        let request = Request { method: &self.method, url: &self.url, body };
        let verified = verify_agent_proof(&self.header, &request, agent, owner, app.now())
            .map_err(|error| Problem::with(Code::ProofInvalid, error.to_string()))?;
        use_once(app, &verified).await
    }
}

/// Names the caller, or says why not. Uses up whatever may be used once.
pub async fn authenticate(app: &Shared, parts: &mut Parts, body: &[u8]) -> Result<Caller, Problem> {
    let url = public_url(app, parts);
    let method = parts.method.as_str().to_owned();
    if let Some(header) = text_header(&parts.headers, PROOF_HEADER) {
        let proof = AgentProof { header: header.to_owned(), method: method.clone(), url: url.clone() };
        parts.extensions.insert(proof);
    }
    let Some(header) = single_authorization(&parts.headers)? else {
        return ticket::redeem(app, &parts.headers).await;
    };
    let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return token::find(app, rest.trim()).await;
    }
    let request = Request { method: &method, url: &url, body };
    let verified = verify_nip98(header, &request, app.now())
        .map_err(|error| Problem::with(Code::Unauthorized, error.to_string()))?;
    use_once(app, &verified).await?;
    let account = register::account_of(app, verified.pubkey, &parts.headers).await?;
    parts.extensions.insert(SignedRequest(verified.event));
    Ok(Caller { account, pubkey: verified.pubkey, via: Via::Key })
}

/// Whether a long-lived stream's caller would still be let in.
pub async fn still_valid(app: &Shared, caller: &Caller) -> Result<bool, Problem> {
    if let Via::Token { hash, .. } = &caller.via {
        return Ok(nexus_store::token::find(&app.store, *hash, app.now()).await?.is_some());
    }
    let membership = nexus_store::account::by_member(&app.store, caller.pubkey).await?;
    Ok(membership.is_some_and(|(account, _)| account.id == caller.id()))
}

/// The URL that a signed request must name: configured origin, then path and query as they came.
fn public_url(app: &Shared, parts: &Parts) -> String {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    format!("{}{path}", app.config.origin())
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn single_authorization(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = all.next() else { return Ok(None) };
    match (first.to_str(), all.next()) {
        (Ok(text), None) => Ok(Some(text)),
        (_, _) => Err(Problem::with(Code::Unauthorized, "send one Authorization header")),
    }
}

/// A signed request is good once, for as long as its time allows it at all.
async fn use_once(app: &Shared, verified: &VerifiedRequest) -> Result<(), Problem> {
    let expires_at = UnixMs::from_secs(verified.created_at.saturating_add(2 * WINDOW_SECS));
    let fresh = replay::use_once(&app.store, "nip98", verified.event_id, expires_at).await?;
    if fresh { Ok(()) } else { Err(Problem::new(Code::ProofReplayed)) }
}

/// The document of a stored policy event. It was verified when it was stored, and no worker obeys it for this.
fn read_policy(event: &str) -> Option<Policy> {
    let event: nostr::event::Event = serde_json::from_str(event).ok()?;
    Policy::parse(&event.content).ok()
}
