//! What was measured, as tables for people and as docs/performance.md.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::bench::batching::Together;
use crate::bench::chart::{self, Bar, Group};
use crate::bench::compare::{Cell, ROUNDS, median, quantile};
use crate::bench::criterion::Measured;
use crate::bench::jobs::Job;
use crate::bench::rivals::NAMES;
use crate::bench::shadows::Shadows;
use crate::bench::stages::{STAGES, Stages};
use crate::bench::swaps::{self, Held, LOOK};
use crate::bench::{Results, endpoints, shadows};
use crate::table::Table;
use crate::workspace::{root, say};

/// Between these lines the page is written by this program, around them by hand.
const BEGIN: &str =
    "<!-- Written by `cargo xtask bench`; what stands between these marks is replaced. -->";
const END: &str = "<!-- End of what is written by `cargo xtask bench`. -->";

/// One line of what is asked for.
struct Target {
    what: &'static str,
    asked: String,
    reached: String,
    met: bool,
}

impl Target {
    fn at_least(what: &'static str, asked: f64, reached: f64) -> Self {
        Self {
            what,
            asked: format!("≥ {asked:.2}"),
            reached: format!("{reached:.3}"),
            met: reached >= asked,
        }
    }

    fn at_most(what: &'static str, asked: f64, reached: f64, unit: &str) -> Self {
        Self {
            what,
            asked: format!("≤ {asked} {unit}"),
            reached: format!("{reached:.2} {unit}"),
            met: reached <= asked,
        }
    }
}

fn targets(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    let against = |job: &str, connections: usize, rival: &str| -> Option<f64> {
        let cell = |name: &str| find(&results.cells, job, connections, name);
        Some(cell(NAMES[0])?.ratio(cell(rival)?)[1])
    };
    for (what, job, connections, rival, asked) in [
        (
            "digits, no processor, weighted policy, 32 connections, to native",
            "digits",
            32,
            NAMES[1],
            0.9,
        ),
        (
            "resnet18, fresh sandbox per request, 8 connections, to native",
            "resnet18",
            8,
            NAMES[1],
            0.95,
        ),
        (
            "mean-colour, fresh sandbox per request, 8 connections, to native",
            "mean-colour",
            8,
            NAMES[1],
            0.7,
        ),
        ("digits, 32 connections, to FastAPI", "digits", 32, NAMES[2], 7.5),
        ("mean-colour, 8 connections, to FastAPI", "mean-colour", 8, NAMES[2], 1.0),
    ] {
        targets.extend(
            against(job, connections, rival).map(|reached| Target::at_least(what, asked, reached)),
        );
    }
    if let Some(endpoints) = &results.endpoints {
        targets.push(Target::at_least(
            "one of 1,000 endpoints, to one alone",
            0.95,
            median(&endpoints.ratios),
        ));
        targets.push(Target::at_most(
            "memory of an idle endpoint beside its model's weights",
            2.0,
            endpoints.own_model / MIB,
            "MiB",
        ));
    }
    if let Some(batching) = &results.batching {
        for (together, asked) in batching.together.iter().zip([0.95, 1.3]) {
            let what = [
                "digits, 32 connections, batching on, to off",
                "a perceptron of 1024, 1024, 1024 and 10 units, the same",
            ][usize::from(asked > 1.0)];
            targets.push(Target::at_least(what, asked, median(&together.ratios)));
        }
        let [bytes, json, _] = &batching.alone;
        for (what, ratios) in [
            ("ResNet-18 through Berth, to ONNX Runtime alone", bytes),
            ("the same, its 150,528 numbers sent as JSON", json),
        ] {
            targets.push(Target::at_least(what, 0.95, median(ratios)));
        }
        if let Some(one) = batching.together.last() {
            let added = (one.p50[0] - one.p50[1]) * 1e3;
            targets.push(Target::at_most(
                "latency that batching adds at 1 connection, median",
                20.0,
                added,
                "µs",
            ));
        }
    }
    if let Some(swaps) = &results.swaps {
        let (first, last) = swaps.ends();
        targets.push(Target::at_most(
            "resident memory after 1,000 swaps of 45 MB, to that after 20",
            1.1,
            last.resident / first.resident,
            "times",
        ));
        targets.push(Target::at_most(
            "p99 of another endpoint while a model loads, to quiet",
            2.0,
            median(&swaps.ratios),
            "times",
        ));
    }
    for Shadows { job, ratios, .. } in &results.shadows {
        let what = match *job {
            "digits" => "median of digits with a shadow, to without",
            _ => "median of mean-colour with a shadow, to without",
        };
        targets.push(Target::at_most(what, 1.05, median(ratios), "times"));
    }
    if let Some(overload) = &results.overload {
        targets.push(Target::at_least(
            "goodput at 3 times capacity, to the peak",
            0.9,
            overload.goodput / overload.peak,
        ));
        targets.push(Target::at_most("99 % of refusals within", 50.0, overload.refused_p99, "ms"));
    }
    targets
}

