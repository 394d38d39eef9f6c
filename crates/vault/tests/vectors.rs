//! The official vectors of the standards that an agent is made by.

use std::sync::Arc;

use nexus_core::Entropy;
use nexus_seal::{Passphrase, Signer};
use nexus_testkit::SeededEntropy;
use nexus_vault::{Mnemonic, VaultError, decrypt_owner_key, encrypt_owner_key};

/// Gives the bytes that a vector wants.
struct Given(Vec<u8>);

impl Entropy for Given {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0[..bytes.len()]);
    }
}

fn entropy() -> Arc<dyn Entropy> {
    Arc::new(SeededEntropy::new(1))
}

#[derive(serde::Deserialize)]
struct Bip39 {
    entropy: String,
    mnemonic: String,
    seed: String,
}

#[test]
fn bip39() {
    let vectors: Vec<Bip39> = serde_json::from_str(include_str!("vectors/bip39.json")).unwrap();
    assert_eq!(vectors.len(), 24);
    for vector in vectors {
        let entropy = hex::decode(&vector.entropy).unwrap();
        let parsed = Mnemonic::parse(&vector.mnemonic).unwrap();
        assert_eq!(parsed.expose().expose(), vector.mnemonic);
        if entropy.len() == 16 {
            let generated = Mnemonic::generate(&Given(entropy.clone()));
            assert_eq!(generated.expose().expose(), vector.mnemonic);
        }
        // The vectors' seeds are under a BIP-39 passphrase, which agents never have: the library's own road.
        let library = bip39::Mnemonic::parse_in_normalized(bip39::Language::English, &vector.mnemonic).unwrap();
        assert_eq!(library.to_entropy(), entropy);
        assert_eq!(hex::encode(library.to_seed_normalized("TREZOR")), vector.seed);
    }
}

#[test]
fn a_mnemonic_is_read_with_care() {
    let words = "leader monkey parrot ring guide accident before fence cannon height naive bean";
    let shouted = format!("  {}\n", words.to_uppercase().replace(' ', "\n  "));
    assert_eq!(Mnemonic::parse(&shouted).unwrap().expose().expose(), words);
    let misplaced = words.replace("leader monkey", "monkey leader");
    for bad in ["", "leader", &misplaced, &words.replace("bean", "beans"), &format!("{words} bean")] {
        assert!(matches!(Mnemonic::parse(bad), Err(VaultError::Mnemonic(_))), "{bad}");
    }
}

#[test]
fn nip06() {
    let vectors = [
        (
            "leader monkey parrot ring guide accident before fence cannon height naive bean",
            "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a",
            "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp",
            "npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu",
        ),
        (
            "what bleak badge arrange retreat wolf trade produce cricket blur garlic valid proud rude strong choose busy staff weather area salt hollow arm fade",
            "c15d739894c81a2fcfd3a2df85a0d2c0dbc47a280d092799f144d73d7ae78add",
            "nsec1c9wh8xy5eqdzln7n5t0ctgxjcrdug73gp5yj0x03gntn67h83twssdfhel",
            "npub16sdj9zv4f8sl85e45vgq9n7nsgt5qphpvmf7vk8r5hhvmdjxx4es8rq74h",
        ),
    ];
    for (words, secret, nsec, npub) in vectors {
        let signer = Mnemonic::parse(words).unwrap().signer(entropy()).unwrap();
        assert_eq!(hex::encode(signer.expose_secret().expose()), secret);
        assert_eq!(signer.expose_nsec().expose(), nsec);
        assert_eq!(signer.public_key().to_string(), npub);
    }
}

#[test]
fn pylon_keys_of_the_same_words() {
    let words = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
    let mnemonic = Mnemonic::parse(words).unwrap();
    let signer = mnemonic.signer(entropy()).unwrap();
    assert_eq!(signer.public_key().to_hex(), "e8bcf3823669444d0b49ad45d65088635d9fd8500a75b5f20b59abefa56a144f");
    let pylon = "03aaeb52dd7494c361049de67cc680e83ebcbbbdbeb13637d92cd845f70308af5e";
    assert_eq!(mnemonic.pylon_signer().unwrap(), pylon);
    assert_eq!(mnemonic.npub().unwrap(), signer.public_key());
    let (regtest, mainnet) = (
        "02698b27ac308b275671b3ca25436346469d04a5bba578ae39feba1d65897a6abc",
        "0281363910b0dc0015a4a25e758da30f0e28388ea5252c0e3713936f2d4ef7d3d5",
    );
    assert_eq!(mnemonic.spark_identity(false).unwrap(), regtest);
    assert_eq!(mnemonic.spark_identity(true).unwrap(), mainnet);
}

#[test]
fn nip49() {
    let file = "ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w57lspw8gsq6yphnm8623nsl8xn9j4jdzz84zm3frztj3z7s35vpzmqf6ksu8r89qk5z2zxfmu5gv8th8wclt0h4p";
    let signer = decrypt_owner_key(file, &Passphrase::existing("nostr"), entropy()).unwrap();
    let secret = "3501454135014541350145413501453fefb02227e449e57cf4d3a3ce05378683";
    assert_eq!(hex::encode(signer.expose_secret().expose()), secret);
    let wrong = decrypt_owner_key(file, &Passphrase::existing("Nostr"), entropy());
    assert_eq!(wrong.unwrap_err(), VaultError::WrongPassphrase);
}

#[test]
fn an_owner_key_file_reads_back() {
    let signer = nexus_vault::LocalSigner::generate(entropy());
    let passphrase = Passphrase::existing("velvet-goose 71 paints quietly");
    let file = encrypt_owner_key(&signer, &passphrase, &*entropy()).unwrap();
    assert!(file.starts_with("ncryptsec1"));
    let same = decrypt_owner_key(&format!("{file}\n"), &passphrase, entropy()).unwrap();
    assert_eq!(same.public_key(), signer.public_key());
}
