//! Hold invoices of the development network: money that waits, over repeats, restarts and deaths.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use nexus_core::payment::Outcome;
use nexus_core::{Clock, Hash32, Msat, UnixMs};
use nexus_lightning::devnet::faults::{Command, CrashPoint, Fault, Rule};
use nexus_lightning::devnet::{self, AccountKey, Devnet, Parts, Place, Wallet};
use nexus_lightning::{
    Description, Dispatch, Driver, Hold, HoldRequest, Invoice, InvoiceState, Pay, Preimage, Receive, Resolve,
    WalletError,
};
use nexus_testkit::{ManualClock, SystemEntropy, TestClock};

async fn open(dir: &std::path::Path, clock: Arc<dyn Clock>) -> Devnet {
    devnet::open(Place::Dir(dir.to_owned()), Parts::new(clock, Arc::new(SystemEntropy))).await.unwrap()
}

struct Scene {
    dir: tempfile::TempDir,
    net: Devnet,
    payer: Wallet,
    payee: Wallet,
}

fn account(net: &Devnet, seed: &str) -> Wallet {
    net.wallet(AccountKey::from_wallet_seed(seed.as_bytes()))
}

impl Scene {
    async fn new() -> Self {
        Self::at(Arc::new(TestClock::default())).await
    }

    async fn at(clock: Arc<dyn Clock>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let net = open(dir.path(), clock).await;
        let (payer, payee) = (account(&net, "payer"), account(&net, "payee"));
        payer.faucet().await.unwrap();
        Self { dir, net, payer, payee }
    }

    async fn reopened(self) -> Self {
        let Self { dir, net, .. } = self;
        net.shutdown().await;
        let net = open(dir.path(), Arc::new(TestClock::default())).await;
        let (payer, payee) = (account(&net, "payer"), account(&net, "payee"));
        Self { dir, net, payer, payee }
    }

    async fn hold(&self, preimage: &Preimage, sats: u64) -> Result<Invoice, WalletError> {
        let request = HoldRequest {
            hash: preimage.hash(),
            amount: Msat::from_sats(sats).unwrap(),
            description: Description::Memo("held".into()),
            expiry_s: 600,
            cltv_expiry: 40,
        };
        self.payee.create_hold_invoice(request).await
    }

    async fn balances(&self) -> (u64, u64) {
        let of = async |wallet: &Wallet| wallet.balance().await.unwrap().whole_sats();
        (of(&self.payer).await, of(&self.payee).await)
    }

    async fn sums_to_zero(&self) {
        assert_eq!(self.net.sum_msat().await, Some(0));
    }
}

fn preimage(n: u8) -> Preimage {
    Preimage::from_bytes([n; 32])
}

fn send(invoice: &Invoice) -> Dispatch {
    Dispatch {
        payment_id: "job:1".into(),
        attempt: 1,
        key: "k".into(),
        bolt11: invoice.bolt11.clone(),
        amount: None,
        max_fee: Msat::sats(5),
        deadline: TestClock::default().mono().plus_ms(600_000),
        handle: None,
    }
}

fn question(hash: Hash32) -> Resolve {
    Resolve { payment_id: "job:1".into(), attempt: 1, hash, key: "k".into(), handle: None }
}

#[tokio::test]
async fn money_waits_until_the_payee_decides_and_no_decision_is_undone() {
    for settle in [true, false] {
        let mut scene = Scene::new().await;
        let secret = preimage(7);
        let invoice = scene.hold(&secret, 400).await.unwrap();
        assert_eq!(scene.hold(&secret, 400).await.unwrap().bolt11, invoice.bolt11, "a repeat is the same one");
        assert!(matches!(scene.hold(&secret, 401).await, Err(WalletError::Refused(_))));
        assert!(scene.payee.settle_hold_invoice(secret.clone()).await.is_err(), "nothing waits yet");
        assert_eq!(scene.payer.dispatch(send(&invoice)).await, Outcome::Pending);
        assert_eq!(scene.payer.dispatch(send(&invoice)).await, Outcome::Pending, "a repeat while it is held");
        assert_eq!(scene.payee.lookup_invoice(invoice.hash).await.unwrap(), InvoiceState::Accepted);
        assert_eq!(scene.balances().await, (999_599, 0), "in flight");
        // Others decide nothing, and the wrong preimage opens nothing.
        assert!(scene.payer.cancel_invoice(invoice.hash).await.is_err());
        assert!(scene.payer.settle_hold_invoice(secret.clone()).await.is_err());
        assert!(scene.payee.settle_hold_invoice(preimage(8)).await.is_err());
        scene = scene.reopened().await;
        assert_eq!(scene.payer.resolve(question(invoice.hash)).await, Outcome::Pending, "over a restart");
        assert_eq!(scene.payee.lookup_invoice(invoice.hash).await.unwrap(), InvoiceState::Accepted);
        for _ in 0..2 {
            match settle {
                true => scene.payee.settle_hold_invoice(secret.clone()).await.unwrap(),
                false => scene.payee.cancel_invoice(invoice.hash).await.unwrap(),
            }
        }
        scene = scene.reopened().await;
        let outcome = scene.payer.resolve(question(invoice.hash)).await;
        let state = scene.payee.lookup_invoice(invoice.hash).await.unwrap();
        if settle {
            let proof = Hash32::from_bytes(*secret.expose());
            assert_eq!(outcome, Outcome::Settled { preimage: Some(proof), fee: Msat::sats(1) });
            assert!(matches!(state, InvoiceState::Settled { .. }));
            assert!(scene.payee.cancel_invoice(invoice.hash).await.is_err(), "cancelled after it was settled");
            assert_eq!(scene.balances().await, (999_599, 400));
        } else {
            assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
            assert_eq!(state, InvoiceState::Canceled);
            assert!(scene.payee.settle_hold_invoice(secret).await.is_err(), "settled after it was cancelled");
            assert_eq!(scene.balances().await, (1_000_000, 0));
            // Whoever tries once more pays nothing: the invoice is over.
            let again = scene.payer.dispatch(Dispatch { attempt: 2, ..send(&invoice) }).await;
            assert!(matches!(again, Outcome::Failed { .. }), "{again:?}");
        }
        scene.sums_to_zero().await;
        scene.net.shutdown().await;
    }
}

