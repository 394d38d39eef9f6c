//! What can go wrong on the owner's side, and the exit code that each thing means to a program.

use std::path::PathBuf;

/// What a program that runs `nexus` learns from its exit status. The numbers are an interface: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Usage,
    NotFound,
    /// Refused by the owner's policy, or for want of funds.
    Refused,
    Unreachable,
    NotAllowed,
}

impl Exit {
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::Unreachable => 5,
            Self::NotAllowed => 6,
        }
    }
}

/// An error answer of the API (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Problem {
    #[serde(default)]
    pub status: u16,
    /// Stable name of what went wrong.
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub detail: Option<String>,
    /// Seconds after which a repeat may succeed, from `Retry-After`.
    #[serde(skip)]
    pub retry_after_secs: Option<u64>,
}

impl Problem {
    /// The exit code that stands for this answer.
    pub fn exit(&self) -> Exit {
        match self.code.as_str() {
            "policy_missing" | "policy_refused" | "policy_invalid" | "policy_too_old" | "insufficient_funds"
            | "balance_remains" | "quota_exceeded" => Exit::Refused,
            "wallet_unavailable" | "unavailable" => Exit::Unreachable,
            _ => match self.status {
                401 | 403 => Exit::NotAllowed,
                402 => Exit::Refused,
                404 | 410 => Exit::NotFound,
                502..=504 => Exit::Unreachable,
                _ => Exit::Failed,
            },
        }
    }

    /// What to do about it, where the answer itself does not say.
    fn next_step(&self) -> Option<String> {
        let step = match self.code.as_str() {
            "unauthorized" => "`nexus login` makes a new token; `nexus context list` shows which context is used",
            "missing_scope" => "use a token with that scope: `nexus token create --scope operate`",
            "owner_key_required" => "run it with a context that holds the owner key: `nexus context list`",
            "not_found" => "`nexus agent list` shows the agents of this account",
            "not_yet" => "it comes in a later version",
            "name_taken" => "choose another name",
            "agent_exists" => "`nexus agent list` shows it; another mnemonic makes another agent",
            "policy_missing" => "`nexus agent policy A --edit` signs one",
            "policy_too_old" => "somebody signed a newer policy: `nexus agent policy A` shows it; edit that one",
            "policy_invalid" => "the field named above has to change: `nexus agent policy A --edit`",
            "balance_remains" => "move the sats out first, or give them up with --forfeit",
            "effects_unresolved" => "wait until it is resolved: `nexus agent status A` shows it",
            "precondition_failed" | "conflict" => "run the command again",
            "secret_in_body" => "take the secret out: goals and configuration must not hold keys or mnemonics",
            "not_running" => "`nexus agent start A`, then run the command again",
            "wallet_refused" => "make a new connection in the wallet, and run the command again with it",
            "wallet_unavailable" => "`nexus agent status A` says why; try again in a few seconds",
            "moved" => {
                "use that host: `nexus context list` shows those there are; `nexus agent delete A` clears this one"
            }
            "claim_stale" => "somebody moved the agent on meanwhile: export it where it lives, and import that file",
            "events_pruned" => "start from a later event: leave out --after",
            "internal" => "the host's log says more; `nexus doctor` on the host checks it",
            _ => match self.status {
                429 => return Some(format!("wait {} s and try again", self.retry_after_secs.unwrap_or(10))),
                503 => "try again in a few seconds",
                _ => return None,
            },
        };
        Some(step.to_owned())
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let title = if self.title.is_empty() { "the host refused" } else { &self.title };
        f.write_str(title)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if !self.code.is_empty() {
            write!(f, " [{}]", self.code)?;
        }
        match self.next_step() {
            Some(step) => write!(f, "\n  next: {step}"),
            None => Ok(()),
        }
    }
}

/// Everything that can fail on the owner's side. Each text ends with what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Api(Problem),
    #[error(
        "{url} can't be reached ({why})\n  next: is the host running? `nexus dev` starts one; `nexus context list` shows the address in use"
    )]
    Unreachable { url: String, why: String },
    #[error(
        "{attempted}: the answer is not what this version understands ({why})\n  next: bring `nexus` here and on the host to the same version"
    )]
    Protocol { attempted: &'static str, why: String },
    #[error("{attempted} {path}: {source}\n  next: check that the file exists and that you may read and write it", path = path.display())]
    File { attempted: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path}: {why}\n  next: correct the file, or move it away and run `nexus login`", path = path.display())]
    Malformed { path: PathBuf, why: String },
    #[error("the owner key of this context is encrypted\n  next: run in a terminal, or give --key-passphrase-file")]
    KeyLocked,
    #[error("the context `{0}` holds no owner key\n  next: `nexus login --key-file FILE` or `nexus login --new`")]
    NoOwnerKey(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    NotAllowed(String),
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// The exit code of the process that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::KeyLocked => Exit::Usage,
            Self::NotFound(_) => Exit::NotFound,
            Self::Api(problem) => problem.exit(),
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Refused(_) => Exit::Refused,
            Self::NotAllowed(_) | Self::NoOwnerKey(_) => Exit::NotAllowed,
            Self::Protocol { .. } | Self::File { .. } | Self::Malformed { .. } | Self::Failed(_) => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, code: &str) -> Problem {
        Problem { status, code: code.to_owned(), title: String::new(), detail: None, retry_after_secs: None }
    }

    #[test]
    fn answers_become_exit_codes() {
        for (status, code, exit) in [
            (404, "not_found", 3),
            (401, "unauthorized", 6),
            (403, "missing_scope", 6),
            (409, "policy_missing", 4),
            (409, "balance_remains", 4),
            (503, "wallet_unavailable", 5),
            (502, "", 5),
            (500, "internal", 1),
            (422, "invalid", 1),
        ] {
            assert_eq!(Error::Api(problem(status, code)).exit().code(), exit, "{code}");
        }
        assert_eq!(Error::Usage(String::new()).exit().code(), 2);
        assert_eq!(Error::KeyLocked.exit().code(), 2);
    }

    #[test]
    fn an_answer_says_the_next_step() {
        let text = problem(401, "unauthorized").to_string();
        assert!(text.contains("next: `nexus login`"), "{text}");
        let mut busy = problem(429, "rate_limited");
        busy.retry_after_secs = Some(7);
        assert!(busy.to_string().contains("wait 7 s"));
    }
}
