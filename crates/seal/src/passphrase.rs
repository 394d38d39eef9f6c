//! The passphrase of the owner's envelope.

use std::fmt;

use nexus_core::Entropy;
use nexus_core::time::random;
use zeroize::Zeroizing;

use crate::secret::SecretText;
use crate::words::words;

/// Words of a generated passphrase: six words of a list of 2,048 are 66 bits.
pub const GENERATED_WORDS: usize = 6;
/// Shortest passphrase of one's own, in characters.
pub const MIN_OWN_CHARS: usize = 12;
/// Longest passphrase, in bytes: also what zxcvbn looks at.
pub const MAX_BYTES: usize = 1_024;

/// Why a passphrase of one's own is not good enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassphrase {
    #[error("a passphrase of your own needs at least {MIN_OWN_CHARS} characters")]
    Short,
    #[error("a passphrase has at most {MAX_BYTES} bytes")]
    Long,
    /// zxcvbn scored it below 4 of 4.
    #[error("this passphrase is too easy to guess{}", .hint.as_ref().map(|h| format!(": {h}")).unwrap_or_default())]
    Guessable { hint: Option<String> },
}

/// A passphrase. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct Passphrase(SecretText);

impl Passphrase {
    /// Six random words, 66 bits of entropy: with scrypt at 2^18 out of reach of guessing.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let bytes: Zeroizing<[u8; 9]> = Zeroizing::new(random(entropy));
        Self(SecretText::new(words(&*bytes, GENERATED_WORDS)))
    }

    /// One that a person chose, to close an envelope: at least 12 characters, and zxcvbn must score it 4 of 4.
    pub fn own(text: &str) -> Result<Self, WeakPassphrase> {
        if text.len() > MAX_BYTES {
            return Err(WeakPassphrase::Long);
        }
        if text.chars().count() < MIN_OWN_CHARS {
            return Err(WeakPassphrase::Short);
        }
        let estimate = zxcvbn::zxcvbn(text, &[]);
        if estimate.score() < zxcvbn::Score::Four {
            let hint = estimate.feedback().and_then(|f| f.warning()).map(|warning| warning.to_string());
            return Err(WeakPassphrase::Guessable { hint });
        }
        Ok(Self(SecretText::new(text)))
    }

    /// One that was chosen before, to open an envelope: taken as it is.
    pub fn existing(text: impl Into<String>) -> Self {
        Self(SecretText::new(text))
    }

    /// The text, to show it once or to derive a key.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_testkit::SeededEntropy;

    #[test]
    fn generated_ones_are_six_words_and_differ() {
        let entropy = SeededEntropy::new(1);
        let (one, two) = (Passphrase::generate(&entropy), Passphrase::generate(&entropy));
        assert_eq!(one.expose().split(' ').count(), 6);
        assert_ne!(one.expose(), two.expose());
        assert_eq!(format!("{one:?}"), "Passphrase(…)");
        Passphrase::own(one.expose()).unwrap();
    }

    #[test]
    fn weak_ones_are_refused_with_a_reason() {
        assert_eq!(Passphrase::own("aB3$xY9!kQ2").unwrap_err(), WeakPassphrase::Short);
        assert!(matches!(Passphrase::own("password1234"), Err(WeakPassphrase::Guessable { .. })));
        assert!(matches!(Passphrase::own("aaaaaaaaaaaaaaaaaaaa"), Err(WeakPassphrase::Guessable { .. })));
        assert_eq!(Passphrase::own(&"x y".repeat(400)).unwrap_err(), WeakPassphrase::Long);
        Passphrase::own("velvet-goose 71 paints quietly").unwrap();
    }
}
