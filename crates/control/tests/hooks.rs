//! Incoming webhooks: what a hook's secret signed is in the inbox, once and closed; nothing else is.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod common;

use std::sync::Arc;

use common::{Answer, By, Host, Key};
use nexus_core::{Clock, Npub};
use nexus_seal::operator::OperatorKey;
use nexus_seal::webhook::{WebhookKey, sign_webhook};
use nexus_store::inbox;
use nexus_testkit::SystemEntropy;
use serde_json::{Value, json};

const TEXT: &str = r#"{"zebra": "the build is green"}"#;

struct Hooked {
    host: Host,
    owner: Key,
    agent: Key,
    npub: String,
}

struct Hook {
    path: String,
    key: WebhookKey,
    made: Value,
}

impl Hooked {
    async fn start() -> Self {
        let key = OperatorKey::generate(&SystemEntropy);
        let host = Host::start_with(|config| config.operator_key = Some(Arc::new(key))).await;
        let (owner, agent) = (Key::new(1), Key::new(2));
        let npub = host.create(&owner, &agent, "ada").await;
        Self { host, owner, agent, npub }
    }

    async fn wants(&self, triggers: &Value) {
        let body = json!({ "config": { "triggers": triggers } }).to_string().into_bytes();
        let path = format!("/v1/agents/{}", self.npub);
        self.host.send(By::Key(&self.owner), "PATCH", &path, body, &[("if-match", "*")]).await.ok();
    }

    async fn make(&self, name: &str) -> Answer {
        let path = format!("/v1/agents/{}/hooks", self.npub);
        self.host.post(By::Key(&self.owner), &path, &json!({ "name": name })).await
    }

    async fn hook(&self, name: &str) -> Hook {
        let made = self.make(name).await.ok().body;
        let key = WebhookKey::parse(made["secret"].as_str().unwrap()).unwrap();
        let url = made["url"].as_str().unwrap();
        Hook { path: url.strip_prefix(&self.host.origin).unwrap().to_owned(), key, made }
    }

    async fn post(&self, path: &str, id: &str, off_secs: i64, key: &WebhookKey, body: &[u8]) -> Answer {
        let at = self.host.clock.now().plus_ms(off_secs * 1_000);
        let signature = sign_webhook(id, at, body, std::slice::from_ref(key)).unwrap();
        let time = at.secs().to_string();
        let headers = [("webhook-id", id), ("webhook-timestamp", &time), ("webhook-signature", &signature)];
        self.host.send(By::Nobody, "POST", path, body.to_vec(), &headers).await
    }

    async fn waiting(&self) -> Vec<inbox::Item> {
        inbox::pending(&self.host.store, self.agent.npub(), 100).await.unwrap()
    }
}

