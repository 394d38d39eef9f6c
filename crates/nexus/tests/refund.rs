//! Unused credit goes back to whoever owns the account: once, whatever dies on the way, and not before a day has passed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use common::{Host, Place, eventually, list};
use serde_json::{Value, json};

/// Nothing is charged yet: the trial goes on.
fn start(place: &Place, fault: Option<&str>) -> Host {
    let path = place.path("host.toml");
    std::fs::write(&path, "[hosting.plans.hosted]\nfee_sats = 1000\n[hosting.rules]\ntrial_days = 30\n").unwrap();
    let mut environment = vec![("NEXUS_HOSTING_CHARGE", "true")];
    environment.extend(fault.map(|point| ("NEXUS_FAULT", point)));
    place.start_with(&environment, &["--config", path.to_str().unwrap()])
}

fn credit(place: &Place) -> i64 {
    place.ok(&["hosting", "status"])["credit_msat"].as_i64().unwrap() / 1_000
}

fn balance(place: &Place) -> i64 {
    place.ok(&["agent", "balance", "bob"])["balance_sats"].as_i64().unwrap()
}

fn invoice(place: &Place, sats: &str) -> String {
    let made = place.ok(&["agent", "fund", "bob", "--sats", sats, "--invoice-only"]);
    made["bolt11"].as_str().unwrap().to_owned()
}

/// A day passes for what came in.
fn a_day_later(place: &Place) {
    let connection = rusqlite::Connection::open(place.database()).unwrap();
    connection.execute("UPDATE hosting_invoice SET paid_at = paid_at - 86400000 WHERE state = 'paid'", []).unwrap();
}

fn refunds(place: &Place) -> Vec<Value> {
    let connection = rusqlite::Connection::open(place.database()).unwrap();
    let mut rows = connection.prepare("SELECT state, fee_msat FROM hosting_payout ORDER BY created_at").unwrap();
    let rows = rows.query_map([], |row| Ok(json!([row.get::<_, String>(0)?, row.get::<_, i64>(1)?]))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn unused_credit_goes_back_once() {
    let place = Place::new();
    let host = start(&place, None);
    place.agent("bob", &["--heartbeat", "1d"]);
    place.ok(&["hosting", "invoice", "--sats", "5000"]);
    let (code, _, errors) = place.run(&["hosting", "refund", "--sats", "1500", "--to", &invoice(&place, "1500")]);
    assert!(code != 0 && errors.contains("a day after the last payment in"), "{errors}");
    assert_eq!(host.interrupt(), 0);
    a_day_later(&place);
    let host = start(&place, None);

    let (code, _, errors) = place.run(&["hosting", "refund", "--sats", "1600", "--to", &invoice(&place, "1500")]);
    assert!(code != 0 && errors.contains("not for 1600 sats"), "{errors}");
    let (code, _, errors) = place.run(&["hosting", "refund", "--sats", "4999", "--to", &invoice(&place, "4999")]);
    assert!(code != 0 && errors.contains("with the largest fee"), "{errors}");
    let (before, to) = (balance(&place), invoice(&place, "1500"));
    let paid = place.ok(&["hosting", "refund", "--sats", "1500", "--to", &to]);
    assert_eq!(paid["state"], "settled", "{paid}\n{}", host.logged());
    let fee = paid["fee_msat"].as_i64().unwrap();
    let arrived = eventually(20, || (balance(&place) >= before + 1_400).then_some(()));
    assert!(arrived.is_some(), "{before} {}", balance(&place));
    assert_eq!(place.ok(&["hosting", "status"])["credit_msat"], 3_500_000 - fee);
    let (code, _, errors) = place.run(&["hosting", "refund", "--sats", "1500", "--to", &to]);
    assert!(code != 0 && errors.contains("met before"), "{errors}");
    let entries = list(&place.ok(&["hosting", "history"])["entries"]);
    let mut kinds: Vec<_> = entries.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["refund", "refund_back", "top_up"], "{entries:?}");
    assert_eq!(host.interrupt(), 0);
}

#[test]
fn killed_at_every_point_of_a_refund_it_is_paid_at_most_once() {
    let place = Place::new();
    let host = start(&place, None);
    place.agent("bob", &["--heartbeat", "1d"]);
    place.ok(&["agent", "stop", "bob"]);
    place.ok(&["hosting", "invoice", "--sats", "5000"]);
    assert_eq!(host.interrupt(), 0);
    a_day_later(&place);
    let mut settled = 0;
    for point in ["before:payout", "after:payout_sent", "after:payout"] {
        let host = start(&place, Some(point));
        let (before, to) = (credit(&place), invoice(&place, "700"));
        let mut command = place.command();
        command.args(["hosting", "refund", "--sats", "700", "--to", &to]);
        let mut command =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        assert!(host.says(&format!("fault reached: {point}"), 40), "{point} was not reached");
        host.kill();
        command.wait().unwrap();
        let host = start(&place, None);
        if point == "after:payout" {
            // It may have left for all that the next one knows: held, until the invoice is long over.
            let held = eventually(10, || (refunds(&place).last().unwrap()[0] != "dispatched").then_some(()));
            assert!(held.is_none(), "{:?}", refunds(&place));
            assert_eq!(credit(&place), before - 710);
        } else {
            settled += 1;
            let done = eventually(30, || (refunds(&place).last().unwrap()[0] == "settled").then_some(()));
            assert!(done.is_some(), "{point}: {:?}\n{}", refunds(&place), host.logged());
            assert!((before - 710..=before - 700).contains(&credit(&place)), "{point}: {before} {}", credit(&place));
        }
        assert_eq!(host.interrupt(), 0);
    }
    assert_eq!(settled, 2);
}
