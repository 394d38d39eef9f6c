//! What the SDK's words mean, the key of a send, and what is never shown.

use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Hash32, Msat, UnixMs};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::pay::{Htlc, Status, Told};
use super::sidecar::{CallError, read_reply};
use super::{ApiKey, ConfigError, SidecarConfig, WalletWords, record};
use crate::bolt11::Network;
use crate::driver::WalletError;

const NOW: UnixMs = UnixMs(1_800_000_000_000);

fn preimage() -> Hash32 {
    Hash32::sha256(b"preimage")
}

fn hash() -> Hash32 {
    Hash32::sha256(preimage().as_bytes())
}

fn told(status: Status) -> Told {
    Told {
        status,
        amount_sats: 2,
        fee_sats: 3,
        at_s: 1_799_999_999,
        outgoing: true,
        hash: Some(hash()),
        preimage: None,
        htlc: None,
        htlc_expiry_s: None,
    }
}

fn outcome(told: &Told) -> Outcome {
    told.outcome(hash(), Some(Msat::try_from(1_500_u64).unwrap()), NOW)
}

fn is_unknown(told: &Told) -> bool {
    matches!(outcome(told), Outcome::Unknown { .. })
}

#[test]
fn what_the_sdk_says_means() {
    let paid = Told { preimage: Some(preimage()), ..told(Status::Completed) };
    let fee = Msat::try_from(3_500_u64).unwrap();
    assert_eq!(outcome(&paid), Outcome::Settled { preimage: Some(preimage()), fee }, "half a sat is a fee too");
    assert_eq!(outcome(&told(Status::Completed)), Outcome::Settled { preimage: None, fee });
    assert_eq!(outcome(&told(Status::Pending)), Outcome::Pending);
    let failed = Outcome::Failed { class: FailureClass::NoRoute };
    assert_eq!(outcome(&told(Status::Failed)), failed, "the operators' own word");
    assert_eq!(outcome(&Told { htlc: Some(Htlc::Returned), ..told(Status::Failed) }), failed);
}

#[test]
fn a_failure_is_none_while_the_money_is_locked() {
    let locked = Told { htlc: Some(Htlc::Waiting), htlc_expiry_s: Some(1_800_000_060), ..told(Status::Failed) };
    assert_eq!(outcome(&locked), Outcome::Pending);
    assert_eq!(outcome(&Told { htlc_expiry_s: None, ..locked.clone() }), Outcome::Pending);
    let over = Told { htlc_expiry_s: Some(1_799_999_940), ..locked };
    assert!(matches!(outcome(&over), Outcome::Failed { .. }));
    assert!(is_unknown(&Told { htlc: Some(Htlc::Shared), ..over }));
}

proptest! {
    /// Whatever is said: settled only without a wrong preimage and for this hash, failed only without any preimage.
    #[test]
    fn nothing_is_settled_or_failed_against_its_proof(
        status in prop_oneof![Just(Status::Completed), Just(Status::Pending), Just(Status::Failed)],
        htlc in prop_oneof![Just(None), Just(Some(Htlc::Waiting)), Just(Some(Htlc::Shared)), Just(Some(Htlc::Returned))],
        proof in 0_u8..3, ours in any::<bool>(), outgoing in any::<bool>(), expiry_s in any::<Option<i32>>(),
        amount_sats in any::<u64>(), fee_sats in any::<u64>(),
    ) {
        let preimage = [None, Some(preimage()), Some(Hash32::sha256(b"another"))][usize::from(proof)];
        let hash = Some(if ours { hash() } else { Hash32::sha256(b"stranger") });
        let htlc_expiry_s = expiry_s.map(i64::from);
        let told = Told { status, amount_sats, fee_sats, at_s: 0, outgoing, hash, preimage, htlc, htlc_expiry_s };
        match outcome(&told) {
            Outcome::Settled { preimage: shown, .. } => {
                prop_assert!(ours && outgoing && status == Status::Completed && proof != 2);
                prop_assert_eq!(shown.is_some(), proof == 1);
            }
            Outcome::Failed { .. } => prop_assert!(
                ours && outgoing && status == Status::Failed && proof == 0 && htlc != Some(Htlc::Shared)
            ),
            Outcome::Pending => prop_assert!(ours && outgoing && proof == 0),
            Outcome::NotFound => prop_assert!(false, "it was found"),
            Outcome::Unknown { .. } => {}
        }
    }

    /// A reply that can be read or none: never a panic, and never a result out of an error.
    #[test]
    fn replies_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_reply(&bytes);
    }
}

