//! Entry points for a fuzzing driver: any bytes in, never a panic.

use std::sync::Arc;

use nexus_core::{Entropy, Npub};
use nexus_seal::blob::Purpose;
use nexus_seal::signer::SignerError;

use crate::{AgentSecrets, DataKey, InboxKey, LocalSigner, Mnemonic, PoolIdentity};

/// Fixed bytes: what is fuzzed is the input.
struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

/// Everything that opens an envelope, a blob or a message, with keys that do not fit.
pub fn fuzz_open(data: &[u8]) {
    let npub = Npub::from_bytes([1; 32]);
    let identity = PoolIdentity::generate(&Fixed);
    let _ = identity.open(data);
    let _ = InboxKey::generate(npub, 1, &Fixed).open(data);
    let _ = DataKey::generate(npub, 1, &Fixed).open(Purpose::State, data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let entropy: Arc<dyn Entropy> = Arc::new(Fixed);
    let _ = AgentSecrets::open(text, &identity, "pool", &npub, Arc::clone(&entropy));
    let _ = Mnemonic::parse(text);
    let _ = crate::is_pylon_identity(text);
    let _ = PoolIdentity::parse(text);
    let _ = LocalSigner::parse(text, Arc::clone(&entropy));
    let _: Result<String, SignerError> = LocalSigner::generate(entropy).open_any(text);
}
