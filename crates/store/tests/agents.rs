//! What the control plane does: accounts, agents, tokens, and an audit row for each change.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, BOB, Kind, NOW, World, account_id, audit, new_agent, new_payment};
use nexus_core::status::{Desired, Hosting, Reason, Scope};
use nexus_core::{AccountId, Generation, Hash32, Npub};
use nexus_store::agent::{self, Change, Filter, StoredPolicy, Wrap};
use nexus_store::idempotency::{self, Idempotency};
use nexus_store::invoice_watch::{self, InvoiceWatch};
use nexus_store::outside::{self, Outside};
use nexus_store::tick::Commit;
use nexus_store::token::{self, Token};
use nexus_store::wallet_request::{self, Answer, MAX_WAITING, WalletRequest};
use nexus_store::{Audit, Conflict, Side, StoreError, account, installation, journal, replay, tick};

const CAROL: Npub = Npub::from_bytes([0xc0; 32]);

async fn actions(world: &World) -> Vec<String> {
    let rows = nexus_store::audit::list(&world.store, account_id(), 0, 500).await.unwrap();
    rows.into_iter().map(|row| row.audit.action).collect()
}

fn conflict(result: Result<impl Sized, StoreError>) -> Conflict {
    result.err().expect("refused").conflict().cloned().expect("a conflict")
}

async fn every_change_is_audited_and_a_refused_one_is_not(world: World) {
    let store = &world.store;
    let before = actions(&world).await;
    assert_eq!(before, ["account.create", "agent.create", "agent.create"]);
    let again = agent::create(store, new_agent(ALICE, "x"), None, audit("refused")).await;
    assert_eq!(conflict(again), Conflict::NpubTaken);
    let named = agent::create(store, new_agent(CAROL, "bob"), None, audit("refused")).await;
    assert_eq!(conflict(named), Conflict::NameTaken);
    let mut lost = new_agent(CAROL, "carol");
    lost.account = AccountId::from_bytes([7; 16]);
    assert_eq!(conflict(agent::create(store, lost, None, audit("refused")).await), Conflict::NoAccount);
    let config = nexus_core::AgentConfig::default();
    let stale = agent::set_config(store, ALICE, 7, "alice", &config, audit("refused")).await;
    assert_eq!(conflict(stale), Conflict::Version);
    let renamed = agent::set_config(store, ALICE, 1, "bob", &config, audit("refused")).await;
    assert_eq!(conflict(renamed), Conflict::NameTaken);
    let older = StoredPolicy { version: 1, event: "{}".into() };
    assert_eq!(conflict(agent::set_policy(store, ALICE, older, audit("refused")).await), Conflict::Version);
    let nobody = agent::set_desired(store, CAROL, Desired::Running, false, None, audit("refused")).await;
    assert_eq!(conflict(nobody), Conflict::NoAgent);
    assert_eq!(actions(&world).await, before);

    let changed = agent::set_config(store, ALICE, 1, "alicia", &config, audit("agent.patch")).await.unwrap();
    assert_eq!((changed.config_version, changed.name.as_str()), (2, "alicia"));
    let newer = StoredPolicy { version: 2, event: "{\"v\":2}".into() };
    agent::set_policy(store, ALICE, newer.clone(), audit("policy.put")).await.unwrap();
    assert_eq!(agent::sealed(store, ALICE).await.unwrap().unwrap().policy, Some(newer));
    let started = agent::set_desired(store, ALICE, Desired::Running, false, None, audit("agent.start")).await.unwrap();
    assert!(started.desired_rev > changed.desired_rev);
    assert_eq!(actions(&world).await[3..], ["agent.patch", "policy.put", "agent.start"]);
}

