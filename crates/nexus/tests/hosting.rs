//! An owner pays for hosting, told to the real binary: by command line, by L402, and across a kill.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Host, Place, eventually, list};
use nexus_core::payment::Outcome;
use nexus_core::{Clock, Msat, UnixMs};
use nexus_lightning::devnet::{self, AccountKey};
use nexus_lightning::{Dispatch, Pay};
use nexus_testkit::{ManualClock, SystemEntropy};
use serde_json::{Value, json};

/// Nothing is free: no trial, and a fee of 1,000 sats.
const CHARGED: [(&str, &str); 1] = [("NEXUS_HOSTING_CHARGE", "true")];

fn configured(place: &Place) -> std::path::PathBuf {
    let path = place.path("host.toml");
    std::fs::write(&path, "[hosting.plans.hosted]\nfee_sats = 1000\n[hosting.rules]\ntrial_days = 0\n").unwrap();
    path
}

fn start(place: &Place) -> Host {
    let config = configured(place);
    place.start_with(&CHARGED, &["--config", config.to_str().unwrap()])
}

fn reason(place: &Place, code: &str) -> bool {
    eventually(30, || (place.status("ada")["reason"]["code"] == code).then_some(())).is_some()
}

fn hosting(place: &Place) -> Value {
    place.ok(&["hosting", "status"])
}