#[tokio::test]
async fn an_open_one_is_ended_unpaid() {
    let scene = Scene::new().await;
    let invoice = scene.hold(&preimage(7), 400).await.unwrap();
    scene.payee.cancel_invoice(invoice.hash).await.unwrap();
    assert_eq!(scene.payee.lookup_invoice(invoice.hash).await.unwrap(), InvoiceState::Canceled);
    assert!(matches!(scene.payer.dispatch(send(&invoice)).await, Outcome::Failed { .. }));
    assert_eq!(scene.balances().await, (1_000_000, 0));
    scene.net.shutdown().await;
}

#[tokio::test]
async fn what_nobody_takes_goes_back_by_itself() {
    let clock = Arc::new(ManualClock::at(UnixMs(1_760_000_000_000)));
    let scene = Scene::at(clock.clone()).await;
    let invoice = scene.hold(&preimage(7), 400).await.unwrap();
    let sent = Dispatch { deadline: clock.mono().plus_ms(600_000), ..send(&invoice) };
    assert_eq!(scene.payer.dispatch(sent).await, Outcome::Pending);
    clock.advance_ms(40 * 600_000 - 1_000);
    assert_eq!(scene.payer.resolve(question(invoice.hash)).await, Outcome::Pending, "past the invoice's expiry too");
    clock.advance_ms(1_000);
    let outcome = scene.payer.resolve(question(invoice.hash)).await;
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    assert_eq!(scene.payee.lookup_invoice(invoice.hash).await.unwrap(), InvoiceState::Canceled);
    assert_eq!(scene.balances().await, (1_000_000, 0));
    scene.sums_to_zero().await;
    scene.net.shutdown().await;
}

/// Wherever in its write the server dies when money is taken or given back: it is wholly so or not at all.
#[tokio::test]
async fn a_server_that_dies_while_the_payee_decides() {
    for at in [CrashPoint::BeforeWrite, CrashPoint::TornWrite, CrashPoint::AfterWrite, CrashPoint::AfterSync] {
        for settle in [true, false] {
            let scene = Scene::new().await;
            let secret = preimage(7);
            let invoice = scene.hold(&secret, 400).await.unwrap();
            assert_eq!(scene.payer.dispatch(send(&invoice)).await, Outcome::Pending);
            assert!(scene.net.faults().unwrap().command(Command::Crash { at }).await);
            let decide = async |scene: &Scene| match settle {
                true => scene.payee.settle_hold_invoice(secret.clone()).await,
                false => scene.payee.cancel_invoice(invoice.hash).await,
            };
            assert!(decide(&scene).await.is_err(), "{at:?}: nobody was answered");
            let scene = scene.reopened().await;
            decide(&scene).await.unwrap();
            let outcome = scene.payer.resolve(question(invoice.hash)).await;
            assert_eq!(matches!(outcome, Outcome::Settled { .. }), settle, "{at:?}: {outcome:?}");
            assert_eq!(scene.balances().await, if settle { (999_599, 400) } else { (1_000_000, 0) }, "{at:?}");
            scene.sums_to_zero().await;
            scene.net.shutdown().await;
        }
    }
}

#[tokio::test]
async fn no_fault_settles_what_is_held() {
    let scene = Scene::new().await;
    let invoice = scene.hold(&preimage(7), 400).await.unwrap();
    let faults = scene.net.faults().unwrap();
    assert!(faults.command(Command::Rule(Rule::next_payment(Fault::Delay { ms: 1 }))).await);
    assert_eq!(scene.payer.dispatch(send(&invoice)).await, Outcome::Pending);
    assert!(!faults.command(Command::Settle { hash: invoice.hash }).await);
    assert_eq!(scene.payee.lookup_invoice(invoice.hash).await.unwrap(), InvoiceState::Accepted);
    scene.sums_to_zero().await;
    scene.net.shutdown().await;
}
