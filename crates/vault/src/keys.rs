//! An agent's three keys, and their wraps.
//!
//! Only the wrap to the agent itself says which data key is right: NIP-44 from a key to itself can be made by that key
//! alone. A wrap to a pool is an age file, which anyone can make; it serves re-sealing, and is never believed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::{Entropy, Npub};
use nexus_seal::blob::Purpose;
use nexus_seal::keys::WrapPlaintext;
use nexus_seal::{Recipient, SecretBytes, Signer, Wrap, WrapKey, WrapRecipient, seal_to_recipient_armored};
use zeroize::Zeroizing;

use crate::cipher::{DataKey, ViewKey};
use crate::error::VaultError;
use crate::identity::InboxKey;

/// An agent's keys, open.
#[derive(Debug, Clone)]
pub struct AgentKeys {
    pub data: DataKey,
    /// The one that new entries go under.
    pub view: ViewKey,
    /// Those before it, newest first.
    pub older_views: Vec<ViewKey>,
    pub inbox: InboxKey,
}

impl AgentKeys {
    /// Fresh keys, each with number 1.
    pub fn generate(npub: Npub, entropy: &dyn Entropy) -> Self {
        Self {
            data: DataKey::generate(npub, 1, entropy),
            view: ViewKey::generate(npub, 1, entropy),
            older_views: Vec::new(),
            inbox: InboxKey::generate(npub, 1, entropy),
        }
    }

    /// Opens the stored wraps with the agent's signer. The newest data and inbox key count.
    ///
    /// [`VaultError::WrapMissing`] when there is none for a key: whoever has no state yet may then
    /// [`generate`](Self::generate) and store [`wraps`](Self::wraps).
    pub async fn open(signer: &dyn Signer, wraps: &[Wrap]) -> Result<Self, VaultError> {
        let npub = signer.public_key();
        let missing = |key| move || VaultError::WrapMissing(key);
        let own = newest(wraps, WrapKey::Data, &WrapRecipient::Own).ok_or_else(missing(WrapKey::Data))?;
        let text = Zeroizing::new(signer.nip44_decrypt(&npub, &own.ciphertext).await?);
        let secret = WrapPlaintext::from_text(&text, &npub, WrapKey::Data, own.number)?;
        let data = DataKey::from_secret(npub, own.number, &secret)?;

        let inbox = newest(wraps, WrapKey::Inbox, &WrapRecipient::Data).ok_or_else(missing(WrapKey::Inbox))?;
        let inbox = InboxKey::from_secret(npub, inbox.number, &open_data_wrap(&data, inbox)?)?;

        let mut views: Vec<&Wrap> = wraps.iter().filter(|w| is(w, WrapKey::View, &WrapRecipient::Data)).collect();
        views.sort_by_key(|wrap| std::cmp::Reverse(wrap.number));
        let open = |wrap: &&Wrap| ViewKey::from_secret(npub, wrap.number, &open_data_wrap(&data, wrap)?);
        let mut views = views.iter().map(open).collect::<Result<Vec<_>, VaultError>>()?.into_iter();
        let view = views.next().ok_or_else(missing(WrapKey::View))?;
        Ok(Self { data, view, older_views: views.collect(), inbox })
    }

    /// All wraps of these keys: the data key to the agent itself (and a pool), view and inbox key under the data key,
    /// the view key to each reader.
    pub async fn wraps(
        &self,
        signer: &dyn Signer,
        readers: &[Npub],
        pool: Option<(&str, &Recipient)>,
        entropy: &dyn Entropy,
    ) -> Result<Vec<Wrap>, VaultError> {
        let npub = signer.public_key();
        let data = text(npub, WrapKey::Data, self.data.number(), self.data.expose());
        let wrap = |key, number, recipient, ciphertext| Wrap { key, number, recipient, ciphertext };
        let own = signer.nip44_encrypt(&npub, &data).await?;
        let mut wraps = vec![wrap(WrapKey::Data, self.data.number(), WrapRecipient::Own, own)];
        if let Some((id, recipient)) = pool {
            let sealed = seal_to_recipient_armored(recipient, data.as_bytes())?;
            wraps.push(wrap(WrapKey::Data, self.data.number(), WrapRecipient::Pool(id.to_owned()), sealed));
        }
        let view = text(npub, WrapKey::View, self.view.number(), self.view.expose());
        let inbox = text(npub, WrapKey::Inbox, self.inbox.number(), self.inbox.expose());
        for (key, number, text) in
            [(WrapKey::View, self.view.number(), view), (WrapKey::Inbox, self.inbox.number(), inbox)]
        {
            let sealed = self.data.seal(Purpose::Wrap, text.as_bytes(), entropy)?;
            wraps.push(wrap(key, number, WrapRecipient::Data, STANDARD.encode(sealed)));
        }
        wraps.extend(self.view_wraps(signer, readers).await?);
        Ok(wraps)
    }

