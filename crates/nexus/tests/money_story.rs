//! Money's whole story, with a real mint: an owner pays hosting, an agent receives a zap, buys inference, is suspended, pays
//! its own rent, is revived, and its owner takes the rest out. The mint is Nutshell over a node that answers as LND does;
//! hosting and the provider are paid at the other node of the pair.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::sync::Arc;

use common::{Friend, Host, Place, eventually, hex_of, list, nostr};
use nexus_core::Msat;
use nexus_lightning::lnd::{InvoiceMacaroon, LndReceive, NodeConfig, Trust};
use nexus_lightning::{InvoiceRequest, InvoiceState, Network, Receive, decode_bolt11};
use nexus_testkit::TestClock;
use nexus_testkit::lnd::{Course, Node, Pair};
use nexus_testkit::mint::{Backend, Mint};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const DAY_MS: i64 = 86_400_000;

/// Everything outside of the host.
struct Town {
    runtime: Runtime,
    pair: Pair,
    mint: Mint,
}

impl Town {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let pair = runtime.block_on(Pair::start());
        let node = &pair.payer;
        let backend =
            Backend::Lnd { url: node.url(), certificate: node.certificate_file(), macaroon: node.admin_macaroon() };
        let mint = runtime.block_on(Mint::start(backend));
        Self { runtime, pair, mint }
    }

    /// The half of the shops' node that makes invoices.
    fn till(&self) -> LndReceive {
        let node = &self.pair.payee;
        let trust = Trust::File(node.certificate_file());
        let config = NodeConfig::new(&node.url(), trust, &node.identity(), Network::Regtest).unwrap();
        LndReceive::new(
            config,
            InvoiceMacaroon::read(&node.invoice_macaroon_file()).unwrap(),
            Arc::<TestClock>::default(),
        )
    }

    /// Somebody pays from one of the nodes.
    fn pays(&self, node: &Node, bolt11: &str) {
        let _inside = self.runtime.enter();
        node.pay_by_hand(bolt11, Course::Plain);
    }

    fn state(&self, bolt11: &str) -> InvoiceState {
        let hash = decode_bolt11(bolt11).unwrap().hash;
        self.runtime.block_on(self.till().lookup_invoice(hash)).unwrap()
    }
}

fn section(name: &str, node: &Node) -> String {
    format!(
        "[{name}]\nurl = {:?}\ncertificate_file = {:?}\nidentity = {:?}\nnetwork = \"regtest\"\nmacaroon_file = {:?}\n",
        node.url(),
        node.certificate_file(),
        node.identity(),
        node.invoice_macaroon_file()
    )
}

fn start(place: &Place, town: &Town) -> Host {
    let path = place.path("host.toml");
    let shops = &town.pair.payee;
    let text = format!(
        "[hosting]\ncharge = true\n[hosting.plans.hosted]\nfee_sats = 1000\n[hosting.rules]\ntrial_days = 0\n{}{}",
        section("hosting.lnd", shops),
        section("provider.lnd", shops),
    );
    std::fs::write(&path, text).unwrap();
    place.start_with(&[], &["--config", path.to_str().unwrap()])
}

fn hosting(place: &Place) -> String {
    place.ok(&["hosting", "status"])["agents"][0]["hosting"].as_str().unwrap_or_default().to_owned()
}

fn becomes(place: &Place, host: &Host, standing: &str) {
    let is = eventually(60, || (hosting(place) == standing).then_some(()));
    assert!(
        is.is_some(),
        "{standing}? {}\n{}\n{}",
        place.ok(&["hosting", "status"]),
        place.status("ada"),
        host.logged()
    );
}

fn completed(place: &Place) -> usize {
    place.ticks("ada").iter().filter(|tick| tick["status"] == "completed").count()
}

fn balance(place: &Place) -> u64 {
    place.ok(&["agent", "balance", "ada"])["balance_sats"].as_u64().unwrap()
}

/// Payments of the agent that settled, in sats with their fees.
fn spent(place: &Place) -> u64 {
    let payments = place.events("ada").into_iter().filter(|event| event["type"] == "payment");
    let settled = payments.filter(|event| event["state"] == "settled");
    settled.map(|event| event["amount_sats"].as_u64().unwrap() + event["fee_sats"].as_u64().unwrap()).sum()
}

