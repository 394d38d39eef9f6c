//! The secret that connects to a wallet: `nostr+walletconnect://…`.

use std::fmt;

use nostr::key::{Keys, PublicKey, SecretKey};
use url::Url;

const MAX_BYTES: usize = 4_096;
const MAX_RELAYS: usize = 8;

/// Why a text connects to no wallet. Never repeats the text: it holds a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    #[error("not a connection to a wallet: expected nostr+walletconnect://KEY?relay=…&secret=…")]
    Form,
    #[error("the connection's wallet is not a public key in hex")]
    Wallet,
    #[error("the connection names no relay, more than {MAX_RELAYS}, or one that is not ws:// or wss://")]
    Relays,
    #[error("the connection's secret is not a key in hex")]
    Secret,
}

/// A wallet, its relays, and the key that speaks to it. Whoever has it can spend what the wallet allows.
pub struct Connection {
    wallet: PublicKey,
    relays: Vec<Url>,
    keys: Keys,
}

impl Connection {
    /// Total: any text gives a connection or an error.
    pub fn parse(text: &str) -> Result<Self, ConnectionError> {
        let text = text.trim();
        if text.len() > MAX_BYTES {
            return Err(ConnectionError::Form);
        }
        let url: Url = text.parse().map_err(|_| ConnectionError::Form)?;
        if !matches!(url.scheme(), "nostr+walletconnect" | "nostrwalletconnect") {
            return Err(ConnectionError::Form);
        }
        let host = url.host_str().filter(|host| host.len() == 64).ok_or(ConnectionError::Wallet)?;
        let wallet = PublicKey::from_hex(host).map_err(|_| ConnectionError::Wallet)?;
        // A number that is no point of the curve has the form of a key.
        wallet.xonly().map_err(|_| ConnectionError::Wallet)?;
        let mut relays = Vec::new();
        let mut secrets = Vec::new();
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "relay" => relays.push(value.parse::<Url>().map_err(|_| ConnectionError::Relays)?),
                "secret" => secrets.push(SecretKey::from_hex(&value).map_err(|_| ConnectionError::Secret)?),
                _ => {}
            }
        }
        let socket = |relay: &Url| matches!(relay.scheme(), "ws" | "wss") && relay.host_str().is_some();
        if relays.is_empty() || relays.len() > MAX_RELAYS || !relays.iter().all(socket) {
            return Err(ConnectionError::Relays);
        }
        match (secrets.pop(), secrets.is_empty()) {
            (Some(secret), true) => Ok(Self { wallet, relays, keys: Keys::new(secret) }),
            _ => Err(ConnectionError::Secret),
        }
    }

    /// The wallet service's key for this connection.
    pub const fn wallet(&self) -> &PublicKey {
        &self.wallet
    }

    pub fn relays(&self) -> &[Url] {
        &self.relays
    }

    /// Our own public key towards the wallet.
    pub fn client(&self) -> PublicKey {
        self.keys.public_key()
    }

    pub(super) const fn keys(&self) -> &Keys {
        &self.keys
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("wallet", &self.wallet.to_hex()).finish_non_exhaustive()
    }
}
