//! NIP-SA: what we write reads back, what others write is understood, and what is unclear is refused.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

mod common;

use std::collections::BTreeSet;

use common::*;
use nexus_core::approval::{Answer, ApprovalId};
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat, Npub, TickId, UnixMs};
use nexus_nostr::approval::{self, ApprovalRequest};
use nexus_nostr::budget::{self, Budget, Rail};
use nexus_nostr::delegation::{self, Delegation, NotCovered, Use};
use nexus_nostr::event::{self, hash};
use nexus_nostr::goals::{self, PublicGoal};
use nexus_nostr::profile::{self, Profile, SecurityPosture, Threshold};
use nexus_nostr::session::{self, Session};
use nexus_nostr::tick::{self, ApprovedBy, Outcome, Summary, TickRequest, TickResult};
use nexus_nostr::trajectory::{self, Audit, Broken, Place, StepType};
use nexus_nostr::{schedule, series, state};
use nexus_seal::{Pending, Signer, unsigned_decision, verify_decision};
use nostr::event::Event;

fn tick_id() -> TickId {
    TickId::new(UnixMs(1), [1; 10])
}

fn id(n: u8) -> Hash32 {
    Hash32::from_bytes([n; 32])
}

fn a_request(agent: Npub) -> TickRequest {
    TickRequest {
        agent,
        tick_id: tick_id(),
        trigger: Trigger::Kind(30_023),
        cause: Some((id(7), "wss://relay".into())),
        budgets: vec![
            Budget::lightning(Msat::sats(1_000)),
            Budget { amount: Msat::sats(5), rail: Rail::Cashu("https://mint".into()) },
            Budget { amount: Msat::sats(6), rail: Rail::Fedimint("fed1@example.com".into()) },
            Budget { amount: Msat::sats(7), rail: Rail::Envelope("envelope-1".into()) },
        ],
        max_steps: Some(12),
        approval: Some((Msat::sats(500), npub(&keys(9)))),
        credit: Some("envelope-1".into()),
    }
}

#[test]
fn a_tick_in_public_reads_back() {
    let (runner, agent) = (keys(8), npub(&keys(2)));
    let asked = a_request(agent);
    let request = signed(&runner, tick::tick_request(head(&runner), &asked));
    let seen = tick::read_tick_request(&request).unwrap();
    assert_eq!((seen.agent, seen.runner, seen.trigger), (agent, npub(&runner), Some(Trigger::Kind(30_023))));
    assert_eq!((seen.budgets, seen.max_steps, seen.cause), (asked.budgets, Some(12), Some(id(7))));
    assert_eq!((seen.threshold, seen.guardian), (Some(Msat::sats(500)), Some(npub(&keys(9)))));
    assert_eq!((seen.identifier, seen.credit.as_deref()), (tick_id().to_string(), Some("envelope-1")));

    let done = TickResult {
        agent,
        tick_id: tick_id(),
        request: Some(hash(&request.id)),
        outcome: Outcome::Success,
        actions: 2,
        cost: Msat::new(1_500),
        duration_ms: 42,
        approved: Some(ApprovedBy::Guardian(id(3))),
        receipts: vec![(id(4), "wss://relay".into())],
        results: vec![(id(5), String::new()), (id(6), String::new())],
        summary: "AgAAsealed".into(),
    };
    let result = signed(&runner, tick::tick_result(head(&runner), &done));
    let seen = tick::read_tick_result(&result).unwrap();
    assert_eq!((seen.agent, seen.runner, seen.request), (agent, npub(&runner), Some(hash(&request.id))));
    assert_eq!((seen.outcome, seen.actions, seen.cost), (Outcome::Success, 2, Some(Msat::sats(2))));
    assert_eq!((seen.approved, seen.duration_ms), (done.approved, Some(42)));
    assert_eq!((seen.receipts, seen.results), (vec![id(4)], vec![id(5), id(6)]));
    let Summary::Sealed(sealed) = seen.summary else { panic!("a summary is sealed") };
    assert_eq!((sealed.peer, sealed.ciphertext.as_str()), (npub(&runner), "AgAAsealed"));
    let auto = TickResult { approved: Some(ApprovedBy::Auto), summary: String::new(), ..done };
    let seen = tick::read_tick_result(&signed(&runner, tick::tick_result(head(&runner), &auto))).unwrap();
    assert_eq!((seen.approved, seen.summary), (Some(ApprovedBy::Auto), Summary::None));
    for event in [request, result] {
        assert_eq!(event::first(&event, "d"), Some(tick_id().to_string().as_str()), "an address of its own");
        assert!(event::expiration(&event).is_some_and(|at| at > now()));
    }
}

