//! A database that is put back: every row of it, in either engine, and safe to go on with.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use std::collections::BTreeMap;
use std::path::Path;

use common::{ALICE, BOB, Kind, NOW, World, config, new_payment, path, started};
use nexus_core::budget::Window;
use nexus_core::payment::PaymentState;
use nexus_core::status::Placement;
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat, UnixMs};
use nexus_store::backup::{self, Contents, GENERATIONS, Header, LastBackup, Place, RESTORED};
use nexus_store::inbox::NewItem;
use nexus_store::side::PaymentMove;
use nexus_store::{
    Conflict, ObjectConfig, ObjectKind, ObjectProblem, Objects, Side, Store, StoreError, agent, event, inbox,
    installation, payment, tick,
};
use nexus_testkit::postgres;
use serde_json::Value;
use tokio::sync::mpsc;

const LATER: UnixMs = NOW.plus_ms(3_600_000);

fn place(world: &World) -> Place {
    match world.kind {
        Kind::Thread | Kind::Inline => Place::Sqlite(path(&world.dir)),
        Kind::Postgres => Place::Postgres(Box::new(config(&world.database))),
    }
}

async fn lines(place: Place, objects: Option<&Objects>) -> (Vec<String>, Contents) {
    let (send, mut receive) = mpsc::channel(8);
    let collect = async {
        let mut lines = Vec::new();
        while let Some(line) = receive.recv().await {
            lines.push(line);
        }
        lines
    };
    let dump = async {
        let dumped = backup::dump(place, objects, NOW, &send).await;
        drop(send);
        dumped
    };
    let (dumped, mut lines) = tokio::join!(dump, collect);
    lines.push(backup::end_line(lines.len() as u64));
    (lines, dumped.unwrap())
}