async fn agents_are_found_by_their_account_alone(world: World) {
    let store = &world.store;
    let mut carol = new_agent(CAROL, "carol");
    carol.config.labels.insert("team".into(), "red".into());
    carol.config.region = Some("eu".into());
    carol.wraps = vec![Wrap { key: "view".into(), number: 1, recipient: "self".into(), ciphertext: "c".into() }];
    agent::create(store, carol, None, audit("agent.create")).await.unwrap();
    let stranger = AccountId::from_bytes([8; 16]);
    assert!(agent::get_owned(store, stranger, CAROL).await.unwrap().is_none());
    assert!(agent::get_owned(store, account_id(), CAROL).await.unwrap().is_some());
    assert!(agent::by_name(store, stranger, "carol").await.unwrap().is_none());
    assert!(agent::list(store, stranger, &Filter::default()).await.unwrap().is_empty());
    let found = async |filter: Filter| -> Vec<Npub> {
        agent::list(store, account_id(), &filter).await.unwrap().iter().map(|agent| agent.npub).collect()
    };
    assert_eq!(found(Filter::default()).await, [ALICE, BOB, CAROL]);
    assert_eq!(found(Filter { limit: 1, after: Some(ALICE), ..Filter::default() }).await, [BOB]);
    assert_eq!(found(Filter { label: Some(("team".into(), "red".into())), ..Filter::default() }).await, [CAROL]);
    assert_eq!(found(Filter { label: Some(("team".into(), "blue".into())), ..Filter::default() }).await, []);
    assert_eq!(found(Filter { region: Some("eu".into()), ..Filter::default() }).await, [CAROL]);
    assert_eq!(found(Filter { desired: Some(Desired::Running), ..Filter::default() }).await, []);
    assert_eq!(agent::count(store, account_id()).await.unwrap(), 3);
    assert_eq!(agent::wraps(store, CAROL).await.unwrap().len(), 1);
    assert!(agent::is_hosted(store, CAROL).await.unwrap());
}

async fn deleting_leaves_nothing_but_the_audit(world: World) {
    let store = &world.store;
    tick::begin(store, world.begin(ALICE, 1)).await.unwrap();
    let side = vec![Side::InsertPayment(new_payment(1, "job:1"))];
    journal::append(store, world.append(ALICE, 1, 2, side)).await.unwrap();
    assert_eq!(conflict(agent::delete(store, ALICE, false, audit("refused")).await), Conflict::Unresolved);
    assert!(agent::get(store, ALICE).await.unwrap().is_some());
    agent::delete(store, ALICE, true, audit("agent.delete")).await.unwrap();
    let left = common::dump(&world);
    let bytes = format!("{:?}", ALICE.as_bytes().to_vec());
    let bytes = bytes.trim_matches(['[', ']']).to_owned();
    assert!(!left.contains(&bytes), "{left}");
    let tick = format!("{:?}", common::tick_id(1).as_bytes().to_vec());
    assert!(!left.contains(tick.trim_matches(['[', ']'])));
    assert_eq!(actions(&world).await.last().unwrap(), "agent.delete");
}

async fn a_retry_gets_the_first_answer(world: World) {
    let store = &world.store;
    let first = Idempotency {
        account: account_id(),
        route: "POST /v1/agents".into(),
        key: "k".into(),
        request: Hash32::sha256(b"body"),
        status: 201,
        body: "{}".into(),
        expires_at: NOW.plus_ms(10),
    };
    agent::create(store, new_agent(CAROL, "carol"), Some(first.clone()), audit("agent.create")).await.unwrap();
    let twin = agent::create(store, new_agent(Npub::from_bytes([0xd0; 32]), "dave"), Some(first.clone()), audit("no"));
    assert!(twin.await.unwrap_err().is_duplicate());
    assert_eq!(agent::count(store, account_id()).await.unwrap(), 3);
    let find = |now| idempotency::find(store, account_id(), "POST /v1/agents", "k", now);
    assert_eq!(find(NOW).await.unwrap(), Some(first));
    assert_eq!(find(NOW.plus_ms(10)).await.unwrap(), None, "expired");
    assert_eq!(idempotency::purge(store, NOW.plus_ms(10), 100).await.unwrap(), 1);
}