#[test]
fn a_key_is_made_of_what_is_paid() {
    let key = record::key("02aa", "a payment", hash(), 1);
    assert_eq!(key, record::key("02aa", "a payment", hash(), 1));
    let shape: Vec<usize> = key.split('-').map(str::len).collect();
    assert_eq!(shape, [8, 4, 4, 4, 12]);
    assert_eq!(key.as_bytes()[14], b'5', "{key}");
    assert!(b"89ab".contains(&key.as_bytes()[19]), "{key}");
    let others = [
        record::key("02ab", "a payment", hash(), 1),
        record::key("02aa", "a payment", hash(), 2),
        record::key("02aa", "another", hash(), 1),
        record::key("02aa", "a payment", preimage(), 1),
    ];
    assert!(!others.contains(&key));
}

#[test]
fn errors_keep_their_class() {
    let read = |class: &str| {
        let line = format!(
            r#"{{"jsonrpc":"2.0","id":7,"error":{{"code":1,"message":"w\u0007hy","data":{{"class":"{class}"}}}}}}"#
        );
        read_reply(line.as_bytes()).map(|(id, said)| (id, said.unwrap_err())).unwrap()
    };
    for (class, error) in [
        ("late", CallError::Late),
        ("closed", CallError::Closed),
        ("no_funds", CallError::NoFunds),
        ("fee_too_high", CallError::FeeTooHigh),
        ("auth", CallError::Wallet(WalletError::Auth)),
        ("refused", CallError::Wallet(WalletError::Refused("why".to_owned()))),
        ("unreachable", CallError::Wallet(WalletError::Unreachable("why".to_owned()))),
        ("protocol", CallError::Wallet(WalletError::Protocol("why".to_owned()))),
        ("unknown", CallError::Lost("why".to_owned())),
        ("of a later sidecar", CallError::Lost("why".to_owned())),
    ] {
        assert_eq!(read(class), (7, error), "{class}");
    }
}

#[test]
fn secrets_are_checked_and_not_shown() {
    let words = |text: &str| WalletWords::new(Zeroizing::new(text.to_owned()));
    let right = "legal winner thank year wave sausage worth useful legal winner thank yellow";
    for wrong in
        ["", "legal winner", &right.replace("year", "Year"), &format!("{right} wave"), &right.replace(' ', "  ")]
    {
        assert!(words(wrong).is_none(), "{wrong}");
    }
    assert_eq!(format!("{:?}", words(right).unwrap()), "WalletWords(…)");
    let key = |text: &str| ApiKey::new(Zeroizing::new(text.to_owned()));
    assert!(key(" ").is_none() && key("two words").is_none() && key("a\"b").is_none());
    let config = SidecarConfig::new("python3".into(), "/nowhere".into(), Network::Bitcoin, key(" MIIB+/= \n"));
    assert_eq!(config.check(), Ok(()));
    assert!(!format!("{config:?}").contains("MIIB"));
    let without = SidecarConfig { api_key: None, ..config.clone() };
    assert_eq!(without.check(), Err(ConfigError::NoApiKey));
    let signet = SidecarConfig { network: Network::Signet, ..config };
    assert_eq!(signet.check(), Err(ConfigError::Network(Network::Signet)));
}
