//! Long files closed with age, written and read as a stream: what a host's backup is kept in. `age -d` opens them, too.

use std::io::{self, BufRead, Read, Write};

use age::secrecy::SecretString;
use age::stream::StreamWriter;
use nexus_seal::{MAX_LOG_N, MNEMONIC_LOG_N, Passphrase, Recipient};

use crate::error::VaultError;
use crate::identity::PoolIdentity;

/// What an archive is closed with.
#[derive(Debug, Clone)]
pub enum ArchiveLock {
    Passphrase(Passphrase),
    /// Who closes it cannot open it.
    Recipients(Vec<Recipient>),
}

/// What opens it.
#[derive(Debug, Clone)]
pub enum ArchiveKey {
    Passphrase(Passphrase),
    Identities(PoolIdentity),
}

/// Whatever is written is closed. Not whole, and refused by whoever reads it, until [`Self::finish`].
pub struct ArchiveWriter<W: Write>(StreamWriter<W>);

impl<W: Write> ArchiveWriter<W> {
    /// With a passphrase it takes about a second and 256 MiB: call it off the async executor.
    pub fn new(out: W, lock: &ArchiveLock) -> io::Result<Self> {
        let refused = |error: String| io::Error::new(io::ErrorKind::InvalidInput, error);
        let recipients: Vec<Box<dyn age::Recipient>> = match lock {
            ArchiveLock::Passphrase(passphrase) => {
                let mut recipient = age::scrypt::Recipient::new(SecretString::from(passphrase.expose().to_owned()));
                recipient.set_work_factor(MNEMONIC_LOG_N);
                vec![Box::new(recipient)]
            }
            ArchiveLock::Recipients(recipients) => {
                let read = |recipient: &Recipient| -> io::Result<Box<dyn age::Recipient>> {
                    let key: age::x25519::Recipient =
                        recipient.as_str().parse().map_err(|error: &str| refused(error.to_owned()))?;
                    Ok(Box::new(key))
                };
                recipients.iter().map(read).collect::<io::Result<_>>()?
            }
        };
        let encryptor = age::Encryptor::with_recipients(recipients.iter().map(|recipient| &**recipient))
            .map_err(|error| refused(error.to_string()))?;
        encryptor.wrap_output(out).map(Self)
    }

    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}

impl<W: Write> Write for ArchiveWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What was closed. A changed, missing or added byte anywhere is an error of reading, at the latest at the end.
///
/// # Errors
/// [`VaultError::WrongPassphrase`], [`VaultError::Unopened`], [`VaultError::TooMuchWork`];
/// [`VaultError::Unreadable`] for what is no age file.
pub fn open_archive<R: BufRead>(input: R, key: &ArchiveKey) -> Result<impl Read, VaultError> {
    let decryptor = age::Decryptor::new_buffered(input).map_err(|_| VaultError::Unreadable("archive"))?;
    let (wrong, opened) = match key {
        ArchiveKey::Passphrase(passphrase) => {
            let mut identity = age::scrypt::Identity::new(SecretString::from(passphrase.expose().to_owned()));
            identity.set_max_work_factor(MAX_LOG_N);
            (VaultError::WrongPassphrase, decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)))
        }
        ArchiveKey::Identities(identities) => (VaultError::Unopened, decryptor.decrypt(identities.as_age())),
    };
    opened.map_err(|error| match error {
        age::DecryptError::ExcessiveWork { .. } => VaultError::TooMuchWork,
        _ => wrong,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_testkit::SeededEntropy;

    fn closed(text: &[u8], lock: &ArchiveLock) -> Vec<u8> {
        let mut writer = ArchiveWriter::new(Vec::new(), lock).unwrap();
        writer.write_all(text).unwrap();
        writer.finish().unwrap()
    }

    fn opened(file: &[u8], key: &ArchiveKey) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        let mut reader = open_archive(file, key).map_err(|error| error.to_string())?;
        reader.read_to_end(&mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }

    #[test]
    fn a_changed_byte_anywhere_is_refused() {
        let entropy = SeededEntropy::new(3);
        let (one, other) = (PoolIdentity::generate(&entropy), PoolIdentity::generate(&entropy));
        let text = vec![7; 150_000];
        let file = closed(&text, &ArchiveLock::Recipients(vec![one.recipient(), other.recipient()]));
        for key in [&one, &other] {
            assert_eq!(opened(&file, &ArchiveKey::Identities(key.clone())), Ok(text.clone()));
        }
        let stranger = ArchiveKey::Identities(PoolIdentity::generate(&entropy));
        assert!(opened(&file, &stranger).is_err());
        assert!(opened(&file, &ArchiveKey::Passphrase(Passphrase::existing("no"))).is_err());
        let key = ArchiveKey::Identities(one);
        // Each byte of the head and of the end, and some between.
        let head = 0..600.min(file.len());
        let end = file.len() - 200..file.len();
        for place in head.chain(end).chain((600..file.len()).step_by(4_001)) {
            let mut changed = file.clone();
            changed[place] ^= 1;
            assert!(opened(&changed, &key).as_ref() != Ok(&text), "byte {place}");
            assert!(opened(&changed, &key).is_err() || place < 600, "byte {place}");
        }
        for cut in [0, 10, 300, 70_000, file.len() - 1] {
            assert!(opened(&file[..cut], &key).is_err(), "cut at {cut}");
        }
        let mut longer = file.clone();
        longer.push(0);
        assert!(opened(&longer, &key).is_err());
        assert!(opened(b"no age file", &key).is_err());
    }
}
