//! Hosting that renews itself: one payment of an account at a time, within the month's cap, whoever repeats or races a step.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{Kind, NOW, World, account_id, audit};
use nexus_core::{Hash32, Msat};
use nexus_store::operator_record;
use nexus_store::renewal::{self, Failed, NewPayment, NewRenewal, Renewal, Stage};
use nexus_store::wallet_record::{WalletRecord, Write};
use nexus_store::{Conflict, Store, hosting};

fn hash(n: u8) -> Hash32 {
    Hash32::from_bytes([n; 32])
}

async fn connect(store: &Store, cap: u64) {
    let (sealed, wallet) = (vec![7, 7], "ab".repeat(32));
    let new = NewRenewal { account: account_id(), sealed, wallet, cap: Msat::sats(cap) };
    renewal::put(store, new, NOW, audit("renewal.put")).await.unwrap();
}

async fn row(store: &Store) -> Renewal {
    renewal::get(store, account_id()).await.unwrap().unwrap()
}

fn payment(n: u8, held: u64, month: &str) -> NewPayment {
    NewPayment {
        hash: hash(n),
        amount: Msat::sats(held - 10),
        held: Msat::sats(held),
        month: month.to_owned(),
        memo: "Hosting".into(),
        sealed_preimage: vec![n],
        created_at: NOW,
        expires_at: NOW.plus_ms(600_000),
    }
}

fn failed(disable: bool) -> Failed {
    Failed { problem: "no".into(), look_at: NOW.plus_ms(60_000), disable }
}

fn is_version<T: std::fmt::Debug>(result: nexus_store::Result<T>) {
    assert_eq!(result.unwrap_err().conflict(), Some(&Conflict::Version));
}

async fn one_payment_is_under_way_and_one_asks_the_wallet(world: World) {
    let store = &world.store;
    connect(store, 5_000).await;
    let seen = row(store).await;
    assert_eq!((seen.stage, seen.enabled, seen.cap, seen.failures), (Stage::None, true, Msat::sats(5_000), 0));
    let all =
        futures_util::future::join_all((1..=20).map(|n| renewal::begin(store, &seen, payment(n, 1_010, "2027-01"))));
    assert_eq!(all.await.into_iter().filter(Result::is_ok).count(), 1);
    // What did not begin left no invoice either.
    assert_eq!(hosting::invoices(store, account_id(), 99).await.unwrap().len(), 1);
    let begun = row(store).await;
    assert_eq!((begun.stage, begun.held, begun.spent), (Stage::Begun, Msat::sats(1_010), Msat::sats(1_010)));
    is_version(renewal::begin(store, &begun, payment(21, 1_010, "2027-01")).await);
    let all = futures_util::future::join_all((0..20).map(|_| renewal::send(store, &begun, NOW)));
    assert_eq!(all.await.into_iter().filter(Result::is_ok).count(), 1);
    let sent = row(store).await;
    // Who saw an earlier stage ends nothing.
    assert!(!renewal::failed(store, &begun, failed(true)).await.unwrap());
    assert!(!renewal::credited(store, &begun, NOW).await.unwrap());
    assert!(renewal::paid(store, &sent, Msat::sats(1_003), NOW).await.unwrap());
    assert!(!renewal::paid(store, &sent, Msat::sats(1_003), NOW).await.unwrap());
    assert!(!renewal::failed(store, &sent, failed(false)).await.unwrap());
    let paid = row(store).await;
    assert_eq!((paid.stage, paid.spent), (Stage::Paid, Msat::sats(1_003)));
    assert!(renewal::credited(store, &paid, NOW).await.unwrap());
    assert!(!renewal::credited(store, &paid, NOW).await.unwrap());
    let over = row(store).await;
    assert_eq!((over.stage, over.hash, over.held, over.spent), (Stage::None, None, Msat::ZERO, Msat::sats(1_003)));
}

async fn the_cap_is_of_a_month_and_what_fails_is_free_again(world: World) {
    let store = &world.store;
    connect(store, 2_000).await;
    let seen = row(store).await;
    is_version(renewal::begin(store, &seen, payment(1, 2_001, "2027-01")).await);
    renewal::begin(store, &seen, payment(1, 2_000, "2027-01")).await.unwrap();
    assert!(renewal::failed(store, &row(store).await, failed(false)).await.unwrap());
    let seen = row(store).await;
    assert_eq!((seen.spent, seen.failures, seen.problem.as_deref(), seen.enabled), (Msat::ZERO, 1, Some("no"), true));
    // Somebody else paid what was never sent: nothing was spent.
    renewal::begin(store, &seen, payment(2, 1_500, "2027-01")).await.unwrap();
    assert!(renewal::credited(store, &row(store).await, NOW).await.unwrap());
    assert_eq!(row(store).await.spent, Msat::ZERO);
    renewal::begin(store, &row(store).await, payment(3, 1_500, "2027-01")).await.unwrap();
    renewal::send(store, &row(store).await, NOW).await.unwrap();
    assert!(renewal::credited(store, &row(store).await, NOW).await.unwrap());
    let seen = row(store).await;
    // Credited before the wallet said what it cost: all that was held is counted.
    assert_eq!(
        (seen.spent, seen.left("2027-01"), seen.left("2027-02")),
        (Msat::sats(1_500), Msat::sats(500), seen.cap)
    );
    is_version(renewal::begin(store, &seen, payment(4, 501, "2027-01")).await);
    renewal::begin(store, &seen, payment(4, 1_800, "2027-02")).await.unwrap();
    assert_eq!(row(store).await.spent, Msat::sats(1_800));
}