#[test]
fn the_tags_are_the_drafts() {
    let agent = keys(2);
    let asked = TickRequest { budgets: vec![Budget::lightning(Msat::sats(9))], ..a_request(npub(&agent)) };
    let request = signed(&keys(8), tick::tick_request(head(&keys(8)), &asked));
    assert_eq!(request.kind.as_u16(), 39_210);
    let rows: Vec<Vec<String>> = request.tags.iter().map(|tag| tag.as_slice().to_vec()).collect();
    let (tick, hex) = (tick_id().to_string(), npub(&agent).to_hex());
    let (guardian, until) = (npub(&keys(9)).to_hex(), (now() + 86_400).to_string());
    let expected: Vec<Vec<&str>> = vec![
        vec!["d", &tick],
        vec!["p", &hex],
        vec!["trigger", "kind", "30023"],
        vec!["e", "0707070707070707070707070707070707070707070707070707070707070707", "wss://relay"],
        vec!["max_steps", "12"],
        vec!["budget", "9", "lightning"],
        vec!["approval_threshold", "500"],
        vec!["guardian", &guardian],
        vec!["credit", "envelope-1"],
        vec!["expiration", &until],
    ];
    assert_eq!(rows, expected);
}

#[test]
fn a_limit_is_never_guessed() {
    let read = |rows: &[&[&str]]| {
        let tags = rows.iter().map(|row| nostr::event::Tag::parse(row.iter().copied()).unwrap()).collect();
        budget::read(&build(&keys(1), 39_210, tags, ""), "budget")
    };
    assert_eq!(read(&[&["budget", "21"]]).unwrap(), [Budget::lightning(Msat::sats(21))]);
    assert_eq!(read(&[]).unwrap(), []);
    let bad: [&[&str]; 10] = [
        &["budget"],
        &["budget", ""],
        &["budget", "-1"],
        &["budget", "+1"],
        &["budget", "1.5"],
        &["budget", "9999999999999999999"],
        &["budget", "1", "onchain"],
        &["budget", "1", "cashu"],
        &["budget", "1", "envelope", ""],
        &["budget", " 1"],
    ];
    for row in bad {
        assert!(read(&[&["budget", "1"], row]).is_err(), "{row:?}");
    }
    let many: Vec<&[&str]> = vec![&["budget", "1"]; 17];
    assert!(read(&many).is_err());
}

