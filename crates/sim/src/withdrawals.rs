//! Owners who take sats out: by a signed command that may come twice, or while everything goes wrong.

use nexus_bus::{Bus, Wake};
use nexus_core::time::random;
use nexus_core::{Hash32, Msat, Npub};
use nexus_seal::event::tag;
use nexus_seal::proof::{Request, unsigned_request};
use nexus_seal::withdrawal::{ASK_WITHDRAW, Withdrawal, path};
use nexus_seal::{OwnerCommand, Signer};
use nexus_store::wallet_request::{self, WalletRequest};

use crate::agents;
use crate::counts;
use crate::people::Front;
use crate::world::World;

/// How long a command waits for a worker.
const WAITS_MS: i64 = 15_000;

impl Front {
    /// As `agent withdraw` does it: an invoice of the owner's own, and the command to pay it.
    pub async fn withdraw(&self, npub: Npub) {
        let name = self.world.label(&npub);
        let Some(command) = self.command(npub) else { return };
        let times = if self.dice.chance(300) { 2 } else { 1 };
        for _ in 0..times {
            let now = self.world.now();
            let request = WalletRequest {
                id: Hash32::from_bytes(random(&*self.dice)).to_string(),
                npub,
                kind: ASK_WITHDRAW.into(),
                body: command.clone(),
                created_at: now,
                expires_at: now.plus_ms(WAITS_MS),
                answer: None,
            };
            let put = wallet_request::put(&self.store, request, None).await;
            let said = if put.is_ok() { "asked" } else { "not known" };
            self.world.trace.note(format_args!("owner: {name} is to withdraw: {said}"));
            self.bus.publish(Wake::Agent { npub });
        }
        self.world.count(counts::WITHDRAWAL);
    }

    fn command(&self, npub: Npub) -> Option<String> {
        let (world, now) = (&self.world, self.world.now());
        let preimage = Hash32::from_bytes(random(&*self.dice));
        // What it is for: nothing else is.
        let purpose = Hash32::sha256(preimage.as_bytes());
        let amount_sats = self.dice.between(10, 3_000);
        let secs = self.dice.between(75, 150);
        let (invoice, hash, _) = world.ledger.invoice(purpose, preimage, Msat::sats(amount_sats), now, secs)?;
        {
            let mut seen = world.seen();
            let named = format!("withdrawal {}", seen.names.len());
            seen.names.insert(hash, named);
            seen.withdrawals.insert(hash);
        }
        let owner = agents::owner(self.dice.clone()).ok()?;
        let body = serde_json::to_string(&Withdrawal { amount_sats, invoice }).ok()?;
        let url = format!("https://simulated{}", path(&npub));
        let request = Request { method: "POST", url: &url, body: body.as_bytes() };
        let mut unsigned = unsigned_request(&owner.public_key(), &request, now);
        unsigned.tags.push(tag("p", [npub.to_hex().as_str()]));
        let event = owner.sign_now(unsigned).ok()?;
        serde_json::to_string(&OwnerCommand { event, body }).ok()
    }
}

/// Counts what arrived. That it is on record as it was paid is checked with every other payment.
pub fn count(world: &World) {
    let (books, withdrawals) = (world.ledger.books(), world.seen().withdrawals.clone());
    for _ in withdrawals.iter().filter(|hash| books.bills.get(hash).is_some_and(|bill| bill.paid_by.is_some())) {
        world.count(counts::WITHDRAWN);
    }
}
