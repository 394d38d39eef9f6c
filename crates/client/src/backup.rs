//! Reading a backup before anything is signed for it.

use std::fmt::Write;

use nexus_core::{Npub, UnixMs};
use nexus_seal::backup::BlobKind;
use nexus_seal::{Backup, BackupError, VerifiedBackup};

use crate::error::Error;

/// Reads a file and checks that it is whole, and its parts this owner's and one agent's. Nothing is opened.
pub fn read(bytes: &[u8], owner: &Npub, now: UnixMs) -> Result<VerifiedBackup, Error> {
    Backup::read(bytes).and_then(|backup| backup.verify(owner, now)).map_err(refused)
}

fn refused(error: BackupError) -> Error {
    let next = match &error {
        BackupError::NotJson { .. } | BackupError::Digest { .. } | BackupError::Rearranged => {
            "use another copy of the file, or export it again"
        }
        BackupError::NotBackup(_) | BackupError::TooLarge { .. } => {
            "check that this is the file that `nexus agent export` wrote"
        }
        BackupError::Format { .. } => "bring `nexus` here to the version that wrote the file",
        BackupError::Part { field: "policy", .. } => {
            "import it with the owner key that signed the policy; `nexus context list` shows which are here"
        }
        BackupError::Part { .. } => "do not import it: somebody may have changed it; export it again",
        BackupError::Secret(_) => "take the secret out of the configuration and export it again",
    };
    Error::Refused(format!("{error}\n  next: {next}"))
}

/// What an owner is about to sign for: everything in a backup that no signature covers, and what the policy allows.
///
/// Texts of the file are shown quoted, since whoever changed it chose them.
pub fn show(verified: &VerifiedBackup) -> String {
    let backup = &verified.backup;
    let config = &backup.config;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    line("agent", format!("{} ({:?})", backup.npub, backup.name));
    line("made", format!("{} (seconds since 1970), epoch {}", backup.made_at.secs(), backup.epoch));
    match &verified.claim {
        Some(claim) => line("hosted at", format!("{:?}", claim.url)),
        None => line("hosted at", "it names no host".to_owned()),
    }
    line("heartbeat", format!("every {} s", config.heartbeat_secs));
    let triggers: Vec<String> = config.triggers.iter().map(ToString::to_string).collect();
    line("triggers", triggers.join(", "));
    line("relays", if config.relays.is_empty() { "the host's own".into() } else { format!("{:?}", config.relays) });
    if !config.about.is_empty() {
        line("about", format!("{:?}", config.about));
    }
    match &verified.policy {
        Some(signed) => {
            let limits = &signed.policy.limits;
            let (tick, day) = (limits.tick_msat.whole_sats(), limits.day_msat.whole_sats());
            line("policy", format!("version {}, at most {tick} sats a tick and {day} a day", signed.policy.version));
        }
        None => line("policy", "none: the agent may not spend until you sign one".to_owned()),
    }
    if let Some(place) = &backup.wallet_place {
        line("wallet", format!("{place:?}"));
    }
    if !backup.blobs.iter().any(|blob| blob.kind == BlobKind::State) {
        line("state", "none: the agent begins without goals and memory".to_owned());
    }
    for payment in &backup.unresolved {
        let (hash, sats) = (payment.payment_hash, payment.amount_msat.sats_ceil());
        line("unresolved", format!("{sats} sats, payment {hash}: it is never sent again elsewhere"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_core::policy::Policy;
    use nexus_core::{AgentConfig, Generation, Hash32, Msat};
    use nexus_seal::backup::Unresolved;
    use nexus_seal::event::timestamp;
    use nexus_seal::policy::unsigned_policy;
    use nexus_seal::{Passphrase, SecretText, Signer, seal_mnemonic};
    use nexus_testkit::SeededEntropy;
    use nexus_vault::LocalSigner;
    use std::sync::Arc;

    const NOW: UnixMs = UnixMs::from_secs(1_790_000_000);

    fn backup(owner: &LocalSigner) -> Backup {
        let npub = Npub::from_bytes([5; 32]);
        let policy = unsigned_policy(&owner.public_key(), &Policy::default_for(npub), timestamp(NOW)).unwrap();
        Backup {
            npub,
            name: "ada".into(),
            epoch: 3,
            generation: Generation(2),
            made_at: NOW,
            config: AgentConfig { about: "ring\u{1b}[2J me".into(), ..AgentConfig::default() },
            next_tick_at: None,
            policy: Some(owner.sign_now(policy).unwrap()),
            claim: None,
            mnemonic_encrypted: seal_mnemonic(&SecretText::new("x"), &Passphrase::existing("a passphrase")).unwrap(),
            inbox_recipient: None,
            wraps: vec![],
            blobs: vec![],
            wallet_place: Some("http://127.0.0.1:7779".into()),
            unresolved: vec![Unresolved { payment_hash: Hash32::ZERO, amount_msat: Msat::new(1_500), expires_at: NOW }],
        }
    }

    #[test]
    fn what_no_signature_covers_is_shown_and_cannot_draw_on_the_terminal() {
        let owner = LocalSigner::generate(Arc::new(SeededEntropy::new(1)));
        let bytes = backup(&owner).to_bytes().unwrap();
        let verified = read(&bytes, &owner.public_key(), NOW).unwrap();
        let text = show(&verified);
        for part in ["epoch 3", "every 900 s", "1000 sats a tick", "127.0.0.1:7779", "2 sats, payment 0000", "no host"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "escape sequences are quoted: {text}");
    }

    #[test]
    fn a_refused_file_says_what_to_do() {
        let owner = LocalSigner::generate(Arc::new(SeededEntropy::new(1)));
        let bytes = backup(&owner).to_bytes().unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let refused = |bytes: &[u8], owner: &Npub| {
            let error = read(bytes, owner, NOW).unwrap_err();
            assert_eq!(error.exit().code(), 4);
            error.to_string()
        };
        let own = owner.public_key();
        assert!(refused(text.replace("ada", "eve").as_bytes(), &own).contains("next: use another copy"));
        assert!(refused(b"{", &own).contains("next: use another copy"));
        assert!(refused(b"{}", &own).contains("nexus agent export"));
        assert!(refused(&bytes, &Npub::from_bytes([7; 32])).contains("next: import it with the owner key"));
    }
}
