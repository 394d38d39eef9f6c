//! Ways to break what pays, writes and bills: each is found within the seeds of every test run, by the check that is
//! there for it.

use nexus_sim::Seeds;
use nexus_sim::broken::{Way, search};

/// As many as `seeds.rs` runs.
const SEEDS: u64 = 800;

fn is_found(way: Way, expected: &[&str]) {
    let seeds = Seeds { first: 0, count: SEEDS, threads: 2, stop_at_violation: true };
    let summary = search(way, seeds).unwrap_or_else(|error| panic!("{error}"));
    let Some(report) = summary.violated.first() else { panic!("{way:?} was not found in {SEEDS} seeds") };
    println!("{way:?}: seed {}, {} seeds run: {}", report.seed, summary.seeds, report.violations.join("; "));
    let first = &report.violations[0];
    assert!(expected.iter().any(|words| first.contains(words)), "{way:?} was found by another check: {first}");
}

#[test]
fn a_store_without_a_fence_is_found() {
    is_found(Way::FenceRemoved, &["without its fence", "which it does not hold"]);
}

#[test]
fn a_payment_before_its_record_is_found() {
    is_found(Way::IntentNotJournaled, &["a payment leaves that is on record as reserved"]);
}

#[test]
fn a_payment_sent_again_is_found() {
    is_found(
        Way::ResentWhenUnknown,
        &["a payment that may be paid is sent again", "was paid, and is on record as failed"],
    );
}

#[test]
fn a_second_invoice_paid_is_found() {
    is_found(Way::SecondInvoicePaid, &["one job was paid twice"]);
}

#[test]
fn a_settlement_credited_twice_is_found() {
    is_found(Way::CreditedEachTime, &["the books have more than the node was paid"]);
}

#[test]
fn a_month_charged_twice_is_found() {
    is_found(
        Way::MonthUnguarded,
        &["charges a month that 0 agents have of it", "charged twice", "was charged for a month before"],
    );
}

#[test]
fn a_refund_that_is_too_large_is_found() {
    is_found(Way::RefundDoubled, &["were given back"]);
}
