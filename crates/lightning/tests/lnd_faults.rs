//! What goes wrong between the LND driver and its node: cut streams, wrong nodes, stale keys, slow and endless answers.
//! Whatever it is, what may have been paid is not called failed, and nothing is paid twice.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lnd_bench;
mod lnd_send;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use lnd_bench::Whole;
use lnd_send::send_of;
use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Clock, Hash32, MonoMs, Msat, UnixMs};
use nexus_lightning::lnd::{NodeConfig, Trust};
use nexus_lightning::{
    Cursor, Dispatch, Driver, Invoice, InvoiceRequest, InvoiceState, Network, Pay, PayRequest, Receive, WalletError,
};
use nexus_testkit::lnd::{Course, FUNDS_MSAT, Guise, Node, Pair, Wire};
use nexus_testkit::{ManualClock, TestClock};

const SEND: &str = "/v2/router/send";
const TRACK: &str = "/v2/router/track";
const INFO: &str = "/v1/getinfo";

struct World {
    pair: Pair,
    clock: Arc<TestClock>,
    payee: Whole,
}

fn config(node: &Node, trust: Trust) -> NodeConfig {
    let mut config = NodeConfig::new(&node.url(), trust, &node.identity(), Network::Regtest).unwrap();
    config.patience.connect_ms = 30_000;
    config.patience.answer_ms = 30_000;
    config.patience.settle_ms = 30_000;
    config
}

impl World {
    async fn new() -> Self {
        let (pair, clock) = (Pair::start().await, Arc::<TestClock>::default());
        let node = config(&pair.payee, Trust::File(pair.payee.certificate_file()));
        let payee =
            Whole::new(&node, &pair.payee.payer_macaroon_file(), &pair.payee.invoice_macaroon_file(), clock.clone());
        Self { pair, clock, payee }
    }

    fn payer_with(&self, change: impl FnOnce(&mut NodeConfig)) -> Whole {
        let node = &self.pair.payer;
        let mut config = config(node, Trust::File(node.certificate_file()));
        change(&mut config);
        self.payer_of(&config)
    }

    fn payer_of(&self, config: &NodeConfig) -> Whole {
        let node = &self.pair.payer;
        Whole::new(config, &node.payer_macaroon_file(), &node.invoice_macaroon_file(), self.clock.clone())
    }

    fn payer(&self) -> Whole {
        self.payer_with(|_| {})
    }

    async fn invoice(&self) -> (Invoice, Dispatch) {
        let invoice = self.payee.create_invoice(InvoiceRequest::new(Msat::sats(500), "faults")).await.unwrap();
        let send = send_of(&invoice.bolt11, &format!("pay {}", &invoice.hash.to_string()[..16]), &*self.clock);
        (invoice, send)
    }

    async fn certain(&self, payer: &Whole, send: &Dispatch, hash: Hash32) -> Outcome {
        for _ in 0..400 {
            match payer.resolve(send.resolve(hash)).await {
                Outcome::Pending | Outcome::Unknown { .. } => tokio::time::sleep(Duration::from_millis(20)).await,
                certain => return certain,
            }
        }
        panic!("still not certain");
    }

    async fn assert_paid_once(&self, payer: &Whole, send: &Dispatch, invoice: &Invoice) {
        let outcome = self.certain(payer, send, invoice.hash).await;
        assert!(
            matches!(outcome, Outcome::Settled { preimage: Some(it), .. } if Hash32::sha256(it.as_bytes()) == invoice.hash)
        );
        assert_eq!(self.pair.payer.begun(invoice.hash), 1);
        assert_eq!(self.pair.sum_msat(), 2 * FUNDS_MSAT);
        let state = self.payee.lookup_invoice(invoice.hash).await.unwrap();
        assert!(matches!(state, InvoiceState::Settled { .. }), "{state:?}");
    }

    fn untouched(&self, invoice: &Invoice) {
        assert_eq!(self.pair.payer.begun(invoice.hash), 0);
    }
}

