//! The agent's word where it lives, and those who would like to say it for the agent.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod common;

use common::{By, Host, INBOX_RECIPIENT, Key, recipient_envelope};
use nexus_core::Npub;
use nexus_core::UnixMs;
use nexus_seal::Backup;
use nexus_seal::claim::unsigned_claim;
use nexus_seal::event::timestamp;
use nostr::event::Event;
use serde_json::{Value, json};

const ELSEWHERE: &str = "https://other.example";

struct Lived {
    host: Host,
    owner: Key,
    agent: Key,
    npub: String,
    runner: Key,
}

impl Lived {
    /// An agent that lives here by its claim of epoch 1.
    async fn start() -> Self {
        let (host, owner, agent, runner) = (Host::start().await, Key::new(1), Key::new(2), Key::new(7));
        let name = nexus_control::RUNNER_PUBKEY;
        nexus_store::installation::put(&host.store, name, runner.npub().to_string()).await.unwrap();
        let lived = Self { npub: agent.npub().to_string(), host, owner, agent, runner };
        let mut body = lived.host.agent_body(&lived.owner, &lived.agent, "ada");
        body["claim"] = json!(lived.claim(&lived.runner.npub(), &lived.host.origin, 1, 0));
        lived.host.create_with(By::Key(&lived.owner), &lived.owner, &lived.agent, &body, &[]).await.ok();
        lived
    }

    fn now(&self) -> UnixMs {
        nexus_core::Clock::now(&*self.host.clock)
    }

    fn claim(&self, runner: &Npub, url: &str, epoch: u64, ahead_secs: i64) -> Event {
        let at = timestamp(self.now().plus_ms(ahead_secs * 1_000));
        let inbox = INBOX_RECIPIENT.parse().unwrap();
        self.agent.sign(unsigned_claim(&self.agent.npub(), runner, url, epoch, Some(&inbox), at))
    }

    fn away(&self, epoch: u64, ahead_secs: i64) -> Event {
        self.claim(&Key::new(8).npub(), ELSEWHERE, epoch, ahead_secs)
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/agents/{}{rest}", self.npub)
    }

    async fn deliver(&self, claim: &Event) -> common::Answer {
        self.host.post(By::Nobody, &self.path("/claim"), &json!(claim)).await
    }

    async fn backup(&self) -> Value {
        self.host.get(By::Key(&self.owner), &self.path("/export")).await.ok().body
    }

    async fn import(&self, backup: &Value, claim: &Event) -> common::Answer {
        let body = json!({ "backup": backup, "sealed_key": recipient_envelope(), "claim": claim, "wraps": [] });
        let bytes = body.to_string().into_bytes();
        let url = self.host.url("/v1/agents/import");
        let proof = self.agent.proof(&self.owner.npub(), "POST", &url, &bytes, self.now());
        self.host.send(By::Key(&self.owner), "POST", "/v1/agents/import", bytes, &[("nexus-proof", &proof)]).await
    }
}

#[tokio::test]
async fn only_the_agents_own_later_claim_takes_it_away() {
    let lived = Lived::start().await;
    let here = |epoch| lived.claim(&lived.runner.npub(), &lived.host.origin, epoch, 0);
    // Stale, dated ahead, of another key, changed, of another agent, no claim at all.
    assert_eq!(lived.deliver(&lived.away(1, -60)).await.code(), "claim_stale");
    assert_eq!(lived.deliver(&lived.away(2, 16 * 60)).await.code(), "claim_invalid");
    let forged = Key::new(5).sign(unsigned_claim(
        &Key::new(5).npub(),
        &Key::new(8).npub(),
        ELSEWHERE,
        9,
        None,
        timestamp(lived.now()),
    ));
    assert_eq!(lived.deliver(&forged).await.code(), "claim_invalid");
    let mut changed = json!(lived.away(2, 0));
    changed["tags"][3][1] = json!("7");
    assert_eq!(lived.host.post(By::Nobody, &lived.path("/claim"), &changed).await.code(), "claim_invalid");
    assert_eq!(lived.host.post(By::Nobody, &lived.path("/claim"), &json!({})).await.code(), "claim_invalid");
    let strangers = format!("/v1/agents/{}/claim", Key::new(9).npub());
    assert_eq!(lived.host.get(By::Nobody, &strangers).await.code(), "not_found");
    assert_eq!(lived.host.post(By::Nobody, &strangers, &json!(lived.away(2, 0))).await.code(), "claim_invalid");
    assert_eq!(lived.deliver(&here(2)).await.ok().body["outcome"], "here");
    assert_eq!(lived.deliver(&lived.away(1, 0)).await.code(), "claim_stale");
    let status = lived.host.get(By::Key(&lived.owner), &lived.path("")).await.ok().body;
    assert_eq!((&status["generation"], &status["desired"]), (&json!(0), &json!("stopped")));

    // The agent's own: gone at once, with every key, and said to whoever asks.
    let away = lived.away(3, 0);
    for _ in 0..2 {
        assert_eq!(lived.deliver(&away).await.ok().body, json!({ "outcome": "fenced", "url": ELSEWHERE, "epoch": 3 }));
    }
    let npub = lived.agent.npub();
    let sealed = nexus_store::agent::sealed(&lived.host.store, npub).await.unwrap().unwrap();
    assert!(
        sealed.sealed_key.is_none() && nexus_store::agent::wraps(&lived.host.store, npub).await.unwrap().is_empty()
    );
    let answer = lived.host.get(By::Key(&lived.owner), &lived.path("")).await;
    assert_eq!((answer.status.as_u16(), answer.code(), &answer.body["url"]), (410, "moved", &json!(ELSEWHERE)));
    assert_eq!(lived.host.get(By::Key(&Key::new(3)), &lived.path("")).await.code(), "not_found");
    assert_eq!(lived.host.get(By::Nobody, &lived.path("/claim")).await.ok().body, json!(away));
    assert_eq!(lived.deliver(&here(2)).await.code(), "claim_stale");
    // Its own claim alone does not bring it back: what it needs is in its backup.
    assert_eq!(lived.deliver(&here(4)).await.ok().body["outcome"], "here");
    assert_eq!(lived.host.get(By::Key(&lived.owner), &lived.path("")).await.code(), "moved");
    // What is left may be cleared.
    assert_eq!(lived.host.send(By::Key(&lived.owner), "DELETE", &lived.path(""), Vec::new(), &[]).await.status, 204);
    assert_eq!(lived.host.get(By::Key(&lived.owner), &lived.path("")).await.code(), "not_found");
}

