//! The two forms in which a signer and its user find each other.

use std::fmt;
use std::str::FromStr;

use nexus_core::Npub;
use nexus_seal::SecretText;
use url::Url;

/// Relays of one URI that are used; the rest is ignored.
pub const MAX_RELAYS: usize = 8;
/// Longest URI that is read, in bytes.
const MAX_URI: usize = 4_096;
const MAX_SECRET: usize = 256;

/// Why a text names no remote signer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    #[error("a remote signer is given as bunker://<its key in hex>?relay=wss://…&secret=…")]
    Form,
    #[error("the URI is longer than {MAX_URI} bytes")]
    TooLong,
    #[error("the URI names no relay (relay=wss://…)")]
    NoRelay,
    #[error("the URI names something as a relay that is none: wss:// or ws://")]
    Relay,
    #[error("the URI's secret is empty or too long")]
    Secret,
}

/// A signer that waits on its relays: `bunker://<signer>?relay=…&secret=…`. The secret is good for one connection.
#[derive(Clone)]
pub struct BunkerUri {
    pub signer: Npub,
    pub relays: Vec<String>,
    pub secret: Option<SecretText>,
}

impl fmt::Debug for BunkerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BunkerUri").field("signer", &self.signer).field("relays", &self.relays).finish_non_exhaustive()
    }
}

impl FromStr for BunkerUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.len() > MAX_URI {
            return Err(UriError::TooLong);
        }
        let url = Url::parse(text.trim()).map_err(|_| UriError::Form)?;
        let signer = url.host_str().filter(|_| url.scheme() == "bunker").and_then(|host| host.parse().ok());
        let signer = signer.ok_or(UriError::Form)?;
        let mut relays: Vec<String> = Vec::new();
        let mut secret = None;
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "relay" => {
                    let relay = Url::parse(&value).map_err(|_| UriError::Relay)?;
                    if !matches!(relay.scheme(), "ws" | "wss") {
                        return Err(UriError::Relay);
                    }
                    if relays.len() < MAX_RELAYS && !relays.iter().any(|known| *known == value) {
                        relays.push(value.into_owned());
                    }
                }
                "secret" if value.is_empty() || value.len() > MAX_SECRET => return Err(UriError::Secret),
                "secret" => secret = Some(SecretText::new(value.into_owned())),
                _ => {}
            }
        }
        if relays.is_empty() { Err(UriError::NoRelay) } else { Ok(Self { signer, relays, secret }) }
    }
}

/// A user that waits for a signer: the text that a person gives to it. Holds the secret that the signer has to repeat.
pub fn nostr_connect(client: &Npub, relays: &[String], secret: &str, permissions: &str, name: &str) -> SecretText {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for relay in relays.iter().take(MAX_RELAYS) {
        query.append_pair("relay", relay);
    }
    query.append_pair("secret", secret).append_pair("perms", permissions).append_pair("name", name);
    SecretText::new(format!("nostrconnect://{}?{}", client.to_hex(), query.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "fa984bd7dbb282f07e16e7ae87b26a2a7b9b90b7246a44771f0cf5ae58018f52";

    #[test]
    fn a_bunkers_uri_is_read() {
        let text = format!("bunker://{KEY}?relay=wss%3A%2F%2Frelay.example&relay=ws://127.0.0.1:7778&secret=abc");
        let uri: BunkerUri = text.parse().unwrap();
        assert_eq!(uri.signer.to_hex(), KEY);
        assert_eq!(uri.relays, ["wss://relay.example", "ws://127.0.0.1:7778"]);
        assert_eq!(uri.secret.as_ref().map(SecretText::expose), Some("abc"));
        assert!(!format!("{uri:?}").contains("abc"));
    }

    #[test]
    fn what_names_no_signer_is_refused_with_what_is_wrong() {
        let parse = |text: &str| text.parse::<BunkerUri>().map(drop).unwrap_err();
        assert_eq!(parse("sesame"), UriError::Form);
        assert_eq!(parse(&format!("nostrconnect://{KEY}?relay=wss://a.example")), UriError::Form);
        assert_eq!(parse("bunker://abc?relay=wss://a.example"), UriError::Form);
        assert_eq!(parse(&format!("bunker://{KEY}")), UriError::NoRelay);
        assert_eq!(parse(&format!("bunker://{KEY}?relay=https://a.example")), UriError::Relay);
        assert_eq!(parse(&format!("bunker://{KEY}?relay=wss://a.example&secret=")), UriError::Secret);
        assert_eq!(parse(&"x".repeat(5_000)), UriError::TooLong);
    }

    #[test]
    fn a_waiting_user_says_where_and_what_it_wants() {
        let client: Npub = KEY.parse().unwrap();
        let relays = ["wss://relay.example".to_owned()];
        let uri = nostr_connect(&client, &relays, "s3cret", "sign_event,nip44_encrypt", "Nexus");
        let expected = format!(
            "nostrconnect://{KEY}?relay=wss%3A%2F%2Frelay.example&secret=s3cret&perms=sign_event%2Cnip44_encrypt&name=Nexus"
        );
        assert_eq!(uri.expose(), expected);
    }
}