async fn what_the_owner_says_counts_and_what_is_under_way_goes_on(world: World) {
    let store = &world.store;
    let gone = renewal::remove(store, account_id(), audit("renewal.remove")).await.unwrap_err();
    assert_eq!(gone.conflict(), Some(&Conflict::NotFound));
    connect(store, 2_000).await;
    let before = row(store).await;
    renewal::begin(store, &before, payment(1, 1_500, "2027-01")).await.unwrap();
    let begun = row(store).await;
    // A lower cap: what was begun is not sent.
    connect(store, 1_000).await;
    is_version(renewal::send(store, &begun, NOW).await);
    is_version(renewal::send(store, &row(store).await, NOW).await);
    connect(store, 3_000).await;
    renewal::send(store, &row(store).await, NOW).await.unwrap();
    renewal::remove(store, account_id(), audit("renewal.remove")).await.unwrap();
    let off = row(store).await;
    assert_eq!((off.sealed.clone(), off.enabled, off.stage), (None, false, Stage::Sent));
    assert_eq!(renewal::due(store, NOW, 9).await.unwrap(), std::slice::from_ref(&off));
    assert!(renewal::paid(store, &off, Msat::sats(1_490), NOW).await.unwrap());
    assert!(renewal::credited(store, &row(store).await, NOW).await.unwrap());
    assert_eq!(renewal::due(store, NOW.plus_ms(i64::from(u32::MAX)), 9).await.unwrap(), []);
    is_version(renewal::begin(store, &row(store).await, payment(2, 100, "2027-01")).await);

    // A refusal disables the connection that was refused, and not the one that came meanwhile.
    connect(store, 3_000).await;
    let refused = row(store).await;
    renewal::later(store, &refused, NOW.plus_ms(5), Some("why".into())).await.unwrap();
    assert_eq!(row(store).await.problem.as_deref(), Some("why"));
    connect(store, 3_000).await;
    assert!(!renewal::failed(store, &refused, failed(true)).await.unwrap());
    let now = row(store).await;
    assert_eq!((now.enabled, now.problem.as_deref(), now.failures), (true, None, 0));
    assert!(renewal::failed(store, &now, failed(true)).await.unwrap());
    assert!(!row(store).await.enabled);
    assert_eq!(renewal::due(store, NOW.plus_ms(i64::from(u32::MAX)), 9).await.unwrap(), []);
}

async fn records_are_inserted_once_and_stay_apart(world: World) {
    let store = &world.store;
    let record = |n: u8| WalletRecord { space: "nwc.request".into(), name: hash(1), blob: vec![n] };
    let all = futures_util::future::join_all(
        (1..=9).map(|n| operator_record::write(store, "renewal:a", NOW, vec![Write::Insert(record(n))])),
    );
    assert_eq!(all.await.into_iter().filter(Result::is_ok).count(), 1);
    let both = vec![Write::Put(WalletRecord { name: hash(2), ..record(5) }), Write::Insert(record(6))];
    let error = operator_record::write(store, "renewal:a", NOW, both).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::WalletRecord));
    assert_eq!(operator_record::get(store, "renewal:a", "nwc.request", hash(2)).await.unwrap(), None, "all or nothing");
    operator_record::write(store, "renewal:b", NOW, vec![Write::Put(record(8))]).await.unwrap();
    operator_record::write(store, "renewal:b", NOW, vec![Write::Put(record(9))]).await.unwrap();
    assert_eq!(operator_record::list(store, "renewal:b", "nwc.request").await.unwrap(), [record(9)]);
    let delete = Write::Delete { space: "nwc.request".into(), name: hash(1) };
    operator_record::write(store, "renewal:a", NOW, vec![delete]).await.unwrap();
    assert_eq!(operator_record::list(store, "renewal:a", "nwc.request").await.unwrap(), []);
    assert_eq!(operator_record::list(store, "renewal:b", "nwc.request").await.unwrap().len(), 1);
}

suite::suite!(
    one_payment_is_under_way_and_one_asks_the_wallet,
    the_cap_is_of_a_month_and_what_fails_is_free_again,
    what_the_owner_says_counts_and_what_is_under_way_goes_on,
    records_are_inserted_once_and_stay_apart,
);
