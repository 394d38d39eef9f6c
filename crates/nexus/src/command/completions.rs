//! `nexus completions`

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;

pub fn run(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nexus", &mut script);
    // A reader that went away is no failure.
    let _ = std::io::stdout().write_all(&script);
    Ok(())
}
