use std::time::Duration;

use bech32::primitives::iter::Fe32IterExt;
use bitcoin::secp256k1::{Secp256k1, SecretKey};
use lightning_invoice::{InvoiceBuilder, PaymentSecret};
use proptest::prelude::*;

use super::*;

/// BOLT 11, "please send $3 for a cup of coffee to the same peer, within one minute".
const COFFEE: &str = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";
/// BOLT 11, "please make a donation of any amount".
const DONATION: &str = "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql";
const NODE: &str = "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad";

fn made(currency: Currency, msat: Option<u64>, expiry_s: u64, memo: &str) -> String {
    let secp = Secp256k1::new();
    let key = SecretKey::from_slice(&[7; 32]).unwrap();
    let builder = InvoiceBuilder::new(currency)
        .description(memo.to_owned())
        .payment_hash(bitcoin::hashes::Hash::from_byte_array([9; 32]))
        .payment_secret(PaymentSecret([3; 32]))
        .duration_since_epoch(Duration::from_secs(1_800_000_000))
        .min_final_cltv_expiry_delta(18)
        .expiry_time(Duration::from_secs(expiry_s));
    let builder = match msat {
        Some(msat) => builder.amount_milli_satoshis(msat),
        None => builder,
    };
    builder.build_signed(|digest| secp.sign_ecdsa_recoverable(digest, &key)).unwrap().to_string()
}

#[test]
fn reads_the_specifications_examples() {
    let coffee = Bolt11::decode(COFFEE).unwrap();
    assert_eq!(coffee.network, Network::Bitcoin);
    assert_eq!(coffee.amount, Some(Msat::sats(250_000)));
    assert_eq!(coffee.hash.to_string(), "0001020304050607080900010203040506070809000102030405060708090102");
    assert_eq!(coffee.payee, NODE);
    assert_eq!(coffee.description, "1 cup coffee");
    assert_eq!(coffee.created_at, UnixMs::from_secs(1_496_314_658));
    assert_eq!(coffee.expires_at, UnixMs::from_secs(1_496_314_658 + 60));
    assert!(coffee.expired(coffee.expires_at) && !coffee.expired(coffee.created_at));
    let donation = Bolt11::decode(&format!("LIGHTNING:{}", DONATION.to_uppercase())).unwrap();
    assert_eq!((donation.amount, donation.description.as_str()), (None, "Please consider supporting this project"));
    assert_eq!(donation.expires_at, donation.created_at.plus_ms(3_600_000));
}

#[test]
fn knows_the_networks_apart() {
    for (currency, network) in [
        (Currency::Bitcoin, Network::Bitcoin),
        (Currency::BitcoinTestnet, Network::Testnet),
        (Currency::Signet, Network::Signet),
        (Currency::Regtest, Network::Regtest),
        (Currency::Simnet, Network::Simnet),
    ] {
        let invoice = Bolt11::decode(&made(currency, Some(1), 60, "")).unwrap();
        assert_eq!((invoice.network, invoice.amount), (network, Some(Msat::new(1))));
    }
}

#[test]
fn one_wrong_letter_is_noticed() {
    let invoice = made(Currency::Regtest, Some(1_000), 60, "one letter");
    for at in 0..invoice.len() {
        let mut letters = invoice.clone().into_bytes();
        letters[at] = if letters[at] == b'q' { b'p' } else { b'q' };
        let changed = String::from_utf8(letters).unwrap();
        assert!(Bolt11::decode(&changed).is_err(), "letter {at}");
    }
}

fn with_hrp(hrp: &str, symbols: impl Iterator<Item = bech32::Fe32>) -> String {
    let hrp = bech32::Hrp::parse(hrp).unwrap();
    symbols.with_checksum::<bech32::Bech32>(&hrp).chars().collect()
}

/// An amount that overflows must not be taken for one that is left to the payer.
#[test]
fn an_amount_beyond_all_money_is_not_an_open_amount() {
    let honest = made(Currency::Regtest, None, 60, "");
    let data = honest.rsplit_once('1').unwrap().1;
    let symbols: Vec<bech32::Fe32> =
        data[..data.len() - 6].chars().map(|letter| bech32::Fe32::from_char(letter).unwrap()).collect();
    let read = |hrp: &str| Bolt11::decode(&with_hrp(hrp, symbols.iter().copied()));
    // The signature recovers to some other key, so only the amount can tell.
    assert_eq!(read("lnbcrt2500u").unwrap().amount, Some(Msat::sats(250_000)));
    assert_eq!(read("lnbcrt99999999"), Err(Bolt11Error::AmountOutOfRange));
    assert_eq!(read("lnbcrt18446744073709551615"), Err(Bolt11Error::AmountOutOfRange));
    assert!(read("lnbcrt99999999999999999999999999").is_err());
}

#[test]
fn length_is_bounded() {
    let long = format!("lnbcrt1{}", "q".repeat(MAX_BYTES));
    assert!(matches!(Bolt11::decode(&long), Err(Bolt11Error::TooLong(_))));
    let memo = "m".repeat(MAX_DESCRIPTION_BYTES);
    assert_eq!(Bolt11::decode(&made(Currency::Regtest, None, 60, &memo)).unwrap().description, memo);
    assert!(Bolt11::decode(&made(Currency::Regtest, None, u64::MAX / 4, "")).is_err(), "an expiry beyond all time");
}

#[test]
fn a_memo_can_commit_as_a_hash_does() {
    let hash = Hash32::sha256(b"what is paid for");
    let read = |memo: &str| Bolt11::decode(&made(Currency::Regtest, Some(1_000), 60, memo)).unwrap().committed();
    assert_eq!(read(&commitment(hash)), Some(hash));
    for other in ["", "sha256:", "coffee", "sha256:00", &format!("for {}", commitment(hash)), &hash.to_string()] {
        assert_eq!(read(other), None, "{other}");
    }
}

proptest! {
    /// What an invoice says comes back as it was said.
    #[test]
    fn says_what_it_was_told(msat in 1_u64..1_800_000_000_000_000_000, expiry_s in 0_u64..10_000_000, memo in "\\PC{0,100}") {
        let invoice = Bolt11::decode(&made(Currency::Regtest, Some(msat), expiry_s, &memo)).unwrap();
        prop_assert_eq!(invoice.amount, Some(Msat::new(msat)));
        prop_assert_eq!(invoice.expires_at.0 - invoice.created_at.0, i64::try_from(expiry_s).unwrap() * 1_000);
        prop_assert_eq!(invoice.description, memo);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz(&bytes);
    }

    /// Near misses get further into the decoder than noise does.
    #[test]
    fn mutations_are_survived(edits in prop::collection::vec((0_usize..400, any::<u8>()), 1..8), cut in 0_usize..400) {
        let mut bytes = COFFEE.as_bytes().to_vec();
        for (at, byte) in edits {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(cut.max(10));
        fuzz(&bytes);
    }

    /// With its checksum made right again, so that what lies behind it is reached.
    #[test]
    fn well_formed_nonsense_is_survived(hrp in "lnbcrt[0-9]{0,22}[munp]?", symbols in prop::collection::vec(0_u8..32, 0..700)) {
        let symbols = symbols.into_iter().map(|symbol| bech32::Fe32::try_from(symbol).unwrap());
        fuzz(with_hrp(&hrp, symbols).as_bytes());
    }
}
