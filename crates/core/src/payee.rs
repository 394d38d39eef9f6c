//! Whom an agent may pay, as its owner writes it down: a key, or a lightning address.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{Npub, ParseIdError};

/// Longest lightning address, in bytes.
pub const MAX_ADDRESS: usize = 320;

const ADDRESS: ParseIdError = ParseIdError::new("lightning address", "name@host");

/// `name@host` (LUD-16), in lower case; a port may follow the host.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LightningAddress {
    text: String,
    at: usize,
}

impl LightningAddress {
    /// What stands before the `@`.
    pub fn name(&self) -> &str {
        &self.text[..self.at]
    }

    /// What stands after it: a host, with its port if it names one.
    pub fn host(&self) -> &str {
        &self.text[self.at + 1..]
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for LightningAddress {
    type Err = ParseIdError;

    /// LUD-16 has `a-z0-9-_.` and, by its tags, `+` for names. Hosts are names, IPv4 addresses or bracketed IPv6 ones: nothing that
    /// could begin a path, a query or a user in a URL.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_ADDRESS {
            return Err(ADDRESS);
        }
        let text = text.trim().to_ascii_lowercase();
        let (name, host) = text.split_once('@').ok_or(ADDRESS)?;
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        let named = !name.is_empty() && name.chars().all(|c| word(c) || c == '+');
        let hosted = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
            && host.chars().all(|c| word(c) || matches!(c, ':' | '[' | ']'));
        // Whole segments of dots would be steps in the path that the name becomes a part of.
        if !named || !hosted || name.chars().all(|c| c == '.') {
            return Err(ADDRESS);
        }
        let at = name.len();
        Ok(Self { text, at })
    }
}

impl fmt::Display for LightningAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for LightningAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for LightningAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for LightningAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One that may be paid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Payee {
    Key(Npub),
    Address(LightningAddress),
}

impl FromStr for Payee {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('@') { text.parse().map(Self::Address) } else { text.parse().map(Self::Key) }
    }
}

impl fmt::Display for Payee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(npub) => fmt::Display::fmt(npub, f),
            Self::Address(address) => fmt::Display::fmt(address, f),
        }
    }
}

impl Serialize for Payee {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Payee {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_read_as_lud_16_has_them() {
        for good in
            ["ada@nexus.example", "Ada.L+tips@EXAMPLE.com", "a_b-c@127.0.0.1:7777", "x@[::1]:80", "npub1x@localhost"]
        {
            let address: LightningAddress = good.parse().unwrap();
            assert_eq!(address.to_string(), good.to_ascii_lowercase());
            assert_eq!(format!("{}@{}", address.name(), address.host()), address.as_str());
        }
        for bad in [
            "",
            "ada",
            "@host",
            "ada@",
            "..@host",
            "a/b@host",
            "a?b@host",
            "a%2f@host",
            "ada@host/x",
            "ada@host?x",
            "ada@user@host",
            "ada@host#x",
            "ada@-host",
            "ada@.host",
            "ada@ho st",
            "ä@host",
            "ada@hö.st",
        ] {
            assert!(bad.parse::<LightningAddress>().is_err(), "{bad}");
        }
        assert!(format!("{}@host", "a".repeat(MAX_ADDRESS)).parse::<LightningAddress>().is_err());
    }

    #[test]
    fn a_payee_is_a_key_or_an_address_and_has_one_form() {
        let key = Npub::from_bytes([7; 32]);
        for text in [key.to_string(), key.to_hex()] {
            assert_eq!(text.parse::<Payee>().unwrap(), Payee::Key(key));
        }
        assert_eq!(serde_json::to_string(&"Ada@Host".parse::<Payee>().unwrap()).unwrap(), r#""ada@host""#);
        assert!("somebody".parse::<Payee>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_payee_or_an_error(text in "\\PC{0,80}|[a-z0-9@.:+/-]{0,60}") {
            if let Ok(payee) = text.parse::<Payee>() {
                prop_assert_eq!(payee.to_string().parse::<Payee>().unwrap(), payee);
            }
        }
    }
}
