//! The pool document: to whom runtime envelopes are closed.
//!
//! A Nostr event (kind 30078, `d` = `nexus-pool:<pool id>`) whose content is the JSON document, signed by a root key
//! that the operator keeps offline. Each document names the event id of the one before it. A client pins root key and
//! document on first use and follows only that chain, so a control plane cannot slip in a recipient of its own.

use nexus_core::{Hash32, Npub, UnixMs};
use nostr::event::{Event, UnsignedEvent};
use nostr::types::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::event::{EventError, event_id, expect_tag, npub_of, tag, timestamp, unsigned, verify_from};
use crate::recipient::Recipient;
use crate::words::words;

/// NIP-78 application data.
pub const POOL_KIND: u16 = 30_078;
/// Version of the document below.
pub const POOL_FORMAT: u32 = 1;
/// Longest chain of documents that is followed.
pub const MAX_CHAIN: usize = 256;
/// Words of a root key's fingerprint: 88 bits.
pub const FINGERPRINT_WORDS: usize = 8;
const MAX_POOL_ID: usize = 64;
const MAX_RECIPIENTS: usize = 16;
const MAX_CONTENT: usize = 16 * 1024;

/// Why a pool document is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("pool document: {0}")]
    Event(#[from] EventError),
    #[error("pool document: {0}")]
    Document(&'static str),
    #[error("the pool offered no document")]
    Empty,
    #[error("the pool's root key is {found} ({found_words}), but {pinned} ({pinned_words}) is pinned")]
    OtherRoot { pinned: Npub, pinned_words: String, found: Npub, found_words: String },
    #[error("this is pool {found}, but pool {pinned} is pinned")]
    OtherPool { pinned: String, found: String },
    #[error("the pool's documents do not lead back to the pinned one: nothing is sealed to it")]
    BrokenChain,
    #[error("the pool's document is valid from {valid_from} (seconds) only")]
    NotYetValid { valid_from: i64 },
}

/// What a pool publishes about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolDocument {
    pub format: u32,
    /// 1 to 64 of `a-z 0-9 -`.
    pub pool_id: String,
    /// Envelopes go to the first; the others still open older ones.
    pub recipients: Vec<Recipient>,
    /// The pool's signing key: signs the offers by which owners unlock agents in attended custody. Documents from before
    /// it have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Npub>,
    /// Seconds since 1970.
    pub valid_from: i64,
    /// Event id of the document before this one.
    pub previous: Option<Hash32>,
}

/// A pool document whose signature was checked. Whether its root key is the right one is for a [`PoolPin`] to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPool {
    pub document: PoolDocument,
    pub root: Npub,
    /// The event's id.
    pub id: Hash32,
}

/// What a client keeps of a pool: compared on every later use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPin {
    pub root: Npub,
    pub pool_id: String,
    /// Event id of the last document that was accepted.
    pub document: Hash32,
}