fn unknown(outcome: &Outcome, of: &str) {
    let Outcome::Unknown { why } = outcome else { panic!("expected unknown, not {outcome:?}") };
    assert!(why.contains(of), "`{why}` does not speak of `{of}`");
}

/// Cut before, after and within every line of the answer to a payment, on its way to either end.
#[tokio::test]
async fn cut_at_every_line() {
    for course in [Course::Plain, Course::SettlesAfter { ms: 60 }] {
        for lines in 0..4 {
            for within in [false, true] {
                let world = World::new().await;
                let (payer, (invoice, send)) = (world.payer(), world.invoice().await);
                world.pair.payer.rule(SEND, course, Wire::Cut { lines, within });
                let outcome = payer.dispatch(send.clone()).await;
                // INITIATED, IN_FLIGHT, SUCCEEDED: what was cut after the last is whole.
                match (lines, &outcome) {
                    (3, Outcome::Settled { .. } | Outcome::Pending) => {}
                    (0..3, Outcome::Unknown { .. } | Outcome::Pending) => {}
                    other => panic!("cut after {lines} lines: {other:?}"),
                }
                world.assert_paid_once(&payer, &send, &invoice).await;
                let again = payer.dispatch(send.clone()).await;
                assert!(matches!(again, Outcome::Settled { .. }), "{again:?}");
                world.assert_paid_once(&payer, &send, &invoice).await;
            }
        }
    }
}

