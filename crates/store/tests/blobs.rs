//! Large blobs: in memory, in a directory and on a real S3 server, over every executor.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
mod objects;

use common::{ALICE, BOB, Kind, NOW, World, audit, new_worker, sql, tick_id, worker_id};
use nexus_core::{Npub, UnixMs};
use nexus_store::blob::{self, Blob};
use nexus_store::tick::{self, NewState};
use nexus_store::{Conflict, ObjectProblem, Store, StoreError, agent, worker};
use objects::{Kept, Place};

const GRACE: i64 = 3_600_000;
const LATER: UnixMs = UnixMs(NOW.0 + 2 * GRACE);

/// Sealed bytes as far as the store knows.
fn sealed(n: u8) -> Vec<u8> {
    vec![n; 3_000]
}

fn at_grace(now: UnixMs) -> UnixMs {
    now.plus_ms(-GRACE)
}

async fn staged(world: &World, npub: Npub, bytes: Vec<u8>) -> Blob {
    blob::stage(&world.store, world.fence, npub, world.generation, NOW, bytes).await.unwrap()
}

/// A whole tick that leaves this state, as version `version`.
async fn ticked(world: &World, npub: Npub, version: i64, state: Blob) {
    let n = u8::try_from(version).unwrap();
    tick::begin(&world.store, world.begin(npub, n)).await.unwrap();
    let mut commit = world.commit(npub, n, version);
    commit.state = Some(NewState { version, after: version - 1, blob: state });
    tick::commit(&world.store, commit).await.unwrap();
}

async fn state_of(store: &Store, npub: Npub) -> Result<Vec<u8>, StoreError> {
    agent::state(store, npub).await.map(|state| state.unwrap().blob)
}

fn problem<T: std::fmt::Debug>(result: Result<T, StoreError>) -> ObjectProblem {
    result.unwrap_err().object().unwrap()
}

/// Rows of `blob`, kept ones and others.
fn rows(world: &World) -> (usize, usize) {
    let count = |filter: &str| {
        let text = sql(world, &format!("SELECT CAST(COUNT(*) AS TEXT) FROM blob WHERE {filter}"));
        text.trim().parse::<usize>().unwrap()
    };
    (count("dropped_at IS NULL"), count("dropped_at IS NOT NULL"))
}

async fn a_large_state_is_an_object_and_the_one_before_goes_after_a_while(world: World, place: Place) {
    let store = &world.store;
    let small = staged(&world, ALICE, vec![1; 100]).await;
    assert_eq!(small, Blob::Row(vec![1; 100]), "below the threshold");
    let first = staged(&world, ALICE, sealed(1)).await;
    assert_eq!(first.digest(), nexus_core::Hash32::sha256(&sealed(1)));
    ticked(&world, ALICE, 2, first.clone()).await;
    assert_eq!(state_of(store, ALICE).await.unwrap(), sealed(1));
    let second = staged(&world, ALICE, sealed(2)).await;
    ticked(&world, ALICE, 3, second.clone()).await;
    assert_eq!(rows(&world), (1, 1));
    assert_eq!(blob::collect(store, at_grace(NOW), 100).await.unwrap(), 0, "within its grace it stays");
    assert!(place.holds(ALICE, &first).await && place.holds(ALICE, &second).await);
    assert_eq!(blob::collect(store, at_grace(LATER), 100).await.unwrap(), 1);
    assert!(!place.holds(ALICE, &first).await);
    assert_eq!(state_of(store, ALICE).await.unwrap(), sealed(2));
    assert_eq!(blob::collect(store, at_grace(LATER), 100).await.unwrap(), 0);
    // It shrank: it is in its row again, and the object goes.
    ticked(&world, ALICE, 4, small).await;
    assert_eq!(blob::collect(store, at_grace(LATER), 100).await.unwrap(), 1);
    assert_eq!(state_of(store, ALICE).await.unwrap(), vec![1; 100]);
    assert_eq!(rows(&world), (0, 0));
    assert_eq!(place.objects(), 0);
}