const MIB: f64 = (1u32 << 20) as f64;

fn find<'a>(cells: &'a [Cell], job: &str, connections: usize, rival: &str) -> Option<&'a Cell> {
    cells.iter().find(|cell| (cell.job, cell.connections, cell.rival) == (job, connections, rival))
}

/// Everything that was measured, as Markdown.
pub(crate) fn tables(results: &Results) -> String {
    let mut text = String::new();
    let targets = targets(results);
    if !targets.is_empty() {
        let mut table = Table::new(&["what", "asked", "reached", "met"]);
        for Target { what, asked, reached, met } in targets {
            let met = if met { "yes" } else { "**no**" };
            table.row([what.to_owned(), asked, reached, met.to_owned()]);
        }
        let _ = writeln!(
            text,
            "## What is asked for\n\nRatios are of requests per server CPU-second.\n\n{table}"
        );
    }
    for job in &results.jobs {
        if results.cells.iter().any(|cell| cell.job == job.name) {
            let _ =
                writeln!(text, "## {}: {}\n\n{}", job.name, job.title, of_job(results, job.name));
        }
    }
    if !results.stages.is_empty() {
        let mut head = vec!["job", "server"];
        head.extend(STAGES);
        head.push("together");
        let mut table = Table::new(&head);
        for Stages { job, rival, micros } in &results.stages {
            let times = micros.iter().copied().chain([micros.iter().sum()]);
            let times = times.map(|micros| format!("{micros:.0}"));
            table.row([(*job).to_owned(), (*rival).to_owned()].into_iter().chain(times));
        }
        let _ = writeln!(
            text,
            "## Time per stage\n\nMicroseconds, medians, one request after another on one thread \
             and without HTTP. `prepare` resizes and normalises, which is one pass over the rows; \
             `copy` brings the tensor out of the sandbox, and for mean-colour holds the run as well, \
             which the host does at once where a model is that small; a native server has no \
             instance to make and nothing to copy.\n\n{table}"
        );
    }
    if let Some(endpoints) = &results.endpoints {
        let mut table = Table::new(&["what", "figure"]);
        let mut ratios = endpoints.ratios.clone();
        ratios.sort_by(f64::total_cmp);
        let [least, middle, most] = [0.0, 0.5, 1.0].map(|q| quantile(&ratios, q));
        table.row([
            format!("requests per CPU-second to one of {}, to one alone", endpoints::ENDPOINTS),
            format!("{middle:.3} ({least:.2} to {most:.2})"),
        ]);
        let mib = |bytes: f64| format!("{:.3} MiB", bytes / MIB);
        table.row([
            "memory of an idle endpoint with a model of its own, less the model's file".to_owned(),
            mib(endpoints.own_model),
        ]);
        table.row([
            "memory of an idle endpoint whose model is open already".to_owned(),
            mib(endpoints.shared_model),
        ]);
        let _ = writeln!(text, "## Many endpoints\n\n{table}");
    }
    if let Some(batching) = &results.batching {
        let mut table = Table::new(&[
            "what",
            "connections",
            "requests/s, on",
            "off",
            "on to off",
            "p50 ms, on",
            "off",
        ]);
        for Together { what, connections, per_second, ratios, p50 } in &batching.together {
            table.row([
                (*what).to_owned(),
                connections.to_string(),
                figure(per_second[0]),
                figure(per_second[1]),
                spread(ratios),
                format!("{:.3}", p50[0]),
                format!("{:.3}", p50[1]),
            ]);
        }
        let _ = writeln!(
            text,
            "## Batching\n\nRequests of one row each. Off is `max_batch = 1`. ResNet-18 through Berth answers {} \
             times as many requests for each CPU-second as ONNX Runtime alone runs, on as many threads as \
             there are connections, when its tensor comes as bytes (the protocol's binary form), {} times when its 150,528 numbers come as JSON; {} times as many as on one thread, which shares the machine with nobody.\n\n{table}",
            spread(&batching.alone[0]),
            spread(&batching.alone[1]),
            spread(&batching.alone[2])
        );
    }
    if let Some(swaps) = &results.swaps {
        let (first, last) = swaps.ends();
        let mut table = Table::new(&["what", "after 20 swaps", "after 1,000"]);
        let mib = |held: &Held| format!("{:.1} MiB", held.resident / MIB);
        table.row(["resident memory".to_owned(), mib(first), mib(last)]);
        type Count = fn(&Held) -> usize;
        let counts: [(&str, Count); 3] = [
            ("threads", |held| held.threads),
            ("open files", |held| held.files),
            ("mappings", |held| held.mappings),
        ];
        for (what, of) in counts {
            table.row([what.to_owned(), of(first).to_string(), of(last).to_string()]);
        }
        let _ = writeln!(
            text,
            "## Swaps of a model of 45 MB under load\n\nWith `--bake 0`, over HTTP. Versions take turns, so that each is closed before it is opened again; \
             all were tried when they were pushed. While one loads, 99 % of the requests \
             to another endpoint, which take {:.0} % of the machine, are answered within {:.2} ms; quiet, \
             within {:.2} ms: {} times.\n\n{table}",
            swaps::BUSY * 100.0,
            swaps.p99[1],
            swaps.p99[0],
            spread(&swaps.ratios)
        );
    }
    if !results.shadows.is_empty() {
        let mut table = Table::new(&[
            "job",
            "p50 ms, without",
            "with",
            "with to without",
            "of the machine, without",
            "with",
            "compared",
        ]);
        for Shadows { job, p50, ratios, busy, compared } in &results.shadows {
            let percent = |part: f64| format!("{:.0} %", part * 100.0);
            table.row([
                (*job).to_owned(),
                format!("{:.3}", p50[0]),
                format!("{:.3}", p50[1]),
                spread(ratios),
                percent(busy[0]),
                percent(busy[1]),
                percent(*compared),
            ]);
        }
        let _ = writeln!(
            text,
            "## Shadows\n\nThe same requests, at random times, to an endpoint without a shadow and to one whose \
             every request has a copy: as many as take {:.0} % of the machine with their copies. Compared: of the \
             requests, those whose copy was not dropped for want of room.\n\n{table}",
            shadows::BUSY * 100.0
        );
    }
    if let Some(overload) = &results.overload {
        let mut table = Table::new(&["what", "figure"]);
        for (what, value, unit) in [
            ("answers at the peak, 32 connections", overload.peak, "a second"),
            ("requests sent at three times the peak", overload.offered, "a second"),
            ("answers meanwhile", overload.goodput, "a second"),
            ("refusals meanwhile", overload.refused, "a second"),
            ("a refusal, median", overload.refused_p50, "ms"),
            ("a refusal, 99 %", overload.refused_p99, "ms"),
            ("an answer, 99 %", overload.answered_p99, "ms"),
        ] {
            table.row([what.to_owned(), format!("{} {unit}", figure(value))]);
        }
        let _ = writeln!(text, "## Overload: mean-colour at three times the capacity\n\n{table}");
    }
    if !results.parts.is_empty() {
        let mut table = Table::new(&["what", "median", "95 % confidence"]);
        for Measured { name, median, least, most } in &results.parts {
            table.row([
                name.clone(),
                time(*median),
                format!("{} to {}", time(*least), time(*most)),
            ]);
        }
        let _ = writeln!(text, "## What the host adds, in parts\n\n{table}");
    }
    text
}