/// Whether a text is a pool id: 1 to 64 of `a-z 0-9 -`.
pub fn is_pool_id(text: &str) -> bool {
    (1..=MAX_POOL_ID).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A root key as eight words, for a person to compare: 88 bits of its SHA-256.
pub fn fingerprint(root: &Npub) -> String {
    let mut hash = Sha256::new_with_prefix(b"nexus-pool-root");
    hash.update(root.as_bytes());
    words(&hash.finalize(), FINGERPRINT_WORDS)
}

impl PoolDocument {
    fn validate(&self) -> Result<(), PoolError> {
        if self.format != POOL_FORMAT {
            return Err(PoolError::Document("of a format that this version does not read"));
        }
        if !is_pool_id(&self.pool_id) {
            return Err(PoolError::Document("pool ids are 1 to 64 of a-z, 0-9 and '-'"));
        }
        if self.recipients.is_empty() || self.recipients.len() > MAX_RECIPIENTS {
            return Err(PoolError::Document("1 to 16 recipients"));
        }
        Ok(())
    }
}

fn identifier(pool_id: &str) -> String {
    format!("nexus-pool:{pool_id}")
}

/// The event for the root key to sign.
pub fn unsigned_pool(root: &Npub, document: &PoolDocument, created_at: Timestamp) -> Result<UnsignedEvent, PoolError> {
    document.validate()?;
    let content = serde_json::to_string(document).map_err(|_| PoolError::Document("cannot be written"))?;
    let tags = vec![tag("d", [identifier(&document.pool_id).as_str()])];
    Ok(unsigned(root, POOL_KIND, created_at, tags, content))
}

/// Checks one document's signature and form.
pub fn verify_pool(event: &Event) -> Result<SignedPool, PoolError> {
    let root = npub_of(&event.pubkey);
    verify_from(event, POOL_KIND, &root)?;
    if event.content.len() > MAX_CONTENT {
        return Err(PoolError::Document("too large"));
    }
    let document: PoolDocument =
        serde_json::from_str(&event.content).map_err(|_| PoolError::Document("content is not the document"))?;
    document.validate()?;
    expect_tag(event, "d", &identifier(&document.pool_id))?;
    Ok(SignedPool { document, root, id: event_id(event) })
}

/// Checks a chain of documents, oldest first: one root, one pool, each naming the one before it, in order of time.
fn verify_chain(chain: &[Event]) -> Result<Vec<SignedPool>, PoolError> {
    if chain.is_empty() || chain.len() > MAX_CHAIN {
        return Err(PoolError::Empty);
    }
    let pools: Vec<SignedPool> = chain.iter().map(verify_pool).collect::<Result<_, _>>()?;
    let linked = pools.windows(2).all(|pair| {
        let (before, after) = (&pair[0], &pair[1]);
        after.document.previous == Some(before.id)
            && after.root == before.root
            && after.document.pool_id == before.document.pool_id
            && after.document.valid_from >= before.document.valid_from
    });
    if linked { Ok(pools) } else { Err(PoolError::BrokenChain) }
}

/// The newest document of a chain that is valid now.
fn newest_valid(pools: Vec<SignedPool>, now: UnixMs) -> Result<SignedPool, PoolError> {
    let first = pools.first().map_or(0, |pool| pool.document.valid_from);
    let valid = pools.into_iter().rev().find(|pool| pool.document.valid_from <= now.secs());
    valid.ok_or(PoolError::NotYetValid { valid_from: first })
}

impl SignedPool {
    /// First use: takes the chain that a host offers, oldest first, for a person to compare [`Self::fingerprint`].
    pub fn first_use(chain: &[Event], now: UnixMs) -> Result<Self, PoolError> {
        newest_valid(verify_chain(chain)?, now)
    }

    /// Where runtime envelopes go.
    pub fn recipient(&self) -> &Recipient {
        // `validate` refused an empty list.
        &self.document.recipients[0]
    }

    /// The root key as words.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.root)
    }

    pub fn pin(&self) -> PoolPin {
        PoolPin { root: self.root, pool_id: self.document.pool_id.clone(), document: self.id }
    }
}

impl PoolPin {
    /// Later use: follows the chain from the pinned document, and gives the newest that is valid now. The caller keeps
    /// its [`SignedPool::pin`].
    pub fn follow(&self, chain: &[Event], now: UnixMs) -> Result<SignedPool, PoolError> {
        let pools = verify_chain(chain)?;
        for pool in &pools {
            if pool.root != self.root {
                return Err(PoolError::OtherRoot {
                    pinned: self.root,
                    pinned_words: fingerprint(&self.root),
                    found: pool.root,
                    found_words: pool.fingerprint(),
                });
            }
            if pool.document.pool_id != self.pool_id {
                let (pinned, found) = (self.pool_id.clone(), pool.document.pool_id.clone());
                return Err(PoolError::OtherPool { pinned, found });
            }
        }
        let at = pools.iter().position(|pool| pool.id == self.document).ok_or(PoolError::BrokenChain)?;
        newest_valid(pools.into_iter().skip(at).collect(), now)
    }
}

/// A document that follows another, for the root key to sign.
pub fn unsigned_successor(
    before: &SignedPool,
    recipients: Vec<Recipient>,
    signer: Option<Npub>,
    now: UnixMs,
) -> Result<UnsignedEvent, PoolError> {
    let document = PoolDocument {
        format: POOL_FORMAT,
        pool_id: before.document.pool_id.clone(),
        recipients,
        signer,
        valid_from: now.secs().max(before.document.valid_from),
        previous: Some(before.id),
    };
    unsigned_pool(&before.root, &document, timestamp(now))
}