async fn what_a_crash_leaves_is_an_orphan_that_goes(world: World, place: Place) {
    let store = &world.store;
    ticked(&world, ALICE, 2, staged(&world, ALICE, sealed(1)).await).await;
    // Put, and never named: the worker died in between. The next one seals again.
    let orphan = staged(&world, ALICE, sealed(2)).await;
    assert!(place.holds(ALICE, &orphan).await);
    ticked(&world, ALICE, 3, staged(&world, ALICE, sealed(3)).await).await;
    assert_eq!(blob::collect(store, at_grace(LATER), 100).await.unwrap(), 2, "the orphan and the one replaced");
    assert!(!place.holds(ALICE, &orphan).await);
    assert_eq!(state_of(store, ALICE).await.unwrap(), sealed(3));
    // A worker that slept between put and commit finds that it slept too long, and nothing is changed.
    let late = staged(&world, ALICE, sealed(4)).await;
    blob::collect(store, at_grace(LATER), 100).await.unwrap();
    tick::begin(store, world.begin(ALICE, 4)).await.unwrap();
    let mut commit = world.commit(ALICE, 4, 4);
    commit.state = Some(NewState { version: 4, after: 3, blob: late });
    let error = tick::commit(store, commit.clone()).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::BlobGone));
    assert_eq!(state_of(store, ALICE).await.unwrap(), sealed(3));
    // The turn is taken again, and the same bytes may be put again.
    commit.state = Some(NewState { version: 4, after: 3, blob: staged(&world, ALICE, sealed(4)).await });
    tick::commit(store, commit).await.unwrap();
    assert_eq!(state_of(store, ALICE).await.unwrap(), sealed(4));
    assert_eq!(rows(&world), (1, 1));
}

async fn a_collector_that_died_is_followed_by_another(world: World, place: Place) {
    let store = &world.store;
    let orphan = staged(&world, ALICE, sealed(1)).await;
    // Claimed, then it died: before or after the object went.
    sql(&world, "UPDATE blob SET claimed = 1 WHERE claimed = 0; SELECT 1;");
    let promise = blob::stage(store, world.fence, ALICE, world.generation, NOW, sealed(1)).await;
    assert_eq!(promise.unwrap_err().conflict(), Some(&Conflict::BlobGone), "nobody names what is being deleted");
    assert_eq!(blob::collect(store, UnixMs(0), 100).await.unwrap(), 1);
    assert!(!place.holds(ALICE, &orphan).await);
    assert_eq!(rows(&world), (0, 0));
}

async fn nobody_reads_what_is_not_the_agents_latest(world: World, place: Place) {
    let store = &world.store;
    let first = staged(&world, ALICE, sealed(1)).await;
    ticked(&world, ALICE, 2, first.clone()).await;
    let second = staged(&world, ALICE, sealed(2)).await;
    ticked(&world, ALICE, 3, second.clone()).await;
    let bobs = staged(&world, BOB, sealed(3)).await;
    let mut commit = world.commit(BOB, 9, 2);
    tick::begin(store, world.begin(BOB, 9)).await.unwrap();
    commit.state = Some(NewState { version: 2, after: 1, blob: bobs.clone() });
    tick::commit(store, commit).await.unwrap();
    let good = place.read(ALICE, &second);
    for (what, bytes) in [
        ("swapped", sealed(9)),
        ("truncated", good[..good.len() - 1].to_vec()),
        ("empty", Vec::new()),
        ("longer", [good.clone(), vec![0]].concat()),
        ("an older one", place.read(ALICE, &first)),
        ("another agent's", place.read(BOB, &bobs)),
    ] {
        place.write(ALICE, &second, &bytes);
        assert_eq!(problem(state_of(store, ALICE).await), ObjectProblem::Damaged, "{what}");
    }
    place.remove(ALICE, &second);
    assert_eq!(problem(state_of(store, ALICE).await), ObjectProblem::Missing);
    // A row that names another agent's object finds nothing under its own agent.
    sql(
        &world,
        "UPDATE agent_state SET object = (SELECT s.object FROM agent_state s WHERE s.object IS NOT NULL AND s.version = 2)
         WHERE version = 3; SELECT 1;",
    );
    assert_eq!(problem(state_of(store, ALICE).await), ObjectProblem::Missing);
    assert_eq!(state_of(store, BOB).await.unwrap(), sealed(3));
}

async fn a_store_that_is_down_is_not_a_store_without_the_blob(world: World, place: Place) {
    let store = &world.store;
    let first = staged(&world, ALICE, sealed(1)).await;
    ticked(&world, ALICE, 2, first.clone()).await;
    let orphan = staged(&world, ALICE, sealed(2)).await;
    place.down(true).await;
    assert_eq!(problem(state_of(store, ALICE).await), ObjectProblem::Unreachable);
    let put = blob::stage(store, world.fence, ALICE, world.generation, NOW, sealed(3)).await;
    assert_eq!(problem(put), ObjectProblem::Unreachable);
    let collected = blob::collect(store, at_grace(LATER), 100).await;
    assert_eq!(problem(collected), ObjectProblem::Unreachable);
    place.down(false).await;
    // It is asked again after a pause.
    let back = eventually(async || state_of(store, ALICE).await.ok()).await;
    assert_eq!(back, Some(sealed(1)));
    let collected = blob::collect(store, at_grace(LATER), 100).await.unwrap();
    assert_eq!(collected, 2, "the orphan, and what was promised while the store was down");
    assert!(!place.holds(ALICE, &orphan).await);
    assert_eq!(state_of(store, ALICE).await.unwrap(), sealed(1));
    // A process that was told of no object store, or of another one, does not think that the state is gone.
    let without = store.clone().with_objects(None);
    assert_eq!(problem(state_of(&without, ALICE).await), ObjectProblem::NotConfigured);
    let elsewhere = store.clone().with_objects(Some(place.another()));
    assert_eq!(problem(state_of(&elsewhere, ALICE).await), ObjectProblem::Unreachable);
}

