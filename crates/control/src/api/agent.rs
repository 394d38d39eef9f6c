//! Creating, listing, reading, changing and deleting agents.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use nexus_core::lifecycle::Lifecycle;
use nexus_core::status::{Desired, Scope};
use nexus_core::{AgentConfig, Msat, Npub};
use nexus_store::Conflict;
use nexus_store::agent::{self, Agent, Filter};
use nexus_store::wallet_request::Answer as Said;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use super::ask::ask;
use super::status::{self, AgentStatus, AgentSummary};
use crate::app::Shared;
use crate::auth::{Caller, parse_npub};
use crate::config::{DEFAULT_PAGE, MAX_PAGE};
use crate::gate::{Params, Raw};
use crate::problem::{Code, Problem, ProblemBody};

/// Filters and cursor of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// `running` or `stopped`, or a lifecycle: `spawning`, `active`, `low_balance`, `hibernating`, `dormant`.
    state: Option<String>,
    /// `key=value`.
    label: Option<String>,
    region: Option<String>,
    name: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    /// 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// One page of agents, in npub order.
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentPage {
    pub agents: Vec<AgentSummary>,
    /// Send it as `after` for the next page; none on the last.
    pub next: Option<String>,
}

/// Lists the account's agents.
#[utoipa::path(
    get, path = "/v1/agents", tag = "agents", params(ListQuery),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "One page", body = AgentPage),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Answer<Json<AgentPage>> {
    caller.require(Scope::Read)?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    let filter = filter(query, limit)?;
    let agents = agent::list(&app.store, caller.id(), &filter).await?;
    let full = agents.len() == limit as usize;
    let next = agents.last().filter(|_| full).map(|agent| agent.npub.to_string());
    Ok(Json(AgentPage { agents: agents.iter().map(status::summary).collect(), next }))
}

fn filter(query: ListQuery, limit: u32) -> Answer<Filter> {
    let mut filter = Filter { region: query.region, name: query.name, limit, ..Filter::default() };
    if let Some(state) = &query.state {
        filter.desired = Desired::parse(state);
        filter.lifecycle = Lifecycle::parse(state);
        if filter.desired.is_none() && filter.lifecycle.is_none() {
            return Err(Problem::invalid("state", "use running, stopped, or a lifecycle"));
        }
    }
    if let Some(label) = &query.label {
        let (key, value) = label.split_once('=').ok_or_else(|| Problem::invalid("label", "use key=value"))?;
        filter.label = Some((key.to_owned(), value.to_owned()));
    }
    if let Some(after) = &query.after {
        filter.after = Some(parse_npub(after).map_err(|_| Problem::invalid("after", "use `next` of the page before"))?);
    }
    Ok(filter)
}

/// Reads an agent's whole status, with its reason in words.
#[utoipa::path(
    get, path = "/v1/agents/{npub}", tag = "agents", params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The agent; `ETag` is its configuration's version", body = AgentStatus),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn read(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>) -> Answer<Response> {
    caller.require(Scope::Read)?;
    let agent = caller.agent(&app, &npub).await?;
    answer(&app, &agent).await
}

/// The status, with the ETag that a change needs.
pub async fn answer(app: &Shared, agent: &Agent) -> Answer<Response> {
    let status = status::whole(app, agent).await?;
    let etag = HeaderValue::try_from(etag(agent)).map_err(|error| Problem::internal("etag", &error))?;
    Ok(([(header::ETAG, etag)], Json(status)).into_response())
}

/// A change. Fields left out stay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    name: Option<String>,
    /// Merged into the configuration; `null` sets a field back to its default (RFC 7396).
    #[schema(value_type = Option<Object>)]
    config: Option<Value>,
    /// A newer policy, signed by the owner (kind 30078), sent alone and with the owner's own key.
    #[schema(value_type = Option<Object>)]
    policy: Option<nostr::event::Event>,
}

