//! The main job, shown: serve the digits example and change it under traffic.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::build::Build;
use crate::host::{self, Host};
use crate::onnxruntime;
use crate::pictures::{self, Picture};
use crate::traffic::{Edition, Pace, Traffic, Verdict, quantile};
use crate::workspace::{Metadata, root, say};

/// Version 1 knows it.
const KNOWN: &str = "015-7.png";
/// Version 1 takes it for another digit, version 2 knows it.
const TELLING: &str = "000-8.png";

const REQUESTS_PER_SECOND: f64 = 500.0;
const CONNECTIONS: usize = 4;

/// Sets everything up, serves the digits example and changes it under traffic.
#[derive(clap::Args)]
pub(crate) struct Demo {
    /// End after the checks instead of serving on
    #[arg(long)]
    once: bool,
    /// Where predictions are served [default: 127.0.0.1:8080, or a free port]
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Where the host is administered [default: 127.0.0.1:8081, or a free port]
    #[arg(long)]
    admin: Option<SocketAddr>,
}

impl Demo {
    /// Fails when any request fails or any answer is not what it has to be.
    pub(crate) fn run(&self) -> Result<()> {
        let library = onnxruntime::library()?;
        let metadata = Build { examples: true, guests: false }.run()?;
        let pictures = pictures::read()?;

        say("starting a host on an empty data directory");
        let listen = host::address(self.listen, 8080)?;
        let admin = host::address(self.admin, 8081)?;
        let host = Host::start(&metadata.binary(), &library, [listen, admin], &[])?;
        println!("predictions at http://{listen}, administration at http://{admin}");

        push(&host, &metadata)?;
        let old = first_revision(&host, &pictures)?;
        next_revision(&host, &pictures, &old)?;
        print_lines_to_try(&host);
        if self.once {
            return host.stop();
        }
        println!("\nserving until Ctrl-C");
        host.serve_on()
    }
}

/// A path as one would type it in the root.
fn typed(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Runs one command of `berth` and shows it with what it printed.
fn show(host: &Host, arguments: &[&str]) -> Result<()> {
    println!("\n$ berth {}", arguments.join(" "));
    let (printed, took) = host.command(arguments)?;
    println!("{printed}\n({:.0} ms)", took.as_secs_f64() * 1e3);
    Ok(())
}

fn push(host: &Host, metadata: &Metadata) -> Result<()> {
    let plugins = metadata.plugins();
    for (kind, name, file) in [
        ("model", "digits", pictures::example().join("digits-1.onnx")),
        ("model", "digits", pictures::example().join("digits-2.onnx")),
        ("plugin", "image-classifier", plugins.join("image-classifier.wasm")),
        ("plugin", "image-classifier", plugins.join("image-classifier-small.wasm")),
        ("plugin", "weighted", plugins.join("weighted.wasm")),
        ("plugin", "targeting", plugins.join("targeting.wasm")),
    ] {
        show(host, &[kind, "push", name, &typed(&file)])?;
    }
    Ok(())
}

fn apply(host: &Host, file: &str) -> Result<()> {
    show(host, &["apply", &typed(&pictures::example().join(file))])
}

/// Applies version 1 and shows what it says of two pictures.
fn first_revision(host: &Host, pictures: &[Picture]) -> Result<Edition> {
    apply(host, "digits.toml")?;
    let edition = Edition::ask(host.listen, pictures)?;
    println!("\n{KNOWN} is answered with\n{}", text(&edition, pictures, KNOWN)?);
    ensure!(digit(&edition, pictures, KNOWN)? == 7, "version 1 does not know the 7 in {KNOWN}");
    let taken = digit(&edition, pictures, TELLING)?;
    println!("{TELLING}, an 8, is taken for a {taken}: version 1 has only ever seen 0 to 7");
    ensure!(taken != 8, "version 1 knows the 8 in {TELLING}, which it has never seen");
    Ok(edition)
}

/// Changes to version 2, and to another build of the processor, while requests flow.
fn next_revision(host: &Host, pictures: &[Picture], old: &Edition) -> Result<()> {
    say(format!("{REQUESTS_PER_SECOND} requests a second flow while the next revision is applied"));
    let traffic = Traffic::start(
        host.listen,
        &pictures::requests(pictures),
        CONNECTIONS,
        Pace::Open(REQUESTS_PER_SECOND),
    )?;
    std::thread::sleep(Duration::from_secs(2));
    let start = Instant::now();
    let applied = apply(host, "digits-next.toml");
    std::thread::sleep(Duration::from_secs(2));
    let new = Edition::ask(host.listen, pictures);
    let first = new.as_ref().ok().and_then(|new| traffic.first_answer(&new.revision));
    let tally = traffic.stop()?;
    applied?;
    let new = new?;
    let first = first.context("no request of the traffic was answered by the next revision")?;

    let verdict = Verdict::of(&tally, std::slice::from_ref(old).iter().chain([&new]));
    println!("\nrequests             {}", verdict.requests);
    println!("failures             {}", verdict.failures(&[]));
    println!(
        "time to take over    {:.0} ms, from apply to the first answer",
        (first - start).as_secs_f64() * 1e3
    );
    for (revision, right) in &verdict.right {
        println!("answers by revision  {right:>6}  {revision}");
    }
    println!(
        "latency              {} median, {} at 99 %",
        quantile(&tally.since_due, 0.5),
        quantile(&tally.since_due, 0.99)
    );
    ensure!(verdict.failures(&[]) == 0, "requests failed: {}", verdict.complaints());
    ensure!(old.revision != new.revision, "the next revision has the name of the first");

    println!("{TELLING} is now answered with\n{}", text(&new, pictures, TELLING)?);
    ensure!(digit(&new, pictures, TELLING)? == 8, "version 2 does not know the 8 in {TELLING}");
    let (before, now) = (accuracy(old, pictures)?, accuracy(&new, pictures)?);
    println!(
        "correct on {} held-out pictures: {before:.1} % before, {now:.1} % now",
        pictures.len()
    );
    ensure!(now >= 95.0, "version 2 is to answer at least 95 % of the held-out pictures correctly");
    Ok(())
}

fn position(pictures: &[Picture], name: &str) -> Result<usize> {
    pictures
        .iter()
        .position(|picture| picture.name == name)
        .with_context(|| format!("held-out/{name} is missing"))
}

fn text(edition: &Edition, pictures: &[Picture], name: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&edition.bodies[position(pictures, name)?]).into_owned())
}

fn digit(edition: &Edition, pictures: &[Picture], name: &str) -> Result<u8> {
    pictures::digit(&edition.bodies[position(pictures, name)?])
}

/// The share of pictures that the edition answers with their label, in percent.
fn accuracy(edition: &Edition, pictures: &[Picture]) -> Result<f64> {
    let mut right = 0;
    for (picture, body) in pictures.iter().zip(&edition.bodies) {
        right += u32::from(pictures::digit(body)? == picture.label);
    }
    Ok(f64::from(right) / pictures.len() as f64 * 100.0)
}

fn print_lines_to_try(host: &Host) {
    let (listen, admin) = (host.listen, host.admin);
    let path = pictures::PATH;
    println!(
        "
Try, from the repository's root:
curl --data-binary @examples/digits/held-out/{TELLING} -H 'content-type: image/png' http://{listen}{path}
curl -i --data-binary @README.md -H 'content-type: image/png' http://{listen}{path}
curl http://{listen}/v2/models/digits
curl http://{admin}/metrics
export BERTH_ADMIN={admin}
target/release/berth endpoint history digits
target/release/berth apply examples/digits/digits-split.toml
target/release/berth endpoint rollback digits"
    );
}
