//! Entry points for a fuzzing driver: any bytes in, never a panic.

use nexus_core::{Hash32, Npub, UnixMs};

use crate::proof::Request;

/// Everything that reads an envelope or blob of the owner's, the client's or the database's.
pub fn fuzz_envelope(data: &[u8]) {
    let _ = crate::blob::Blob::parse(data);
    let _ = crate::SealedKey::from_plaintext(data);
    let _ = crate::unlock::read_unlock(data, &Hash32::ZERO);
    if let Ok(backup) = crate::Backup::read(data) {
        let _ = backup.verify(&Npub::from_bytes([2; 32]), UnixMs::from_secs(1_700_000_000));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = crate::check_mnemonic_envelope(text);
    let _ = crate::check_recipient_envelope(text);
    let _ = text.parse::<crate::Recipient>();
    let _ = crate::keys::WrapPlaintext::from_text(text, &Npub::from_bytes([1; 32]), crate::WrapKey::Data, 1);
    let _ = crate::operator::OperatorKey::parse(text);
}

/// Everything that reads a body or header of a request.
pub fn fuzz_request(data: &[u8]) {
    let now = UnixMs::from_secs(1_700_000_000);
    if let Ok(body) = serde_json::from_slice::<crate::CreateAgent>(data) {
        let _ = body.check(&Npub::from_bytes([2; 32]), now);
    }
    if let Ok(body) = serde_json::from_slice(data) {
        let _ = crate::looks_like_secret(&body);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = crate::scan::secret_in_text(text);
    let request = Request { method: "POST", url: "https://nexus.example/v1/agents", body: data };
    let npub = Npub::from_bytes([3; 32]);
    let _ = crate::verify_nip98(text, &request, now);
    let _ = crate::verify_agent_proof(text, &request, &npub, &npub, now);
}

/// Everything that reads a signed document: pool, policy, host claim.
pub fn fuzz_document(data: &[u8]) {
    let Ok(event) = serde_json::from_slice::<nostr::event::Event>(data) else { return };
    let author = crate::event::npub_of(&event.pubkey);
    let _ = crate::event::verify(&event);
    let _ = crate::verify_policy(&event, &author, &author);
    let _ = crate::claim::verify_claim(&event, &author, UnixMs(0));
    let _ = crate::pool::verify_pool(&event);
    let tick_id = nexus_core::TickId::from_bytes([4; 16]);
    let id = nexus_core::approval::ApprovalId { tick_id, index: 0 };
    let pending = crate::Pending { agent: author, id, digest: Hash32::ZERO, request: Some(Hash32::ZERO) };
    let _ = crate::verify_decision(&event, &author, &pending, UnixMs(0));
    let _ = crate::SignedPool::first_use(std::slice::from_ref(&event), UnixMs(0));
}
