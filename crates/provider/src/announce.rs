//! Telling the market: the NIP-89 announcement, a profile and a relay list.

use std::sync::Arc;
use std::time::Duration;

use nexus_nostr::event::Head;
use nexus_nostr::handler::{self, HandlerInfo};
use nexus_nostr::profile::{self, Profile, Use};
use nexus_seal::SignerError;
use nostr::event::Event;

use crate::config::{Encryption, Price};
use crate::pause::Backoff;
use crate::shop::{Shop, Stamp};

/// Announcements are repeated this often: relays forget.
const REPEAT: Duration = Duration::from_secs(6 * 3_600);
const RETRY_MS: (u64, u64) = (250, 60_000);
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Announces, and again from time to time, for as long as it is polled.
pub(crate) async fn announce(shop: &Shop) {
    let stamp = Stamp::default();
    loop {
        match events(shop, stamp.next(&*shop.clock)).await {
            Ok(events) => {
                for event in events {
                    everywhere(shop, &event).await;
                }
                tracing::info!(provider = %shop.me(), "announced");
            }
            Err(error) => tracing::error!(%error, "the announcement could not be signed"),
        }
        tokio::time::sleep(REPEAT).await;
    }
}

/// Publishes until each of our relays has it, or a repetition is due anyway.
async fn everywhere(shop: &Shop, event: &Event) {
    let mut left = shop.config.relays.clone();
    let mut pause = Backoff::new(RETRY_MS, Arc::clone(&shop.entropy));
    let attempts = async {
        loop {
            let auth = Some(Arc::clone(&shop.signer));
            let answers = shop.pool.publish_as(event, &left, PUBLISH_TIMEOUT, auth).await;
            left = answers.into_iter().filter(|answer| answer.outcome.is_err()).map(|answer| answer.relay).collect();
            if left.is_empty() {
                return;
            }
            pause.wait().await;
        }
    };
    let _ = tokio::time::timeout(REPEAT, attempts).await;
}

async fn events(shop: &Shop, created_at: i64) -> Result<Vec<Box<Event>>, SignerError> {
    let config = &shop.config;
    let head = Head::new(shop.me(), created_at);
    let info = HandlerInfo {
        identifier: config.handler_id.clone(),
        name: config.name.clone(),
        about: config.about.clone(),
        price: market_price(config.price),
        models: shop.models.clone(),
        network: config.network.as_str().to_owned(),
        relays: config.relays.clone(),
        encryption: config.encryption != Encryption::Unsupported,
        hold: shop.till.holds(),
    };
    let face = Profile { name: config.name.clone(), about: config.about.clone(), ..Profile::default() };
    let relays = config.relays.iter().map(|url| (url.as_str(), Use::Both));
    let mut signed = Vec::new();
    for unsigned in [handler::handler(head, &info), profile::metadata(head, &face), profile::relay_list(head, relays)] {
        signed.push(shop.sign(unsigned).await?);
    }
    Ok(signed)
}

const fn market_price(price: Price) -> handler::Price {
    match price {
        Price::PerRequest { msat } => handler::Price::PerRequest(msat),
        Price::Per1kTokens { msat } => handler::Price::PerThousandTokens(msat),
    }
}
