use proptest::prelude::*;

use super::keys::blanks;
use super::{MintUrl, WalletSeed};

#[test]
fn only_https_and_in_development_loopback() {
    for (url, production, development) in [
        ("https://mint.example.com", true, true),
        ("https://mint.example.com/Bitcoin", true, true),
        ("http://mint.example.com", false, false),
        ("http://127.0.0.1:3338", false, true),
        ("http://127.0.0.2:3338", false, false),
        ("http://localhost:3338", false, false),
        ("https://user@mint.example.com", false, false),
        ("https://mint.example.com/?a", false, false),
        ("ftp://mint.example.com", false, false),
        ("mint", false, false),
        ("", false, false),
    ] {
        assert_eq!(MintUrl::parse(url, false).is_ok(), production, "{url}");
        assert_eq!(MintUrl::parse(url, true).is_ok(), development, "{url}");
    }
    assert_eq!(MintUrl::parse("https://mint.example.com/", false).unwrap().as_str(), "https://mint.example.com");
}

#[test]
fn a_seed_does_not_show_itself() {
    assert_eq!(format!("{:?}", WalletSeed::new([7; 64])), "WalletSeed(…)");
}

proptest! {
    /// Blank outputs carry any change up to what was paid too much: one power of two each.
    #[test]
    fn blanks_are_enough(sats in 1_u64..1 << 40) {
        let most = (1_u64 << blanks(sats).min(63)) - 1;
        prop_assert!(most >= sats || 1 << blanks(sats) == sats);
        prop_assert!(blanks(sats) <= 41);
    }
}
