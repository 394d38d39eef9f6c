//! Held payments from the seller's side: the money is taken with the result, or given back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![expect(dead_code, unused_imports, reason = "the other tests use the rest of what they share")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Customer, Relay, Seller, Workbench};
use nexus_core::payment::Outcome;
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::devnet::{self, AccountKey, Devnet, Parts, Place, Wallet};
use nexus_lightning::{Dispatch, Driver, InvoiceState, Pay, Receive, Resolve, decode_bolt11};
use nexus_nostr::{Status, UpdateBody};
use nexus_provider::{Backend, BackendError, Payment};
use nexus_testkit::{SystemEntropy, TestClock};

struct Scene {
    dir: tempfile::TempDir,
    relay: Relay,
    network: Devnet,
    ours: Wallet,
    theirs: Wallet,
}

impl Scene {
    async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let parts = Parts::new(Arc::new(TestClock::default()), Arc::new(SystemEntropy));
        let network = devnet::open(Place::Dir(dir.path().join("devnet")), parts).await.unwrap();
        let wallet = |seed: &str| network.wallet(AccountKey::from_wallet_seed(seed.as_bytes()));
        let (ours, theirs) = (wallet("the provider's"), wallet("an agent's"));
        theirs.faucet().await.unwrap();
        Self { dir, relay: Relay::start().await, network, ours, theirs }
    }

    fn seller(&self, backend: Arc<dyn Backend>) -> Seller {
        let ours = Arc::new(self.ours.clone());
        let seller = Seller::new(&self.relay, &self.dir.path().join("provider"), ours.clone(), backend);
        Seller { hold: Some(ours), ..seller }
    }

    async fn pay(&self, bolt11: &str) -> Outcome {
        self.theirs.dispatch(dispatch(bolt11)).await
    }

    /// How the payment ended.
    async fn end(&self, bolt11: &str) -> Outcome {
        let hash = decode_bolt11(bolt11).unwrap().hash;
        for _ in 0..400 {
            let question = Resolve { payment_id: "job".into(), attempt: 1, hash, key: "job".into(), handle: None };
            match self.theirs.resolve(question).await {
                Outcome::Pending | Outcome::Unknown { .. } => tokio::time::sleep(Duration::from_millis(25)).await,
                ended => return ended,
            }
        }
        panic!("still in flight after ten seconds");
    }

    async fn earned(&self) -> Msat {
        self.ours.balance().await.unwrap()
    }
}

/// The invoice, and whether the provider says that it holds.
macro_rules! asked {
    ($bought:expr) => {
        match $bought.next().await.0 {
            UpdateBody::Feedback(feedback) => {
                assert_eq!(feedback.status, Status::PaymentRequired);
                (feedback.bolt11.unwrap(), feedback.hold)
            }
            UpdateBody::Result(_) => panic!("a result before payment"),
        }
    };
}

#[tokio::test]
async fn the_money_is_taken_once_the_result_is_out() {
    let scene = Scene::new().await;
    let bench = Workbench::new(|prompt, _| Ok(format!("done: {prompt}")));
    bench.gate.forget_permits(1_000);
    let seller = scene.seller(bench.clone());
    let running = seller.start();
    let customer = Customer::new(9, &scene.relay, seller.npub());
    let mut bought = customer.send(customer.sealed(&Customer::job("hello", None)).await).await;
    let (bolt11, holds) = asked!(bought);
    assert!(holds);
    assert_eq!(scene.pay(&bolt11).await, Outcome::Pending);
    // It works, and has nothing yet.
    assert!(matches!(bought.next().await.0, UpdateBody::Feedback(feedback) if feedback.status == Status::Processing));
    assert_eq!(scene.pay(&bolt11).await, Outcome::Pending);
    assert_eq!(scene.earned().await, Msat::ZERO);
    bench.gate.add_permits(1);
    let (_, result, _) = bought.result().await;
    assert_eq!(result.content, "done: hello");
    assert!(matches!(scene.end(&bolt11).await, Outcome::Settled { preimage: Some(_), .. }));
    assert_eq!(scene.earned().await, Msat::sats(10));
    running.stop().await;
    scene.network.shutdown().await;
}

