use nexus_core::Msat;
use nostr::event::{Kind, UnsignedEvent};
use nostr::key::Keys;
use nostr::types::Timestamp;

use super::*;
use crate::job::Bill;

const NOW: UnixMs = UnixMs(1_700_000_000_000);

fn request(text: &str) -> Box<Event> {
    let keys = Keys::parse("6b911fd37cdf5c81d4c0adb1ab7fa822ed253ab0ad9aa18d77257c88b29b718e").unwrap();
    let at = Timestamp::from_secs(1_700_000_000);
    let event = UnsignedEvent::new(keys.public_key(), at, Kind::from_u16(5050), [], text);
    Box::new(nexus_nostr::event::sign(event, &keys, &[7; 32]).unwrap())
}

fn id(event: &Event) -> Hash32 {
    Hash32::from_bytes(*event.id.as_bytes())
}

fn bill() -> Bill {
    Bill {
        hash: Hash32::sha256(b"x"),
        bolt11: "lnbcrt1".into(),
        amount: Msat::sats(10),
        expires_at: NOW.plus_ms(600_000),
        preimage: None,
    }
}

fn invoiced() -> Stage {
    Stage::Invoiced { bill: bill(), notice: request("notice") }
}

#[tokio::test]
async fn a_paid_job_survives_at_every_stage() {
    let dir = tempfile::tempdir().unwrap();
    let job = request("hello");
    let steps = [
        (Stage::Paid { bill: bill() }, None),
        (Stage::Delivered { owed: None }, Some(request("answer"))),
        (Stage::Published { owed: None }, None),
    ];
    let mut expected = invoiced();
    Ledger::open(dir.path(), NOW).await.unwrap().begin(job.clone(), invoiced(), NOW).await.unwrap();
    for (stage, result) in steps {
        let ledger = Ledger::open(dir.path(), NOW).await.unwrap();
        let found = ledger.get(&id(&job)).unwrap();
        assert_eq!(found.stage, expected);
        assert!(found.request.is_some());
        assert_eq!(ledger.open_jobs(), [id(&job)]);
        assert!(matches!(ledger.begin(job.clone(), Stage::Accepted, NOW).await, Err(LedgerError::Known(_))));
        ledger.advance(id(&job), stage.clone(), result, NOW).await.unwrap();
        expected = stage;
    }
    let ledger = Ledger::open(dir.path(), NOW).await.unwrap();
    let found = ledger.get(&id(&job)).unwrap();
    assert_eq!((found.request, found.result), (None, Some(request("answer"))));
    assert!(ledger.open_jobs().is_empty());
}

#[tokio::test]
async fn no_arrow_goes_backwards() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), NOW).await.unwrap();
    let job = request("hello");
    ledger.begin(job.clone(), Stage::Accepted, NOW).await.unwrap();
    ledger.advance(id(&job), Stage::Delivered { owed: None }, Some(request("answer")), NOW).await.unwrap();
    for stage in [Stage::Accepted, invoiced(), Stage::Paid { bill: bill() }, Stage::Delivered { owed: None }] {
        let moved = ledger.advance(id(&job), stage, None, NOW).await;
        assert!(matches!(moved, Err(LedgerError::InvalidMove { .. })));
    }
}

#[tokio::test]
async fn a_line_cut_by_a_crash_is_dropped_and_damage_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let (one, two) = (request("one"), request("two"));
    let ledger = Ledger::open(dir.path(), NOW).await.unwrap();
    ledger.begin(one.clone(), Stage::Accepted, NOW).await.unwrap();
    let whole = std::fs::read(&path).unwrap();
    ledger.begin(two.clone(), Stage::Accepted, NOW).await.unwrap();
    drop(ledger);
    let both = std::fs::read(&path).unwrap();
    for cut in (whole.len()..both.len()).step_by(37) {
        std::fs::write(&path, &both[..cut]).unwrap();
        let ledger = Ledger::open(dir.path(), NOW).await.unwrap();
        assert_eq!(ledger.open_jobs(), [id(&one)], "cut at {cut}");
        if cut % 2 == 0 {
            ledger.begin(two.clone(), Stage::Accepted, NOW).await.unwrap();
            drop(ledger);
            assert_eq!(Ledger::open(dir.path(), NOW).await.unwrap().open_jobs().len(), 2);
        }
    }
    let mut damaged = both.clone();
    damaged[0] = b'!';
    std::fs::write(&path, &damaged).unwrap();
    assert!(matches!(Ledger::open(dir.path(), NOW).await, Err(LedgerError::Damaged { line: 1, .. })));
}

#[tokio::test]
async fn one_directory_has_one_provider() {
    let dir = tempfile::tempdir().unwrap();
    let first = Ledger::open(dir.path(), NOW).await.unwrap();
    assert!(matches!(Ledger::open(dir.path(), NOW).await, Err(LedgerError::InUse(_))));
    drop(first);
    Ledger::open(dir.path(), NOW).await.unwrap();
}

#[tokio::test]
async fn what_is_over_is_forgotten_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (done, waiting) = (request("done"), request("waiting"));
    let ledger = Ledger::open(dir.path(), NOW).await.unwrap();
    ledger.begin(done.clone(), Stage::Accepted, NOW).await.unwrap();
    ledger.advance(id(&done), Stage::Delivered { owed: None }, Some(request("answer")), NOW).await.unwrap();
    ledger.advance(id(&done), Stage::Published { owed: None }, None, NOW).await.unwrap();
    ledger.begin(waiting.clone(), invoiced(), NOW).await.unwrap();
    ledger.refuse(&request("no"), NOW).await.unwrap();
    drop(ledger);

    let ledger = Ledger::open(dir.path(), NOW.plus_ms(RESULT_KEPT_MS)).await.unwrap();
    let found = ledger.get(&id(&done)).unwrap();
    assert_eq!((found.stage, found.result), (Stage::Closed { how: Closed::Forgotten }, None));
    drop(ledger);

    let ledger = Ledger::open(dir.path(), NOW.plus_ms(ID_KEPT_MS)).await.unwrap();
    assert!(ledger.get(&id(&done)).is_none() && ledger.get(&id(&request("no"))).is_none());
    assert_eq!(ledger.open_jobs(), [id(&waiting)]);
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_user_reads_the_list() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("provider");
    let ledger = Ledger::open(&path, NOW).await.unwrap();
    ledger.begin(request("hello"), Stage::Accepted, NOW).await.unwrap();
    for (path, mode) in [(path.clone(), 0o700), (path.join(FILE), 0o600)] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
    }
}