/// A call without any signature. Status, headers and body.
fn post(place: &Place, path: &str, extra: &str, body: &Value) -> (u16, String, Value) {
    let address = place.api().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let body = body.to_string();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{extra}\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// Pays as some wallet of the development network; returns the preimage.
#[expect(clippy::disallowed_methods, reason = "a wallet has a clock of its own")]
fn pays(host: &Host, bolt11: &str) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let clock = Arc::new(ManualClock::at(UnixMs(i64::try_from(since.as_millis()).unwrap())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let parts = devnet::Parts::new(clock.clone(), Arc::new(SystemEntropy));
        let network = devnet::open(host.ready["devnet"].as_str().unwrap().parse().unwrap(), parts).await.unwrap();
        let wallet = network.wallet(AccountKey::from_wallet_seed(b"somebody with a wallet"));
        wallet.faucet().await.unwrap();
        let send = Dispatch {
            payment_id: "top-up".into(),
            attempt: 1,
            key: "top-up".into(),
            bolt11: bolt11.to_owned(),
            amount: None,
            max_fee: Msat::sats(100),
            deadline: clock.mono().plus_ms(30_000),
            handle: None,
        };
        wallet.dispatch(send).await
    });
    match outcome {
        Outcome::Settled { preimage: Some(preimage), .. } => preimage.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_owner_pays_for_hosting() {
    let place = Place::new();
    let host = start(&place);
    place.agent("ada", &["--goal", "Live", "--heartbeat", "1d"]);
    assert!(reason(&place, "suspended"), "{}\n{}", place.status("ada"), host.logged());
    assert!(place.ticks("ada").iter().all(|tick| tick["status"] == "skipped"));
    let before = hosting(&place);
    assert_eq!((&before["missing_sats"], &before["agents"][0]["hosting"]), (&json!(1_000), &json!("suspended")));

    // The host dies with an invoice open: it is paid after, and counts.
    let invoice = place.ok(&["hosting", "invoice", "--sats", "2500", "--invoice-only"]);
    assert_eq!(invoice["state"], "open");
    host.kill();
    let host = start(&place);
    pays(&host, invoice["bolt11"].as_str().unwrap());
    let credited = eventually(30, || (hosting(&place)["agents"][0]["hosting"] == "paid").then_some(()));
    assert!(credited.is_some(), "{}\n{}", hosting(&place), host.logged());
    let paid = place.ok(&["hosting", "invoice", "--sats", "1000"]);
    assert_eq!((&paid["state"], &paid["paid_msat"]), (&json!("paid"), &json!(1_000_000)));
    let ticked = || place.ticks("ada").iter().any(|tick| tick["status"] == "completed").then_some(());
    assert!(eventually(30, ticked).is_some(), "{}\n{}", place.status("ada"), host.logged());
    let after = hosting(&place);
    assert_eq!((&after["credit_msat"], &after["agents"][0]["hosting"]), (&json!(2_500_000), &json!("paid")));
    assert!(after["agents"][0]["paid_until_ms"].as_i64() > Some(0));

    // Where nothing is charged any more, everyone is paid; and charged again, the credit is still there.
    assert_eq!(host.interrupt(), 0);
    let host = place.start(&[]);
    let freed = eventually(30, || hosting(&place)["agents"][0]["paid_until_ms"].is_null().then_some(()));
    assert!(freed.is_some(), "{}", hosting(&place));
    assert_eq!((&hosting(&place)["charged"], &place.status("ada")["hosting"]), (&json!(false), &json!("paid")));
    assert_eq!(host.interrupt(), 0);
    let host = start(&place);
    let charged = eventually(30, || (hosting(&place)["credit_msat"] == 1_500_000).then_some(()));
    assert!(charged.is_some(), "{}", hosting(&place));

    // Deleted on its first day: nearly all of the month comes back.
    let entries = list(&place.ok(&["hosting", "history"])["entries"]);
    let kinds: Vec<_> = entries.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["month", "top_up", "month", "top_up"], "{entries:?}");
    place.ok(&["agent", "delete", "ada", "--forfeit", "--yes"]);
    let credit = hosting(&place)["credit_msat"].as_u64().unwrap();
    assert!((2_499_000..2_500_000).contains(&credit), "{credit}");
    assert_eq!(host.interrupt(), 0);
}

#[test]
fn anybody_pays_by_l402() {
    let place = Place::new();
    let host = start(&place);
    let owner = place.ok(&["context", "show"])["owner"].as_str().unwrap().to_owned();
    let ask = json!({ "owner": owner, "amount_sats": 700 });
    let (status, head, body) = post(&place, "/v1/hosting/topup", "", &ask);
    assert_eq!(status, 404, "no account before its owner's first call: {body}");
    hosting(&place);
    let (status, head_402, body) = post(&place, "/v1/hosting/topup", "", &ask);
    assert_eq!((status, &body["code"]), (402, &json!("payment_required")), "{head}");
    let challenge = head_402.lines().find(|line| line.to_lowercase().starts_with("www-authenticate: l402 ")).unwrap();
    let value = |name: &str| {
        let start = challenge.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
        challenge[start..].split('"').next().unwrap().to_owned()
    };
    let (token, bolt11) = (value("token"), value("invoice"));
    assert!(bolt11.starts_with("lnbc") && value("macaroon") == token);

    // Without the preimage of that invoice nothing is said.
    for (credential, expected) in
        [(format!("{token}:{}", "00".repeat(32)), 401), (format!("{token}:zz"), 401), ("AAAA:00".to_owned(), 401)]
    {
        let header = format!("Authorization: L402 {credential}\r\n");
        assert_eq!(post(&place, "/v1/hosting/topup", &header, &ask).0, expected, "{credential}");
    }
    for (bad, expected) in [
        (json!({ "owner": owner, "amount_sats": 0 }), 422),
        (json!({ "owner": "npub1nobody", "amount_sats": 5 }), 404),
        (json!({ "amount_sats": 5 }), 400),
    ] {
        let (status, _, body) = post(&place, "/v1/hosting/topup", "", &bad);
        assert!(status == expected || (400..=422).contains(&status) && expected != 422, "{bad}: {status} {body}");
    }

    // Paid by a wallet of the network's: its proof opens the answer, and the credit is there.
    let preimage = pays(&host, &bolt11);
    let header = format!("Authorization: L402 {token}:{preimage}\r\n");
    let (status, _, body) = post(&place, "/v1/hosting/topup", &header, &ask);
    assert_eq!((status, &body["paid_msat"]), (200, &json!(700_000)), "{body}");
    assert_eq!(hosting(&place)["credit_msat"], 700_000);
    let (status, ..) = post(&place, "/v1/hosting/topup", &header, &ask);
    assert_eq!((status, &hosting(&place)["credit_msat"]), (200, &json!(700_000)), "shown again, credited once");
    assert_eq!(host.interrupt(), 0);
}

#[test]
fn where_nothing_is_charged_that_is_said() {
    let place = Place::new();
    let host = place.start(&[]);
    assert_eq!(place.ok(&["hosting", "plans"])["charged"], false);
    assert_eq!(hosting(&place)["charged"], false);
    let (code, _, said) = place.run(&["hosting", "invoice", "--sats", "5"]);
    assert!(code == 3 && said.contains("nothing is charged here"), "{code} {said}");
    assert_eq!(host.interrupt(), 0);
}