/// Changes name or configuration, if nobody else has meanwhile.
///
/// Limits, autonomy, allow-lists and the wallet are in the policy, which takes the owner's signature: send it here as
/// `policy`, or to `PUT …/policy`.
#[utoipa::path(
    patch, path = "/v1/agents/{npub}", tag = "agents", request_body = Change,
    params(
        ("npub" = String, Path, description = "The agent"),
        ("If-Match" = String, Header, description = "The ETag that you read"),
    ),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 200, description = "The changed agent", body = AgentStatus),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn change(
    State(app): State<Shared>,
    caller: Caller,
    Path(npub): Path<String>,
    headers: HeaderMap,
    raw: Raw,
) -> Answer<Response> {
    caller.require(Scope::Configure)?;
    let agent = caller.agent(&app, &npub).await?;
    let expected = expected_version(&headers, &agent)?;
    let change: Change = raw.json()?;
    if let Some(policy) = change.policy {
        if change.name.is_some() || change.config.is_some() {
            return Err(Problem::invalid("policy", "send the policy alone"));
        }
        let changed = super::policy::store(&app, &caller, &agent, &policy).await?;
        return answer(&app, &changed).await;
    }
    let name = change.name.unwrap_or_else(|| agent.name.clone());
    nexus_core::agent::validate_name(&name).map_err(|error| Problem::invalid("name", error.problem))?;
    let config = changed_config(&agent.config, change.config)?;
    let audit = caller.audit(app.now(), "agent.change", agent.npub, json!({ "from_version": expected }));
    let changed = agent::set_config(&app.store, agent.npub, expected, &name, &config, audit).await.map_err(
        |error| match error.conflict() {
            Some(Conflict::Version) => Problem::new(Code::PreconditionFailed),
            Some(Conflict::NameTaken) => Problem::new(Code::NameTaken),
            _ => error.into(),
        },
    )?;
    app.wake_agent(agent.npub);
    answer(&app, &changed).await
}

/// The version that the caller read, which must still be the stored one; `*` takes whatever stands.
fn expected_version(headers: &HeaderMap, agent: &Agent) -> Answer<i64> {
    let value = headers.get(header::IF_MATCH).ok_or_else(|| Problem::new(Code::PreconditionRequired))?;
    let text = value.to_str().unwrap_or_default().trim();
    let stands = text == "*" || text == etag(agent);
    if stands { Ok(agent.config_version) } else { Err(Problem::new(Code::PreconditionFailed)) }
}

fn etag(agent: &Agent) -> String {
    format!("\"{}\"", agent.config_version)
}

/// Fields that the owner signs for.
const POLICY_FIELDS: [&str; 15] = [
    "limits",
    "autonomy",
    "listed",
    "blocked",
    "listed_only",
    "compute",
    "wallet",
    "custody",
    "readers",
    "reader_history",
    "publish",
    "frozen",
    "actions",
    "delegations",
    "payees",
];

fn changed_config(old: &AgentConfig, patch: Option<Value>) -> Answer<AgentConfig> {
    let Some(patch) = patch else { return Ok(old.clone()) };
    let Value::Object(fields) = patch else { return Err(Problem::invalid("config", "an object")) };
    if let Some(field) = POLICY_FIELDS.iter().find(|field| fields.contains_key(**field)) {
        let detail = format!("`{field}` is part of the policy, which the owner signs: PATCH with `policy`");
        return Err(Problem::invalid("config", detail));
    }
    let mut merged = serde_json::to_value(old).map_err(|error| Problem::internal("config", &error))?;
    for (name, value) in fields {
        merge(&mut merged, name, value);
    }
    let config: AgentConfig = serde_json::from_value(merged)
        .map_err(|_| Problem::invalid("config", "a field is unknown or of another type: see /docs"))?;
    config.validate().map_err(|error| Problem::invalid("config", error.to_string()))?;
    Ok(config)
}

/// JSON merge patch (RFC 7396) of one field: objects merge, `null` removes, all else replaces.
fn merge(target: &mut Value, name: String, value: Value) {
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(fields) = target else { return };
    match value {
        Value::Null => {
            fields.remove(&name);
        }
        Value::Object(inner) => {
            let slot = fields.entry(name).or_insert_with(|| json!({}));
            for (name, value) in inner {
                merge(slot, name, value);
            }
        }
        other => {
            fields.insert(name, other);
        }
    }
}

