//! The `nexus` program: reads what was typed, wires the parts, and lets them do the work.

mod ambient;
mod backup;
mod bench;
mod cli;
mod command;
mod config;
mod dev;
mod doctor;
mod failure;
mod log;
mod output;
mod prompt;
mod role;
mod session;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;
use tracing::level_filters::LevelFilter;

use crate::cli::{Cli, Command, FleetCommand, LogForm, PoolCommand};
use crate::config::Loaded;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.global.json);
    match run(cli, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, output),
    }
}

fn run(cli: Cli, output: Output) -> anyhow::Result<()> {
    // rustls takes its cryptography from the process; the answer is an error only if it was set before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = role::settings(&cli)?;
    start_log(&cli, settings.as_ref());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(dispatch(cli, settings, output));
    // What still runs has been told to stop and had its time.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}

async fn dispatch(cli: Cli, settings: Option<Loaded>, output: Output) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    let settings = || settings.ok_or_else(|| anyhow::anyhow!("this command reads no configuration"));
    match command {
        Command::Dev(args) => dev::run(args, settings()?, &global, output).await,
        Command::Provider(args) => role::provider::run(args, settings()?, output).await,
        Command::Devnet(args) => role::devnet::run(args, settings()?, output).await,
        Command::Doctor(args) => doctor::run(args, settings()?, &global, output).await,
        Command::Config { sources } => command::config::run(&settings()?, sources, output),
        Command::Agent(command) => command::agent::run(command, &global, output).await,
        Command::Login(args) => command::login::run(args, &global, output).await,
        Command::Context(command) => command::context::run(command, output),
        Command::Token(command) => command::token::run(command, &global, output).await,
        Command::Pool { command: None } => command::pool::run(&global, output).await,
        Command::Pool { command: Some(PoolCommand::Create { dir }) } => command::pool::create(&dir, output).await,
        Command::Completions { shell } => command::completions::run(shell),
        Command::Bench(command) => bench::run(command, output).await,
        Command::Control(_) => role::control::run(settings()?, output).await,
        Command::Worker(_) => role::worker::run(settings()?, output).await,
        Command::Scaler(_) => role::scaler::run(settings()?, &global, output).await,
        Command::Relay(_) => role::relay::run(settings()?, output).await,
        Command::Migrate(_) => role::migrate::run(settings()?, output).await,
        Command::Fleet { command: Some(FleetCommand::Agents(args)) } => {
            command::fleet::agents(&global, output, &args).await
        }
        Command::Fleet { command: None } => command::fleet::run(&global, output).await,
        Command::Backup(args) => backup::backup(args, settings()?, output).await,
        Command::Restore(args) => backup::restore(args, settings()?, output).await,
        Command::Webhook(command) => command::webhook::run(command, &global, output).await,
        Command::Hosting(command) => command::hosting::run(command, &global, output).await,
        Command::Apply(args) => command::apply::run(&args, &global, output).await,
        Command::Sim(args) => command::sim::run(args, output).await,
    }
}

fn start_log(cli: &Cli, settings: Option<&Loaded>) {
    let form = cli.global.log.or(settings.map(|loaded| loaded.config.log.form)).unwrap_or(LogForm::Text);
    let configured = settings.map_or("warn", |loaded| loaded.config.log.level.as_str());
    let level = log::level(configured, cli.global.verbose).unwrap_or(LevelFilter::WARN);
    log::init(form, level, output::colour_on(&std::io::stderr()));
}
