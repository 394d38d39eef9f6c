//! Accounts of agents at the operator's node: the API, the reconciler and the real driver against nodes of our own that
//! answer as LND does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::worker::Worker;
use common::{By, Host, Key};
use nexus_control::Accounts;
use nexus_core::payment::Outcome;
use nexus_core::policy::{Policy, WalletChoice};
use nexus_core::{Clock, Msat, Npub};
use nexus_lightning::lnd::{InvoiceMacaroon, LndPay, LndReceive, NodeConfig, PayerMacaroon, Trust};
use nexus_lightning::{Dispatch, InvoiceRequest, InvoiceState, Network, Pay, Receive, decode_bolt11};
use nexus_seal::operator::OperatorKey;
use nexus_store::invoice_watch;
use nexus_store::sub_account::{self as books, Book, Held, NewHold, Payee, Unsound};
use nexus_testkit::lnd::{Node, Pair};
use nexus_testkit::{SystemEntropy, TestClock};
use serde_json::{Value, json};

fn config(node: &Node) -> NodeConfig {
    NodeConfig::new(&node.url(), Trust::File(node.certificate_file()), &node.identity(), Network::Regtest).unwrap()
}

fn receive(node: &Node) -> LndReceive {
    let macaroon = InvoiceMacaroon::read(&node.invoice_macaroon_file()).unwrap();
    LndReceive::new(config(node), macaroon, Arc::<TestClock>::default())
}

/// Somebody pays with a wallet of theirs.
async fn pay(node: &Node, bolt11: &str) -> Outcome {
    let clock = Arc::<TestClock>::default();
    let wallet = LndPay::new(config(node), PayerMacaroon::read(&node.payer_macaroon_file()).unwrap(), clock.clone());
    let hash = decode_bolt11(bolt11).unwrap().hash;
    let send = Dispatch {
        payment_id: hash.to_string(),
        attempt: 1,
        key: "somebody".into(),
        bolt11: bolt11.to_owned(),
        amount: None,
        max_fee: Msat::sats(100),
        deadline: clock.mono().plus_ms(30_000),
        handle: None,
    };
    wallet.dispatch(send).await
}

async fn host(node: &Node) -> Host {
    let accounts = Accounts {
        node: Arc::new(receive(node)),
        identity: node.identity(),
        cap: Msat::sats(1_000),
        total_cap: Msat::sats(1_500),
        shared: false,
    };
    let key = Arc::new(OperatorKey::generate(&SystemEntropy));
    Host::start_with(|config| {
        config.accounts = Some(accounts);
        config.wallets.insert("lnd");
        config.operator_key = Some(key);
        config.invoice_wait_ms = 200;
    })
    .await
}

/// The agent with a policy that chooses an account at the operator's node.
async fn created(host: &Host, owner: &Key, agent: &Key, name: &str) -> String {
    let mut body = host.agent_body(owner, agent, name);
    let policy = Policy { wallet: WalletChoice::Lnd {}, ..Policy::default_for(agent.npub()) };
    body["policy"] = json!(owner.signed_policy(&policy, host.clock.now()));
    host.create_with(By::Key(owner), owner, agent, &body, &[]).await.ok();
    agent.npub().to_string()
}

async fn available(host: &Host, node: &Node, npub: Npub, sats: u64) {
    for _ in 0..300 {
        let account = books::account(&host.store, &node.identity(), npub).await.unwrap();
        if account.available == Msat::sats(sats) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?}", books::account(&host.store, &node.identity(), npub).await.unwrap());
}