async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    for _ in 0..300 {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    None
}

async fn two_workers_and_a_stale_one(world: World, place: Place) {
    let store = &world.store;
    let late = staged(&world, ALICE, sealed(1)).await;
    let second = worker::register(store, new_worker(2), NOW).await.unwrap();
    let generation = world.place(ALICE, world.generation, Some(worker_id(1)), 2).await;
    // The first one neither promises nor names anything any more.
    let stale = blob::stage(store, world.fence, ALICE, world.generation, NOW, sealed(2)).await;
    assert!(stale.unwrap_err().is_stale());
    let made =
        agent::Made { state: Some(NewState { version: 2, after: 1, blob: late.clone() }), ..agent::Made::default() };
    let stale = agent::put_made(store, world.fence, ALICE, world.generation, NOW, made).await;
    assert!(stale.unwrap_err().is_stale());
    // The second one goes on, and with the very bytes of the first: a collection in between takes nothing from it.
    let again = blob::stage(store, second, ALICE, generation, LATER, sealed(1)).await.unwrap();
    assert_eq!(again, late);
    assert_eq!(blob::collect(store, at_grace(LATER), 100).await.unwrap(), 0, "promised anew");
    let made = agent::Made { state: Some(NewState { version: 2, after: 1, blob: again }), ..agent::Made::default() };
    agent::put_made(store, second, ALICE, generation, NOW, made).await.unwrap();
    assert_eq!(blob::collect(store, at_grace(LATER.plus_ms(9 * GRACE)), 100).await.unwrap(), 0);
    assert_eq!(state_of(store, ALICE).await.unwrap(), sealed(1));
    assert!(place.holds(ALICE, &late).await);
}

async fn what_people_may_read_of_a_tick_goes_with_its_tick(world: World, place: Place) {
    let store = &world.store;
    let told = staged(&world, ALICE, sealed(7)).await;
    tick::begin(store, world.begin(ALICE, 1)).await.unwrap();
    let mut commit = world.commit(ALICE, 1, 2);
    commit.sealed = Some(told.clone());
    tick::commit(store, commit).await.unwrap();
    let read = tick::get(store, ALICE, tick_id(1)).await.unwrap().unwrap();
    assert_eq!((read.sealed, read.sealed_size), (Some(sealed(7)), 3_000));
    let listed = tick::list(store, ALICE, None, 10).await.unwrap().remove(0);
    assert_eq!((listed.sealed, listed.sealed_size), (None, 3_000), "a list brings no objects");
    assert_eq!(blob::collect(store, LATER, 100).await.unwrap(), 0);
    ticked(&world, ALICE, 3, vec![1].into()).await;
    assert_eq!(tick::purge(store, LATER, 100).await.unwrap(), 2);
    assert_eq!(tick::list(store, ALICE, None, 10).await.unwrap(), []);
    assert_eq!(blob::collect(store, LATER.plus_ms(1), 100).await.unwrap(), 1);
    assert!(!place.holds(ALICE, &told).await);
}

async fn a_deleted_agents_objects_go(world: World, place: Place) {
    let store = &world.store;
    ticked(&world, ALICE, 2, staged(&world, ALICE, sealed(1)).await).await;
    staged(&world, ALICE, sealed(2)).await;
    let mut audit = audit("agent.delete");
    audit.at = NOW;
    agent::delete(store, ALICE, true, audit).await.unwrap();
    assert_eq!(blob::collect(store, at_grace(NOW), 100).await.unwrap(), 0);
    assert_eq!(blob::collect(store, at_grace(LATER), 100).await.unwrap(), 2);
    assert_eq!(rows(&world), (0, 0));
    assert_eq!(place.objects(), 0);
}