#[tokio::test]
async fn without_a_result_the_money_goes_back() {
    let scene = Scene::new().await;
    let bench = Workbench::new(|_, _| Err(BackendError::Refused("no".into())));
    let seller = scene.seller(bench.clone());
    let running = seller.start();
    let customer = Customer::new(9, &scene.relay, seller.npub());
    let mut bought = customer.send(customer.sealed(&Customer::job("hello", None)).await).await;
    let (bolt11, _) = asked!(bought);
    scene.pay(&bolt11).await;
    assert!(matches!(scene.end(&bolt11).await, Outcome::Failed { .. }));
    assert_eq!((scene.earned().await, scene.theirs.balance().await.unwrap()), (Msat::ZERO, devnet::FAUCET));
    running.stop().await;
    // Nothing is left to be done, or done again.
    let running = seller.start();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.asked(), 1);
    running.stop().await;
    scene.network.shutdown().await;
}

#[tokio::test]
async fn killed_while_it_holds_it_works_on_and_takes_the_money_once() {
    let scene = Scene::new().await;
    let bench = Workbench::new(|prompt, _| Ok(format!("done: {prompt}")));
    bench.gate.forget_permits(1_000);
    let seller = scene.seller(bench.clone());
    let running = seller.start();
    let customer = Customer::new(9, &scene.relay, seller.npub());
    let mut bought = customer.send(customer.sealed(&Customer::job("hello", None)).await).await;
    let (bolt11, _) = asked!(bought);
    assert_eq!(scene.pay(&bolt11).await, Outcome::Pending);
    assert!(matches!(bought.next().await.0, UpdateBody::Feedback(feedback) if feedback.status == Status::Processing));
    running.kill().await;
    bench.gate.add_permits(1_000);
    let running = seller.start();
    let (_, result, _) = bought.result().await;
    assert_eq!(result.content, "done: hello");
    assert!(matches!(scene.end(&bolt11).await, Outcome::Settled { .. }));
    running.stop().await;
    let running = seller.start();
    assert!(bought.silent(500).await, "nothing is done or said twice");
    assert_eq!(scene.earned().await, Msat::sats(10));
    running.stop().await;
    scene.network.shutdown().await;
}

#[tokio::test]
async fn what_went_back_while_it_was_down_is_not_worked_for() {
    use nexus_lightning::Hold;
    let scene = Scene::new().await;
    let bench = Workbench::new(|_, _| Ok("done".into()));
    bench.gate.forget_permits(1_000);
    let seller = scene.seller(bench.clone());
    let running = seller.start();
    let customer = Customer::new(9, &scene.relay, seller.npub());
    let mut bought = customer.send(customer.sealed(&Customer::job("hello", None)).await).await;
    let (bolt11, _) = asked!(bought);
    scene.pay(&bolt11).await;
    assert!(matches!(bought.next().await.0, UpdateBody::Feedback(feedback) if feedback.status == Status::Processing));
    running.kill().await;
    let asked_before = bench.asked();
    scene.ours.cancel_invoice(decode_bolt11(&bolt11).unwrap().hash).await.unwrap();
    bench.gate.add_permits(1_000);
    let running = seller.start();
    assert!(bought.silent(700).await, "no work, no result");
    assert_eq!(bench.asked(), asked_before);
    assert!(matches!(scene.end(&bolt11).await, Outcome::Failed { .. }));
    running.stop().await;
    scene.network.shutdown().await;
}

#[tokio::test]
async fn whoever_does_not_want_to_hold_does_not() {
    let scene = Scene::new().await;
    for payment in [Payment::Before, Payment::After] {
        let mut seller = scene.seller(Workbench::new(|_, _| Ok("done".into())));
        seller.config.hold = payment == Payment::After;
        seller.config.payment = payment;
        let running = seller.start();
        let customer = Customer::new(9, &scene.relay, seller.npub());
        let mut bought = customer.send(customer.sealed(&Customer::job(&format!("{payment:?}"), None)).await).await;
        if payment == Payment::Before {
            let (bolt11, holds) = asked!(bought);
            assert!(!holds);
            assert!(matches!(scene.pay(&bolt11).await, Outcome::Settled { .. }));
            bought.result().await;
        } else {
            // Work that is done is paid at once.
            let (_, result, _) = bought.result().await;
            let sent = Dispatch { payment_id: "after".into(), ..dispatch(&result.bolt11.unwrap()) };
            assert!(matches!(scene.theirs.dispatch(sent).await, Outcome::Settled { .. }));
        }
        running.stop().await;
    }
    scene.network.shutdown().await;
}

fn dispatch(bolt11: &str) -> Dispatch {
    Dispatch {
        payment_id: "job".into(),
        attempt: 1,
        key: "job".into(),
        bolt11: bolt11.into(),
        amount: None,
        max_fee: Msat::sats(2),
        deadline: TestClock::default().mono().plus_ms(10_000),
        handle: None,
    }
}