async fn an_account_never_has_more_agents_than_it_may(world: World) {
    let store = &world.store;
    // Alice and Bob are there; eight come at once, three fit.
    let create = |n: u8| {
        let new = new_agent(Npub::from_bytes([n; 32]), &format!("agent{n}"));
        agent::create_within(store, new, Some(5), None, audit("agent.create"))
    };
    let all = tokio::join!(create(1), create(2), create(3), create(4), create(5), create(6), create(7), create(8));
    let all = [all.0, all.1, all.2, all.3, all.4, all.5, all.6, all.7];
    assert_eq!(all.iter().filter(|made| made.is_ok()).count(), 3);
    for refused in all.into_iter().filter(|made| made.is_err()) {
        assert_eq!(conflict(refused), Conflict::TooManyAgents);
    }
    assert_eq!(agent::count(store, account_id()).await.unwrap(), 5);
    agent::create(store, new_agent(CAROL, "carol"), None, audit("agent.create")).await.unwrap();
    assert_eq!(actions(&world).await.len(), 7, "the refused left no audit row");
}

async fn tokens_and_single_use(world: World) {
    let store = &world.store;
    let token = Token {
        id: "t1".into(),
        account: account_id(),
        hash: Hash32::sha256(b"secret"),
        name: "ci".into(),
        scopes: vec![Scope::Read, Scope::Operate],
        created_at: NOW,
        expires_at: NOW.plus_ms(100),
        last_used_at: None,
    };
    token::create(store, token.clone(), audit("token.create")).await.unwrap();
    assert_eq!(token::find(store, token.hash, NOW).await.unwrap(), Some(token.clone()));
    assert_eq!(token::find(store, token.hash, NOW.plus_ms(100)).await.unwrap(), None);
    let stranger = AccountId::from_bytes([8; 16]);
    assert_eq!(conflict(token::revoke(store, stranger, "t1", audit("no")).await), Conflict::NotFound);
    token::revoke(store, account_id(), "t1", audit("token.revoke")).await.unwrap();
    assert_eq!(token::find(store, token.hash, NOW).await.unwrap(), None);

    let id = Hash32::sha256(b"nip98");
    assert!(replay::use_once(store, "nip98", id, NOW).await.unwrap());
    assert!(!replay::use_once(store, "nip98", id, NOW).await.unwrap());
    assert!(replay::use_once(store, "proof", id, NOW).await.unwrap(), "kinds are namespaces");
    assert_eq!(replay::purge(store, NOW.plus_ms(1), 100).await.unwrap(), 2);
    replay::put_ticket(store, id, "body".into(), NOW.plus_ms(5)).await.unwrap();
    assert_eq!(replay::take_ticket(store, id, NOW).await.unwrap().as_deref(), Some("body"));
    assert_eq!(replay::take_ticket(store, id, NOW).await.unwrap(), None);
    replay::put_ticket(store, id, "body".into(), NOW).await.unwrap();
    assert_eq!(replay::take_ticket(store, id, NOW.plus_ms(1)).await.unwrap(), None, "too late");
}

async fn an_account_is_made_once_and_its_standing_reaches_its_agents(world: World) {
    let store = &world.store;
    let mine = account::get(store, account_id()).await.unwrap().unwrap();
    let twin = account::Account { id: AccountId::from_bytes([5; 16]), ..mine.clone() };
    assert_eq!(account::ensure(store, twin, audit("no")).await.unwrap().id, mine.id);
    assert_eq!(account::by_member(store, mine.owner).await.unwrap().unwrap().1.role, "owner");
    let suspended = account::Account { hosting: Hosting::Suspended, ..mine };
    account::update(store, suspended, audit("account.suspend")).await.unwrap();
    assert_eq!(agent::get(store, ALICE).await.unwrap().unwrap().hosting, Hosting::Suspended);

    let first = installation::ensure(store, [1; 16], NOW).await.unwrap();
    assert_eq!(installation::ensure(store, [2; 16], NOW.plus_ms(9)).await.unwrap(), first);
    assert_eq!(installation::put_first(store, "runner", "a".into()).await.unwrap(), "a");
    assert_eq!(installation::put_first(store, "runner", "b".into()).await.unwrap(), "a");
    installation::put(store, "runner", "c".into()).await.unwrap();
    assert_eq!(installation::get(store, "runner").await.unwrap().as_deref(), Some("c"));
}

