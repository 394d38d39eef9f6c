//! Numbers as words of the BIP-39 English list: 11 bits a word.

use bip39::Language;

/// The first `count` words of these bytes, most significant bit first.
///
/// `bytes` must hold `count * 11` bits; missing bits count as zero.
pub(crate) fn words(bytes: &[u8], count: usize) -> String {
    let list = Language::English.word_list();
    let bit = |n: usize| bytes.get(n / 8).is_some_and(|byte| byte >> (7 - n % 8) & 1 == 1);
    let word = |at: usize| {
        let index = (at * 11..at * 11 + 11).fold(0_usize, |index, n| index << 1 | usize::from(bit(n)));
        list[index]
    };
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eleven_bits_make_a_word() {
        // BIP-39: sixteen zero bytes are eleven "abandon" before the checksum word; all ones are "zoo".
        assert_eq!(words(&[0; 16], 3), "abandon abandon abandon");
        assert_eq!(words(&[255; 16], 2), "zoo zoo");
        // 0b00000000001_00000000010: the second and the third word.
        assert_eq!(words(&[0b0000_0000, 0b0010_0000, 0b0000_1000], 2), "ability able");
    }
}
