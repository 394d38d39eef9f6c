//! What hosting costs, and which node it is paid to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use nexus_control::Billing;
use nexus_core::hosting::{HostingRules, Plan};
use nexus_core::{Clock, Hash32, Npub};
use nexus_lightning::lnd::{InvoiceMacaroon, LndPay, LndReceive, MacaroonError, NodeConfig, PayerMacaroon, Trust};
use nexus_lightning::{Network, Pay, Receive};
use serde::{Deserialize, Serialize};

/// Hosting is free unless `charge` is set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostingConfig {
    /// Whether agents are charged for. Switched on later, every account begins with its trial.
    pub charge: bool,
    /// The plan of new accounts.
    pub plan: String,
    pub plans: BTreeMap<String, Plan>,
    pub rules: HostingRules,
    /// Whether credit goes back to whoever paid it, when its owner asks: only where a payer runs.
    pub refunds: bool,
    /// The node that is paid; without one the development network, where that is allowed.
    pub lnd: Option<LndNode>,
}

impl Default for HostingConfig {
    fn default() -> Self {
        Self {
            charge: false,
            plan: "hosted".to_owned(),
            plans: BTreeMap::from([("hosted".to_owned(), Plan::default())]),
            rules: HostingRules::default(),
            refunds: false,
            lnd: None,
        }
    }
}

/// Where a worker pays refunds of hosting credit from, and whose orders it believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayoutsConfig {
    /// The key that control signs orders with: it says it when it starts.
    pub signer: Npub,
    /// The node that hosting is paid to, by a macaroon that pays.
    pub lnd: LndNode,
}

impl PayoutsConfig {
    /// The node, and its network.
    pub fn open(&self, clock: Arc<dyn Clock>) -> anyhow::Result<(Arc<dyn Pay>, Network)> {
        let (node, macaroon) = self.lnd.payer("payouts.lnd")?;
        let network = node.network();
        Ok((Arc::new(LndPay::new(node, macaroon, clock)), network))
    }
}

/// An LND node and a macaroon for one half of it: one that may make invoices there, or one that may pay, and do nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LndNode {
    /// `https://HOST:PORT` of its REST API.
    pub url: String,
    /// Its `tls.cert`; or `certificate_sha256`, or neither for a public authority's word.
    pub certificate_file: Option<PathBuf>,
    pub certificate_sha256: Option<Hash32>,
    /// Its public key: `identity_pubkey` of `lncli getinfo`.
    pub identity: String,
    /// bitcoin, testnet, signet, regtest or simnet.
    pub network: String,
    /// File with the macaroon in hex: `lncli bakemacaroon info:read offchain:read invoices:read invoices:write`; of one that
    /// pays `info:read offchain:read offchain:write`.
    pub macaroon_file: PathBuf,
}

impl HostingConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.plans.contains_key(&self.plan) {
            return Err(format!("hosting.plan: there is no plan {:?} in hosting.plans", self.plan));
        }
        for (name, plan) in &self.plans {
            plan.check().map_err(|why| format!("hosting.plans.{name}.{why}"))?;
        }
        let rules = &self.rules;
        if rules.trial_days > 365 || rules.grace_days > 365 {
            return Err("hosting.rules: trial_days and grace_days: use 0 to 365".to_owned());
        }
        if !(1..=168).contains(&rules.rent_lead_hours) {
            return Err("hosting.rules.rent_lead_hours: use 1 to 168".to_owned());
        }
        if !(1..=360).contains(&rules.renew_lead_hours) {
            return Err("hosting.rules.renew_lead_hours: use 1 to 360, which is half a month".to_owned());
        }
        if rules.notice_days.len() > 10 || rules.notice_days.iter().any(|days| *days == 0 || *days > 28) {
            return Err("hosting.rules.notice_days: at most ten, each 1 to 28".to_owned());
        }
        match &self.lnd {
            Some(node) => node.check("hosting.lnd"),
            None => Ok(()),
        }
    }

    /// What a control plane charges, with the node that it is paid to.
    pub fn billing(
        &self,
        development: Option<(Arc<dyn Receive>, Option<String>)>,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Option<Billing>> {
        if !self.charge {
            return Ok(None);
        }
        let (node, identity): (Arc<dyn Receive>, _) = match (&self.lnd, development) {
            (Some(node), _) => (Arc::new(node.open("hosting.lnd", clock)?), Some(node.identity.to_lowercase())),
            (None, Some(development)) => development,
            (None, None) => bail!(
                "hosting is charged for, and there is no node to be paid\n  next: set hosting.lnd, or hosting.charge = false"
            ),
        };
        Ok(Some(Billing { rules: self.rules.clone(), plans: self.plans.clone(), node, identity }))
    }
}

impl LndNode {
    /// Refuses what contradicts itself; `section` is where it stands.
    pub(super) fn check(&self, section: &str) -> Result<(), String> {
        self.trust(section).map(drop)
    }

    fn trust(&self, section: &str) -> Result<Trust, String> {
        match (&self.certificate_file, self.certificate_sha256) {
            (Some(_), Some(_)) => Err(format!("{section}: give certificate_file or certificate_sha256, not both")),
            (Some(file), None) => Ok(Trust::File(file.clone())),
            (None, Some(hash)) => Ok(Trust::Fingerprint(hash)),
            (None, None) => Ok(Trust::PublicRoots),
        }
    }

    /// The half of the node that makes invoices.
    pub fn open(&self, section: &str, clock: Arc<dyn Clock>) -> anyhow::Result<LndReceive> {
        let macaroon = InvoiceMacaroon::read(&self.macaroon_file);
        Ok(LndReceive::new(self.node(section)?, self.read(section, macaroon)?, clock))
    }

    /// The half of the node that pays: which node, and its macaroon.
    pub fn payer(&self, section: &str) -> anyhow::Result<(NodeConfig, PayerMacaroon)> {
        Ok((self.node(section)?, self.read(section, PayerMacaroon::read(&self.macaroon_file))?))
    }

    fn read<T>(&self, section: &str, macaroon: Result<T, MacaroonError>) -> anyhow::Result<T> {
        macaroon.with_context(|| format!("{section}.macaroon_file: {}", self.macaroon_file.display()))
    }

    fn node(&self, section: &str) -> anyhow::Result<NodeConfig> {
        let network = super::network_named(&self.network).with_context(|| {
            format!(
                "{section}.network: {:?} is none\n  next: use bitcoin, testnet, signet, regtest or simnet",
                self.network
            )
        })?;
        let trust = self.trust(section).map_err(anyhow::Error::msg)?;
        NodeConfig::new(&self.url, trust, &self.identity, network).with_context(|| section.to_owned())
    }
}