async fn load(place: Place, lines: &[String], objects: Option<&Objects>) -> Result<(Header, Contents), StoreError> {
    let (send, receive) = mpsc::channel(8);
    let lines = lines.to_vec();
    let feed = async move {
        for line in lines {
            if send.send(line).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(backup::load(place, objects, LATER, receive), feed).0
}

/// Rows of each table, in one order.
fn tables(lines: &[String]) -> BTreeMap<String, Vec<String>> {
    let (mut tables, mut name) = (BTreeMap::<String, Vec<String>>::new(), String::new());
    for line in &lines[1..lines.len() - 1] {
        match serde_json::from_str(line).unwrap() {
            Value::Object(map) if map.contains_key("table") => {
                name = map["table"].as_str().unwrap().to_owned();
                tables.insert(name.clone(), vec![map["columns"].to_string()]);
            }
            Value::Object(_) => {}
            row => tables.get_mut(&name).unwrap().push(row.to_string()),
        }
    }
    tables.values_mut().for_each(|rows| rows[1..].sort());
    tables
}

fn message(id: &str) -> NewItem {
    NewItem {
        npub: ALICE,
        external_id: id.into(),
        trigger: Trigger::Manual,
        sender: None,
        received_at: NOW,
        payload: vec![0, 39, 255],
    }
}

/// Alice in the middle of a paid tick, with what else a host has.
async fn furnish(world: &World) {
    let store = &world.store;
    installation::ensure(store, [7; 16], NOW).await.unwrap();
    installation::put(store, "pool", "it's \"one\" \\ line\nand 'another' — ☂".to_owned()).await.unwrap();
    inbox::put(store, message("waits")).await.unwrap();
    tick::begin(store, world.begin(ALICE, 1)).await.unwrap();
    let reserve =
        |amount| Side::ReserveBudget { window: Window::Day(1), amount: Msat::new(amount), limit: Msat::new(9_999) };
    let sent = Side::Payment(PaymentMove {
        hash: Hash32::from_bytes([2; 32]),
        from: PaymentState::Reserved,
        to: PaymentState::Dispatched,
        at: NOW,
        fee: None,
        preimage: None,
        note: None,
    });
    let sides = vec![
        reserve(220),
        Side::InsertPayment(new_payment(1, "job:1")),
        Side::InsertPayment(new_payment(2, "job:2")),
        sent,
    ];
    nexus_store::journal::append(store, world.append(ALICE, 1, 2, sides)).await.unwrap();
}

/// Where the other engine puts it back.
async fn elsewhere(kind: Kind, dir: &Path) -> (Place, String) {
    match kind {
        Kind::Thread | Kind::Inline => (Place::Sqlite(dir.join("restored.db")), String::new()),
        Kind::Postgres => {
            let database = postgres::shared().database();
            (Place::Postgres(Box::new(config(&database))), database)
        }
    }
}

async fn open(place: &Place) -> Store {
    match place {
        Place::Sqlite(path) => Store::open(path).unwrap(),
        Place::Postgres(config) => Store::open_postgres((**config).clone()).await.unwrap(),
    }
}

async fn comes_back_into_either_engine(world: World) {
    furnish(&world).await;
    let (before, contents) = lines(place(&world), None).await;
    assert_eq!(contents.agents, 2);
    for kind in [Kind::Inline, Kind::Postgres] {
        let (to, _) = elsewhere(kind, world.dir.path()).await;
        let (header, loaded) = load(to.clone(), &before, None).await.unwrap();
        assert_eq!((header.made_at, header.epoch), (NOW, 1));
        assert_eq!(loaded, contents);
        let (after, _) = lines(to.clone(), None).await;
        let (before, after) = (tables(&before), tables(&after));
        for (name, rows) in &before {
            match name.as_str() {
                "installation" | "agent" | "counter" | "inbox" | "tick" | "journal" | "payment" => {
                    let kept = if name == "journal" { 1 } else { rows.len() };
                    assert_eq!((&after[name][0], after[name].len()), (&rows[0], kept), "{name}");
                }
                _ => assert_eq!(&after[name], rows, "{name}"),
            }
        }
        safe_to_go_on(&to, &world).await;
    }
}

/// Nothing of before is done again, and everything can go on.
async fn safe_to_go_on(to: &Place, world: &World) {
    let store = open(to).await;
    let made = installation::ensure(&store, [8; 16], LATER).await.unwrap();
    assert_eq!((made.id, made.epoch), (hex::encode([7; 16]), 2));
    for npub in [ALICE, BOB] {
        let old = agent::get(&world.store, npub).await.unwrap().unwrap();
        let new = agent::get(&store, npub).await.unwrap().unwrap();
        assert_eq!(new.generation.0, old.generation.0 + GENERATIONS);
        assert!(new.desired_rev > old.desired_rev && new.worker.is_none() && new.placement == Placement::Unplaced);
        assert_eq!(new.reason.unwrap().code, RESTORED);
        assert!(new.unreconciled && new.restored_at == Some(LATER));
        assert_eq!((new.event_seq, new.event_head), (old.event_seq, old.event_head));
    }
    assert!(inbox::pending(&store, ALICE, 10).await.unwrap().is_empty());
    // Known by its id still: the same message again is no news.
    let again = inbox::put(&store, message("waits")).await;
    assert!(inbox::pending(&store, ALICE, 10).await.unwrap().is_empty(), "{again:?}");
    assert!(tick::open(&store, ALICE).await.unwrap().is_none());
    let payments = payment::open(&store, ALICE).await.unwrap();
    assert_eq!(payments.len(), 2);
    assert!(payments.iter().all(|payment| payment.state == PaymentState::Unknown), "{payments:?}");
    assert_eq!(payment::counter(&store, ALICE, Window::Day(1)).await.unwrap().held, Msat::new(220));
    // Numbers that the engine gives go on above those that came.
    let kind = if matches!(to, Place::Sqlite(_)) { Kind::Thread } else { Kind::Postgres };
    let fence = nexus_store::worker::register(&store, common::new_worker(3), LATER).await.unwrap();
    let term = nexus_store::placement::take_term(&store, "heir", LATER).await.unwrap();
    let generation = agent::get(&store, ALICE).await.unwrap().unwrap().generation;
    let step = nexus_core::placement::Step {
        npub: ALICE,
        generation,
        from: None,
        to: common::worker_id(3),
        purpose: nexus_core::status::Purpose::Run,
    };
    let generation = nexus_store::placement::place(&store, term, &step, LATER).await.unwrap();
    let sides = vec![
        Side::AppendEvent(started(9)),
        Side::Reconciled { balance: Msat::sats(3) },
        Side::CountSpent { window: Window::Day(2), amount: Msat::new(5) },
    ];
    nexus_store::journal::apply(&store, fence, ALICE, generation, LATER, sides).await.unwrap();
    assert!(!agent::get(&store, ALICE).await.unwrap().unwrap().unreconciled);
    assert_eq!(payment::counter(&store, ALICE, Window::Day(2)).await.unwrap().settled, Msat::new(5));
    inbox::put(&store, message("new")).await.unwrap();
    assert_eq!(inbox::pending(&store, ALICE, 10).await.unwrap().len(), 1);
    assert!(matches!(event::verify_chain(&store, ALICE).await.unwrap(), event::Chain::Intact { .. }));
    // A worker of before, and what it holds, is nobody here.
    let stale = tick::begin(&store, world.begin(BOB, 5)).await.unwrap_err();
    assert!(stale.is_stale(), "{stale} {}", kind as u8);
}

async fn what_is_no_backup_changes_nothing(world: World) {
    furnish(&world).await;
    let (good, _) = lines(place(&world), None).await;
    let at = |start: &str| good.iter().position(|line| line.starts_with(start)).unwrap();
    let last = good.len() - 1;
    let with = |place: usize, line: &str| {
        let mut lines = good.clone();
        lines[place] = line.to_owned();
        lines
    };
    let without = |place: usize| {
        good.iter().enumerate().filter(|(at, _)| *at != place).map(|(_, line)| line.clone()).collect::<Vec<_>>()
    };
    let newer = good[0].replace(r#""schema":"#, r#""schema":9"#);
    let row = good.iter().position(|line| line.starts_with('[')).unwrap();
    let (table, columns) = (at(r#"{"columns""#), r#"{"table":"agent","columns":["npub","nonsense"]}"#);
    let bad: Vec<(&str, Vec<String>)> = vec![
        ("empty", Vec::new()),
        ("header alone", good[..1].to_vec()),
        ("no end", good[..last].to_vec()),
        ("half", good[..last / 2].to_vec()),
        ("a row less", without(row)),
        ("a row twice", [&good[..row], &good[row..=row], &good[row..]].concat()),
        ("no header", good[1..].to_vec()),
        ("another format", with(0, &good[0].replace(r#""nexus_backup":1"#, r#""nexus_backup":2"#))),
        ("a newer schema", with(0, &newer)),
        (
            "an older schema than any",
            with(0, r#"{"nexus_backup":1,"schema":3,"made_at":1,"installation":"a","epoch":1}"#),
        ),
        ("a table that is not kept", with(table, r#"{"table":"worker","columns":["worker_id"]}"#)),
        ("a table that is SQL", with(table, r#"{"table":"agent; DROP TABLE agent","columns":["npub"]}"#)),
        ("a column that is not there", with(table, columns)),
        ("a row too wide", with(row, "[1,2,3,4,5,6,7,8,9]")),
        ("a row too narrow", with(row, "[]")),
        ("a value that is none", with(row, "[true,[],{},0.5]")),
        ("a row before its table", [&good[..1], &good[row..=row], &good[1..]].concat()),
        ("no JSON", with(row, "[1,")),
        (
            "an object without a store",
            [&good[..last], &[r#"{"object":{"npub":"npub1","hash":"00","size":1},"bytes":"AA=="}"#.to_owned()]]
                .concat(),
        ),
    ];
    for kind in [Kind::Inline, Kind::Postgres] {
        let (to, database) = elsewhere(kind, world.dir.path()).await;
        for (what, lines) in &bad {
            let refused = load(to.clone(), lines, None).await;
            assert!(refused.is_err(), "{what}");
            match &to {
                Place::Sqlite(path) => {
                    let left = std::fs::read_dir(path.parent().unwrap()).unwrap();
                    let left = left
                        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("restored"));
                    assert_eq!(left.count(), 0, "{what}");
                }
                Place::Postgres(_) => {
                    let there = "SELECT CASE WHEN to_regclass('agent') IS NULL THEN 0 ELSE 1 END";
                    if postgres::shared().sql(&database, there) == "1" {
                        let count = "SELECT (SELECT COUNT(*) FROM agent) + (SELECT COUNT(*) FROM installation)";
                        assert_eq!(postgres::shared().sql(&database, count), "0", "{what}");
                    }
                }
            }
        }
        // And then the good one, into the same place; and never over it.
        load(to.clone(), &good, None).await.unwrap();
        let over = load(to.clone(), &good, None).await.unwrap_err();
        assert!(matches!(over, StoreError::Settings { .. }), "{over}");
        assert!(agent::get(&open(&to).await, ALICE).await.unwrap().unwrap().unreconciled);
    }
}

async fn objects_come_along(world: World) {
    let World { dir, kind, database, store, account, fence, term, generation } = world;
    let shelf = tempfile::tempdir().unwrap();
    let objects = || {
        let config = ObjectConfig { kind: ObjectKind::Directory, threshold_bytes: 32, ..ObjectConfig::default() };
        Objects::open(&config, shelf.path()).unwrap()
    };
    let store = store.with_objects(objects());
    let world = World { dir, kind, database, store, account, fence, term, generation };
    furnish(&world).await;
    let state = vec![9; 4_096];
    let blob =
        nexus_store::blob::stage(&world.store, world.fence, BOB, world.generation, NOW, state.clone()).await.unwrap();
    let made = agent::Made {
        wraps: Vec::new(),
        inbox_recipient: None,
        state: Some(nexus_store::tick::NewState { version: 2, after: 1, blob }),
    };
    agent::put_made(&world.store, world.fence, BOB, world.generation, NOW, made).await.unwrap();

    // Of a process that does not know the object store there is no backup.
    let (send, mut receive) = mpsc::channel(10_000);
    let refused = backup::dump(place(&world), None, NOW, &send).await.unwrap_err();
    assert_eq!(refused.object(), Some(ObjectProblem::NotConfigured));
    receive.close();

    let (lines, contents) = lines(place(&world), objects().as_ref()).await;
    assert_eq!(contents.objects, 1);
    let (to, _) = elsewhere(Kind::Inline, world.dir.path()).await;
    assert_eq!(load(to.clone(), &lines, None).await.unwrap_err().object(), Some(ObjectProblem::NotConfigured));
    let other_shelf = Objects::in_memory(32);
    let (_, loaded) = load(to.clone(), &lines, Some(&other_shelf)).await.unwrap();
    assert_eq!(loaded.objects, 1);
    let restored = open(&to).await.with_objects(Some(other_shelf));
    assert_eq!(agent::state(&restored, BOB).await.unwrap().unwrap().blob, state);
    let forged: Vec<String> = lines.iter().map(|line| line.replace("CQkJCQkJ", "CAkJCQkJ")).collect();
    let (other, _) = elsewhere(Kind::Postgres, world.dir.path()).await;
    assert!(load(other, &forged, Some(&Objects::in_memory(32))).await.is_err());
}

async fn the_last_one_is_noted(world: World) {
    installation::ensure(&world.store, [7; 16], NOW).await.unwrap();
    assert_eq!(backup::last(&world.store).await.unwrap(), None);
    assert_eq!(backup::last_at(place(&world)).await.unwrap(), None);
    for at in [NOW, LATER] {
        let last = LastBackup { at, bytes: 7, every_secs: Some(3_600) };
        backup::note(place(&world), last).await.unwrap();
        assert_eq!(backup::last(&world.store).await.unwrap(), Some(last));
        assert_eq!(backup::last_at(place(&world)).await.unwrap(), Some(last));
    }
    // The host goes on writing.
    let taken = agent::create(&world.store, common::new_agent(ALICE, "x"), None, common::audit("x")).await.unwrap_err();
    assert_eq!(taken.conflict(), Some(&Conflict::NpubTaken));
}

suite::suite! {
    comes_back_into_either_engine,
    what_is_no_backup_changes_nothing,
    objects_come_along,
    the_last_one_is_noted,
}
