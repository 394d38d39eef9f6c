//! How the program ends when something failed: a message with the next step, and a stable exit code.

use std::process::ExitCode;

use nexus_client::{Error, Exit};

use crate::config::ConfigError;
use crate::output::Output;
use crate::prompt;

/// A command that is planned and not there.
#[derive(Debug, thiserror::Error)]
#[error("`nexus {name}`: not yet\n  next: {instead}")]
pub struct NotYet {
    pub name: String,
    pub instead: &'static str,
}

/// Says what failed on standard error, and gives the exit code.
pub fn report(error: &anyhow::Error, output: Output) -> ExitCode {
    let exit = exit_of(error);
    let (message, next) = split(error);
    if output.json {
        let document = serde_json::json!({ "error": {
            "message": message, "next": next, "code": api_code(error), "exit": exit.code(),
        }});
        prompt::say(document.to_string());
    } else {
        prompt::say(format!("error: {message}"));
        if let Some(next) = next {
            prompt::say(format!("  next: {next}"));
        }
    }
    ExitCode::from(exit.code())
}

fn exit_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<Error>() {
            return error.exit();
        }
        if cause.is::<ConfigError>() {
            return Exit::Usage;
        }
    }
    Exit::Failed
}

fn api_code(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| match cause.downcast_ref::<Error>() {
        Some(Error::Api(problem)) => Some(problem.code.clone()),
        _ => None,
    })
}

/// What failed, cause after cause, and the outermost next step.
fn split(error: &anyhow::Error) -> (String, Option<String>) {
    let mut heads: Vec<String> = Vec::new();
    let mut next = None;
    for cause in error.chain() {
        let text = cause.to_string();
        let (head, step) = match text.split_once("\n  next: ") {
            Some((head, step)) => (head.to_owned(), Some(step.to_owned())),
            None => (text, None),
        };
        next = next.or(step);
        // An error that prints its source too would say it twice.
        if heads.last().is_none_or(|last| !last.contains(&head)) {
            heads.push(head);
        }
    }
    (heads.join(": "), next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_come_first_and_the_next_step_last() {
        let cause = std::io::Error::other("disk full");
        let error = Err::<(), _>(cause).context("writing X\n  next: make room").unwrap_err();
        assert_eq!(split(&error), ("writing X: disk full".to_owned(), Some("make room".to_owned())));
    }

    #[test]
    fn the_exit_code_is_found_below_context() {
        let error = Err::<(), _>(Error::KeyLocked).context("signing").unwrap_err();
        assert_eq!(exit_of(&error).code(), 2);
        assert_eq!(exit_of(&anyhow::anyhow!("x")).code(), 1);
        let not_yet = NotYet { name: "agent export".to_owned(), instead: "wait" };
        assert_eq!(exit_of(&not_yet.into()).code(), 1);
    }
}
