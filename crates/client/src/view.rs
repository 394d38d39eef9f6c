//! Opening what only readers may see: the sealed parts of events and ticks, under the view key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::Npub;
use nexus_seal::blob::{Blob, Purpose};
use nexus_seal::{SecretText, Wrap};
use nexus_vault::{ViewKey, open_view_wrap};

use crate::api::Api;
use crate::error::Error;
use crate::owner::OwnerKeys;

/// What a sealed part of an event, a tick, an approval or a dispute may have been sealed as.
const PURPOSES: [Purpose; 4] = [Purpose::Trajectory, Purpose::Event, Purpose::Approval, Purpose::Dispute];

/// The view keys of one agent that a reader has. Wiped when dropped.
#[derive(Debug)]
pub struct Viewer {
    keys: Vec<ViewKey>,
}

impl Viewer {
    /// Fetches the caller's wraps and opens them with its key. `api` must be asked by that key, or by a token of it.
    pub async fn open(api: &Api, npub: &Npub, reader: &OwnerKeys) -> Result<Self, Error> {
        let answer = api.get(&format!("/v1/agents/{npub}/wraps")).await?;
        let odd = |why: String| Error::Protocol { attempted: "reading the view key's wraps", why };
        let wraps: Vec<Wrap> =
            serde_json::from_value(answer["wraps"].clone()).map_err(|error| odd(error.to_string()))?;
        let signer = reader.signer();
        let mut keys = Vec::with_capacity(wraps.len());
        for wrap in &wraps {
            match open_view_wrap(&*signer, npub, wrap).await {
                Ok(key) => keys.push(key),
                Err(error) => tracing::warn!(number = wrap.number, %error, "a wrap of the view key does not open"),
            }
        }
        if keys.is_empty() {
            let text =
                "this key is no reader of the agent\n  next: its owner adds readers with `nexus agent policy A --edit`";
            return Err(Error::NotAllowed(text.to_owned()));
        }
        Ok(Self { keys })
    }

    /// The text of a sealed part, as the API gives it (base64). None if it is not for this reader, or damaged.
    pub fn text(&self, sealed: &str) -> Option<SecretText> {
        let bytes = STANDARD.decode(sealed).ok()?;
        let number = Blob::parse(&bytes).ok()?.key_number;
        let key = self.keys.iter().find(|key| key.number() == number)?;
        let opened = PURPOSES.iter().find_map(|purpose| key.open(*purpose, &bytes).ok())?;
        std::str::from_utf8(opened.expose()).ok().map(SecretText::new)
    }
}
