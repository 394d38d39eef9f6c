//! `nexus config`

use crate::config::Loaded;
use crate::output::Output;

pub fn run(loaded: &Loaded, sources: bool, output: Output) -> anyhow::Result<()> {
    if output.json {
        output.document(&loaded.to_json(sources)?);
    } else {
        output.line(loaded.to_toml(sources)?);
    }
    Ok(())
}