#[tokio::test]
async fn an_agent_is_paid_at_the_operators_node_up_to_a_cap_and_says_that_it_is_custodial() {
    let pair = Pair::start().await;
    let node = &pair.payee;
    let host = host(node).await;
    let (owner, agent) = (Key::new(1), Key::new(2));
    let npub = created(&host, &owner, &agent, "ada").await;
    let path = format!("/v1/agents/{npub}");
    let ask = async |sats: u64| {
        host.post(By::Key(&owner), &format!("{path}/invoices"), &json!({ "amount_sats": sats, "memo": "tea" })).await
    };

    // No worker is needed, and none is there.
    let made = ask(400).await.ok().body;
    let bolt11 = made["bolt11"].as_str().unwrap();
    let invoice = decode_bolt11(bolt11).unwrap();
    assert_eq!((invoice.description.as_str(), invoice.amount), ("tea", Some(Msat::sats(400))));
    assert_eq!(invoice_watch::open(&host.store, agent.npub(), host.clock.now()).await.unwrap().len(), 1);
    // What is open counts; what would pass the cap is refused before anybody pays.
    let over = ask(601).await;
    assert_eq!(over.code(), "quota_exceeded");
    assert!(over.text.contains("may hold 1000 sats"), "{}", over.text);
    assert!(matches!(pay(&pair.payer, bolt11).await, Outcome::Settled { .. }));
    available(&host, node, agent.npub(), 400).await;
    let paid = books::invoice(&host.store, invoice.hash).await.unwrap().unwrap();
    assert_eq!(paid.preimage.map(|it| nexus_core::Hash32::sha256(it.as_bytes())), Some(invoice.hash));

    // Strangers may fill three quarters; the rest is the owner's.
    let stranger = async |msat: u64| host.get(By::Nobody, &format!("{path}/pay?amount={msat}")).await;
    assert_eq!(stranger(400_000).await.body["status"], "ERROR");
    let pr = stranger(350_000).await.ok().body["pr"].as_str().unwrap().to_owned();
    assert!(decode_bolt11(&pr).unwrap().description_hash.is_some());
    let last = ask(250).await.ok().body;
    // The node goes away with an invoice paid, and is asked again.
    assert!(matches!(pay(&pair.payer, &pr).await, Outcome::Settled { .. }));
    node.stop().await;
    assert_eq!(ask(1).await.code(), "quota_exceeded");
    node.resume().await;
    available(&host, node, agent.npub(), 750).await;
    assert!(matches!(pay(&pair.payer, last["bolt11"].as_str().unwrap()).await, Outcome::Settled { .. }));
    available(&host, node, agent.npub(), 1_000).await;

    // All together: 1,500. Another agent may have 500 more.
    let other = created(&host, &owner, &Key::new(3), "bob").await;
    let path_of_other = format!("/v1/agents/{other}/invoices");
    let refused = host.post(By::Key(&owner), &path_of_other, &json!({ "amount_sats": 501 })).await;
    assert_eq!(refused.code(), "quota_exceeded");
    host.post(By::Key(&owner), &path_of_other, &json!({ "amount_sats": 500 })).await.ok();

    let status = host.get(By::Key(&owner), &path).await.ok().body;
    assert_eq!(
        status["wallet"],
        json!({ "backend": "lnd", "custody": WalletChoice::Lnd {}.custody(), "cap_sats": 1_000 })
    );
    let pool = host.get(By::Nobody, "/v1/pool").await.ok().body;
    assert_eq!(pool["accounts"], json!({ "custody": WalletChoice::Lnd {}.custody(), "cap_sats": 1_000 }));
    // It is not deleted with money in it, also while no worker can be asked.
    let delete = async |query: &str| host.send(By::Key(&owner), "DELETE", &format!("{path}{query}"), vec![], &[]).await;
    assert_eq!(delete("").await.code(), "balance_remains");
    delete("?forfeit=true").await.ok();
    assert_eq!(books::balance(&host.store, &node.identity(), Book::Suspense).await.unwrap(), -1_000_000);

    // What the node is paid for that is no invoice of this host stands apart.
    let foreign = receive(node).create_invoice(InvoiceRequest::new(Msat::sats(9), "beer")).await.unwrap();
    assert!(matches!(pay(&pair.payer, &foreign.bolt11).await, Outcome::Settled { .. }));
    for _ in 0..300 {
        if books::balance(&host.store, &node.identity(), Book::Suspense).await.unwrap() == -1_009_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(books::balance(&host.store, &node.identity(), Book::Suspense).await.unwrap(), -1_009_000);
    assert_eq!(books::unsound(&host.store).await.unwrap(), Unsound::default());
}

#[tokio::test]
async fn an_invoice_that_is_paid_within_the_node_is_cancelled_there() {
    let pair = Pair::start().await;
    let node = &pair.payee;
    let host = host(node).await;
    let (owner, ada, bob) = (Key::new(1), Key::new(2), Key::new(3));
    let payer = created(&host, &owner, &ada, "ada").await;
    let payee = created(&host, &owner, &bob, "bob").await;
    let asked = async |npub: &str, sats: u64| -> Value {
        let path = format!("/v1/agents/{npub}/invoices");
        host.post(By::Key(&owner), &path, &json!({ "amount_sats": sats })).await.ok().body
    };
    let funds = asked(&payer, 500).await;
    assert!(matches!(pay(&pair.payer, funds["bolt11"].as_str().unwrap()).await, Outcome::Settled { .. }));
    available(&host, node, ada.npub(), 500).await;
    let invoice = asked(&payee, 120).await;
    let bolt11 = invoice["bolt11"].as_str().unwrap();
    let hash = decode_bolt11(bolt11).unwrap().hash;
    // What ada's worker does when it pays it.
    let worker = Worker::start(&host, 1).await;
    host.post(By::Key(&owner), &format!("/v1/agents/{payer}/start"), &json!({})).await.ok();
    let hosted = worker.hosts(&payer).await;
    let hold = NewHold {
        node: node.identity(),
        hash,
        npub: ada.npub(),
        payment_id: "job:1".into(),
        attempt: 1,
        amount: Msat::sats(120),
        max_fee: Msat::ZERO,
        payee: Payee::Agent,
        at: host.clock.now(),
    };
    let held = books::hold(&host.store, worker.fence, hosted.generation, &hold).await.unwrap();
    assert_eq!(held, Held::New);
    available(&host, node, bob.npub(), 120).await;
    available(&host, node, ada.npub(), 380).await;
    assert_eq!(receive(node).lookup_invoice(hash).await.unwrap(), InvoiceState::Canceled);
    assert!(matches!(pay(&pair.payer, bolt11).await, Outcome::Failed { .. }), "nobody pays it twice");
    let done = books::payment(&host.store, &node.identity(), hash).await.unwrap().unwrap();
    assert_eq!(done.preimage.map(|it| nexus_core::Hash32::sha256(it.as_bytes())), Some(hash));
    assert_eq!(books::balance(&host.store, &node.identity(), Book::Lightning).await.unwrap(), 500_000);
    assert_eq!(books::unsound(&host.store).await.unwrap(), Unsound::default());
}

#[tokio::test]
async fn without_accounts_no_policy_may_choose_one() {
    let host = Host::start_with(|_| {}).await;
    let (owner, agent) = (Key::new(1), Key::new(2));
    let mut body = host.agent_body(&owner, &agent, "ada");
    let policy = Policy { wallet: WalletChoice::Lnd {}, ..Policy::default_for(agent.npub()) };
    body["policy"] = json!(owner.signed_policy(&policy, host.clock.now()));
    let refused = host.create_with(By::Key(&owner), &owner, &agent, &body, &[]).await;
    assert_eq!(refused.code(), "policy_invalid");
    assert!(refused.text.contains("offers no lnd wallets"), "{}", refused.text);
    let pool = host.get(By::Nobody, "/v1/pool").await.ok().body;
    assert_eq!(pool["accounts"], Value::Null);
}
