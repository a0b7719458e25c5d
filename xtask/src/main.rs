//! Every project command, as `cargo xtask COMMAND`.
//!
//! - [`onnxruntime`]: finds or obtains the ONNX Runtime library
//! - [`build`]: the binary and the plugins
//! - [`test`], [`check`]: what continuous integration runs
//! - [`demo`], [`load`]: the main job, shown and measured on a real host
//! - [`bench`]: what the host adds to a request, measured by itself
//! - [`conformance`]: the ONNX project's tests
//! - [`gpu_check`]: what can be shown only where a GPU is
//! - [`simulate`]: the pictures of docs/rollouts.md
//! - [`fuzz`]: inputs that nobody thought of
//! - [`python`], [`table`]: packages from pip, tables for people
//! - [`workspace`]: folders, cargo, progress lines
//! - [`host`], [`http`], [`traffic`], [`pictures`]: what demo and load stand on
#![expect(clippy::print_stdout, reason = "a command-line program prints its results")]

mod bench;
mod build;
mod check;
mod conformance;
mod demo;
mod fuzz;
mod gpu_check;
mod host;
mod http;
mod load;
mod onnxruntime;
mod pictures;
mod python;
mod simulate;
mod table;
mod test;
mod traffic;
mod workspace;

use clap::{Parser, Subcommand};

/// The project's commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the path of the ONNX Runtime library, obtaining it first when there is none
    Onnxruntime,
    /// Build target/release/berth and target/plugins/NAME.wasm
    Build(build::Build),
    /// Build everything and run every test
    Test(test::Test),
    /// Measure what the host adds to a request: arms, routers, instances
    Bench(bench::Bench),
    /// Check formatting and lints
    Check,
    /// Run the ONNX project's tests through Berth and through Python's onnxruntime
    Conformance,
    /// Where a GPU is: run the tests of models on CUDA, and measure them beside ONNX Runtime alone
    GpuCheck,
    /// Draw the pictures of docs/rollouts.md: each rollout policy on made-up traffic
    Simulate,
    /// Fuzz what reads input from outside: requests, endpoint files, components, host calls
    Fuzz(fuzz::Fuzz),
    /// Set everything up, serve the digits example and change it under traffic
    Demo(demo::Demo),
    /// Measure a host under load while revisions change, and print the numbers
    Load(load::Load),
}

fn main() -> std::process::ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Onnxruntime => onnxruntime::run(),
        Command::Build(build) => build.run().map(drop),
        Command::Test(test) => test.run(),
        Command::Bench(bench) => bench.run(),
        Command::Check => check::run(),
        Command::Conformance => conformance::run(),
        Command::GpuCheck => gpu_check::run(),
        Command::Simulate => simulate::run_all(),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::Demo(demo) => demo.run(),
        Command::Load(load) => load.run(),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
