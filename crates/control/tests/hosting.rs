//! Hosting fees over LND: the API, the biller and the real driver against a node of our own that answers as LND does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{By, Host, Key};
use nexus_control::Billing;
use nexus_core::Clock;
use nexus_core::hosting::{HostingRules, Plan};
use nexus_core::payment::Outcome;
use nexus_lightning::lnd::{InvoiceMacaroon, LndPay, LndReceive, NodeConfig, PayerMacaroon, Trust};
use nexus_lightning::{Dispatch, InvoiceRequest, Network, Pay, Receive, decode_bolt11};
use nexus_seal::operator::OperatorKey;
use nexus_store::ledger::{self, Book, Unsound};
use nexus_testkit::lnd::{Node, Pair};
use nexus_testkit::{SystemEntropy, TestClock};
use serde_json::json;

fn config(node: &Node) -> NodeConfig {
    let trust = Trust::File(node.certificate_file());
    NodeConfig::new(&node.url(), trust, &node.identity(), Network::Regtest).unwrap()
}

fn receive(node: &Node) -> LndReceive {
    LndReceive::new(
        config(node),
        InvoiceMacaroon::read(&node.invoice_macaroon_file()).unwrap(),
        Arc::<TestClock>::default(),
    )
}

/// Somebody pays with a wallet of theirs.
async fn pay(node: &Node, bolt11: &str) {
    let clock = Arc::<TestClock>::default();
    let wallet = LndPay::new(config(node), PayerMacaroon::read(&node.payer_macaroon_file()).unwrap(), clock.clone());
    let hash = decode_bolt11(bolt11).unwrap().hash;
    let send = Dispatch {
        payment_id: hash.to_string(),
        attempt: 1,
        key: "somebody".into(),
        bolt11: bolt11.to_owned(),
        amount: None,
        max_fee: nexus_core::Msat::sats(100),
        deadline: clock.mono().plus_ms(30_000),
        handle: None,
    };
    assert!(matches!(wallet.dispatch(send).await, Outcome::Settled { .. }));
}

/// Waits until the account's credit is this.
async fn credit(host: &Host, owner: &Key, sats: u64) {
    for _ in 0..300 {
        let found = host.get(By::Key(owner), "/v1/hosting").await.ok().body["credit_msat"].as_u64().unwrap();
        if found == sats * 1_000 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{}", host.get(By::Key(owner), "/v1/hosting").await.text);
}

#[tokio::test]
async fn hosting_is_paid_over_lnd_and_a_node_that_is_away_is_asked_again() {
    let pair = Pair::start().await;
    let node = &pair.payee;
    let billing = Billing {
        rules: HostingRules::default(),
        plans: BTreeMap::from([("hosted".to_owned(), Plan { fee_sats: 100, ..Plan::default() })]),
        node: Arc::new(receive(node)),
        identity: None,
    };
    let key = Arc::new(OperatorKey::generate(&SystemEntropy));
    let host = Host::start_with(|config| {
        config.plan = "hosted".to_owned();
        config.billing = Some(billing);
        config.operator_key = Some(key);
    })
    .await;
    let owner = Key::new(1);
    let ask = async |sats: u64| host.post(By::Key(&owner), "/v1/invoices", &json!({ "amount_sats": sats })).await;

    let first = ask(70).await.ok().body;
    let bolt11 = first["bolt11"].as_str().unwrap();
    assert_eq!(decode_bolt11(bolt11).unwrap().hash.to_string(), first["id"].as_str().unwrap());
    pay(&pair.payer, bolt11).await;
    credit(&host, &owner, 70).await;
    let id = first["id"].as_str().unwrap();
    let read = host.get(By::Key(&owner), &format!("/v1/invoices/{id}")).await.ok().body;
    assert_eq!((&read["state"], &read["paid_msat"]), (&json!("paid"), &json!(70_000)));
    let stranger = host.get(By::Key(&Key::new(3)), &format!("/v1/invoices/{id}")).await;
    assert_eq!(stranger.code(), "not_found");
    let svg = host.get(By::Key(&owner), &format!("/v1/invoices/{id}/qr")).await.ok();
    assert!(svg.headers["content-type"] == "image/svg+xml" && svg.text.contains("<svg"));
    let csv = host.get(By::Key(&owner), "/v1/hosting/history?format=csv").await.ok();
    assert_eq!(csv.text.lines().count(), 2, "{}", csv.text);

    // The node goes away with an invoice paid: asked for another, the host says so; back, it is credited.
    let second = ask(30).await.ok().body;
    pay(&pair.payer, second["bolt11"].as_str().unwrap()).await;
    node.stop().await;
    assert_eq!(ask(1).await.code(), "unavailable");
    node.resume().await;
    credit(&host, &owner, 100).await;

    // What the node is paid for that is no invoice of this host is kept apart.
    let foreign = receive(node).create_invoice(InvoiceRequest::new(nexus_core::Msat::sats(9), "beer")).await.unwrap();
    pay(&pair.payer, &foreign.bolt11).await;
    for _ in 0..300 {
        if ledger::balance(&host.store, Book::Suspense).await.unwrap() == -9_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ledger::balance(&host.store, Book::Suspense).await.unwrap(), -9_000);
    assert_eq!(ledger::balance(&host.store, Book::Lightning).await.unwrap(), 109_000);
    assert_eq!(ledger::unsound(&host.store).await.unwrap(), Unsound::default());
    credit(&host, &owner, 100).await;
}
