//! Signing requests: by their sender (NIP-98), and by an agent's key that agrees to be created.

use nexus_core::time::random;
use nexus_core::{Entropy, Npub, UnixMs};
use nexus_seal::event::tag;
use nexus_seal::proof::{Request, authorization_header, proof_header, unsigned_agent_proof, unsigned_request};
use nexus_seal::{Signer, SignerError};
use nostr::event::{Event, UnsignedEvent};
use url::Url;

use crate::error::Error;

/// The `Authorization` header of one request, with `p` = the agent that it is a command to. Made anew for every attempt,
/// since each is good once.
pub async fn nip98(
    signer: &dyn Signer,
    method: &str,
    url: &Url,
    body: Option<&[u8]>,
    about: Option<Npub>,
    now: UnixMs,
    entropy: &dyn Entropy,
) -> Result<String, Error> {
    let request = Request { method, url: url.as_str(), body: body.unwrap_or_default() };
    let mut event = unsigned_request(&signer.public_key(), &request, now);
    event.tags.extend(about.map(|agent| tag("p", [agent.to_hex().as_str()])));
    Ok(authorization_header(&sign_once(signer, event, entropy).await?))
}

/// The `Nexus-Proof` header: the agent's key agrees to this request of its owner.
pub async fn agent(
    signer: &dyn Signer,
    owner: &Npub,
    method: &str,
    url: &Url,
    body: &[u8],
    now: UnixMs,
    entropy: &dyn Entropy,
) -> Result<String, Error> {
    let request = Request { method, url: url.as_str(), body };
    let event = unsigned_agent_proof(&signer.public_key(), owner, &request, now);
    Ok(proof_header(&sign_once(signer, event, entropy).await?))
}

/// Signs with a nonce inside: two equal requests in one second would otherwise be one event, and the second refused.
async fn sign_once(signer: &dyn Signer, mut event: UnsignedEvent, entropy: &dyn Entropy) -> Result<Event, Error> {
    let nonce = hex::encode(random::<16>(entropy));
    event.tags.push(tag("nonce", [nonce.as_str()]));
    signer.sign(event).await.map_err(signing)
}

pub fn signing(error: SignerError) -> Error {
    match error {
        SignerError::Offline(_) => Error::Failed(format!("{error}\n  next: bring the signer online and try again")),
        other => Error::Failed(format!("signing: {other}")),
    }
}