#[test]
fn openagents_ticks_are_read() {
    let (agent, runner) = (keys(2), npub(&keys(8)));
    for (request_kind, result_kind) in [(38_010, 38_011), (39_210, 39_211)] {
        let request =
            build(&agent, request_kind, tags([&["runner", &runner.to_hex()], &["trigger", "custom:1111"]]), "");
        let seen = tick::read_tick_request(&request).unwrap();
        assert_eq!((seen.agent, seen.runner, seen.trigger), (npub(&agent), runner, Some(Trigger::Kind(1_111))));
        for (status, outcome) in
            [("success", Outcome::Success), ("failure", Outcome::Error), ("timeout", Outcome::Error)]
        {
            let rows = tags([
                &["request", &request.id.to_hex()],
                &["runner", &runner.to_hex()],
                &["status", status],
                &["duration_ms", "1500"],
                &["actions", "3"],
                &["trajectory_hash", &id(9).to_string()],
            ]);
            let content = r#"{"tokens_in":10,"tokens_out":20,"cost_usd":0.0012,"goals_updated":1,"actions":[]}"#;
            let seen = tick::read_tick_result(&build(&agent, result_kind, rows, content)).unwrap();
            assert_eq!((seen.agent, seen.runner), (npub(&agent), runner));
            assert_eq!((seen.request, seen.outcome), (Some(hash(&request.id)), outcome));
            assert_eq!((seen.duration_ms, seen.actions, seen.trajectory_hash), (Some(1_500), 3, Some(id(9))));
            let Summary::Clear(counters) = seen.summary else { panic!("plain JSON") };
            assert_eq!(counters["tokens_out"], 20);
        }
    }
    let nobody = build(&agent, 39_210, tags([&["trigger", "dm"]]), "");
    assert!(tick::read_tick_request(&nobody).is_err());
    let odd = build(&agent, 39_211, tags([&["runner", &runner.to_hex()], &["status", "great"]]), "");
    assert!(tick::read_tick_result(&odd).is_err());
}

#[test]
fn a_profile_of_several_keys_reads_back_in_both_series() {
    let agent = keys(2);
    let me = Profile {
        name: "treasury".into(),
        threshold: Some(Threshold { needed: 2, of: 3, signers: [3, 4, 5].map(|n| npub(&keys(n))).to_vec() }),
        federations: vec!["fed1@example.com".into()],
        cashu_mints: vec![("https://mint".into(), Some("00ff".into())), ("https://other".into(), None)],
        guardian: true,
        security_posture: Some(SecurityPosture { tool_use_requires_guardian: true, ..SecurityPosture::default() }),
        ..Profile::default()
    };
    let event = signed(&agent, profile::agent_profile(head(&agent), &me));
    assert_eq!(profile::read_agent_profile(&event).unwrap(), me);
    let old = build(&agent, 38_000, event.tags.iter().cloned().collect(), &event.content);
    assert_eq!(profile::read_agent_profile(&old).unwrap(), me);
    // A mint's recommendation (NIP-87) has the same number and another `d`.
    for d in ["https://mint", ""] {
        let mint = build(&agent, 38_000, tags([&["d", d], &["k", "38172"]]), "{}");
        assert!(profile::read_agent_profile(&mint).is_err());
    }
    assert!(profile::read_agent_profile(&build(&agent, 38_000, vec![], "{}")).is_err());
    // One of one is what every agent with a key of its own is.
    let alone = Profile { name: "ada".into(), ..Profile::default() };
    let event = signed(&agent, profile::agent_profile(head(&agent), &alone));
    assert_eq!(profile::read_agent_profile(&event).unwrap(), alone);
    assert_eq!(event::values(&event, "signer").collect::<Vec<_>>(), [npub(&agent).to_hex()]);
}

#[test]
fn series_are_told_apart() {
    assert_eq!([38_000, 38_011, 38_031].map(series::canonical), [39_200, 39_211, 39_231]);
    assert_eq!([38_004, 38_012, 38_060, 1].map(series::canonical), [38_004, 38_012, 38_060, 1]);
    assert_eq!(
        (series::old(39_201), series::old(39_212), series::old(39_260), series::old(1)),
        (Some(38_001), None, None, None)
    );
}