    /// The current view key, wrapped to some readers.
    pub async fn view_wraps(&self, signer: &dyn Signer, readers: &[Npub]) -> Result<Vec<Wrap>, VaultError> {
        self.view_wraps_of(&self.view, signer, readers).await
    }

    /// One of these keys' view keys, wrapped to some readers.
    pub async fn view_wraps_of(
        &self,
        view: &ViewKey,
        signer: &dyn Signer,
        readers: &[Npub],
    ) -> Result<Vec<Wrap>, VaultError> {
        let plaintext = text(signer.public_key(), WrapKey::View, view.number(), view.expose());
        let mut wraps = Vec::with_capacity(readers.len());
        for reader in readers {
            let ciphertext = signer.nip44_encrypt(reader, &plaintext).await?;
            let recipient = WrapRecipient::Reader(*reader);
            wraps.push(Wrap { key: WrapKey::View, number: view.number(), recipient, ciphertext });
        }
        Ok(wraps)
    }

    /// Makes a new view key for new entries, after a reader was removed, and its wraps for those who stay.
    pub async fn rotate_view(
        &mut self,
        signer: &dyn Signer,
        readers: &[Npub],
        entropy: &dyn Entropy,
    ) -> Result<Vec<Wrap>, VaultError> {
        let next = ViewKey::generate(self.view.npub(), self.view.number().saturating_add(1), entropy);
        let before = std::mem::replace(&mut self.view, next);
        self.older_views.insert(0, before);
        let plaintext = text(self.view.npub(), WrapKey::View, self.view.number(), self.view.expose());
        let sealed = self.data.seal(Purpose::Wrap, plaintext.as_bytes(), entropy)?;
        let mut wraps = self.view_wraps(signer, readers).await?;
        let (number, ciphertext) = (self.view.number(), STANDARD.encode(sealed));
        wraps.push(Wrap { key: WrapKey::View, number, recipient: WrapRecipient::Data, ciphertext });
        Ok(wraps)
    }

    /// The view key of a number.
    pub fn view_numbered(&self, number: u32) -> Option<&ViewKey> {
        std::iter::once(&self.view).chain(&self.older_views).find(|key| key.number() == number)
    }
}

/// Opens a view key as one of its readers.
pub async fn open_view_wrap(reader: &dyn Signer, agent: &Npub, wrap: &Wrap) -> Result<ViewKey, VaultError> {
    if !is(wrap, WrapKey::View, &WrapRecipient::Reader(reader.public_key())) {
        return Err(VaultError::WrapMissing(WrapKey::View));
    }
    let text = Zeroizing::new(reader.nip44_decrypt(agent, &wrap.ciphertext).await?);
    let secret = WrapPlaintext::from_text(&text, agent, WrapKey::View, wrap.number)?;
    ViewKey::from_secret(*agent, wrap.number, &secret)
}

/// The plaintext of a wrap of the data key.
pub(crate) fn data_key_text(keys: &AgentKeys) -> Zeroizing<String> {
    text(keys.data.npub(), WrapKey::Data, keys.data.number(), keys.data.expose())
}

fn text(npub: Npub, key: WrapKey, number: u32, secret: SecretBytes) -> Zeroizing<String> {
    WrapPlaintext { npub, key, number, secret }.to_text()
}

fn is(wrap: &Wrap, key: WrapKey, recipient: &WrapRecipient) -> bool {
    wrap.key == key && wrap.recipient == *recipient
}

fn newest<'a>(wraps: &'a [Wrap], key: WrapKey, recipient: &WrapRecipient) -> Option<&'a Wrap> {
    wraps.iter().filter(|wrap| is(wrap, key, recipient)).max_by_key(|wrap| wrap.number)
}

fn open_data_wrap(data: &DataKey, wrap: &Wrap) -> Result<SecretBytes, VaultError> {
    let unreadable = || VaultError::WrapMissing(wrap.key);
    let sealed = STANDARD.decode(&wrap.ciphertext).map_err(|_| unreadable())?;
    let opened = data.open(Purpose::Wrap, &sealed)?;
    let text = std::str::from_utf8(opened.expose()).map_err(|_| unreadable())?;
    Ok(WrapPlaintext::from_text(text, &data.npub(), wrap.key, wrap.number)?)
}
