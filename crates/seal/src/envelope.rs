//! age files seen from outside: what can be checked without opening them.
//!
//! The format is the one of <https://c2sp.org/age>: an intro line, stanzas of recipients, a MAC line, then a 16-byte
//! nonce and chunks.

use std::io::Read;

use age::armor::{ArmoredReader, Format};
use age::secrecy::SecretString;

use crate::passphrase::Passphrase;
use crate::recipient::encrypt;
use crate::secret::SecretText;

/// The scrypt work factor (log2 N) of every owner's envelope we write, and the only one the API takes.
pub const MNEMONIC_LOG_N: u8 = 18;
/// The highest work factor a reader accepts: 1 GiB of memory, some seconds.
pub const MAX_LOG_N: u8 = 20;
/// Largest owner's envelope, in bytes. A mnemonic of 24 words needs less than 1 KiB.
pub const MAX_MNEMONIC_ENVELOPE: usize = 4 * 1024;
/// Largest armored envelope to a recipient that is looked at, in bytes.
pub const MAX_RECIPIENT_ENVELOPE: usize = 2 * 1024 * 1024;

const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";
const INTRO: &str = "age-encryption.org/v1";
const MAX_STANZAS: usize = 16;
/// After the header: a 16-byte nonce, and at least the 16-byte tag of one chunk with a byte in it.
const MIN_PAYLOAD: usize = 16 + 16 + 1;

/// What is wrong with an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("not an armored age file: {0}")]
    Malformed(&'static str),
    #[error("the envelope is larger than {max} bytes")]
    TooLarge { max: usize },
    #[error("the envelope is not closed with a passphrase (an age scrypt stanza)")]
    NotPassphrase,
    #[error("the envelope's scrypt work factor is 2^{found}, must be 2^{MNEMONIC_LOG_N}")]
    WorkFactor { found: u8 },
    #[error("the envelope is not closed to an age X25519 recipient")]
    NotRecipient,
    #[error("sealing failed: {0}")]
    Failed(String),
}

/// Closes a mnemonic under a passphrase: an armored age file that `age -d` opens anywhere.
///
/// Takes about a second and 256 MiB (scrypt, N = 2^18): call it off the async executor.
pub fn seal_mnemonic(mnemonic: &SecretText, passphrase: &Passphrase) -> Result<String, EnvelopeError> {
    let mut recipient = age::scrypt::Recipient::new(SecretString::from(passphrase.expose().to_owned()));
    recipient.set_work_factor(MNEMONIC_LOG_N);
    let file = encrypt(&recipient, mnemonic.expose().as_bytes(), Format::AsciiArmor).map_err(EnvelopeError::Failed)?;
    String::from_utf8(file).map_err(|error| EnvelopeError::Failed(error.to_string()))
}

/// Checks, without opening it, that this is an owner's envelope: one armored age file, one scrypt stanza, N = 2^18.
pub fn check_mnemonic_envelope(armored: &str) -> Result<(), EnvelopeError> {
    match mnemonic_work_factor(armored)? {
        MNEMONIC_LOG_N => Ok(()),
        found => Err(EnvelopeError::WorkFactor { found }),
    }
}

/// The work factor (log2 N) of an owner's envelope, whatever it is.
pub fn mnemonic_work_factor(armored: &str) -> Result<u8, EnvelopeError> {
    let file = unarmor(armored, MAX_MNEMONIC_ENVELOPE)?;
    let stanzas = header(&file)?;
    let [Stanza { args, body_len: 32 }] = stanzas.as_slice() else {
        return Err(EnvelopeError::NotPassphrase);
    };
    let ["scrypt", salt, log_n] = args.as_slice() else {
        return Err(EnvelopeError::NotPassphrase);
    };
    // Sixteen bytes of salt in unpadded base64; the factor in decimal without leading zeros.
    if salt.len() != 22 || log_n.starts_with('0') || !log_n.bytes().all(|b| b.is_ascii_digit()) {
        return Err(EnvelopeError::Malformed("scrypt stanza"));
    }
    log_n.parse().map_err(|_| EnvelopeError::Malformed("scrypt work factor"))
}

