//! The information document (NIP-11).

use serde_json::{Value, json};

use crate::RelayConfig;

/// What the relay says about itself.
pub(crate) fn document(config: &RelayConfig) -> Value {
    json!({
        "name": config.name,
        "description": config.description,
        "supported_nips": [1, 9, 11, 40, 42, 70],
        "software": "nexus",
        "version": env!("CARGO_PKG_VERSION"),
        "limitation": {
            "max_message_length": config.max_frame_bytes,
            "max_subscriptions": config.max_subscriptions,
            "max_filters": config.max_filters,
            "max_limit": config.max_results,
            "default_limit": config.max_results,
            "max_subid_length": crate::message::MAX_SUBSCRIPTION_ID,
            "max_event_tags": config.max_tags,
            "max_content_length": config.max_event_bytes,
            "min_pow_difficulty": 0,
            "auth_required": false,
            "payment_required": false,
            "restricted_writes": !config.open,
            "created_at_upper_limit": config.max_future_secs,
        },
    })
}