async fn invoices_are_watched_until_they_are_over(world: World) {
    let store = &world.store;
    let watch = |n: i64| InvoiceWatch {
        hash: Hash32::from_bytes([u8::try_from(n % 250).unwrap(); 32]),
        made_at: NOW.plus_ms(n),
        until: NOW.plus_ms(1_000 + n),
        zap: None,
    };
    for n in 0..3 {
        let request = WalletRequest {
            id: n.to_string(),
            npub: ALICE,
            kind: "invoice".into(),
            body: "{}".into(),
            created_at: NOW,
            expires_at: NOW.plus_ms(1_000),
            answer: None,
        };
        wallet_request::put(store, request, None).await.unwrap();
        let done = Answer::Done("lnbcrt".into());
        let id = n.to_string();
        wallet_request::answer(store, world.fence, ALICE, world.generation, &id, done, Some(watch(n))).await.unwrap();
    }
    // Answered or not: whoever hosts the agent next looks them up, also while the agent is stopped.
    assert_eq!(invoice_watch::open(store, ALICE, NOW).await.unwrap(), [watch(2), watch(1), watch(0)]);
    assert_eq!(invoice_watch::open(store, BOB, NOW).await.unwrap(), []);

    let stale =
        invoice_watch::end(store, world.fence, ALICE, Generation(world.generation.0 + 1), [watch(2).hash], &[], NOW)
            .await;
    assert!(stale.is_err(), "not its host");
    invoice_watch::end(store, world.fence, ALICE, world.generation, [watch(2).hash], &[], NOW).await.unwrap();
    invoice_watch::end(store, world.fence, ALICE, world.generation, [watch(2).hash], &[], NOW).await.unwrap();
    assert_eq!(invoice_watch::open(store, ALICE, NOW).await.unwrap(), [watch(1), watch(0)]);
    assert_eq!(invoice_watch::open(store, ALICE, NOW.plus_ms(1_000)).await.unwrap(), [watch(1)]);
    assert_eq!(invoice_watch::purge(store, NOW.plus_ms(1_000), 100).await.unwrap(), 1);
    assert_eq!(invoice_watch::purge(store, NOW.plus_ms(1_001), 100).await.unwrap(), 1);
    assert_eq!(invoice_watch::open(store, ALICE, NOW).await.unwrap(), []);
}

async fn wallet_requests_are_bounded_and_answered_once(world: World) {
    let store = &world.store;
    let request = |n: i64| WalletRequest {
        id: n.to_string(),
        npub: ALICE,
        kind: "invoice".into(),
        body: "{}".into(),
        created_at: NOW.plus_ms(n),
        expires_at: NOW.plus_ms(1_000),
        answer: None,
    };
    for n in 0..MAX_WAITING {
        wallet_request::put(store, request(n), None).await.unwrap();
    }
    assert_eq!(conflict(wallet_request::put(store, request(99), None).await), Conflict::TooMany);
    let done = || Answer::Done("lnbcrt".into());
    wallet_request::answer(store, world.fence, ALICE, world.generation, "3", done(), None).await.unwrap();
    let again = wallet_request::answer(store, world.fence, ALICE, world.generation, "3", done(), None).await;
    assert_eq!(conflict(again), Conflict::NotFound);
    let foreign = wallet_request::answer(store, world.fence, BOB, world.generation, "4", done(), None).await;
    assert_eq!(conflict(foreign), Conflict::NotFound);
    assert_eq!(wallet_request::get(store, ALICE, "3").await.unwrap().unwrap().answer, Some(done()));
    assert_eq!(wallet_request::waiting(store, ALICE, NOW).await.unwrap().len() as i64, MAX_WAITING - 1);
    wallet_request::put(store, request(99), None).await.unwrap();
    assert_eq!(wallet_request::purge(store, NOW.plus_ms(1_000), 100).await.unwrap() as i64, MAX_WAITING + 1);
}

