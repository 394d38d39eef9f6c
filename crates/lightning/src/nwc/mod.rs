//! Nostr Wallet Connect (NIP-47): its messages and what they mean as pure functions, and [`NwcWallet`], the driver, which
//! speaks over a [`Line`] that is brought to it.
//!
//! A wallet behind NWC is known by what it answers, and NIP-47 leaves room: a wallet may call a payment failed that
//! settles later, and says nothing to an event that it has seen before. So the signed request is stored before it is
//! published and never made anew; success is a preimage; a failure is believed [`FAILURE_MARGIN_MS`] after the invoice's
//! expiry, but for the few refusals that come before anything is sent.

mod book;
mod connection;
mod envelope;
mod finality;
mod line;
mod message;
mod pay;
mod receive;
mod wallet;

pub use connection::{Connection, ConnectionError};
pub use envelope::{Encryption, EnvelopeError, Info, open_response, read_info, read_notification, seal_request};
pub use finality::{FAILURE_MARGIN_MS, Outgoing, invoice_state, looked_up, paid};
pub use line::{Heard, Line};
pub use message::{ErrorCode, MessageError, Request, Response, Transaction, TransactionState};
pub use wallet::{NwcParts, NwcWallet, Patience};

#[cfg(test)]
mod tests;
