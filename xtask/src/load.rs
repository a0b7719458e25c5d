//! Measures a host under load while revisions change. The load and the host share the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::build::Build;
use crate::host::{self, Host};
use crate::http::{Connection, Request};
use crate::onnxruntime;
use crate::pictures::{self, Picture};
use crate::traffic::{Edition, Pace, Tally, Traffic, Verdict, micros, quantile};
use crate::workspace::{Metadata, say};

/// The processor answers its `top` most probable labels: besides the model's version, this makes
/// what a revision answers its own.
const TOPS: usize = 5;
const WARM_UP: Duration = Duration::from_secs(2);
const CAPACITY: Duration = Duration::from_secs(5);
const PUSHES: u8 = 9;

/// Measures a host under load while revisions change, and prints the numbers.
#[derive(clap::Args)]
pub(crate) struct Load {
    /// Revisions applied in each run
    #[arg(long, default_value_t = 50)]
    revisions: u32,
    /// Seconds of each run
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=300))]
    seconds: u32,
    /// Connections while the host is not overloaded
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Connections while it is
    #[arg(long, default_value_t = 512)]
    overload_connections: usize,
}

impl Load {
    /// Fails when an answer is wrong or a request fails that must not.
    pub(crate) fn run(&self) -> Result<()> {
        let library = onnxruntime::library()?;
        let metadata = Build { examples: false, guests: true }.run()?;
        let pictures: Vec<_> =
            pictures::read()?.into_iter().filter(|picture| picture.label >= 8).take(16).collect();
        let host = Host::start(
            &metadata.binary(),
            &library,
            [host::address(None, 0)?, host::address(None, 0)?],
            &[],
        )?;
        let scratch = tempfile::tempdir()?;
        let editions = prepare(&host, &metadata, scratch.path(), &pictures)?;

        let capacity = self.capacity(&host, &pictures)?;
        println!("capacity: {capacity:.0} requests a second over {} connections", self.connections);
        println!("  request      {}", mean(&host, "berth_request_duration_seconds", "digits")?);
        println!(
            "  instantiate  {}",
            mean(&host, "berth_plugin_instantiate_seconds", "image-classifier")?
        );

        let run = |share: f64, connections, permitted: &[u16]| {
            println!(
                "\nat {:.0} % of capacity, {:.0} requests a second offered",
                share * 100.0,
                capacity * share
            );
            say(format!(
                "{} revisions at {:.0} % of capacity for {} s",
                self.revisions,
                share * 100.0,
                self.seconds
            ));
            let traffic = Traffic::start(
                host.listen,
                &pictures::requests(&pictures),
                connections,
                Pace::Open(capacity * share),
            )?;
            let applied = self.apply_evenly(&host, &editions);
            let tally = traffic.stop()?;
            report(&tally, &applied?, &editions, permitted)
        };
        run(0.6, self.connections, &[])?;
        run(3.0, self.overload_connections, &[429, 503])?;

        say("pushing and applying new components");
        let digits = fs::read_to_string(pictures::example().join("digits.toml"))?;
        let bare = |line: &&str| !line.starts_with("models") && !line.starts_with("config");
        let empty: Vec<_> = digits.lines().filter(bare).collect();
        let (plugins, guests) = (metadata.plugins(), metadata.guests());
        take_over(&host, scratch.path(), &guests.join("empty.wasm"), &empty.join("\n"))?;
        take_over(&host, scratch.path(), &plugins.join("image-classifier.wasm"), &digits)?;
        host.stop()
    }

    /// How many requests a second are answered when every connection asks as fast as it can.
    fn capacity(&self, host: &Host, pictures: &[Picture]) -> Result<f64> {
        say("estimating the capacity");
        let mut capacity = 0.0;
        for duration in [WARM_UP, CAPACITY] {
            let traffic = Traffic::start(
                host.listen,
                &pictures::requests(pictures),
                self.connections,
                Pace::Closed,
            )?;
            std::thread::sleep(duration);
            let tally = traffic.stop()?;
            capacity = tally.answered.len() as f64 / tally.elapsed.as_secs_f64();
        }
        ensure!(capacity > 0.0, "no request was answered");
        Ok(capacity)
    }

    /// Applies one revision after the other, spread over the run; answers how long each took, in
    /// sorted microseconds.
    fn apply_evenly(&self, host: &Host, editions: &[Applied]) -> Result<Vec<u32>> {
        let start = Instant::now();
        let run = Duration::from_secs(u64::from(self.seconds));
        let mut took = Vec::new();
        for (number, applied) in (0..self.revisions).zip(editions.iter().cycle()) {
            let due = start + run * number / self.revisions;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (_, duration) = host.command(&["apply", &applied.file.to_string_lossy()])?;
            took.push(micros(duration));
        }
        std::thread::sleep((start + run).saturating_duration_since(Instant::now()));
        took.sort_unstable();
        Ok(took)
    }
}

/// A revision that has been applied once and asked alone.
struct Applied {
    file: PathBuf,
    edition: Edition,
}