fn of_job(results: &Results, job: &str) -> Table {
    let mut table = Table::new(&[
        "connections",
        "server",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "requests per CPU-s",
        "to native",
        "least to most",
        "resident MiB",
        "peak MiB",
    ]);
    for cell in results.cells.iter().filter(|cell| cell.job == job) {
        let native = find(&results.cells, job, cell.connections, NAMES[1]);
        let [least, middle, most] = native.map_or([0.0; 3], |native| cell.ratio(native));
        table.row([
            cell.connections.to_string(),
            cell.rival.to_owned(),
            figure(cell.per_second),
            format!("{:.2}", cell.p50),
            format!("{:.2}", cell.p99),
            figure(cell.efficiency()),
            format!("{middle:.3}"),
            format!("{least:.2} to {most:.2}"),
            format!("{:.0}", cell.resident as f64 / MIB),
            format!("{:.0}", cell.peak as f64 / MIB),
        ]);
    }
    table
}

/// A median, and from where to where.
fn spread(ratios: &[f64]) -> String {
    let mut sorted = ratios.to_vec();
    sorted.sort_by(f64::total_cmp);
    let [least, middle, most] = [0.0, 0.5, 1.0].map(|q| quantile(&sorted, q));
    format!("{middle:.3} ({least:.2} to {most:.2})")
}

