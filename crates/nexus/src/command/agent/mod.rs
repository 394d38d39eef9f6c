//! `nexus agent …`

mod address;
mod approval;
mod change;
mod command;
pub(super) mod create;
mod dispute;
mod events;
pub(super) mod fund;
mod hook;
pub(super) mod list;
mod moving;
mod policy;
mod pylon;
mod run;
mod schedule;
mod status;
mod ticks;
mod trajectory;
mod unlock;
mod wallet;

use nexus_core::approval::Answer;

use crate::cli::{AgentCommand, DisputesArgs, DisputesCommand, ExportFormat, Global};
use crate::output::Output;
use crate::session::Session;

pub async fn run(command: AgentCommand, global: &Global, output: Output) -> anyhow::Result<()> {
    if let AgentCommand::Disputes(DisputesArgs { command: Some(DisputesCommand::Verify { file }), .. }) = &command {
        return dispute::verify(file, output);
    }
    let session = Session::open(global, output)?;
    match command {
        AgentCommand::Create(args) => create::run(&session, args).await,
        AgentCommand::List { state, label } => list::run(&session, state.as_deref(), label.as_deref()).await,
        AgentCommand::Status { agent } => status::run(&session, &agent).await,
        AgentCommand::Start { agent } => run::start(&session, &agent).await,
        AgentCommand::Stop(args) => run::stop(&session, &args).await,
        AgentCommand::Tick(args) => run::tick(&session, &args).await,
        AgentCommand::Ticks(args) => ticks::run(&session, &args).await,
        AgentCommand::Events(args) => events::run(&session, &args).await,
        AgentCommand::Fund(args) => fund::fund(&session, &args).await,
        AgentCommand::Address(args) => address::run(&session, &args).await,
        AgentCommand::Balance { agent } => fund::balance(&session, &agent).await,
        AgentCommand::Set(args) => change::run(&session, &args).await,
        AgentCommand::Policy(args) => policy::run(&session, &args).await,
        AgentCommand::Rent(args) => policy::rent(&session, &args).await,
        AgentCommand::Freeze { agent } => policy::freeze(&session, &agent, true).await,
        AgentCommand::Thaw { agent } => policy::freeze(&session, &agent, false).await,
        AgentCommand::Unlock(args) => unlock::run(&session, &args).await,
        AgentCommand::Approvals(args) => approval::list(&session, &args).await,
        AgentCommand::Approve(args) => approval::answer(&session, &args, Answer::Approved).await,
        AgentCommand::Refuse(args) => approval::answer(&session, &args, Answer::Denied).await,
        AgentCommand::Disputes(args) => dispute::run(&session, &args).await,
        AgentCommand::Delete(args) => run::delete(&session, &args).await,
        AgentCommand::Export(args) if args.format == ExportFormat::Pylon => pylon::export(&session, &args).await,
        AgentCommand::Export(args) => moving::export(&session, &args).await,
        AgentCommand::Import(args) if pylon::is_foreign(&args.files) => pylon::import(&session, &args).await,
        AgentCommand::Import(args) => moving::import(&session, &args).await,
        AgentCommand::Withdraw(args) => command::withdraw(&session, &args).await,
        AgentCommand::AcceptRollback(args) => command::accept_rollback(&session, &args).await,
        AgentCommand::Trajectory(args) => trajectory::run(&session, &args).await,
        AgentCommand::Schedule(command) => schedule::run(&session, command).await,
        AgentCommand::Hook(command) => hook::run(&session, command).await,
        AgentCommand::Wallet(args) => wallet::run(&session, &args).await,
    }
}