/// Pushes what is needed and applies every different revision once.
fn prepare(
    host: &Host,
    metadata: &Metadata,
    scratch: &Path,
    pictures: &[Picture],
) -> Result<Vec<Applied>> {
    for version in ["digits-1.onnx", "digits-2.onnx"] {
        host.command(&[
            "model",
            "push",
            "digits",
            &pictures::example().join(version).to_string_lossy(),
        ])?;
    }
    let processor = metadata.plugins().join("image-classifier.wasm");
    host.command(&["plugin", "push", "image-classifier", &processor.to_string_lossy()])?;
    let template = fs::read_to_string(pictures::example().join("digits.toml"))?;
    let mut editions = Vec::new();
    for top in 1..=TOPS {
        for version in 1..=2 {
            let text = template.replace("digits@1", &format!("digits@{version}"));
            let text = text.replace("top = 3", &format!("top = {top}"));
            let file = scratch.join(format!("digits-{version}-{top}.toml"));
            fs::write(&file, text)?;
            host.command(&["apply", &file.to_string_lossy()])?;
            editions.push(Applied { file, edition: Edition::ask(host.listen, pictures)? });
        }
    }
    for (index, one) in editions.iter().enumerate() {
        for other in &editions[..index] {
            let alike = one
                .edition
                .bodies
                .iter()
                .zip(&other.edition.bodies)
                .any(|(one, other)| one == other);
            ensure!(
                !alike,
                "{} and {} answer a picture alike",
                one.file.display(),
                other.file.display()
            );
        }
    }
    Ok(editions)
}

/// Prints what a run came to.
fn report(tally: &Tally, applied: &[u32], editions: &[Applied], permitted: &[u16]) -> Result<()> {
    let verdict = Verdict::of(tally, editions.iter().map(|applied| &applied.edition));
    let failures = verdict.failures(permitted);
    let seconds = tally.elapsed.as_secs_f64();
    println!(
        "  requests     {}, {:.0} a second",
        verdict.requests,
        verdict.requests as f64 / seconds
    );
    println!("  failures     {failures}");
    println!("  right        {} from {} revisions", verdict.answered(), verdict.right.len());
    println!("  wrong        {}", verdict.wrong);
    println!("  answered in  {}", quantiles(&tally.answered));
    println!("  since due    {}", quantiles(&tally.since_due));
    for (status, count) in &verdict.refused {
        println!("  status {status}   {count}");
    }
    if !tally.refused.is_empty() {
        println!("  refused in   {}", quantiles(&tally.refused));
    }
    println!("  apply        {} revisions, {}", applied.len(), quantiles(applied));
    ensure!(failures == 0, "requests failed: {}", verdict.complaints());
    Ok(())
}

fn quantiles(sorted: &[u32]) -> String {
    let [middle, high, most] = [0.5, 0.99, 1.0].map(|q| quantile(sorted, q));
    format!("{middle} median, {high} at 99 %, {most} at most")
}

/// Times builds of a processor that the host has never seen, from their push to their first answer
/// in an endpoint of their own that is otherwise as `template` says.
fn take_over(host: &Host, scratch: &Path, file: &Path, template: &str) -> Result<()> {
    let component = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let name = format!("load-{}", file.file_stem().unwrap_or_default().display());
    let picture = pictures::read()?.into_iter().next().context("there are no held-out pictures")?;
    let request =
        Request::post(&format!("/v2/models/{name}/invoke"), "image/png", picture.request.body());
    let mut connection = Connection::new(host.listen, Duration::from_secs(30));
    let (mut pushes, mut applies, mut totals) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=PUSHES {
        let new = scratch.join("new.wasm");
        fs::write(&new, with_section(&component, number))?;
        let text = template
            .replace("name = \"digits\"", &format!("name = \"{name}\""))
            .replace("image-classifier@1", &format!("{name}@{number}"));
        let endpoint_file = scratch.join("new.toml");
        fs::write(&endpoint_file, text)?;

        let start = Instant::now();
        let (_, push) = host.command(&["plugin", "push", &name, &new.to_string_lossy()])?;
        let (_, apply) = host.command(&["apply", &endpoint_file.to_string_lossy()])?;
        let answer = connection.send(&request)?;
        totals.push(micros(start.elapsed()));
        pushes.push(micros(push));
        applies.push(micros(apply));
        ensure!(answer.status == 200, "{name} answered {}: {}", answer.status, answer.text());
    }
    println!(
        "\n{name}, {} KiB, {PUSHES} times a component never seen before",
        component.len() / 1024
    );
    for (what, mut took) in [("push", pushes), ("apply", applies), ("push to first answer", totals)]
    {
        took.sort_unstable();
        println!("  {what:<21}{}", quantiles(&took));
    }
    println!(
        "  {:<21}{}",
        "of which compiling",
        mean(host, "berth_plugin_compile_seconds", &name)?
    );
    Ok(())
}

/// The mean of one of the host's histograms over every series with a label that begins with
/// `label`, for people.
fn mean(host: &Host, metric: &str, label: &str) -> Result<String> {
    let mut connection = Connection::new(host.admin, Duration::from_secs(30));
    let metrics = connection.send(&Request::get("/metrics"))?;
    let total = |suffix: &str| -> f64 {
        let (start, label) = (format!("{metric}_{suffix}{{"), format!("=\"{label}"));
        let text = metrics.text();
        let series = text.lines().filter(|line| line.starts_with(&start) && line.contains(&label));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let (sum, count) = (total("sum"), total("count"));
    Ok(format!("{:.3} ms mean of {count} in the host", sum / count.max(1.0) * 1e3))
}

/// The component with one more custom section, which changes its digest and nothing else.
fn with_section(component: &[u8], number: u8) -> Vec<u8> {
    // Section 0 of six bytes: the length of its name, its name, its content.
    [component, b"\x00\x06\x04load", &[number]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_appended() {
        assert_eq!(with_section(b"\0asm", 9), b"\0asm\x00\x06\x04load\x09");
    }
}