/// A number with as many digits as it is good for.
fn figure(value: f64) -> String {
    match value {
        1000.0.. => {
            let whole = format!("{value:.0}");
            let (head, tail) = whole.split_at(whole.len() - 3);
            format!("{head},{tail}")
        }
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Nanoseconds, for people.
fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        1e6.. => format!("{} ms", figure(nanoseconds / 1e6)),
        1e3.. => format!("{} µs", figure(nanoseconds / 1e3)),
        _ => format!("{} ns", figure(nanoseconds)),
    }
}

/// Writes docs/performance.md and its pictures. What stands outside the marks stays as it is.
pub(crate) fn write(results: &Results, library: &Path) -> Result<()> {
    let folder = root().join("docs");
    let page = folder.join("performance.md");
    fs::create_dir_all(&folder)?;
    let standing = fs::read_to_string(&page).unwrap_or_else(|_| {
        format!("# Performance\n\n{BEGIN}\n{END}\n\n## What remains and why\n")
    });
    let (before, rest) = standing
        .split_once(BEGIN)
        .with_context(|| format!("{} lacks the line `{BEGIN}`: put it back", page.display()))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("{} lacks the line `{END}`: put it back", page.display()))?;
    let charts = charts(results);
    let mut generated = format!("{}\n", conditions(library)?);
    for (name, alt, svg) in &charts {
        fs::write(folder.join(format!("{name}.svg")), svg)?;
        let _ = writeln!(generated, "![{alt}]({name}.svg)\n");
    }
    generated.push_str(&tables(results));
    fs::write(&page, format!("{before}{BEGIN}\n\n{generated}{END}{after}"))?;
    say(format!("written: {}", page.display()));
    Ok(())
}