/// A question that is cut is asked again, and is never taken for an answer.
#[tokio::test]
async fn a_cut_look_is_no_answer() {
    let world = World::new().await;
    let (payer, (invoice, send)) = (world.payer(), world.invoice().await);
    for wire in [
        Wire::Cut { lines: 0, within: false },
        Wire::Cut { lines: 0, within: true },
        Wire::Dropped,
        Wire::Garbled { body: String::new() },
        Wire::Garbled { body: "{\"result\":{}}\n".to_owned() },
        Wire::Garbled { body: "{\"result\":".to_owned() },
        Wire::Garbled { body: "{}".to_owned() },
        // A gateway's page, a proxy's, and the gateway's word for a path that it does not have.
        Wire::Instead { status: 502, body: "<html>bad gateway</html>".to_owned() },
        Wire::Instead { status: 404, body: "<html>not here</html>".to_owned() },
        Wire::Instead { status: 404, body: r#"{"code":5,"message":"Not Found","details":[]}"#.to_owned() },
        Wire::Instead { status: 200, body: "<html>log in</html>".to_owned() },
        Wire::Instead { status: 503, body: r#"{"code":14,"message":"transport is closing","details":[]}"#.to_owned() },
        Wire::Huge { bytes: 5 << 20 },
    ] {
        world.pair.payer.rule(TRACK, Course::Plain, wire.clone());
        let outcome = payer.resolve(send.resolve(invoice.hash)).await;
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{wire:?}: {outcome:?}");
        world.pair.payer.rule(TRACK, Course::Plain, wire.clone());
        let outcome = payer.dispatch(send.clone()).await;
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{wire:?}: {outcome:?}");
        world.untouched(&invoice);
    }
    let other = payer.resolve(send.resolve(Hash32::sha256(b"no such payment"))).await;
    assert_eq!(other, Outcome::NotFound);
    assert!(matches!(payer.dispatch(send.clone()).await, Outcome::Settled { .. }));
    world.assert_paid_once(&payer, &send, &invoice).await;
}

/// Something else in place of the answer to a payment that was made.
#[tokio::test]
async fn a_garbled_answer_is_unknown() {
    for body in [
        String::new(),
        "\n\n".to_owned(),
        "{\"result\":null}\n".to_owned(),
        r#"{"result":{"payment_hash":"00","status":"FAILED"}}"#.to_owned() + "\n",
        // Another payment's failure.
        format!("{{\"result\":{{\"payment_hash\":\"{}\",\"status\":\"FAILED\"}}}}\n", "00".repeat(32)),
        "{\"error\":{\"code\":2,\"message\":\"router shutting down\",\"details\":[]}}\n".to_owned(),
    ] {
        let world = World::new().await;
        let (payer, (invoice, send)) = (world.payer(), world.invoice().await);
        world.pair.payer.rule(SEND, Course::Plain, Wire::Garbled { body: body.clone() });
        let outcome = payer.dispatch(send.clone()).await;
        assert!(!matches!(outcome, Outcome::Failed { .. } | Outcome::NotFound), "{body}: {outcome:?}");
        world.assert_paid_once(&payer, &send, &invoice).await;
    }
}

/// Success without the right preimage is not believed.
#[tokio::test]
async fn a_claim_without_proof_is_unknown() {
    let world = World::new().await;
    let (payer, (invoice, send)) = (world.payer(), world.invoice().await);
    payer.dispatch(send.clone()).await;
    for preimage in ["", &"00".repeat(32), &"zz".repeat(32)] {
        let hash = invoice.hash;
        let record = world.pair.payer.records(hash);
        let body = format!(
            "{{\"result\":{{\"payment_hash\":\"{hash}\",\"status\":\"SUCCEEDED\",\"payment_preimage\":\"{preimage}\",\
             \"first_hop_custom_records\":{record}}}}}\n"
        );
        world.pair.payer.rule(TRACK, Course::Plain, Wire::Garbled { body });
        unknown(&payer.resolve(send.resolve(hash)).await, "preimage");
    }
    world.assert_paid_once(&payer, &send, &invoice).await;
}

/// "payment already exists", "payment is in transition", "invoice is already paid": each for a send that met another,
/// identical one at the node.
#[tokio::test]
async fn already_exists_in_its_three_forms() {
    for (form, course) in [
        ("payment already exists", Course::Stuck),
        ("payment is in transition", Course::Stuck),
        ("invoice is already paid", Course::Plain),
    ] {
        for wrapped in [true, false] {
            let world = World::new().await;
            let (payer, (invoice, send)) = (world.payer(), world.invoice().await);
            // The first look sees nothing, as it does when both sends look before either is there.
            world.pair.payer.rule(SEND, course, Wire::Cut { lines: 0, within: false });
            assert!(matches!(payer.dispatch(send.clone()).await, Outcome::Unknown { .. }));
            let absent = r#"{"error":{"code":5,"message":"payment isn't initiated","details":[]}}"#;
            world.pair.payer.rule(TRACK, Course::Plain, Wire::Instead { status: 404, body: absent.to_owned() });
            if form == "payment already exists" || !wrapped {
                let body = format!(r#"{{"code":6,"message":"{form}","details":[]}}"#);
                let body = if wrapped { format!(r#"{{"error":{body}}}"#) } else { body };
                world.pair.payer.rule(SEND, Course::Plain, Wire::Instead { status: 409, body });
            }
            match (course, payer.dispatch(send.clone()).await) {
                (Course::Stuck, Outcome::Pending) => assert!(world.pair.payer.land(invoice.hash, true)),
                (Course::Plain, Outcome::Settled { .. }) => {}
                other => panic!("{form}: {other:?}"),
            }
            world.assert_paid_once(&payer, &send, &invoice).await;
        }
    }
}

/// Paid by hand at the node, with nobody's mark: neither claimed nor given up.
#[tokio::test]
async fn a_payment_made_by_hand_is_nobodys() {
    let world = World::new().await;
    let (payer, (invoice, send)) = (world.payer(), world.invoice().await);
    world.pair.payer.pay_by_hand(&invoice.bolt11, Course::Plain);
    while !matches!(world.payee.lookup_invoice(invoice.hash).await.unwrap(), InvoiceState::Settled { .. }) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    unknown(&payer.dispatch(send.clone()).await, "listpayments");
    unknown(&payer.resolve(send.resolve(invoice.hash)).await, "listpayments");
    assert_eq!(world.pair.payer.begun(invoice.hash), 1);
}

/// Only the pinned certificate is spoken to; a renewed one is taken from the file as soon as it is there.
#[tokio::test]
async fn another_certificate_is_refused() {
    let world = World::new().await;
    let (invoice, send) = world.invoice().await;
    let node = &world.pair.payer;
    let pinned = world.payer_of(&config(node, Trust::Fingerprint(node.fingerprint())));
    assert_eq!(pinned.health().await.unwrap().identity, node.identity());
    let public = world.payer_of(&config(node, Trust::PublicRoots));
    assert!(matches!(public.health().await, Err(WalletError::Unreachable(_))));
    let payer = world.payer();
    assert!(payer.health().await.is_ok());
    node.stop().await;
    node.renew_certificate(false);
    node.resume().await;
    node.heard();
    for stranger in [&payer, &pinned] {
        let error = stranger.health().await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
        unknown(&stranger.dispatch(send.clone()).await, "certificate");
    }
    assert_eq!(node.heard(), Vec::<String>::new(), "something was said to a stranger");
    world.untouched(&invoice);
    node.renew_certificate(true);
    node.restart().await;
    assert!(payer.health().await.is_ok());
    assert!(pinned.health().await.is_err());
    std::fs::write(node.certificate_file(), "no certificate").unwrap();
    let error = payer.health().await.unwrap_err().to_string();
    assert!(error.contains("tls.cert"), "{error}");
}

/// Another node, another network, an old version: told apart on each connection, and asked nothing.
#[tokio::test]
async fn a_node_in_another_guise_is_asked_nothing() {
    let world = World::new().await;
    let (invoice, send) = world.invoice().await;
    let (payer, node) = (world.payer(), &world.pair.payer);
    assert!(matches!(payer.dispatch(send.clone()).await, Outcome::Settled { .. }));
    for (guise, of) in [
        (Guise { identity: Some(world.pair.payee.identity()), ..Guise::default() }, "answers where"),
        (Guise { identity: Some(String::new()), ..Guise::default() }, "answers where"),
        (Guise { network: Some("mainnet"), ..Guise::default() }, "`mainnet`"),
        (Guise { network: Some("testnet"), ..Guise::default() }, "`testnet`"),
        (Guise { version: Some("0.18.5-beta"), ..Guise::default() }, "0.19"),
        (Guise { version: Some("unheard of"), ..Guise::default() }, "0.19"),
    ] {
        node.guise(guise);
        node.heard();
        // Its "not found" would release money that was paid.
        unknown(&payer.resolve(send.resolve(invoice.hash)).await, of);
        unknown(&payer.dispatch(send.clone()).await, of);
        assert!(payer.recover().await.is_err() && payer.balance().await.is_err());
        assert!(payer.lookup_invoice(invoice.hash).await.is_err());
        let heard = node.heard();
        assert!(heard.iter().all(|it| it == "GET /v1/getinfo"), "{heard:?}");
    }
    node.guise(Guise { out_of_step: true, ..Guise::default() });
    assert!(!payer.health().await.unwrap().synced);
    let quote = payer.quote(PayRequest { bolt11: invoice.bolt11.clone(), amount: None }).await;
    assert!(matches!(quote, Err(WalletError::Unreachable(why)) if why.contains("chain")));
    node.guise(Guise::default());
    world.assert_paid_once(&payer, &send, &invoice).await;
}

/// A key that is no longer good, or good for the other half only, is called that, and says nothing about payments.
#[tokio::test]
async fn stale_and_wrong_macaroons() {
    let world = World::new().await;
    let (invoice, send) = world.invoice().await;
    let payer = world.payer();
    let node = &world.pair.payer;
    let swapped = Whole::new(
        &config(node, Trust::File(node.certificate_file())),
        &node.invoice_macaroon_file(),
        &node.payer_macaroon_file(),
        world.clock.clone(),
    );
    assert_eq!(swapped.create_invoice(InvoiceRequest::new(Msat::sats(1), "")).await, Err(WalletError::Auth));
    let outcome = swapped.dispatch(send.clone()).await;
    assert!(matches!(outcome, Outcome::NotFound), "refused by the node, which knows of none: {outcome:?}");
    node.revoke_macaroons();
    assert_eq!(payer.health().await.unwrap_err(), WalletError::Auth);
    assert_eq!(payer.lookup_invoice(invoice.hash).await, Err(WalletError::Auth));
    unknown(&payer.dispatch(send.clone()).await, "key");
    unknown(&payer.resolve(send.resolve(invoice.hash)).await, "key");
    world.untouched(&invoice);
}

/// A node that starts, locks or stops is unreachable for now, not wrong.
#[tokio::test]
async fn a_node_that_is_not_ready_is_unreachable() {
    let world = World::new().await;
    let (payer, (invoice, send)) = (world.payer(), world.invoice().await);
    for (code, message) in [
        (2, "wallet locked, unlock it to enable full RPC access"),
        (2, "the RPC server is in the process of starting up, but not yet ready to accept calls"),
        (2, "waiting to start, RPC services not available"),
        (14, "transport is closing"),
    ] {
        world.pair.payer.guise(Guise { refuses: Some((code, message)), ..Guise::default() });
        assert!(matches!(payer.health().await, Err(WalletError::Unreachable(_))), "{message}");
        assert!(matches!(payer.dispatch(send.clone()).await, Outcome::Unknown { .. }), "{message}");
    }
    world.pair.payer.guise(Guise::default());
    world.pair.payer.stop().await;
    assert!(matches!(payer.health().await, Err(WalletError::Unreachable(_))));
    assert!(matches!(payer.dispatch(send.clone()).await, Outcome::Unknown { .. }));
    world.pair.payer.resume().await;
    world.untouched(&invoice);
    assert!(matches!(payer.dispatch(send.clone()).await, Outcome::Settled { .. }));
    world.assert_paid_once(&payer, &send, &invoice).await;
}

/// A slow node is waited for, within bounds; a mute one is given up, and not paid through twice.
#[tokio::test]
async fn patience_has_bounds() {
    let world = World::new().await;
    let (invoice, send) = world.invoice().await;
    let payer = world.payer();
    world.pair.payer.rule(SEND, Course::Plain, Wire::Slow { ms: 300 });
    assert!(matches!(payer.dispatch(send.clone()).await, Outcome::Settled { .. }));
    world.assert_paid_once(&payer, &send, &invoice).await;
    let short = world.payer_with(|config| config.patience.answer_ms = 2_000);
    let (invoice, send) = world.invoice().await;
    world.pair.payer.rule(SEND, Course::Plain, Wire::Mute);
    unknown(&short.dispatch(send.clone()).await, "no answer within 2000 ms");
    world.assert_paid_once(&payer, &send, &invoice).await;
    for path in [INFO, "/v1/balance/channels"] {
        world.pair.payer.rule(path, Course::Plain, Wire::Mute);
        assert!(matches!(short.health().await, Err(WalletError::Unreachable(_))));
        world.pair.payer.rule(path, Course::Plain, Wire::Huge { bytes: 5 << 20 });
        let error = payer.health().await.unwrap_err().to_string();
        assert!(error.contains("more than"), "{error}");
    }
    // A port that accepts and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let node = &world.pair.payer;
    let mut nobody =
        NodeConfig::new(&url, Trust::File(node.certificate_file()), &node.identity(), Network::Regtest).unwrap();
    nobody.patience.connect_ms = 200;
    let error = world.payer_of(&nobody).health().await.unwrap_err().to_string();
    assert!(error.contains("no connection within 200 ms"), "{error}");
}

/// A clock that runs past the deadline when the request is about to leave.
struct Late {
    inner: Arc<ManualClock>,
    looks: std::sync::atomic::AtomicU64,
    at: u64,
}

impl Clock for Late {
    fn now(&self) -> UnixMs {
        self.inner.now()
    }

    fn mono(&self) -> MonoMs {
        let look = self.looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if look >= self.at { MonoMs(1_000_000) } else { MonoMs(0) }
    }
}

/// However late the deadline passes on the way to the wire, no byte of a payment leaves after it.
#[tokio::test]
async fn the_deadline_is_checked_at_the_wire() {
    let world = World::new().await;
    let mut refused = 0;
    for at in 0..40 {
        let (invoice, send) = world.invoice().await;
        let inner = Arc::new(ManualClock::at(world.clock.now()));
        let clock = Arc::new(Late { inner, looks: 0.into(), at });
        let node = &world.pair.payer;
        let config = config(node, Trust::File(node.certificate_file()));
        let payer = Whole::new(&config, &node.payer_macaroon_file(), &node.invoice_macaroon_file(), clock);
        let outcome = payer.dispatch(Dispatch { deadline: MonoMs(500_000), ..send.clone() }).await;
        match outcome {
            Outcome::Failed { class: FailureClass::Refused } => {
                world.untouched(&invoice);
                refused += 1;
            }
            Outcome::Settled { .. } | Outcome::Pending => {
                assert!(refused > 1, "the clock was not looked at on the way");
                return world.assert_paid_once(&world.payer(), &send, &invoice).await;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("never in time");
}

/// A settlement told again is the same; one that another invoice hides behind is found; a cut subscription goes on.
#[tokio::test]
async fn settlements_survive_cuts_and_doubles() {
    let world = World::new().await;
    let payer = world.payer();
    world.pair.payee.rule("/v1/invoices/subscribe", Course::Plain, Wire::Dropped);
    world.pair.payee.rule("/v1/invoices/subscribe", Course::Plain, Wire::Cut { lines: 1, within: true });
    let mut stream = world.payee.settlements(Cursor(0));
    let mut hashes = Vec::new();
    for _ in 0..3 {
        let (invoice, send) = world.invoice().await;
        assert!(matches!(payer.dispatch(send).await, Outcome::Settled { .. }));
        hashes.push(invoice.hash);
    }
    let mut told: Vec<(Hash32, Cursor)> = Vec::new();
    let mut errors = 0;
    let collect = async {
        while hashes.iter().any(|hash| !told.iter().any(|(it, _)| it == hash)) {
            match stream.next().await {
                Some(Ok(settlement)) => told.push((settlement.hash, settlement.cursor)),
                Some(Err(_)) => errors += 1,
                None => panic!("the stream ended"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), collect).await.unwrap();
    assert!(errors > 0, "nothing was cut");
    world.pair.payee.restart().await;
    world.pair.payee.tell_again(hashes[0]);
    let (invoice, send) = world.invoice().await;
    assert!(matches!(payer.dispatch(send).await, Outcome::Settled { .. }));
    let last = async {
        loop {
            if let Some(Ok(settlement)) = stream.next().await {
                told.push((settlement.hash, settlement.cursor));
                if settlement.hash == invoice.hash {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), last).await.unwrap();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 4, "a settlement under two cursors: {told:?}");
    let mut cursors: Vec<Cursor> = told.iter().map(|(_, cursor)| *cursor).collect();
    cursors.sort();
    assert_eq!(cursors, (1..=4).map(Cursor).collect::<Vec<_>>());
}

/// Whoever ends each subscription at once is not asked without a pause.
#[tokio::test]
async fn a_subscription_that_ends_at_once_is_not_hurried() {
    const SUBSCRIBE: &str = "/v1/invoices/subscribe";
    let world = World::new().await;
    for _ in 0..1_000 {
        world.pair.payee.rule(SUBSCRIBE, Course::Plain, Wire::Garbled { body: String::new() });
    }
    let mut stream = world.payee.settlements(Cursor(0));
    let began = world.clock.mono();
    let quiet = tokio::time::timeout(Duration::from_millis(1_200), stream.next()).await;
    assert!(quiet.is_err(), "nothing was settled, nor is it an error: {quiet:?}");
    let asked = world.pair.payee.heard().iter().filter(|it| it.contains(SUBSCRIBE)).count();
    let pauses = usize::try_from(world.clock.mono().since(began) / 500).unwrap();
    assert!((1..=pauses + 1).contains(&asked), "asked {asked} times");
    world.pair.payee.no_rules();
    let (invoice, send) = world.invoice().await;
    assert!(matches!(world.payer().dispatch(send).await, Outcome::Settled { .. }));
    let told = tokio::time::timeout(Duration::from_secs(30), stream.next()).await.unwrap();
    assert!(matches!(told, Some(Ok(settlement)) if settlement.hash == invoice.hash));
}

/// Invoices whose making was cut are made again, and are the same.
#[tokio::test]
async fn a_cut_invoice_is_made_again() {
    let world = World::new().await;
    let preimage = nexus_lightning::Preimage::from_bytes([7; 32]);
    let request = InvoiceRequest { preimage: Some(preimage.clone()), ..InvoiceRequest::new(Msat::sats(9), "again") };
    for wire in [Wire::Dropped, Wire::Cut { lines: 0, within: false }, Wire::Cut { lines: 1, within: true }] {
        world.pair.payee.rule("/v1/invoices", Course::Plain, Wire::Whole);
        world.pair.payee.rule("/v1/invoices", Course::Plain, wire);
        let fresh = config(&world.pair.payee, Trust::Fingerprint(world.pair.payee.fingerprint()));
        let payee = Whole::new(
            &fresh,
            &world.pair.payee.payer_macaroon_file(),
            &world.pair.payee.invoice_macaroon_file(),
            world.clock.clone(),
        );
        assert!(matches!(payee.create_invoice(request.clone()).await, Err(WalletError::Unreachable(_))));
    }
    let made = world.payee.create_invoice(request.clone()).await.unwrap();
    assert_eq!(made.hash, preimage.hash());
    assert_eq!(world.payee.create_invoice(request).await.unwrap().bolt11, made.bolt11);
    assert_eq!(world.payee.lookup_invoice(made.hash).await.unwrap(), InvoiceState::Open);
    assert_eq!(world.payee.lookup_invoice(Hash32::sha256(b"none")).await.unwrap(), InvoiceState::NotFound);
    // Something else answers with another invoice than was asked for.
    let other = world.payee.create_invoice(InvoiceRequest::new(Msat::sats(1), "other")).await.unwrap();
    let body = serde_json::json!({ "payment_request": other.bolt11 }).to_string();
    world.pair.payee.rule("/v1/invoices", Course::Plain, Wire::Garbled { body });
    let made = world.payee.create_invoice(InvoiceRequest::new(Msat::sats(2), "mine")).await;
    assert!(matches!(made, Err(WalletError::Protocol(_))), "{made:?}");
}

/// No error and no Debug shows a macaroon or a preimage.
#[tokio::test]
async fn nothing_secret_is_shown() {
    let world = World::new().await;
    let (payer, (invoice, send)) = (world.payer(), world.invoice().await);
    let secrets = [world.pair.payer.payer_macaroon_file(), world.pair.payer.invoice_macaroon_file()]
        .map(|path| std::fs::read_to_string(path).unwrap());
    let mut shown = Vec::new();
    for wire in [
        Wire::Garbled { body: format!("{{\"result\":\"{}\"}}\n", secrets[0]) },
        Wire::Instead { status: 500, body: "not LND's".to_owned() },
        Wire::Dropped,
    ] {
        world.pair.payer.rule(TRACK, Course::Plain, wire.clone());
        shown.push(format!("{:?}", payer.dispatch(send.clone()).await));
        world.pair.payer.rule(INFO, Course::Plain, wire);
        shown.push(format!("{:?}", payer.health().await));
    }
    shown.push(format!("{:?}", config(&world.pair.payer, Trust::PublicRoots)));
    for text in &shown {
        assert!(secrets.iter().all(|secret| !text.contains(secret.as_str())), "{text}");
    }
    world.untouched(&invoice);
}