#[test]
fn triggers_and_goals_read_back_and_dialects_too() {
    let agent = keys(2);
    let mine: BTreeSet<Trigger> =
        [Trigger::Heartbeat, Trigger::Mention, Trigger::Zap, Trigger::Webhook, Trigger::Kind(5)].into();
    let event = signed(&agent, schedule::triggers(head(&agent), &mine));
    let seen = schedule::read_triggers(&event).unwrap();
    assert_eq!(seen.triggers, [Trigger::Mention, Trigger::Zap, Trigger::Kind(5)].into(), "webhooks stay private");
    let openagents = tags([
        &["d", "schedule"],
        &["heartbeat", "900"],
        &["trigger", "dm"],
        &["trigger", "custom:30023"],
        &["trigger", "moon", "full"],
        &["business_hours", "mon,tue 09:00-17:00"],
    ]);
    let event = build(&agent, 38_002, openagents, "");
    let seen = schedule::read_triggers(&event).unwrap();
    assert_eq!(seen.triggers, [Trigger::Dm, Trigger::Kind(30_023)].into());
    assert_eq!((seen.unknown, seen.business_hours.as_deref()), (vec!["moon full".into()], Some("mon,tue 09:00-17:00")));
    assert_eq!(schedule::read_schedule(&event).unwrap().heartbeat_secs, 900);
    assert!(schedule::read_triggers(&build(&agent, 39_202, tags([&["d", "host"]]), "")).is_err(), "a host claim");

    let wanted =
        vec![PublicGoal { text: "write".into(), done: false }, PublicGoal { text: "publish".into(), done: true }];
    let event = signed(&agent, goals::goals(head(&agent), &wanted));
    assert_eq!(goals::read_goals(&event).unwrap(), wanted);
    for other in [
        r#"["write",{"title":"publish","status":"completed"},7,{"x":1}]"#,
        r#"{"goals":[{"goal":"write"},{"description":"publish","done":true}]}"#,
    ] {
        assert_eq!(goals::read_goals(&build(&agent, 38_003, tags([&["d", "goals"]]), other)).unwrap(), wanted);
    }
    for bad in ["", "{}", "7", r#"{"goals":{}}"#] {
        assert!(goals::read_goals(&build(&agent, 39_203, tags([&["d", "goals"]]), bad)).is_err(), "{bad}");
    }
    let many = serde_json::json!(vec!["x".repeat(5_000); 10]).to_string();
    let read = goals::read_goals(&build(&agent, 39_203, vec![], &many)).unwrap();
    assert!(read.iter().all(|goal| goal.text.len() == 4_096));
}