/// The command, and the machine in words.
fn conditions(library: &Path) -> Result<String> {
    let read =
        |file: &str| fs::read_to_string(file).with_context(|| format!("{file} cannot be read"));
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let processor =
        value(&read("/proc/cpuinfo")?, "model name").unwrap_or_else(|| "unknown".to_owned());
    let memory = value(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
    let kibibytes: f64 =
        memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let words = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = Command::new(program).args(arguments).output();
        let output = output.with_context(|| format!("{program} cannot be started"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let date = words("date", &["-u", "+%-d %B %Y"])?;
    let rust = words("rustc", &["--version"])?;
    let rust = rust.split(' ').nth(1).unwrap_or("?").to_owned();
    let runtime = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(format!(
        "Measured by `cargo xtask bench` on {date}: {cores} cores ({processor}), {:.0} GiB of memory, Linux, Rust {rust}, {runtime}. Servers and load share the cores. In each job the servers run in turns, {ROUNDS} short rounds each; requests a second and per CPU-second are medians of the rounds, ratios medians of the ratios of neighbouring rounds, with the least and the most beside them; times to an answer are over all rounds. CPU-seconds are those of the server's processes, in the program and in the kernel. Every answer is compared with that of the native server.\n",
        kibibytes / f64::from(1 << 20),
    ))
}

/// Name, description and content of each picture.
fn charts(results: &Results) -> Vec<(&'static str, &'static str, String)> {
    let group = |job: &Job| {
        let mut bars = Vec::new();
        for cell in results.cells.iter().filter(|cell| cell.job == job.name) {
            let native = find(&results.cells, job.name, cell.connections, NAMES[1]);
            let ratio = native.map_or(0.0, |native| cell.ratio(native)[1]);
            bars.push(Bar {
                label: format!("{}, {} conn.", cell.rival, cell.connections),
                parts: vec![cell.efficiency()],
                figure: format!("{} ({ratio:.2} ×)", figure(cell.efficiency())),
                colour: NAMES.iter().position(|&name| name == cell.rival).unwrap_or(0),
            });
        }
        Group { title: format!("{}: {}", job.name, job.title), bars }
    };
    let groups: Vec<_> = results.jobs.iter().map(group).collect();
    let stages = |job: &Job| {
        let of_job = results.stages.iter().filter(|stages| stages.job == job.name);
        let bar = |stages: &Stages| Bar {
            label: stages.rival.to_owned(),
            parts: stages.micros.to_vec(),
            figure: format!("{} µs", figure(stages.micros.iter().sum())),
            colour: 0,
        };
        Group { title: format!("{}: {}", job.name, job.title), bars: of_job.map(bar).collect() }
    };
    let stages: Vec<_> = results.jobs[1..].iter().map(stages).collect();
    let looks = results.swaps.iter().flat_map(|swaps| &swaps.looks).enumerate();
    let points: Vec<_> =
        looks.map(|(at, held)| (((at + 1) * LOOK) as f64, held.resident / MIB)).collect();
    vec![
        (
            "performance-jobs",
            "Requests per server CPU-second of Berth, a native server and FastAPI in three jobs",
            chart::bars(
                "Requests per second of the server's CPU time",
                "requests per CPU-second, more is better; in parentheses the ratio to native",
                &NAMES,
                &groups,
            ),
        ),
        (
            "performance-swaps",
            "Resident memory of the host over a thousand swaps of a model",
            chart::line(
                "Resident memory while a model of 45 MB is replaced under load",
                "MiB after so many swaps",
                &points,
            ),
        ),
        (
            "performance-stages",
            "Microseconds of each stage of a picture's way in Berth and in a native server",
            chart::bars(
                "Where the time of a picture goes",
                "microseconds of one request without HTTP, less is better",
                &STAGES,
                &stages,
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_digits_that_they_are_good_for() {
        for (value, expected) in
            [(0.0, "0.00"), (9.876, "9.88"), (98.76, "98.8"), (987.6, "988"), (12345.6, "12,346")]
        {
            assert_eq!(figure(value), expected);
        }
        for (value, expected) in [(12.0, "12.0 ns"), (1234.0, "1.23 µs"), (2e7, "20.0 ms")] {
            assert_eq!(time(value), expected);
        }
    }
}
