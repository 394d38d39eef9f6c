//! Every call of the OpenAPI document, asked by nobody, by a token without the scope and by a stranger. A call that is
//! added without a case here fails.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod common;

use common::{Answer, By, Host, Key};
use nexus_seal::operator::OperatorKey;
use serde_json::{Value, json};

/// Calls that anyone may make. Everything else needs an account.
const OPEN: [&str; 13] = [
    "get /.well-known/lnurlp/{name}",
    "get /.well-known/nostr.json",
    "get /v1/agents/{npub}/pay",
    "get /healthz",
    "get /metrics",
    "get /readyz",
    "get /v1/agents/{npub}/claim",
    "get /v1/openapi.json",
    "get /v1/pool",
    "post /v1/agents/{npub}/claim",
    "post /v1/agents/{npub}/hooks/{id}",
    "get /v1/plans",
    "post /v1/hosting/topup",
];
/// Calls without an agent in their path: what a stranger gets from them is looked at one by one.
const OF_THE_ACCOUNT: [&str; 26] = [
    "delete /v1/hosting/renewal",
    "delete /v1/tokens/{id}",
    "delete /v1/webhooks/{id}",
    "get /v1/account",
    "get /v1/account/audit",
    "get /v1/agents",
    "get /v1/fleet",
    "get /v1/fleet/agents",
    "get /v1/hosting",
    "get /v1/hosting/history",
    "get /v1/hosting/refunds",
    "get /v1/hosting/renewal",
    "get /v1/invoices",
    "get /v1/invoices/{id}",
    "get /v1/invoices/{id}/qr",
    "get /v1/tokens",
    "get /v1/webhooks",
    "get /v1/webhooks/{id}/deliveries",
    "post /v1/agents",
    "post /v1/agents/import",
    "post /v1/hosting/refunds",
    "post /v1/invoices",
    "post /v1/tokens",
    "post /v1/webhooks",
    "post /v1/webhooks/{id}/retry",
    "put /v1/hosting/renewal",
];
const SCOPES: [&str; 4] = ["read", "operate", "configure", "billing"];

struct Operation {
    method: String,
    path: String,
    /// The scope of a token that may; none where only the owner's key may.
    scope: Option<String>,
    open: bool,
}

impl Operation {
    fn name(&self) -> String {
        format!("{} {}", self.method.to_lowercase(), self.path)
    }

    /// The path with somebody's agent and something that looks like an id.
    fn at(&self, npub: &str) -> String {
        self.path.replace("{npub}", npub).replace("{id}", "0199d0a2-0000-7000-8000-000000000001")
    }
}

async fn operations(host: &Host) -> Vec<Operation> {
    let document = host.get(By::Nobody, "/v1/openapi.json").await.ok().body;
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let security = operation["security"].as_array().cloned().unwrap_or_default();
            let scope = security.iter().find_map(|one| one["token"][0].as_str()).map(str::to_owned);
            let open = security.is_empty();
            all.push(Operation { method: method.to_uppercase(), path: path.clone(), scope, open });
        }
    }
    assert!(all.len() >= 25, "the document lost its calls");
    all
}

async fn ask(host: &Host, by: By<'_>, operation: &Operation, path: &str) -> Answer {
    let body = if operation.method == "GET" || operation.method == "DELETE" { Vec::new() } else { b"{}".to_vec() };
    host.send(by, &operation.method, path, body, &[("if-match", "*")]).await
}

#[tokio::test]
async fn nobody_gets_anything_but_what_is_open() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    for operation in operations(&host).await {
        let name = operation.name();
        assert_eq!(operation.open, OPEN.contains(&name.as_str()), "{name}: open or not?");
        let path = operation.at(&npub);
        let answer = ask(&host, By::Nobody, &operation, &path).await;
        if operation.open {
            assert!(
                answer.status.is_success()
                    || name == "get /readyz"
                    || ["/claim", "/hooks/{id}", "/topup", "/{name}", "/pay"].iter().any(|end| name.ends_with(end)),
                "{name}: {}",
                answer.text
            );
            continue;
        }
        assert_eq!((answer.status.as_u16(), answer.code()), (401, "unauthorized"), "{name}");
        let unknown = format!("nexus_{}", "A".repeat(43));
        assert_eq!(ask(&host, By::Token(&unknown), &operation, &path).await.code(), "unauthorized", "{name}");
    }
}