#[tokio::test]
async fn a_published_state_is_an_anchor_and_opens_for_its_agent() {
    let agent = KeySigner(keys(2));
    let me = agent.public_key();
    let at = state::Anchor { version: 4, digest: id(1) };
    let ciphertext = agent.nip44_encrypt(&me, r#"{"goals":[]}"#).await.unwrap();
    let event = signed(&agent.0, state::sealed_state(head(&agent.0), at, &ciphertext));
    assert_eq!(state::read_anchor(&event).unwrap(), at);
    assert_eq!(state::read_sealed_state(&event).unwrap().open(&agent).await.unwrap(), r#"{"goals":[]}"#);
    // Of the older series, without a hash: state, but no anchor.
    let old = build(&agent.0, 38_001, tags([&["d", "state"], &["encrypted"], &["state_version", "1"]]), &ciphertext);
    assert!(state::read_anchor(&old).is_err());
    assert_eq!(state::read_sealed_state(&old).unwrap().open(&agent).await.unwrap(), r#"{"goals":[]}"#);
    let other = build(&agent.0, 39_201, tags([&["d", "other"], &["version", "9"], &["x", &id(1).to_string()]]), "");
    assert!(state::read_anchor(&other).is_err(), "an anchor at another address");
}

fn steps(agent: &nostr::key::Keys, contents: &[(&str, u32)]) -> Vec<trajectory::SeenStep> {
    let step = |(text, seq): &(&str, u32)| {
        let mut body = serde_json::Map::new();
        body.insert("text".into(), (*text).into());
        let place = Place { session: "s1", root: (id(1), "wss://relay"), previous: Some((id(2), "")), seq: *seq };
        let audit = Audit { input_hash: Some(id(3)), action_type: Some("post".into()), ..Audit::default() };
        let event = signed(agent, trajectory::step(head(agent), &place, StepType::Observation, &body, &audit));
        assert_eq!(event::first(&event, "d"), Some(format!("s1:{seq:06}").as_str()));
        let seen = trajectory::read_step(&event).unwrap();
        assert_eq!((seen.step, seen.seq, &seen.audit), (Some(StepType::Observation), u64::from(*seq), &audit));
        assert_eq!((seen.root, seen.previous, seen.session.as_deref()), (Some(id(1)), Some(id(2)), Some("s1")));
        seen
    };
    contents.iter().map(step).collect()
}

#[test]
fn a_session_and_its_steps_read_back() {
    let agent = keys(2);
    let mine = Session {
        id: "s1".into(),
        model: "demo".into(),
        started_at: 1_790_000_000,
        group: Some("g".into()),
        with: vec![npub(&keys(3))],
        repo: Some("https://example.com/r".into()),
        sha: Some("abc".into()),
        trajectory_hash: Some(Hash32::from_bytes([7; 32])),
    };
    let event = signed(&agent, session::session(head(&agent), &mine));
    let seen = session::read_session(&event).unwrap();
    assert_eq!((seen.session, seen.author, seen.event_id), (mine, npub(&agent), hash(&event.id)));
    let openagents = tags([&["d", "session-9-1790000000"], &["tick", "9"], &["visibility", "public"]]);
    let event = build(&agent, 38_030, openagents, r#"{"model":"m","started_at":1790000001}"#);
    let seen = session::read_session(&event).unwrap();
    assert_eq!((seen.session.model.as_str(), seen.session.started_at), ("m", 1_790_000_001));
    assert_eq!(seen.tick.as_deref(), Some("9"));
    assert!(session::read_session(&build(&agent, 39_230, vec![], "")).is_err());
    // A body cannot say that a step is of another type.
    let place = Place { session: "s1", root: (id(1), ""), previous: None, seq: 1 };
    let mut body = serde_json::Map::new();
    body.insert("type".into(), "user".into());
    let event = signed(&agent, trajectory::step(head(&agent), &place, StepType::Thinking, &body, &Audit::default()));
    assert_eq!(event.content, r#"{"type":"thinking"}"#);
    for step in StepType::ALL {
        let event = signed(&agent, trajectory::step(head(&agent), &place, step, &body, &Audit::default()));
        assert_eq!(trajectory::read_step(&event).unwrap().step, Some(step));
    }
}

#[test]
fn a_trajectory_has_one_hash_however_it_arrives() {
    let agent = keys(2);
    let author = npub(&agent);
    // As `printf 'a\nb\nc' | sha256sum` says it.
    let joined: Hash32 = "ea7fb08b7a2dc4619ffb7c7bb38d95a2047935fa165d71b12efd3852a2e6d0cc".parse().unwrap();
    assert_eq!(trajectory::hash_contents(["a", "b", "c"]), joined);
    let whole = steps(&agent, &[("one", 1), ("two", 2), ("three", 3)]);
    let expected = trajectory::hash_steps(&author, &whole).unwrap();
    let mut shuffled = vec![whole[2].clone(), whole[0].clone(), whole[1].clone(), whole[0].clone()];
    assert_eq!(trajectory::hash_steps(&author, &shuffled).unwrap(), expected);
    assert_eq!(trajectory::hash_steps(&author, &[whole[0].clone(), whole[2].clone()]), Err(Broken::Missing(2)));
    shuffled[3].content.push('!');
    assert_eq!(trajectory::hash_steps(&author, &shuffled), Err(Broken::Twice(1)));
    assert_eq!(trajectory::hash_steps(&npub(&keys(3)), &whole), Err(Broken::Author(1)));
    let mut changed = whole;
    changed[1].content.push(' ');
    assert_ne!(trajectory::hash_steps(&author, &changed).unwrap(), expected);
    // OpenAgents' steps: plain contents, a type in `step`.
    let step = |seq: &str, kind: &str, content: &str| {
        let rows = tags([&["session", "session-9"], &["tick", "9"], &["seq", seq], &["step", kind]]);
        trajectory::read_step(&build(&agent, 38_031, rows, content)).unwrap()
    };
    let read = [step("1", "ToolUse", "a"), step("2", "ToolResult", "b"), step("3", "Message", "c")];
    assert_eq!(read[0].step, Some(StepType::ToolStart));
    assert_eq!(read[0].session.as_deref(), Some("session-9"));
    assert_eq!(trajectory::hash_steps(&author, &read).unwrap(), joined);
    assert!(trajectory::read_step(&build(&agent, 39_231, vec![], "{}")).is_err());
    let top = trajectory::SeenStep { seq: u64::MAX, ..read[0].clone() };
    assert_eq!(trajectory::hash_steps(&author, &[read[1].clone(), top]), Err(Broken::Missing(3)));
}

#[test]
fn an_approval_is_asked_and_answered_over_relays() {
    let (owner, runner, agent) = (keys(1), keys(8), npub(&keys(2)));
    let approval_id = ApprovalId { tick_id: tick_id(), index: 0 };
    let asked = ApprovalRequest {
        agent,
        guardian: npub(&owner),
        id: approval_id,
        digest: id(4),
        tick_request: Some((id(5), "wss://relay".into())),
        requested: Some(Budget::lightning(Msat::sats(900))),
        threshold: Some(Msat::sats(500)),
        scope: Some(("action".into(), "zap".into())),
        credit: None,
        reason: "more than the approval threshold".into(),
        expires_at: now() + 604_800,
    };
    let request = signed(&runner, approval::request(head(&runner), &asked));
    let seen = approval::read_request(&request).unwrap();
    assert_eq!((seen.runner, seen.guardian, seen.id), (npub(&runner), npub(&owner), Some(approval_id)));
    assert_eq!((seen.digest, seen.agent, seen.expires_at), (Some(id(4)), Some(agent), Some(asked.expires_at)));
    assert_eq!((seen.requested, seen.threshold), (asked.requested, asked.threshold));
    assert_eq!((seen.tick_request, event::expiration(&request)), (Some(id(5)), Some(asked.expires_at)));

    let pending = Pending { agent, id: approval_id, digest: id(4), request: Some(seen.event_id) };
    let stamp = nexus_seal::event::timestamp(UnixMs::from_secs(now()));
    let answer = unsigned_decision(&npub(&owner), &pending, Answer::Denied, "", Some(&npub(&runner)), stamp).unwrap();
    let answer = signed(&owner, answer);
    let seen = approval::read_answer(&answer).unwrap();
    assert_eq!((seen.guardian, seen.id, seen.request), (npub(&owner), Some(approval_id), Some(hash(&request.id))));
    assert_eq!(seen.to, [npub(&runner), agent]);
    let decision = verify_decision(&answer, &npub(&owner), &pending, UnixMs::from_secs(now())).unwrap();
    assert_eq!((decision.answer, decision.digest), (Answer::Denied, id(4)));
    // A request whose amount cannot be read asks for nothing.
    let odd = build(&runner, 39_212, tags([&["p", &npub(&owner).to_hex()], &["budget_requested", "lots"]]), "");
    assert!(approval::read_request(&odd).is_err());
    assert!(approval::read_request(&build(&runner, 39_212, vec![], "")).is_err());
}

fn a_delegation() -> Delegation {
    Delegation {
        id: "6f7a0a52-0000-7000-8000-000000000001".into(),
        parent: npub(&keys(2)),
        sub_agent: npub(&keys(3)),
        manifest: Some("33400:key:translate".into()),
        scope: "translate:1.2".into(),
        credit: None,
        max_amount: Some(Msat::sats(100)),
        capabilities: vec!["net".into()],
        parent_session: Some("s1".into()),
        approval: Some(id(6)),
        expires_at: 1_790_000_000,
        text: "translate this".into(),
    }
}

#[test]
fn a_delegation_reads_back_or_is_none() {
    let parent = keys(2);
    let given = a_delegation();
    let event = signed(&parent, delegation::delegation(now(), &given));
    assert_eq!(delegation::read_delegation(&event).unwrap(), given);
    let without = |name: &str| {
        let rows = event.tags.iter().filter(|tag| tag.as_slice()[0] != name).cloned().collect();
        delegation::read_delegation(&build(&parent, 39_260, rows, ""))
    };
    for name in ["exp", "scope", "p"] {
        assert!(without(name).is_err(), "{name}");
    }
    assert_eq!(without("max_amount").unwrap().max_amount, None);
    // A second value beside the first: which one would count?
    for row in [["exp", "9999999999"], ["max_amount", "1000000"], ["p", &npub(&keys(7)).to_hex()]] {
        let mut rows: Vec<_> = event.tags.iter().cloned().collect();
        rows.push(event::tag(row));
        assert!(delegation::read_delegation(&build(&parent, 39_260, rows, "")).is_err(), "{row:?}");
    }
    let mut rows: Vec<_> = event.tags.iter().filter(|tag| tag.as_slice()[0] != "max_amount").cloned().collect();
    rows.push(event::tag(["max_amount", "unlimited"]));
    assert!(delegation::read_delegation(&build(&parent, 39_260, rows, "")).is_err());
}

#[test]
fn a_delegation_covers_what_it_says_and_nothing_else() {
    let given = a_delegation();
    let fine = Use {
        parent: given.parent,
        sub_agent: given.sub_agent,
        scope: "translate:1.2",
        capability: Some("net"),
        amount: Msat::sats(60),
        spent: Msat::sats(40),
        now: given.expires_at - 1,
    };
    given.honours(&fine).unwrap();
    let stranger = npub(&keys(7));
    for (wanted, why) in [
        (Use { parent: stranger, ..fine.clone() }, NotCovered::Party),
        (Use { sub_agent: stranger, ..fine.clone() }, NotCovered::Party),
        (Use { now: given.expires_at, ..fine.clone() }, NotCovered::Expired),
        (Use { scope: "translate:1.3", ..fine.clone() }, NotCovered::Scope),
        (Use { capability: Some("shell"), ..fine.clone() }, NotCovered::Capability),
        (Use { spent: Msat::new(40_001), ..fine.clone() }, NotCovered::Amount),
        (Use { amount: Msat::MAX, ..fine.clone() }, NotCovered::Amount),
    ] {
        assert_eq!(given.honours(&wanted), Err(why));
    }
    let free = Delegation { max_amount: None, ..given };
    assert_eq!(free.honours(&fine), Err(NotCovered::Amount));
    free.honours(&Use { amount: Msat::ZERO, ..fine }).unwrap();
}

#[test]
fn each_of_our_events_that_relays_treat_as_addressable_has_an_address() {
    let agent = keys(2);
    let events: Vec<Event> = vec![
        signed(&agent, profile::agent_profile(head(&agent), &Profile::default())),
        signed(&agent, state::anchor(head(&agent), state::Anchor { version: 1, digest: id(1) })),
        signed(&agent, schedule::triggers(head(&agent), &BTreeSet::new())),
        signed(&agent, goals::goals(head(&agent), &[])),
        signed(&agent, tick::tick_request(head(&agent), &a_request(npub(&agent)))),
        signed(&agent, session::session(head(&agent), &Session { id: "s".into(), ..Session::default() })),
        signed(&agent, delegation::delegation(now(), &a_delegation())),
    ];
    for event in events {
        assert_eq!(event::Retention::of(event.kind.as_u16()), event::Retention::Addressable);
        assert!(event::first(&event, "d").is_some_and(|d| !d.is_empty()), "{}", event.kind);
    }
}
