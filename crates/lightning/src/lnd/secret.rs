//! Macaroons: bearer secrets, one type for each half of the driver.

use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::{Zeroize, Zeroizing};

/// Longer than any that LND bakes, caveats included.
const MAX_FILE_BYTES: u64 = 8 * 1024;

/// Why a macaroon cannot be used. Never says what the file holds.
#[derive(Debug, thiserror::Error)]
pub enum MacaroonError {
    #[error("cannot read the macaroon {path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("others than its owner may read the macaroon {path} (mode {mode:03o}): chmod 600 it", path = .path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{path} holds no macaroon in hex (LND's own files are binary: `xxd -p -c 0 FILE` makes hex of them)", path = .path.display())]
    NotHex { path: PathBuf },
}

/// The header's value. Wiped when dropped.
pub(super) struct Secret(Zeroizing<String>);

impl Secret {
    /// Hex, checked.
    pub(super) fn header(&self) -> &str {
        &self.0
    }

    fn read(path: &Path) -> Result<Self, MacaroonError> {
        let io = |source| MacaroonError::Io { path: path.to_owned(), source };
        let not_hex = || MacaroonError::NotHex { path: path.to_owned() };
        let mut file = std::fs::File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        check_mode(path, &meta)?;
        if meta.len() > MAX_FILE_BYTES {
            return Err(not_hex());
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE_BYTES).unwrap_or(0) + 1));
        std::io::Read::read_to_end(&mut std::io::Read::take(&mut file, MAX_FILE_BYTES), &mut bytes).map_err(io)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| not_hex())?.trim();
        Self::checked(text).ok_or_else(not_hex)
    }

    fn checked(text: &str) -> Option<Self> {
        let hex = text.len() >= 2 && text.len().is_multiple_of(2) && text.bytes().all(|it| it.is_ascii_hexdigit());
        hex.then(|| Self(Zeroizing::new(text.to_ascii_lowercase())))
    }

    /// `text` is wiped.
    fn hex(mut text: String) -> Option<Self> {
        let made = Self::checked(&text);
        text.zeroize();
        made
    }
}

#[cfg(unix)]
fn check_mode(path: &Path, meta: &std::fs::Metadata) -> Result<(), MacaroonError> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777;
    if mode & 0o077 != 0 {
        return Err(MacaroonError::Open { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_: &Path, _: &std::fs::Metadata) -> Result<(), MacaroonError> {
    Ok(())
}

macro_rules! macaroon {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name(pub(super) Secret);

        impl $name {
            /// Reads hex from a file that only its owner may read.
            pub fn read(path: &Path) -> Result<Self, MacaroonError> {
                Secret::read(path).map(Self)
            }

            /// From hex, as it comes out of sealed storage; none if it is not hex. The text is wiped.
            pub fn from_hex(text: String) -> Option<Self> {
                Secret::hex(text).map(Self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

macaroon! {
    /// May pay: `offchain:read`, `offchain:write`, `info:read`. For the pool alone.
    PayerMacaroon
}

macaroon! {
    /// May make and follow invoices: `invoices:read`, `invoices:write`, `offchain:read`, `info:read`. For control alone.
    InvoiceMacaroon
}
