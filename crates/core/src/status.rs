//! The axes of an agent's status. Each is its own thing; together with one reason they say how an agent is.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! axis {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use axis;

axis!(
    /// What the owner wants.
    Desired {
        Running = "running",
        Stopped = "stopped",
    }
);

axis!(
    /// Whether the agent's key is at hand.
    CustodyState {
        Ready = "ready",
        Locked = "locked",
        SignerOffline = "signer_offline",
    }
);

axis!(
    /// The account's standing with the operator.
    Hosting {
        Trial = "trial",
        Paid = "paid",
        /// Owes, still ticks.
        Grace = "grace",
        Suspended = "suspended",
    }
);

axis!(
    /// Whether a worker holds the agent.
    Placement {
        Unplaced = "unplaced",
        Placed = "placed",
        Draining = "draining",
    }
);

axis!(
    /// Why an agent is placed: to run, or only to resolve effects and answer wallet requests (no ticks).
    Purpose {
        Run = "run",
        Service = "service",
    }
);

axis!(
    /// What the API can read or change with a token.
    Scope {
        Read = "read",
        Operate = "operate",
        Configure = "configure",
        Billing = "billing",
    }
);

/// Why an agent is as it is, in a code for machines and words for people, with what happens next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub code: String,
    pub text: String,
}

impl Reason {
    pub fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Self { code: code.into(), text: text.into() }
    }
}
