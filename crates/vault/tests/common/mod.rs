//! A pool, an owner and a new agent, as a client makes them.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

use std::sync::Arc;

use nexus_core::policy::Policy;
use nexus_core::{AgentConfig, Entropy, Npub, UnixMs};
use nexus_seal::{Passphrase, SignedPool, Signer};
use nexus_testkit::SeededEntropy;
use nexus_vault::{CreatedAgent, Host, LocalSigner, Mnemonic, NewAgent, PoolIdentity, sign_first_pool};

pub const NOW: UnixMs = UnixMs::from_secs(1_790_000_000);
pub const GOAL: &str = "learn to juggle five knives";

pub struct World {
    pub entropy: Arc<dyn Entropy>,
    pub owner: LocalSigner,
    pub identity: PoolIdentity,
    pub pool: SignedPool,
}

impl World {
    pub async fn new(seed: u64) -> Self {
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
        let root = LocalSigner::generate(Arc::clone(&entropy));
        let identity = PoolIdentity::generate(&*entropy);
        let document = sign_first_pool(&root, "main", &identity, NOW).await.unwrap();
        let pool = SignedPool::first_use(&[document], NOW).unwrap();
        Self { owner: LocalSigner::generate(Arc::clone(&entropy)), entropy, identity, pool }
    }

    pub async fn agent(&self, mnemonic: &Mnemonic, passphrase: &Passphrase) -> CreatedAgent {
        let npub = mnemonic.signer(Arc::clone(&self.entropy)).unwrap().public_key();
        let new = NewAgent {
            name: "ada".into(),
            config: AgentConfig::default(),
            mnemonic,
            passphrase,
            owner: &self.owner,
            policy: Policy::default_for(npub),
            pool: &self.pool,
            host: Host { url: "https://nexus.example".into(), runner: Some(Npub::from_bytes([9; 32])) },
            persona: "a patient clown".into(),
            goals: vec![GOAL.into()],
            now: NOW,
            entropy: Arc::clone(&self.entropy),
        };
        new.create().await.unwrap()
    }
}
