//! The whole trade with real invoices: an agent's prompt, the demo planner, and the development network.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![expect(dead_code, unused_imports, reason = "the other tests use the rest of what they share")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Customer, Relay, Seller};
use nexus_core::action::{Action, parse_answer};
use nexus_core::payment::Outcome;
use nexus_core::prompt::{Prompt, PromptMessage, render};
use nexus_core::{Clock, Msat};
use nexus_lightning::devnet::{self, AccountKey, Devnet, Parts, Place, Wallet};
use nexus_lightning::{Dispatch, Driver, Network, Pay, PayRequest, decode_bolt11};
use nexus_provider::{DemoBackend, Payment};
use nexus_testkit::{SystemEntropy, TestClock};

async fn network(dir: &Path) -> Devnet {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let parts = Parts::new(Arc::new(TestClock::default()), Arc::new(SystemEntropy));
    devnet::open(Place::Dir(dir.join("devnet")), parts).await.unwrap()
}

fn wallet(network: &Devnet, seed: &str) -> Wallet {
    network.wallet(AccountKey::from_wallet_seed(seed.as_bytes()))
}

async fn pay(wallet: &Wallet, bolt11: &str, id: &str) -> Outcome {
    let quote = wallet.quote(PayRequest { bolt11: bolt11.into(), amount: None }).await.unwrap();
    wallet
        .dispatch(Dispatch {
            payment_id: id.into(),
            attempt: 1,
            key: id.into(),
            bolt11: bolt11.into(),
            amount: None,
            max_fee: quote.max_fee,
            deadline: TestClock::default().mono().plus_ms(10_000),
            handle: quote.handle,
        })
        .await
}

/// What an agent would ask for a mention.
fn tick(text: &str) -> String {
    let from = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg".to_owned();
    let message =
        PromptMessage { label: "m1".into(), kind: "mention".into(), from: Some(from), id: None, text: text.into() };
    render(&Prompt { agent: "Ada".into(), trigger: "mention".into(), messages: vec![message], ..Prompt::default() })
}

#[tokio::test]
async fn an_agent_buys_its_thinking() {
    let dir = tempfile::tempdir().unwrap();
    let (relay, network) = (Relay::start().await, network(dir.path()).await);
    let (ours, theirs) = (wallet(&network, "the provider's wallet seed"), wallet(&network, "an agent's wallet seed"));
    theirs.faucet().await.unwrap();
    let seller = Seller::new(&relay, &dir.path().join("provider"), Arc::new(ours.clone()), Arc::new(DemoBackend));
    let running = seller.start();
    let customer = Customer::new(9, &relay, seller.npub());
    let request = customer.sealed(&Customer::job(&tick("hello Ada"), Some(Msat::sats(20)))).await;
    let mut bought = customer.send(request.clone()).await;

    let (amount, bolt11) = bought.invoice().await;
    let invoice = decode_bolt11(&bolt11).unwrap();
    assert_eq!((invoice.network, invoice.amount), (Network::Regtest, Some(amount)));
    assert_eq!(amount, Msat::sats(10));
    assert!(matches!(pay(&theirs, &bolt11, "job-1").await, Outcome::Settled { .. }));

    let (_, result, _) = bought.result().await;
    let actions = parse_answer(&result.content).unwrap();
    assert!(matches!(&actions[0], Action::Reply { to, text } if to == "m1" && text.starts_with("Hello!")));
    assert_eq!(ours.balance().await.unwrap(), Msat::sats(10));
    running.stop().await;
    network.shutdown().await;
}

#[tokio::test]
async fn killed_between_payment_and_result_it_delivers_for_the_same_payment() {
    let dir = tempfile::tempdir().unwrap();
    let (relay, network) = (Relay::start().await, network(dir.path()).await);
    let (ours, theirs) = (wallet(&network, "the provider's wallet seed"), wallet(&network, "an agent's wallet seed"));
    theirs.faucet().await.unwrap();
    let seller = Seller::new(&relay, &dir.path().join("provider"), Arc::new(ours.clone()), Arc::new(DemoBackend));
    let running = seller.start();
    let customer = Customer::new(9, &relay, seller.npub());
    let mut bought = customer.send(customer.sealed(&Customer::job("what is 2+2", None)).await).await;
    let (_, bolt11) = bought.invoice().await;
    running.kill().await;
    assert!(matches!(pay(&theirs, &bolt11, "job-1").await, Outcome::Settled { .. }));
    assert!(bought.silent(300).await);

    let running = seller.start();
    let (_, result, _) = bought.result().await;
    assert!(result.content.starts_with("2 + 2 is 4."), "{}", result.content);
    running.stop().await;
    let running = seller.start();
    assert!(bought.silent(700).await, "nothing is done or said twice");
    assert_eq!(ours.balance().await.unwrap(), Msat::sats(10));
    running.stop().await;
    network.shutdown().await;
}

#[tokio::test]
async fn a_settlement_wakes_the_provider_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (relay, network) = (Relay::start().await, network(dir.path()).await);
    let (ours, theirs) = (wallet(&network, "the provider's wallet seed"), wallet(&network, "an agent's wallet seed"));
    theirs.faucet().await.unwrap();
    let seller = Seller::new(&relay, &dir.path().join("provider"), Arc::new(ours.clone()), Arc::new(DemoBackend));
    let running = seller.start();
    let customer = Customer::new(9, &relay, seller.npub());
    let clock = TestClock::default();
    let mut fastest = u64::MAX;
    // Lookups alone come a second apart; of five payments at least one is seen sooner than any of them would.
    for n in 0..5 {
        let mut bought = customer.send(customer.sealed(&Customer::job(&format!("job {n}"), None)).await).await;
        let (_, bolt11) = bought.invoice().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        pay(&theirs, &bolt11, &format!("job-{n}")).await;
        let paid_at = clock.mono();
        bought.result().await;
        fastest = fastest.min(clock.mono().since(paid_at));
    }
    assert!(fastest < 300, "{fastest} ms");
    running.stop().await;
    network.shutdown().await;
}

#[tokio::test]
async fn a_result_paid_afterwards_is_settled_in_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let (relay, network) = (Relay::start().await, network(dir.path()).await);
    let (ours, theirs) = (wallet(&network, "the provider's wallet seed"), wallet(&network, "an agent's wallet seed"));
    theirs.faucet().await.unwrap();
    let mut seller = Seller::new(&relay, &dir.path().join("provider"), Arc::new(ours.clone()), Arc::new(DemoBackend));
    seller.config.payment = Payment::After;
    let running = seller.start();
    let customer = Customer::new(9, &relay, seller.npub());
    let mut bought = customer.send(customer.sealed(&Customer::job("hello", None)).await).await;
    let (_, result, _) = bought.result().await;
    assert!(matches!(pay(&theirs, &result.bolt11.unwrap(), "job-1").await, Outcome::Settled { .. }));
    let list = dir.path().join("provider/jobs.jsonl");
    let settled = async {
        while !std::fs::read_to_string(&list).unwrap().contains("\"stage\":\"published\",\"owed\":null") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), settled).await.unwrap();
    running.stop().await;
    network.shutdown().await;
}
