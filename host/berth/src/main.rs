//! Berth: serves models behind sandboxed plugins, and changes both while traffic flows.
//!
//! - [`serve`]: the host
//! - [`verbs`]: what an operator asks of a running host
//! - [`rollout`]: what an operator asks of a rollout
//! - [`predictions`]: what an operator asks of recorded predictions
//! - [`simulate`]: a policy on made-up traffic
//! - [`shadow`]: what an operator asks of shadows
//! - [`client`]: the admin port from the other side
//! - [`endpoint_file`]: endpoint files and their assets
//! - [`spec_text`]: the text of an endpoint file
//! - [`table`]: answers as tables for people

mod activity;
mod client;
mod endpoint_file;
mod listen;
mod predictions;
mod progress;
mod rollout;
mod serve;
mod shadow;
mod simulate;
mod spec_text;
mod table;
mod verbs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use berth_inference::trial::{TRY_COMMAND, try_here};
use berth_plugin::Bounds;
use berth_plugin::compiler::{COMPILE_COMMAND, compile_standard_input};
use clap::{Parser, Subcommand};

/// Serves models behind sandboxed plugins, and changes both while traffic flows.
#[derive(Parser)]
#[command(name = "berth", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the host.
    Serve(serve::Serve),
    /// Push models and look at them.
    Model(verbs::Artifact<verbs::ModelKind>),
    /// Push plugins and look at them.
    Plugin(verbs::PluginCommand),
    /// Apply an endpoint file: its revision is made ready and takes over.
    Apply(verbs::Apply),
    /// Look at endpoints, take them back or away.
    Endpoint(verbs::EndpointCommand),
    /// Look at rollouts, hold them, end them.
    Rollout(rollout::RolloutCommand),
    /// Look at recorded predictions, take them away, score them.
    Predictions(predictions::PredictionsCommand),
    /// Run a recorded request again and show what differs in the answer.
    Replay(predictions::ReplayCommand),
    /// Try an endpoint's policy on made-up traffic, by a virtual clock; needs no host.
    Simulate(simulate::Simulate),
    /// Look at what shadows did.
    Shadow(shadow::ShadowCommand),
    /// What the host starts for each component: compiles standard input to standard output.
    #[command(name = COMPILE_COMMAND, hide = true)]
    CompileComponent {
        /// Seconds of CPU time.
        #[arg(long)]
        cpu: u64,
        /// Bytes of memory.
        #[arg(long)]
        memory: u64,
    },
    /// What the host starts for each model: opens it, runs it, and says what it found.
    #[command(name = TRY_COMMAND, hide = true)]
    TryModel {
        /// Seconds of CPU time.
        #[arg(long)]
        cpu: u64,
        /// ONNX Runtime's library.
        #[arg(long)]
        onnxruntime: PathBuf,
        /// How it would be opened.
        #[arg(long)]
        options: String,
        /// Where its optimised graph is written.
        #[arg(long, requires = "graph_bytes")]
        graph: Option<PathBuf>,
        /// The most bytes of each of the graph's files.
        #[arg(long, default_value_t = 0)]
        graph_bytes: u64,
        /// The model.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Model(command) => command.run(),
        Command::Plugin(command) => command.run(),
        Command::Apply(command) => command.run(),
        Command::Endpoint(command) => command.run(),
        Command::Rollout(command) => command.run(),
        Command::Predictions(command) => command.run(),
        Command::Replay(command) => command.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Shadow(command) => command.run(),
        Command::CompileComponent { cpu, memory } => {
            let bounds = Bounds { cpu: Duration::from_secs(cpu), memory: Some(memory) };
            compile_standard_input(bounds).map_err(anyhow::Error::from)
        }
        Command::TryModel { cpu, onnxruntime, options, graph, graph_bytes, file } => {
            let bounds = Bounds { cpu: Duration::from_secs(cpu), memory: None };
            let graph = graph.as_deref().map(|graph| (graph, graph_bytes));
            try_here(bounds, &onnxruntime, &options, graph, &file).map_err(anyhow::Error::from)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: a trap's stack is in the host's log.
            let message = format!("{error:#}");
            eprintln!("berth: {}", message.lines().next().unwrap_or("failed"));
            ExitCode::FAILURE
        }
    }
}