/// Whatever a collector and workers do side by side, every agent's state can be read.
async fn collecting_beside_ticks_takes_nothing_that_is_named(world: World, place: Place) {
    let store = &world.store;
    // There is a store to delete from before anything is, and a state that stands.
    ticked(&world, ALICE, 2, staged(&world, ALICE, sealed(200)).await).await;
    let done = std::cell::Cell::new(false);
    let collect = async {
        let mut collected = 0;
        while !done.get() {
            // Without any grace: what is not named is claimed at once.
            collected += blob::collect(store, LATER, 100).await.unwrap();
            tokio::task::yield_now().await;
        }
        collected
    };
    let write = async {
        let (mut version, mut refused) = (2, 0_u32);
        for n in 0..20_u8 {
            let staged = blob::stage(store, world.fence, ALICE, world.generation, NOW, sealed(n)).await;
            let blob = match staged {
                Ok(blob) => blob,
                Err(error) => {
                    assert_eq!(error.conflict(), Some(&Conflict::BlobGone));
                    refused += 1;
                    continue;
                }
            };
            let state = Some(NewState { version: version + 1, after: version, blob });
            let made = agent::Made { state, ..agent::Made::default() };
            match agent::put_made(store, world.fence, ALICE, world.generation, NOW, made).await {
                Ok(()) => version += 1,
                Err(error) => {
                    assert_eq!(error.conflict(), Some(&Conflict::BlobGone));
                    refused += 1;
                }
            }
            let read = agent::state(store, ALICE).await.unwrap().unwrap();
            assert_eq!(read.version, version);
        }
        done.set(true);
        (version, refused)
    };
    let (collected, (version, refused)) = tokio::join!(collect, write);
    assert_eq!(i64::from(refused) + version, 22);
    let collected = collected + blob::collect(store, LATER, 100).await.unwrap();
    assert_eq!(collected, 20, "each promise but the last one kept");
    assert_eq!(rows(&world), (1, 0));
    assert_eq!(place.objects(), 1);
}

/// What needs no files to look at.
#[tokio::test]
async fn in_memory() {
    let mut world = World::new(Kind::Inline).await;
    world.store = world.store.with_objects(Some(nexus_store::Objects::in_memory(0)));
    for version in 2..6 {
        let blob = staged(&world, ALICE, sealed(u8::try_from(version).unwrap())).await;
        assert!(matches!(blob, Blob::Object { size: 3_000, .. }));
        ticked(&world, ALICE, version, blob).await;
    }
    assert_eq!(blob::collect(&world.store, at_grace(LATER), 2).await.unwrap(), 2, "no more than was asked for");
    assert_eq!(blob::collect(&world.store, at_grace(LATER), 100).await.unwrap(), 1);
    assert_eq!(state_of(&world.store, ALICE).await.unwrap(), sealed(5));
    let empty = world.store.clone().with_objects(Some(nexus_store::Objects::in_memory(0)));
    assert_eq!(problem(state_of(&empty, ALICE).await), ObjectProblem::Unreachable, "not the one that was meant");
}

#[tokio::test]
async fn a_probe_says_what_does_not_work() {
    for kept in [Kept::Directory, Kept::S3] {
        let place = Place::new(kept).await;
        let objects = place.open();
        objects.probe("one").await.unwrap();
        place.down(true).await;
        let why = objects.probe("two").await.unwrap_err();
        assert!(why.starts_with("writing: ") || why == "no answer in time", "{why}");
        place.down(false).await;
        objects.probe("three").await.unwrap();
        assert_eq!(place.files().into_iter().filter(|file| file.contains("probe")).count(), 0);
    }
    let place = Place::new(Kept::S3).await;
    let why = place.with_wrong_key().probe("one").await.unwrap_err();
    assert!(!why.contains(objects::SECRET) && !why.contains("wrong-secret"), "{why}");
}

/// Each test in each place, and on each executor in a directory.
macro_rules! everywhere {
    ($($name:ident),+ $(,)?) => {
        everywhere!(@ on_s3, Inline, S3, $($name),+);
        everywhere!(@ in_a_directory, Inline, Directory, $($name),+);
        everywhere!(@ on_threads, Thread, Directory, $($name),+);
        everywhere!(@ on_postgres, Postgres, Directory, $($name),+);
    };
    (@ $module:ident, $kind:ident, $kept:ident, $($name:ident),+) => {
        mod $module {
            $(#[tokio::test] async fn $name() {
                let (world, place) = super::world(super::Kind::$kind, super::Kept::$kept).await;
                super::$name(world, place).await
            })+
        }
    };
}

async fn world(kind: Kind, kept: Kept) -> (World, Place) {
    let mut world = World::new(kind).await;
    let place = Place::new(kept).await;
    world.store = world.store.with_objects(Some(place.open()));
    (world, place)
}

everywhere!(
    a_large_state_is_an_object_and_the_one_before_goes_after_a_while,
    what_a_crash_leaves_is_an_orphan_that_goes,
    a_collector_that_died_is_followed_by_another,
    nobody_reads_what_is_not_the_agents_latest,
    a_store_that_is_down_is_not_a_store_without_the_blob,
    two_workers_and_a_stale_one,
    what_people_may_read_of_a_tick_goes_with_its_tick,
    a_deleted_agents_objects_go,
    collecting_beside_ticks_takes_nothing_that_is_named,
);