async fn the_audit_is_forgotten_from_its_oldest_row_on(world: World) {
    let store = &world.store;
    let before = nexus_store::audit::list(store, account_id(), 0, 500).await.unwrap().len();
    for n in 1..=5 {
        let row = Audit { at: NOW.plus_ms(n), account: Some(account_id()), ..audit("later") };
        nexus_store::audit::record(store, row).await.unwrap();
    }
    let purge = |at: i64, limit| nexus_store::audit::purge(store, NOW.plus_ms(at), limit);
    assert_eq!(purge(0, 100).await.unwrap(), 0);
    assert_eq!(purge(3, 1).await.unwrap(), 1, "a piece at a time");
    purge(3, 100).await.unwrap();
    let kept: Vec<_> = nexus_store::audit::list(store, account_id(), 0, 500).await.unwrap();
    assert_eq!(kept.iter().map(|row| row.audit.at.0 - NOW.0).collect::<Vec<_>>(), [3, 4, 5], "of {before} and five");
}

/// What one engine cannot store is refused by name on all of them; somebody else's words lose what cannot be stored.
async fn zero_bytes_are_refused_or_left_out(world: World) {
    let store = &world.store;
    let before = common::dump(&world);
    let named = agent::create(store, new_agent(CAROL, "ca\0rol"), None, audit("refused")).await;
    assert_eq!(conflict(named), Conflict::ZeroByte);
    assert_eq!(conflict(agent::by_name(store, account_id(), "ca\0rol").await), Conflict::ZeroByte);
    let mut labeled = new_agent(CAROL, "carol");
    labeled.config.labels.insert("team".into(), "a\0".into());
    assert_eq!(conflict(agent::create(store, labeled, None, audit("refused")).await), Conflict::ZeroByte);
    assert_eq!(common::dump(&world), before);
    let reason = Reason::new("provider_failed", "it said \0");
    let change = Change { reason: Some(Some(reason)), ..Change::default() };
    agent::change(store, world.fence, ALICE, world.generation, NOW, change, Vec::new()).await.unwrap();
    let said = agent::get(store, ALICE).await.unwrap().unwrap().reason.unwrap();
    assert_eq!(said.text, "it said \u{fffd}");
    let failed = Commit { failed: Some("\0".into()), ..world.commit(ALICE, 1, 2) };
    tick::begin(store, world.begin(ALICE, 1)).await.unwrap();
    tick::commit(store, failed).await.unwrap();
}

async fn an_address_is_one_agents(world: World) {
    let store = &world.store;
    let given = async |npub, name| agent::set_address(store, npub, name, audit("agent.address")).await;
    let ada = given(ALICE, Some("ada")).await.unwrap();
    assert_eq!(ada.address.as_deref(), Some("ada"));
    assert_eq!(given(ALICE, Some("ada")).await.unwrap().address, ada.address, "again");
    assert_eq!(conflict(given(BOB, Some("ada")).await), Conflict::NameTaken);
    assert_eq!(conflict(given(CAROL, Some("carol")).await), Conflict::NoAgent);
    assert_eq!(agent::by_address(store, "ada").await.unwrap().map(|agent| agent.npub), Some(ALICE));
    assert_eq!(agent::by_address(store, "Ada").await.unwrap(), None);
    given(ALICE, Some("ada.lovelace")).await.unwrap();
    assert!(given(ALICE, None).await.unwrap().desired_rev > ada.desired_rev);
    assert_eq!(agent::by_address(store, "ada.lovelace").await.unwrap(), None);

    // Asked for by everyone at once, it is one's.
    let wanted = [ALICE, BOB].into_iter().cycle().take(16).map(|npub| given(npub, Some("first")));
    let got = futures_util::future::join_all(wanted).await;
    let holder = agent::by_address(store, "first").await.unwrap().unwrap().npub;
    for (outcome, npub) in got.into_iter().zip([ALICE, BOB].into_iter().cycle()) {
        match outcome {
            Ok(_) => assert_eq!(npub, holder),
            Err(error) => assert_eq!(error.conflict(), Some(&Conflict::NameTaken), "{error}"),
        }
    }
    // What is deleted holds no name.
    agent::delete(store, holder, true, audit("agent.delete")).await.unwrap();
    assert_eq!(agent::by_address(store, "first").await.unwrap(), None);
}