#[tokio::test]
async fn an_agent_comes_back_with_its_backup_and_a_claim_that_wins() {
    let lived = Lived::start().await;
    let here = |epoch| lived.claim(&lived.runner.npub(), &lived.host.origin, epoch, 0);
    let backup = lived.backup().await;
    assert_eq!(lived.import(&backup, &here(2)).await.code(), "agent_exists", "it lives here");
    lived.deliver(&lived.away(3, 0)).await.ok();
    assert_eq!(lived.import(&backup, &here(1)).await.code(), "claim_stale");
    assert_eq!(lived.import(&backup, &here(2)).await.code(), "claim_stale");
    assert_eq!(lived.import(&backup, &lived.away(4, 0)).await.code(), "claim_invalid", "it names another host");
    lived.import(&backup, &here(4)).await.ok();
    let status = lived.host.get(By::Key(&lived.owner), &lived.path("")).await.ok().body;
    assert_eq!((&status["generation"], &status["name"]), (&json!(2), &json!("ada")));
    assert_eq!(nexus_store::agent::wraps(&lived.host.store, lived.agent.npub()).await.unwrap().len(), 4);
}

#[tokio::test]
async fn whoever_changes_a_backup_is_refused_by_name() {
    let lived = Lived::start().await;
    let backup = lived.backup().await;
    lived.deliver(&lived.away(2, 0)).await.ok();
    let here = lived.claim(&lived.runner.npub(), &lived.host.origin, 3, 0);
    let mut damaged = backup.clone();
    damaged["name"] = json!("eve");
    assert_eq!(lived.import(&damaged, &here).await.code(), "backup_invalid");

    // With a digest that fits: another agent's policy, a policy of somebody else, another inbox.
    let parsed = Backup::from_document(&backup).unwrap();
    let forge = |change: &dyn Fn(&mut Backup)| {
        let mut forged = parsed.clone();
        change(&mut forged);
        serde_json::from_slice::<Value>(&forged.to_bytes().unwrap()).unwrap()
    };
    let forged = forge(&|backup| backup.policy = Some(Key::new(3).policy(lived.agent.npub(), 9, lived.now())));
    assert_eq!(lived.import(&forged, &here).await.code(), "policy_invalid");
    let forged = forge(&|backup| backup.policy = Some(lived.owner.policy(Key::new(4).npub(), 9, lived.now())));
    assert_eq!(lived.import(&forged, &here).await.code(), "policy_invalid");
    let forged = forge(&|backup| backup.inbox_recipient = None);
    assert_eq!(lived.import(&forged, &here).await.code(), "backup_invalid");

    // A stranger with the file, a request without the agent's word, and one whose word was used before.
    let body = json!({ "backup": backup, "sealed_key": recipient_envelope(), "claim": here, "wraps": [] });
    let by_stranger = lived.host.post(By::Key(&Key::new(3)), "/v1/agents/import", &body).await;
    assert_eq!(by_stranger.code(), "policy_invalid");
    assert_eq!(lived.host.post(By::Key(&lived.owner), "/v1/agents/import", &body).await.code(), "proof_invalid");
    let bytes = body.to_string().into_bytes();
    let proof =
        lived.agent.proof(&lived.owner.npub(), "POST", &lived.host.url("/v1/agents/import"), &bytes, lived.now());
    let headers = [("nexus-proof", proof.as_str())];
    let send = || lived.host.send(By::Key(&lived.owner), "POST", "/v1/agents/import", bytes.clone(), &headers);
    send().await.ok();
    assert_eq!(lived.host.send(By::Key(&lived.owner), "DELETE", &lived.path(""), Vec::new(), &[]).await.status, 204);
    assert_eq!(send().await.code(), "proof_replayed");
    assert_eq!(lived.host.get(By::Key(&lived.owner), &lived.path("")).await.code(), "not_found");
}
