//! Nothing secret is in what logs and panics would print.

mod common;

use common::World;
use nexus_seal::operator::OperatorKey;
use nexus_seal::{Passphrase, Signer};
use nexus_vault::{AgentKeys, AgentSecrets, Mnemonic};

#[tokio::test]
async fn debug_and_errors_show_no_secret() {
    let world = World::new(11).await;
    let entropy = &*world.entropy;
    let mnemonic = Mnemonic::generate(entropy);
    let passphrase = Passphrase::generate(entropy);
    let created = world.agent(&mnemonic, &passphrase).await;
    let body = &created.body;
    let sealed = body.sealed_key.as_deref().unwrap();
    let secrets = AgentSecrets::open(sealed, &world.identity, "main", &body.npub, world.entropy.clone()).unwrap();
    let keys = AgentKeys::open(&*secrets.signer, &body.wraps).await.unwrap();
    let operator = OperatorKey::generate(entropy);
    let wrong = secrets.signer.nip44_decrypt(&body.npub, "AgAA").await.unwrap_err();

    let printed = format!(
        "{mnemonic:?} {passphrase:?} {created:?} {secrets:?} {keys:?} {operator:?} {:?} {:?} {:?} {:?} {wrong} {wrong:?}",
        world.identity,
        world.owner,
        mnemonic.expose(),
        secrets.wallet.expose_seed(),
    );
    let hex = |bytes: &[u8]| hex::encode(bytes);
    let wallet_words = secrets.wallet.expose_words();
    for secret in [
        mnemonic.expose().expose(),
        wallet_words.expose(),
        passphrase.expose(),
        secrets.signer.expose_nsec().expose(),
        world.identity.expose_text().expose().trim(),
        operator.expose_text().expose(),
        &hex(secrets.signer.expose_secret().expose()),
        &hex(secrets.wallet.expose_seed().expose()),
        common::GOAL,
    ] {
        assert!(!printed.contains(secret));
    }
    // Bytes printed as a list of numbers would be found neither as hex nor as text.
    let numbers = format!("{:?}", &secrets.signer.expose_secret().expose()[..8]);
    assert!(!printed.contains(numbers.trim_matches(['[', ']'])));
}
