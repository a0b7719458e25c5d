//! The host: opens everything, listens, serves, drains.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use berth_api::admin::{self, Admin};
use berth_api::body::Bodies;
use berth_api::data::{self, Data};
use berth_api::oip;
use berth_inference::trial::{TRIAL_CPU, Trials};
use berth_inference::{Runtime, RuntimeOptions};
use berth_monitor::Exporter;
use berth_plugin::engine::Engines;
use berth_plugin::{Bounds as ApartBounds, COMPILE_BOUNDS, EngineOptions, ProcessorLimits};
use berth_serving::{Host, HostOptions};
use berth_store::Store;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::listen::{self, Bounds};

/// Processor instances for each core, and at least so many: a guest that waits for a model keeps
/// its instance.
const INSTANCES_PER_CORE: usize = 32;

/// Instances beyond those of requests, for checks while a revision is made ready.
const RESERVE: usize = 8;

/// How long what operators do may take once clients have had their last answers.
const OPERATORS: Duration = Duration::from_secs(1);

/// Run the host.
#[derive(clap::Args)]
pub(crate) struct Serve {
    /// The folder of the store: the log, blobs, compiled code, optimised graphs. Made when missing.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where clients connect.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where operators connect. Whoever reaches it can change everything.
    #[arg(long, value_name = "ADDR", default_value = crate::client::DEFAULT_ADMIN)]
    admin: SocketAddr,
    /// ONNX Runtime's library; without it, ORT_DYLIB_PATH, beside this program, then the system.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Connections at once to each port; the next is answered 503 and closed.
    #[arg(long, value_name = "N", default_value_t = 8192)]
    max_connections: usize,
    /// How long a connection may rest, or take for a request's head, in seconds; at most twice as
    /// long.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    max_idle: u64,
    /// The largest body of a request, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    max_body: usize,
    /// The bodies of all requests under way together, in MiB, and as much again for answers until
    /// their clients have taken them; what finds no room is answered 503.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    max_bodies: usize,
    /// Requests under way at once; the next is answered 503.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_requests: usize,
    /// Processor instances under way at once; 32 for each core when not given.
    #[arg(long, value_name = "N")]
    max_instances: Option<usize>,
    /// Model runs of one endpoint at once, on twice as many threads and one more for each endpoint
    /// that finds none; as many as cores when not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_runs: Option<u16>,
    /// The most memory of a processor, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    processor_memory: u64,
    /// The most CPU time of a processor's call, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    processor_cpu: u64,
    /// The most that the host holds for a processor's call in tensors and answers, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    processor_host: u64,
    /// The most CPU time of compiling one component, in seconds; by the clock four times as long.
    #[arg(long, value_name = "S", default_value_t = COMPILE_BOUNDS.cpu.as_secs())]
    compile_cpu: u64,
    /// The most memory of compiling one component, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = COMPILE_BOUNDS.memory.unwrap_or_default() >> 20)]
    compile_memory: u64,
    /// The most CPU time of trying one model before it is opened, in seconds; by the clock four times
    /// as long.
    #[arg(long, value_name = "S", default_value_t = TRIAL_CPU.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    trial_cpu: u64,
    /// How long a replaced revision stays warm for a rollback, in seconds.
    #[arg(long, value_name = "S", default_value_t = 60)]
    bake: u64,
    /// The most memory of models that stay open only for rollbacks, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    bake_memory: u64,
    /// The most memory of predictions that wait to be recorded, in MiB; what finds no room is dropped
    /// and counted.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    predictions_memory: usize,
    /// How long requests under way may take after the first signal to stop, in seconds.
    #[arg(long, value_name = "S", default_value_t = 30)]
    drain: u64,
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        large_blocks_apart();
        let filter = EnvFilter::try_from_env("BERTH_LOG")
            .unwrap_or_else(|_| EnvFilter::new("info,ort=warn"));
        let ansi = std::io::stderr().is_terminal();
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(ansi)
            .with_writer(std::io::stderr)
            .init();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        // What operators do has a thread of its own: a commit, which waits for the disk, holds up no
        // request.
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("control")
            .enable_all()
            .build()?;
        let served = runtime.block_on(self.serve(control.handle()));
        // What still blocks a thread, such as a large model being opened, is not waited for.
        control.shutdown_background();
        runtime.shutdown_background();
        served
    }

    async fn serve(self, control: &Handle) -> anyhow::Result<()> {
        // Held against its default, which is to end the process: a write over the shell's limit on
        // the size of files is to fail like one to a full disk.
        let _too_large = signal(SignalKind::from_raw(libc::SIGXFSZ))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let each = self.max_runs.map_or(cores, usize::from);
        let instances = self.max_instances.unwrap_or(INSTANCES_PER_CORE * cores).max(1);
        let exporter = Exporter::install()?;
        let store = Store::open(&self.data)?;
        let graphs = store.folder().join("graphs");
        let trial_cpu = Duration::from_secs(self.trial_cpu);
        let trials = Trials::new(this_program()?, trial_cpu, graphs.clone())
            .with_context(|| format!("the folder for optimised graphs, {}", graphs.display()))?;
        let options = RuntimeOptions { each, trials: Some(trials) };
        let inference = Runtime::load(self.onnxruntime.as_deref(), options)?;
        let engines = Engines::new(EngineOptions {
            cache: store.folder().join("compiled"),
            max_instances: u32::try_from(instances + RESERVE)
                .context("--max-instances is too large")?,
            limits: ProcessorLimits {
                memory: self.processor_memory << 20,
                cpu: Duration::from_millis(self.processor_cpu),
                host_bytes: self.processor_host << 20,
            },
            compiler: this_program()?,
            compile_bounds: ApartBounds {
                cpu: Duration::from_secs(self.compile_cpu),
                memory: Some(self.compile_memory << 20),
            },
        })?;
        let options = HostOptions {
            max_requests: self.max_requests,
            max_instances: instances,
            bake: Duration::from_secs(self.bake),
            bake_bytes: self.bake_memory << 20,
            predictions_bytes: self.predictions_memory << 20,
            read_infer: |body| {
                let request = oip::decode_infer(body, body.len());
                let request = request.map_err(|error| error.to_string())?;
                Ok((request.inputs, request.outputs))
            },
        };
        let (threads, most_threads) = inference.threads();
        let host = Host::new(store, inference.clone(), Arc::clone(&engines), options)?;

        let data_listener = bind(self.listen, "--listen").await?;
        let admin_listener = control.spawn(bind(self.admin, "--admin")).await??;
        say(&format!(
            "berth {} serves on http://{}, admin on http://{}\nONNX Runtime {} with {} from {}; {cores} cores, {threads} threads for models and up to {most_threads} when all are taken, {instances} instances{}",
            env!("CARGO_PKG_VERSION"),
            data_listener.local_addr()?,
            admin_listener.local_addr()?,
            inference.version(),
            inference.providers(),
            inference.library().display(),
            if engines.pooled() { ", pooled" } else { ", made on demand" },
        ));

        let data = data::router(Data {
            host: Arc::clone(&host),
            bodies: Bodies::new(self.max_body << 20, self.max_bodies << 20),
        });
        let admin = admin::router(Admin { host: Arc::clone(&host), exporter: exporter.clone() });
        let (stop, stopped) = watch::channel(false);
        let bounds =
            Bounds { connections: self.max_connections, idle: Duration::from_secs(self.max_idle) };
        let clients = tokio::spawn(listen::serve(data_listener, data, bounds, stopped.clone()));
        let operators = control.spawn(listen::serve(admin_listener, admin, bounds, stopped));
        let housekeeping = control.spawn(keep_house(Arc::clone(&host), exporter));
        let rollouts = control.spawn(berth_rollout::run(Arc::clone(&host)));
        let restoring = control.spawn({
            let host = Arc::clone(&host);
            async move {
                if let Err(error) = host.restore().await {
                    tracing::error!("the store could not be read: {error}");
                }
            }
        });

        wait_for_signal().await?;
        tracing::info!("draining; a second signal quits at once");
        stop.send_replace(true);
        let finished = async {
            let _ = clients.await;
            // What is committed of what operators do is gone on with at the next start.
            let _ = tokio::time::timeout(OPERATORS, operators).await;
        };
        tokio::select! {
            () = finished => {}
            () = tokio::time::sleep(Duration::from_secs(self.drain)) => {
                tracing::warn!("requests were still under way after {} s", self.drain);
            }
            signalled = wait_for_signal() => signalled?,
        }
        housekeeping.abort();
        restoring.abort();
        rollouts.abort();
        host.recorder().flush();
        Ok(())
    }
}

/// This program, to be started again: also when its file has been replaced by a newer build, whose
/// compiled code this one could not load.
fn this_program() -> anyhow::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    std::env::current_exe().context("where this program lies")
}

async fn bind(address: SocketAddr, flag: &'static str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag} {address}"))
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn keep_house(host: Arc<Host>, exporter: Exporter) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let (host, exporter) = (Arc::clone(&host), exporter.clone());
        let swept = tokio::task::spawn_blocking(move || {
            host.sweep();
            exporter.upkeep();
        });
        if let Err(error) = swept.await {
            tracing::error!("housekeeping failed: {error}");
        }
    }
}

/// Prints for people and for programs that wait for it.
pub(crate) fn say(text: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}") {
        // Whoever read the output has had enough of it.
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            eprintln!("berth: the output cannot be written: {error}");
        }
        std::process::exit(1);
    }
}

/// Has the allocator take every block of 5 MiB or more from the system and give it back when it is
/// freed, and keep up to 8 MiB for the next request. glibc else takes larger ones too from what it
/// keeps once one was freed, and so keeps what models leave that are swapped.
fn large_blocks_apart() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes plain numbers; that it may fail changes nothing but what is kept.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 5 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
    }
}
