use nexus_core::payment::FailureClass;
use nexus_core::{Msat, UnixMs};

use super::*;
use crate::devnet::Party;
use crate::devnet::ledger::PaymentKey;

fn entry(number: u8) -> Entry {
    if number.is_multiple_of(2) {
        return Entry::Faucet { party: Party::from_bytes([number; 32]), amount: Msat::sats(1), at: UnixMs(5) };
    }
    let key = PaymentKey { hash: Hash32::ZERO, payer: Party::from_bytes([1; 32]), payment_id: number.to_string() };
    Entry::Refuse { key, attempt: 1, class: FailureClass::NoRoute, at: UnixMs(5), expires_at: UnixMs(9) }
}

fn filled(dir: &tempfile::TempDir, batches: u8) -> (PathBuf, Ledger) {
    let path = dir.path().join("log");
    let (mut log, mut ledger) = Log::open(path.clone()).unwrap();
    for number in 0..batches {
        ledger.apply(&entry(number)).unwrap();
        log.append(&[entry(number)]).unwrap();
    }
    (path, ledger)
}

#[test]
fn what_was_appended_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (path, ledger) = filled(&dir, 9);
    let (mut log, again) = Log::open(path.clone()).unwrap();
    assert_eq!(again, ledger);
    log.append(&[entry(10)]).unwrap();
    assert_eq!(Log::open(path).unwrap().1.accounts(), ledger.accounts() + 1);
}

#[test]
fn a_torn_last_line_is_dropped_wherever_it_tore() {
    let dir = tempfile::tempdir().unwrap();
    let (path, before) = filled(&dir, 5);
    let whole = std::fs::metadata(&path).unwrap().len() as usize;
    let (mut log, mut after) = Log::open(path.clone()).unwrap();
    log.append(&[entry(6)]).unwrap();
    after.apply(&entry(6)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for cut in whole..bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let (mut log, books) = Log::open(path.clone()).unwrap();
        assert_eq!(books, before, "cut at {cut}");
        log.append(&[entry(6)]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "written on after a cut at {cut}");
        assert_eq!(Log::open(path.clone()).unwrap().1, after);
    }
    // A disk may also leave the length but not the contents.
    let mut zeros = bytes[..whole].to_vec();
    zeros.resize(bytes.len() + 500, 0);
    std::fs::write(&path, &zeros).unwrap();
    assert_eq!(Log::open(path).unwrap().1, before);
}

#[test]
fn damage_before_the_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = filled(&dir, 5);
    let bytes = std::fs::read(&path).unwrap();
    let starts: Vec<usize> =
        std::iter::once(0).chain((0..bytes.len()).filter(|at| bytes[*at] == b'\n').map(|at| at + 1)).collect();
    let last_line = starts[starts.len() - 2];
    // Without the newline before it, the last line looks torn from its middle: that one byte is not told apart.
    for at in 0..last_line - 1 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(matches!(Log::open(path.clone()), Err(OpenError::Damaged { .. })), "byte {at}");
    }
    for line in starts.windows(2).take(starts.len() - 2) {
        let without = [&bytes[..line[0]], &bytes[line[1]..]].concat();
        std::fs::write(&path, &without).unwrap();
        assert!(Log::open(path.clone()).is_err(), "the line at {} is gone", line[0]);
    }
}

#[test]
fn compaction_keeps_the_books_and_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut ledger) = filled(&dir, 200);
    let (mut log, _) = Log::open(path.clone()).unwrap();
    assert!(log.wants_compaction(1));
    assert!(!log.wants_compaction(COMPACT_BYTES));
    log.compact(&ledger).unwrap();
    assert!(!log.wants_compaction(1));
    for number in [202, 203, 204] {
        ledger.apply(&entry(number)).unwrap();
        log.append(&[entry(number)]).unwrap();
    }
    assert_eq!(Log::open(path.clone()).unwrap().1, ledger);
    // A compaction that died before its rename changed nothing.
    std::fs::write(path.with_extension("new"), b"half a snapsh").unwrap();
    assert_eq!(Log::open(path).unwrap().1, ledger);
}

#[test]
fn a_snapshot_cut_short_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, ledger) = filled(&dir, 20);
    let (mut log, _) = Log::open(path.clone()).unwrap();
    log.compact(&ledger).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    assert!(matches!(Log::open(path), Err(OpenError::Damaged { .. })));
}