#[test]
fn an_agent_earns_buys_pays_its_rent_and_is_paid_out() {
    let town = Town::new();
    let place = Place::new();
    let host = start(&place, &town);
    let policy = json!({ "wallet": { "backend": "cashu", "mint": town.mint.url() } });
    std::fs::write(place.path("policy.json"), policy.to_string()).unwrap();
    let (file, passphrase) = (place.path("policy.json"), place.path("passphrase"));
    let created = place.ok(&[
        "agent",
        "create",
        "ada",
        "--start",
        "--goal",
        "Thank people",
        "--heartbeat",
        "1d",
        "--policy-file",
        file.to_str().unwrap(),
        "--passphrase-file",
        passphrase.to_str().unwrap(),
    ]);
    let npub = common::find(&created, "npub").unwrap();

    // Nothing is free: it does not tick before its owner has paid.
    becomes(&place, &host, "suspended");
    let invoice = place.ok(&["hosting", "invoice", "--sats", "1000", "--invoice-only"]);
    town.pays(&town.pair.payer, invoice["bolt11"].as_str().unwrap());
    becomes(&place, &host, "paid");
    let shown = place.ok(&["agent", "wallet", "ada"]);
    assert!(shown.to_string().contains("custodial"), "{shown}");

    // A zap from outside is its first money; thinking is bought of it.
    let friend = Friend::new(&place.relay());
    let ask = json!({
        "origin": place.api(), "sk": friend.sk, "address": format!("{npub}@nexus.test"), "to": hex_of(&npub),
        "msat": 9_000_000, "text": "for your engine", "relay": place.relay(),
    });
    let zap = nostr("zap", ask).unwrap().remove(0);
    let bolt11 = zap["pr"].as_str().unwrap();
    assert_eq!(decode_bolt11(bolt11).unwrap().payee, town.pair.payer.identity(), "its mint's invoice");
    town.pays(&town.pair.payee, bolt11);
    let heard = eventually(60, || {
        let zapped = |tick: &Value| tick["trigger"] == "zap" && tick["status"] == "completed";
        place.ticks("ada").iter().any(zapped).then_some(())
    });
    assert!(heard.is_some(), "{}\n{}", place.status("ada")["reason"], host.logged());
    let receipts = friend.query(json!({ "kinds": [9_735], "#p": [hex_of(&npub)] }));
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    let bought = spent(&place);
    assert!(bought >= 10, "{:?}", place.events("ada"));
    assert_eq!(balance(&place), 9_000 - bought);

    // Its month and its grace are over, and nobody pays: it is suspended.
    assert_eq!(host.interrupt(), 0);
    let database = rusqlite::Connection::open(place.database()).unwrap();
    let past = "UPDATE agent SET hosted_from = hosted_from - ?1, paid_until = paid_until - ?1, hosting_look_at = 0";
    assert_eq!(database.execute(past, [45 * DAY_MS]).unwrap(), 1);
    drop(database);
    let host = start(&place, &town);
    becomes(&place, &host, "suspended");
    let (before, ticked) = (balance(&place), completed(&place));
    friend.send(1, &hex_of(&npub), "are you there?");
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(completed(&place), ticked, "who is suspended does not tick");

    // Its owner lets it pay its own rent, so it does, and is back within seconds, with the message that waited.
    place.ok(&["agent", "rent", "ada", "--month-cap", "1200"]);
    becomes(&place, &host, "paid");
    let back = eventually(60, || (completed(&place) > ticked).then_some(()));
    assert!(back.is_some(), "{:?}\n{}", place.status("ada"), host.logged());
    assert!(balance(&place) <= before - 1_000);
    let months = list(&place.ok(&["hosting", "history"])["entries"]);
    assert_eq!(months.iter().filter(|entry| entry["kind"] == "month").count(), 2, "{months:?}");

    // The rest is its owner's.
    let request = InvoiceRequest::new(Msat::sats(5_000), "home");
    let home = town.runtime.block_on(town.till().create_invoice(request)).unwrap();
    let quiet = eventually(30, || (place.status("ada")["reason"]["code"] != "ticking").then_some(()));
    assert!(quiet.is_some());
    let said = place.ok(&["agent", "withdraw", "ada", "--sats", "5000", "--to", &home.bolt11]);
    assert_eq!(said["state"], "settled", "{said}");
    assert!(matches!(town.state(&home.bolt11), InvoiceState::Settled { amount, .. } if amount == Msat::sats(5_000)));

    // What everybody has adds up: nothing was paid twice, and nothing is on its way.
    let adds_up = eventually(30, || (balance(&place) == 9_000 - spent(&place)).then_some(()));
    assert!(adds_up.is_some(), "{} {} {:?}", balance(&place), spent(&place), place.events("ada"));
    let database = rusqlite::Connection::open(place.database()).unwrap();
    let count = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT COALESCE(SUM(amount_msat), 0) FROM ledger_line"), 0);
    assert_eq!(count("SELECT COUNT(*) FROM payment WHERE state NOT IN ('settled', 'failed', 'canceled')"), 0);
    assert_eq!(host.interrupt(), 0);
}