#[tokio::test]
async fn a_token_does_what_its_scopes_say_and_no_more() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    let everything = host.token(&owner, &SCOPES).await;
    for operation in operations(&host).await.into_iter().filter(|operation| !operation.open) {
        let (name, path) = (operation.name(), operation.at(&npub));
        let Some(scope) = &operation.scope else {
            assert_eq!(
                ask(&host, By::Token(&everything), &operation, &path).await.code(),
                "owner_key_required",
                "{name}"
            );
            continue;
        };
        let others: Vec<&str> = SCOPES.into_iter().filter(|other| other != scope).collect();
        let without = host.token(&owner, &others).await;
        let answer = ask(&host, By::Token(&without), &operation, &path).await;
        assert_eq!((answer.code(), &answer.body["scope"]), ("missing_scope", &json!(scope)), "{name}");
        // The one scope is enough: whatever is refused then is refused for another reason. (Deleting comes elsewhere.)
        if operation.method != "DELETE" && !operation.path.ends_with("/invoices") {
            let with = host.token(&owner, &[scope]).await;
            let answer = ask(&host, By::Token(&with), &operation, &path).await;
            assert_ne!(answer.status, 403, "{name}: {}", answer.text);
            assert_ne!(answer.status, 401, "{name}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn somebody_elses_agent_is_no_agent_and_stays_as_it_is() {
    let host = Host::start().await;
    let (owner, stranger) = (Key::new(1), Key::new(3));
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    host.create(&stranger, &Key::new(4), "eve").await;
    let nobody = Key::new(9).npub().to_string();
    let token = host.token(&stranger, &SCOPES).await;
    let path = format!("/v1/agents/{npub}");
    let before = host.get(By::Key(&owner), &path).await.ok().body;
    let mut of_the_account = Vec::new();
    for operation in operations(&host).await.into_iter().filter(|operation| !operation.open) {
        let name = operation.name();
        if !operation.path.contains("{npub}") {
            of_the_account.push(name);
            continue;
        }
        let theirs = ask(&host, By::Key(&stranger), &operation, &operation.at(&npub)).await;
        assert_eq!((theirs.status.as_u16(), theirs.code()), (404, "not_found"), "{name}");
        // And it can't be told from one that does not exist.
        let none = ask(&host, By::Key(&stranger), &operation, &operation.at(&nobody)).await;
        assert_eq!(theirs.body, none.body, "{name}");
        if operation.scope.is_some() {
            let theirs = ask(&host, By::Token(&token), &operation, &operation.at(&npub)).await;
            assert_eq!(theirs.body, none.body, "{name}");
        }
        // Hex is not an address, for its owner neither.
        let hex = operation.at(&Key::new(2).npub().to_hex());
        assert_eq!(ask(&host, By::Key(&owner), &operation, &hex).await.code(), "not_found", "{name}");
    }
    of_the_account.sort();
    assert_eq!(of_the_account, OF_THE_ACCOUNT, "every call without an agent needs a case in the next test");
    assert_eq!(host.get(By::Key(&owner), &path).await.ok().body, before);
}

#[tokio::test]
async fn accounts_see_only_their_own() {
    let key = std::sync::Arc::new(OperatorKey::generate(&nexus_testkit::SystemEntropy));
    let host = Host::start_with(|config| config.operator_key = Some(key)).await;
    let (owner, stranger, agent) = (Key::new(1), Key::new(3), Key::new(2));
    let npub = host.create(&owner, &agent, "ada").await;
    let made = host.post(By::Key(&owner), "/v1/tokens", &json!({ "name": "x", "scopes": ["read"] })).await.ok();
    let token = format!("/v1/tokens/{}", made.body["id"].as_str().unwrap());
    for by in [By::Key(&stranger), By::Token(&host.token(&stranger, &SCOPES).await)] {
        assert_eq!(host.get(by, "/v1/agents").await.ok().body["agents"], json!([]));
        let page = format!("/v1/agents?name=ada&after={}", Key::new(8).npub());
        assert_eq!(host.get(by, &page).await.ok().body["agents"], json!([]));
        let account = host.get(by, "/v1/account").await.ok();
        assert_eq!((&account.body["owner"], &account.body["agents"]), (&json!(stranger.npub()), &json!(0)));
        let audit = host.get(by, "/v1/account/audit").await.ok();
        assert!(!audit.text.contains(&npub) && audit.text.contains("account.create"), "{}", audit.text);
    }
    let tokens = host.get(By::Key(&stranger), "/v1/tokens").await.ok();
    assert!(!tokens.text.contains(made.body["id"].as_str().unwrap()));
    assert_eq!(host.send(By::Key(&stranger), "DELETE", &token, Vec::new(), &[]).await.code(), "not_found");
    // Where an account hears of its agents, and what it pays, is its own.
    let made = host.post(By::Key(&owner), "/v1/webhooks", &json!({ "url": "https://hooks.example/secret" })).await.ok();
    let hook = format!("/v1/webhooks/{}", made.body["id"].as_str().unwrap());
    for path in [
        "/v1/webhooks",
        "/v1/invoices",
        "/v1/hosting",
        "/v1/hosting/history",
        "/v1/hosting/refunds",
        "/v1/hosting/renewal",
    ] {
        let theirs = host.get(By::Key(&stranger), path).await.ok();
        assert!(!theirs.text.contains("hooks.example") && !theirs.text.contains(&npub), "{path}: {}", theirs.text);
    }
    let deliveries = format!("{hook}/deliveries");
    assert_eq!(host.get(By::Key(&stranger), &deliveries).await.code(), "not_found");
    assert_eq!(host.post(By::Key(&stranger), &format!("{hook}/retry"), &json!({})).await.code(), "not_found");
    assert_eq!(host.send(By::Key(&stranger), "DELETE", &hook, Vec::new(), &[]).await.code(), "not_found");
    host.get(By::Key(&owner), &deliveries).await.ok();
    // The agent's key agreed to its owner, not to a stranger.
    let body = host.agent_body(&stranger, &Key::new(5), "mine");
    let answer = host.create_with(By::Key(&stranger), &owner, &Key::new(5), &body, &[]).await;
    assert_eq!(answer.code(), "proof_invalid");
    // Who has the agent's key, too, still can't take it over.
    let body = host.agent_body(&stranger, &agent, "mine");
    assert_eq!(host.create_with(By::Key(&stranger), &stranger, &agent, &body, &[]).await.code(), "agent_exists");
    // A stranger's account does not grow by it.
    assert_eq!(host.get(By::Key(&stranger), "/v1/account").await.ok().body["agents"], 0);
}

#[tokio::test]
async fn paths_and_methods_answer_with_problems() {
    let host = Host::start().await;
    let owner = Key::new(1);
    assert_eq!(host.get(By::Nobody, "/nowhere").await.code(), "not_found");
    assert_eq!(host.get(By::Nobody, "/v1/nowhere").await.code(), "not_found");
    let answer = host.send(By::Key(&owner), "PUT", "/v1/agents", b"{}".to_vec(), &[]).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (405, "method_not_allowed"));
    assert_eq!(host.get(By::Key(&owner), "/v1/agents?colour=red").await.code(), "bad_request");
    assert_eq!(host.get(By::Key(&owner), "/v1/agents?state=asleep").await.code(), "invalid");
}

#[tokio::test]
async fn the_documents_need_nothing_from_elsewhere() {
    let host = Host::start().await;
    let document = host.get(By::Nobody, "/v1/openapi.json").await.ok().body;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    // Every reference leads somewhere.
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        if let Some(path) = value["$ref"].as_str() {
            assert!(document.pointer(path.trim_start_matches('#')).is_some(), "{path}");
        }
        match value {
            Value::Object(fields) => open.extend(fields.values()),
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    let page = host.get(By::Nobody, "/docs").await.ok();
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(!page.text.contains("<script") && !page.text.contains("http://") && !page.text.contains("https://"));
    for operation in operations(&host).await {
        assert!(page.text.contains(&operation.path), "{}", operation.path);
    }
    let style = host.get(By::Nobody, "/docs/style.css").await.ok();
    assert!(style.headers["content-type"].to_str().unwrap().starts_with("text/css"));
    assert!(!style.text.contains("url(") && !style.text.contains("@import"));
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
}

#[tokio::test]
async fn health_says_why_and_metrics_hold_no_names() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    host.get(By::Nobody, "/healthz").await.ok();
    let ready = host.get(By::Nobody, "/readyz").await.ok().body;
    let workers = ready["checks"].as_array().unwrap().iter().find(|check| check["name"] == "workers").unwrap();
    assert_eq!((&workers["ready"], &workers["reason"]), (&json!(false), &json!("no live worker: agents wait")));
    host.get(By::Nobody, &format!("/v1/agents/{npub}")).await;
    let text = host.get(By::Nobody, "/metrics").await.ok().text;
    assert!(text.contains("route=\"/v1/agents/{npub}\",status=\"401\"} 1"), "{text}");
    assert!(text.contains("nexus_http_refused_total{name=\"unauthorized\"} 1"));
    assert!(!text.contains("npub1") && !text.contains("ada"));
}
