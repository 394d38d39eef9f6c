//! What a job costs, in integer millisats.

use nexus_core::Msat;

use crate::config::Price;

/// Bytes that we count as one token where nobody counted them: close to English text in common tokenizers.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens of a text, estimated from its length and rounded up.
pub fn estimate_tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(BYTES_PER_TOKEN)
}

/// The price of `tokens` tokens of prompt and answer together; each started thousand counts.
pub fn price(rule: Price, tokens: u64) -> Msat {
    match rule {
        Price::PerRequest { msat } => msat,
        Price::Per1kTokens { msat } => {
            let total = msat.as_u64().checked_mul(tokens.div_ceil(1_000).max(1));
            total.and_then(|msat| Msat::try_from(msat).ok()).unwrap_or(Msat::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_price() {
        let rule = Price::PerRequest { msat: Msat::new(10_000) };
        assert_eq!(price(rule, 0), Msat::new(10_000));
        assert_eq!(price(rule, u64::MAX), Msat::new(10_000));
    }

    #[test]
    fn each_started_thousand_counts() {
        let rule = Price::Per1kTokens { msat: Msat::new(500) };
        for (tokens, msat) in [(0, 500), (1, 500), (1_000, 500), (1_001, 1_000), (2_500, 1_500)] {
            assert_eq!(price(rule, tokens), Msat::new(msat), "{tokens} tokens");
        }
        assert_eq!(price(Price::Per1kTokens { msat: Msat::MAX }, 5_000), Msat::MAX);
    }

    #[test]
    fn estimates_round_up() {
        assert_eq!(estimate_tokens(""), 0);
        assert_eq!(estimate_tokens("abcde"), 2);
    }
}