fn contains(hay: &[u8], needle: &str) -> bool {
    hay.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[tokio::test]
async fn what_its_secret_signed_is_taken_once_and_closed() {
    let world = Hooked::start().await;
    let refused = world.make("ci").await;
    assert_eq!((refused.code(), &refused.body["field"]), ("invalid", &json!("triggers")));
    world.wants(&json!(["heartbeat", "webhook"])).await;
    let hook = world.hook("ci").await;
    for (again, new) in [(0, true), (1, false), (250, false)] {
        let answer = world.post(&hook.path, "msg_1", again, &hook.key, TEXT.as_bytes()).await;
        assert_eq!((answer.status.as_u16(), &answer.body["new"]), (202, &json!(new)), "{}", answer.text);
    }
    let answer = world.post(&hook.path, "msg_2", 0, &hook.key, "grüße".as_bytes()).await;
    assert_eq!(answer.body["new"], true);
    let waiting = world.waiting().await;
    assert_eq!(waiting.len(), 2);
    assert!(waiting.iter().all(|item| item.trigger.to_string() == "webhook" && item.sender.is_none()));
    assert!(waiting.iter().all(|item| item.payload.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----")));

    // Listed without its secret; in the database neither that nor the text is in clear.
    let path = format!("/v1/agents/{}/hooks", world.npub);
    let listed = world.host.get(By::Key(&world.owner), &path).await.ok();
    assert_eq!((&listed.body["hooks"][0]["name"], &listed.body["hooks"][0]["id"]), (&json!("ci"), &hook.made["id"]));
    assert!(listed.body["hooks"][0]["last_used_at_ms"].is_i64() && !listed.text.contains("whsec"));
    let files = std::fs::read_dir(world.host.dir.path()).unwrap();
    for file in files.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()) {
        assert!(!contains(&file, "the build is green"));
        assert!(!contains(&file, hook.made["secret"].as_str().unwrap().trim_start_matches("whsec_")));
    }
}

#[tokio::test]
async fn nothing_else_is_believed() {
    let world = Hooked::start().await;
    world.wants(&json!(["webhook"])).await;
    let (hook, other) = (world.hook("one").await, world.hook("two").await);
    let body = TEXT.as_bytes();
    let nobody = world.host.send(By::Nobody, "POST", &hook.path, body.to_vec(), &[]).await;
    assert_eq!(nobody.code(), "webhook_refused");
    let stranger = WebhookKey::generate(&SystemEntropy);
    for (key, off) in [(&stranger, 0), (&other.key, 0), (&hook.key, -301), (&hook.key, 301)] {
        let answer = world.post(&hook.path, "m", off, key, body).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (401, "webhook_refused"), "{off}");
    }
    // Signed for another body, another id.
    let at = world.host.clock.now();
    let (time, signature) =
        (at.secs().to_string(), sign_webhook("m", at, body, std::slice::from_ref(&hook.key)).unwrap());
    for (id, body) in [("m", &b"other"[..]), ("n", body)] {
        let headers = [("webhook-id", id), ("webhook-timestamp", time.as_str()), ("webhook-signature", &signature)];
        assert_eq!(
            world.host.send(By::Nobody, "POST", &hook.path, body.to_vec(), &headers).await.code(),
            "webhook_refused"
        );
    }
    // No hook, no agent, a hook of another agent.
    let (eve, eves) = (Key::new(7), Key::new(8));
    let npub = world.host.create(&eve, &eves, "eve").await;
    let id = hook.made["id"].as_str().unwrap();
    for path in [
        format!("/v1/agents/{}/hooks/{}", world.npub, "0".repeat(32)),
        format!("/v1/agents/{npub}/hooks/{id}"),
        format!("/v1/agents/{}/hooks/{id}", Key::new(99).npub()),
        format!("/v1/agents/nonsense/hooks/{id}"),
    ] {
        assert_eq!(world.post(&path, "m", 0, &hook.key, body).await.code(), "not_found", "{path}");
    }
    // Not a text; too large; and nobody else's to remove.
    assert_eq!(world.post(&hook.path, "m", 0, &hook.key, &[0xff, 0xfe]).await.code(), "invalid");
    assert_eq!(world.post(&hook.path, "m", 0, &hook.key, &vec![b'x'; 32 * 1024 + 1]).await.code(), "body_too_large");
    let removed = |by| world.host.send(By::Key(by), "DELETE", &hook.path, Vec::new(), &[]);
    assert_eq!(removed(&eve).await.code(), "not_found");
    assert!(world.waiting().await.is_empty());

    // Removed, or not wanted any more.
    assert_eq!(removed(&world.owner).await.status.as_u16(), 204);
    assert_eq!(world.post(&hook.path, "m", 0, &hook.key, body).await.code(), "not_found");
    world.wants(&json!(["heartbeat"])).await;
    assert_eq!(world.post(&other.path, "m", 0, &other.key, body).await.code(), "not_found");
    world.wants(&json!(["webhook"])).await;
    world.post(&other.path, "m", 0, &other.key, body).await.ok();
    assert_eq!(world.waiting().await.len(), 1);
}

#[tokio::test]
async fn hooks_are_bounded_and_named() {
    let world = Hooked::start().await;
    world.wants(&json!(["webhook"])).await;
    for bad in [String::new(), "x".repeat(65), "a\nb".to_owned()] {
        assert_eq!(world.make(&bad).await.code(), "invalid", "{bad:?}");
    }
    for n in 0..32 {
        world.make(&format!("hook {n}")).await.ok();
    }
    assert_eq!(world.make("one more").await.code(), "quota_exceeded");
    let without = Host::start().await;
    let (owner, agent) = (Key::new(1), Key::new(2));
    let npub: Npub = without.create(&owner, &agent, "ada").await.parse().unwrap();
    let body = json!({ "config": { "triggers": ["webhook"] } }).to_string().into_bytes();
    without.send(By::Key(&owner), "PATCH", &format!("/v1/agents/{npub}"), body, &[("if-match", "*")]).await.ok();
    let made = without.post(By::Key(&owner), &format!("/v1/agents/{npub}/hooks"), &json!({ "name": "x" })).await;
    assert_eq!(made.code(), "unavailable");
}