async fn who_listens_elsewhere_is_found(world: World) {
    let store = &world.store;
    assert_eq!(outside::listening(store, None, 10).await.unwrap(), []);
    let config = nexus_core::AgentConfig { relays: vec!["wss://relay.example".into()], ..Default::default() };
    agent::set_config(store, ALICE, 1, "alice", &config, audit("x")).await.unwrap();
    let odd = nexus_core::AgentConfig { about: r#""relays":["#.into(), ..Default::default() };
    agent::set_config(store, BOB, 1, "bob", &odd, audit("x")).await.unwrap();
    let found = outside::listening(store, None, 10).await.unwrap();
    assert_eq!(found.iter().map(|agent| agent.npub).collect::<Vec<_>>(), [ALICE], "what is in quotes is quoted");
    assert_eq!(found[0].config, config);
    assert_eq!(outside::listening(store, Some(ALICE), 10).await.unwrap(), []);

    let noted = |heard_at, problem: Option<&str>, at: i64| Outside {
        url: "wss://relay.example".into(),
        heard_at,
        problem: problem.map(str::to_owned),
        changed_at: NOW.plus_ms(at),
    };
    outside::note(store, noted(Some(NOW), None, 0)).await.unwrap();
    outside::note(store, noted(None, Some("gone"), 1)).await.unwrap();
    let known = outside::get(store, "wss://relay.example").await.unwrap().unwrap();
    assert_eq!((known.heard_at, known.problem.as_deref()), (Some(NOW), Some("gone")), "what was heard stays");
    assert_eq!(outside::all(store).await.unwrap(), [known]);
    assert_eq!(outside::purge(store, NOW.plus_ms(1)).await.unwrap(), 0);
    assert_eq!(outside::purge(store, NOW.plus_ms(2)).await.unwrap(), 1);
}

async fn an_invitation_makes_one_account(world: World) {
    let store = &world.store;
    let invite = Hash32::sha256(b"a code");
    let account = |n: u8| account::Account {
        id: AccountId::from_bytes([n; 16]),
        owner: Npub::from_bytes([n; 32]),
        name: String::new(),
        plan: "local".into(),
        hosting: Hosting::Paid,
        created_at: NOW,
    };
    let made = async |n| account::ensure_invited(store, account(n), Some(invite), audit("account.create")).await;
    // Two first requests of one owner at once, with the one code: both get the account.
    let (one, two) = futures_util::future::join(made(21), made(21)).await;
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(conflict(made(22).await), Conflict::Invite);
    assert_eq!(account::by_member(store, Npub::from_bytes([22; 32])).await.unwrap(), None);
    assert_eq!(made(21).await.unwrap().owner, Npub::from_bytes([21; 32]), "known, it needs none");
}

suite::suite!(
    an_invitation_makes_one_account,
    who_listens_elsewhere_is_found,
    an_address_is_one_agents,
    zero_bytes_are_refused_or_left_out,
    the_audit_is_forgotten_from_its_oldest_row_on,
    every_change_is_audited_and_a_refused_one_is_not,
    agents_are_found_by_their_account_alone,
    deleting_leaves_nothing_but_the_audit,
    a_retry_gets_the_first_answer,
    an_account_never_has_more_agents_than_it_may,
    tokens_and_single_use,
    an_account_is_made_once_and_its_standing_reaches_its_agents,
    wallet_requests_are_bounded_and_answered_once,
    invoices_are_watched_until_they_are_over,
);
