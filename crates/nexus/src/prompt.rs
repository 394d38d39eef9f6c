//! Asking a person, when there is one.

use std::io::{IsTerminal, Write};
use std::path::Path;

use nexus_client::{Error, file};
use zeroize::Zeroizing;

/// Whether somebody can answer.
pub fn terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// A secret from a file if one was given, else from the terminal, else a usage error that names the flag.
pub fn secret(what: &str, file: Option<&Path>, flag: &str) -> Result<Zeroizing<String>, Error> {
    if let Some(path) = file {
        let text = file::read_secret(path)?;
        if text.is_empty() {
            return Err(Error::Usage(format!("{} is empty\n  next: put the {what} into it", path.display())));
        }
        return Ok(text);
    }
    if !terminal() {
        return Err(Error::Usage(format!("there is no terminal to ask for the {what}\n  next: give {flag} FILE")));
    }
    ask(&format!("{}: ", capital(what)))
}

/// A new secret from the terminal, twice; an empty answer is none.
pub fn new_secret(what: &str) -> Result<Option<Zeroizing<String>>, Error> {
    for _ in 0..3 {
        let first = ask(&format!("{} (empty for a generated one): ", capital(what)))?;
        if first.is_empty() {
            return Ok(None);
        }
        if *first == *ask("Once more: ")? {
            return Ok(Some(first));
        }
        say("They differ.");
    }
    Err(Error::Usage(format!("the {what} was not repeated alike three times\n  next: run the command again")))
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, Error> {
    let answer = rpassword::prompt_password(prompt).map_err(|error| {
        Error::Usage(format!(
            "the terminal gave no answer ({error})\n  next: run it in a terminal, or give the file flag"
        ))
    })?;
    Ok(Zeroizing::new(answer))
}

/// A yes-or-no question; no without a terminal.
pub fn confirm(question: &str) -> bool {
    if !terminal() {
        return false;
    }
    let mut err = std::io::stderr();
    let _ = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// A remark to the person, on standard error: standard output is the answer.
pub fn say(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}
