//! ONNX Runtime without a server around it.
//!
//! `bench-alone MODEL SECONDS THREADS` runs the model on one row of its input, again and again for so
//! long, on so many threads at once, each with a session, and prints the runs for each second that the
//! process has spent on a core.
//! `ORT_DYLIB_PATH` names ONNX Runtime.

#![expect(clippy::print_stdout, reason = "it prints what it has measured")]

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use berth_bench::session::Model;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, seconds, threads] = arguments.as_slice() else {
        bail!("usage: bench-alone MODEL SECONDS THREADS")
    };
    let time = Duration::from_secs_f64(seconds.parse().context("SECONDS is no number")?);
    let threads: usize = threads.parse().context("THREADS is no number")?;
    let model = Model::open(file)?;
    let shape: Vec<i64> = model.input.1.iter().map(|&size| size.max(1)).collect();
    let values = vec![0.5; shape.iter().product::<i64>() as usize];
    let once = || model.run(&shape, &values, |_, _| ());
    // All threads open their sessions before the first is measured.
    let opened = Barrier::new(threads + 1);
    let (runs, before) = thread::scope(|scope| {
        let run = || {
            let first = once();
            opened.wait();
            first?;
            let (begin, mut runs) = (Instant::now(), 0);
            while begin.elapsed() < time {
                once()?;
                runs += 1;
            }
            anyhow::Ok(runs)
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        opened.wait();
        let before = worked()?;
        let runs = all.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
        });
        anyhow::Ok((runs.sum::<anyhow::Result<u32>>()?, before))
    })?;
    println!("{}", f64::from(runs) / (worked()? - before));
    Ok(())
}

/// Seconds that this process has spent on a core.
fn worked() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // After the name, in parentheses, the 12th and 13th are ticks of a hundredth of a second.
    let (_, rest) = stat.rsplit_once(')').context("/proc is not as expected")?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}