/// Checks, without opening it, that this armored age file is closed to X25519 recipients and to no passphrase.
pub fn check_recipient_envelope(armored: &str) -> Result<(), EnvelopeError> {
    let file = unarmor(armored, MAX_RECIPIENT_ENVELOPE)?;
    let stanzas = header(&file)?;
    // age adds stanzas of made-up types, so that readers keep ignoring what they do not know.
    let recipients = stanzas.iter().filter(|stanza| stanza.args[0] == "X25519");
    let fine = |stanza: &Stanza<'_>| stanza.args.len() == 2 && stanza.args[1].len() == 43 && stanza.body_len == 32;
    if recipients.clone().next().is_none() || stanzas.iter().any(|stanza| stanza.args[0] == "scrypt") {
        return Err(EnvelopeError::NotRecipient);
    }
    if recipients.clone().all(fine) { Ok(()) } else { Err(EnvelopeError::Malformed("X25519 stanza")) }
}

fn unarmor(armored: &str, max: usize) -> Result<Vec<u8>, EnvelopeError> {
    if armored.len() > max {
        return Err(EnvelopeError::TooLarge { max });
    }
    let text = armored.trim();
    if !text.starts_with(BEGIN) || !text.ends_with(END) || text.matches("-----BEGIN").count() != 1 {
        return Err(EnvelopeError::Malformed("armor"));
    }
    let mut file = Vec::with_capacity(text.len());
    let read = ArmoredReader::new(text.as_bytes()).take(max as u64).read_to_end(&mut file);
    read.map_err(|_| EnvelopeError::Malformed("armor"))?;
    Ok(file)
}

#[derive(Debug)]
struct Stanza<'a> {
    /// Never empty: the type and its arguments.
    args: Vec<&'a str>,
    /// Bytes of the decoded body.
    body_len: usize,
}

/// Parses the header, and checks that a payload follows it.
fn header(file: &[u8]) -> Result<Vec<Stanza<'_>>, EnvelopeError> {
    let mut lines = Lines { rest: file };
    if lines.next_line()? != INTRO {
        return Err(EnvelopeError::Malformed("not age version 1"));
    }
    let mut stanzas = Vec::new();
    let mut line = lines.next_line()?;
    while let Some(args) = line.strip_prefix("-> ") {
        if stanzas.len() == MAX_STANZAS {
            return Err(EnvelopeError::Malformed("too many stanzas"));
        }
        let args: Vec<&str> = args.split(' ').collect();
        if args.iter().any(|arg| arg.is_empty() || !arg.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(EnvelopeError::Malformed("stanza"));
        }
        stanzas.push(Stanza { args, body_len: body(&mut lines)? });
        line = lines.next_line()?;
    }
    // The MAC: 32 bytes in unpadded base64.
    let mac = line.strip_prefix("--- ").ok_or(EnvelopeError::Malformed("header"))?;
    if mac.len() != 43 || !is_base64(mac) {
        return Err(EnvelopeError::Malformed("header MAC"));
    }
    if lines.rest.len() < MIN_PAYLOAD {
        return Err(EnvelopeError::Malformed("no payload"));
    }
    Ok(stanzas)
}

/// A stanza's body: lines of 64 base64 characters, the last one shorter, possibly empty.
fn body(lines: &mut Lines<'_>) -> Result<usize, EnvelopeError> {
    let mut columns = 0;
    loop {
        let line = lines.next_line()?;
        if line.len() > 64 || !is_base64(line) {
            return Err(EnvelopeError::Malformed("stanza body"));
        }
        columns += line.len();
        if line.len() < 64 {
            return Ok(columns * 3 / 4);
        }
    }
}

fn is_base64(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
}

struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    /// Longest line that a header may have.
    const MAX_LINE: usize = 1_024;

    fn next_line(&mut self) -> Result<&'a str, EnvelopeError> {
        let error = EnvelopeError::Malformed("header line");
        let window = &self.rest[..self.rest.len().min(Self::MAX_LINE)];
        let end = window.iter().position(|byte| *byte == b'\n').ok_or(error.clone())?;
        let line = std::str::from_utf8(&self.rest[..end]).map_err(|_| error)?;
        self.rest = &self.rest[end + 1..];
        Ok(line)
    }
}