/// What a deletion may give up.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// `true` gives up the wallet's sats and whatever is unresolved. Only with the owner's own key.
    #[serde(default)]
    forfeit: bool,
}

/// Deletes an agent and all that is stored of it.
///
/// Refused while its wallet holds sats or something is unresolved. The identity lives on with whoever has its mnemonic.
#[utoipa::path(
    delete, path = "/v1/agents/{npub}", tag = "agents",
    params(("npub" = String, Path, description = "The agent"), DeleteQuery),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    Path(npub): Path<String>,
    Params(query): Params<DeleteQuery>,
) -> Answer<StatusCode> {
    caller.require(Scope::Configure)?;
    let DeleteQuery { forfeit } = query;
    if forfeit {
        caller.require_key()?;
    }
    let mut agent = caller.row(&app, &npub).await?;
    // Of one that has moved away, the wallet went with it.
    if !forfeit && agent.moved_to.is_none() {
        // What the row says may be older than a payment. A worker that does not answer leaves it at that.
        agent.balance = wallet_balance(&app, agent.npub).await?.or(agent.balance);
        refuse_with_money(&agent)?;
    }
    let balance_msat = agent.balance.unwrap_or(Msat::ZERO).as_u64();
    let detail = json!({ "name": agent.name, "forfeit": forfeit, "balance_msat": balance_msat });
    let audit = caller.audit(app.now(), "agent.delete", agent.npub, detail);
    let deleted = agent::delete(&app.store, agent.npub, forfeit, audit).await;
    deleted.map_err(|error| match error.conflict() {
        Some(Conflict::SubRemains) => {
            let detail =
                "its account at the operator's node holds money: withdraw it first, or give it up with forfeit=true";
            Problem::with(Code::BalanceRemains, detail)
        }
        _ => error.into(),
    })?;
    app.wake_agent(agent.npub);
    Ok(StatusCode::NO_CONTENT)
}

/// What the agent's wallet says itself; none when its worker can't be asked now.
async fn wallet_balance(app: &Shared, npub: Npub) -> Answer<Option<Msat>> {
    #[derive(Deserialize)]
    struct Balance {
        balance_msat: Msat,
    }
    Ok(match ask(app, npub, "balance", "{}".to_owned(), None).await? {
        Some(Said::Done(body)) => serde_json::from_str::<Balance>(&body).ok().map(|said| said.balance_msat),
        Some(Said::Failed(_)) | None => None,
    })
}

fn refuse_with_money(agent: &Agent) -> Answer<()> {
    let problem =
        |detail: &str, sats: Option<u64>| Err(Problem::with(Code::BalanceRemains, detail).extra("balance_sats", sats));
    match agent.balance {
        Some(balance) if balance > Msat::ZERO => {
            problem("withdraw it first, or give it up with forfeit=true", Some(balance.sats_ceil()))
        }
        None if agent.lifecycle != Lifecycle::Spawning => {
            problem("the wallet was not seen yet, so it may hold sats: forfeit=true gives them up", None)
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_merges_and_null_restores_the_default() {
        let old = AgentConfig { heartbeat_secs: 60, about: "x".into(), ..AgentConfig::default() };
        let with = |patch: Value| changed_config(&old, Some(patch));
        assert_eq!(with(json!({"about": "y"})).unwrap().heartbeat_secs, 60);
        assert_eq!(with(json!({"heartbeat_secs": null})).unwrap().heartbeat_secs, 900);
        let labelled = changed_config(&old, Some(json!({"labels": {"a": "1", "b": "2"}}))).unwrap();
        let merged = changed_config(&labelled, Some(json!({"labels": {"a": null}}))).unwrap();
        assert_eq!(merged.labels.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(with(json!({"limits": {}})).unwrap_err().code(), Code::Invalid);
        assert_eq!(with(json!({"nonsense": 1})).unwrap_err().code(), Code::Invalid);
        assert_eq!(with(json!({"heartbeat_secs": 1})).unwrap_err().code(), Code::Invalid);
        assert_eq!(with(json!([])).unwrap_err().code(), Code::Invalid);
    }
}
