//! How long a model's runs take, which decides where the next one happens.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use berth_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::deadline::Deadlines;
use crate::onnxruntime::session::{Session, Stop};

/// A run that is expected to take less stays on its caller's thread: handing it over would cost
/// about as much.
pub(crate) const SMALL: Duration = Duration::from_micros(100);
/// A run counts as no longer than this: one that the system interrupted must not look like a slow
/// model, and two slow ones must.
const LONGEST: Duration = Duration::from_millis(1);
/// A run that is only to see what a model does may take as long; a model whose run on zeros takes
/// longer opens without having been measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// A model whose run on zeros takes longer is run on them once, in its trial, and not at every start.
const TOO_LONG: Duration = Duration::from_secs(1);
/// After this long no further run on zeros begins.
const ENOUGH: Duration = Duration::from_millis(50);
/// A model with larger inputs is not run on zeros, in bytes.
const LARGEST: u64 = 256 << 20;

/// Longer than any run may hold up a thread that serves, where it can be stopped: between two
/// operators. Who works for as long on a thread of the executor's is found out as slow.
pub(crate) const LONG: Duration = Duration::from_millis(10);
/// The same for a run that could not be stopped, by the clock: for so long no system keeps a thread
/// from its core by chance.
pub(crate) const STALLED: Duration = Duration::from_millis(100);
/// After a run that was expected to be small and was long, so many others must be quick until one may
/// stay on its caller's thread again; after the next twice as many, and so on. So a model that is
/// quick for most inputs and slow for some holds up a thread once in a while, and ever less often.
const QUICK: u64 = 64;
/// The number of times that it doubles.
const DOUBLES: u32 = 16;

/// A moving average of how long a model takes for inputs of the size it was warmed up with. Larger
/// ones are taken to need proportionally longer.
pub(crate) struct Pace {
    nanoseconds: AtomicU64,
    /// Runs so far that were long and expected to be small, and the quick ones that are yet to come
    /// until one may stay on its caller's thread.
    long: AtomicU32,
    away: AtomicU64,
    was_cut_off: AtomicBool,
    /// The bytes of the inputs that it was warmed up with; none when no run may stay on its caller's
    /// thread.
    unit: Option<u64>,
}

/// What became of a model's run on zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Zeros {
    /// It has ended before it was long.
    Short,
    /// It has ended.
    Long,
    /// It was stopped.
    Endless,
}

impl Pace {
    /// Runs a model on zeros, with 1 for every dimension that varies. A model that cannot do that
    /// may well answer real inputs, so a failure only means that it has not been measured. Where it is
    /// `known` that this takes long, it is not done.
    pub(crate) fn measure(
        name: &str,
        session: &Arc<Session>,
        deadlines: &Deadlines,
        known: Option<Zeros>,
    ) -> (Self, Zeros) {
        if let Some(long @ (Zeros::Long | Zeros::Endless)) = known {
            return (Self::new(LONGEST, None), long);
        }
        let begin = clock(session);
        match warm_up(session, deadlines) {
            Ok((time, unit)) => {
                let zeros = if time > TOO_LONG { Zeros::Long } else { Zeros::Short };
                // A thread that waits for a device or other threads is not to be one that serves.
                (Self::new(time, session.alone.then_some(unit)), zeros)
            }
            Err(NotWarm { problem, stopped }) => {
                tracing::debug!("model {name} was not warmed up: {problem}");
                let long = clock(session).saturating_sub(begin) > TOO_LONG;
                let zeros = match stopped {
                    true => Zeros::Endless,
                    false if long => Zeros::Long,
                    false => Zeros::Short,
                };
                (Self::new(LONGEST, None), zeros)
            }
        }
    }

    fn new(time: Duration, unit: Option<u64>) -> Self {
        let nanoseconds = AtomicU64::new(nanoseconds(time));
        let (long, away, was_cut_off) = Default::default();
        Self { nanoseconds, long, away, was_cut_off, unit }
    }

    /// Whether a run with inputs of that many bytes may stay on its caller's thread.
    pub(crate) fn is_small(&self, bytes: u64) -> bool {
        self.away.load(Ordering::Relaxed) == 0 && self.expected(bytes) < SMALL
    }

    fn expected(&self, bytes: u64) -> Duration {
        let nanoseconds = self.nanoseconds.load(Ordering::Relaxed);
        let for_unit = |unit| Duration::from_nanos(nanoseconds.saturating_mul(times(bytes, unit)));
        self.unit.map_or(Duration::MAX, for_unit)
    }

    /// A run was stopped on its caller's thread, which the system may also have kept from its core:
    /// what the model takes is found out where the run is begun again. Until then that thread has no
    /// other.
    pub(crate) fn cut_off(&self) {
        self.away.fetch_max(QUICK, Ordering::Relaxed);
        self.was_cut_off.store(true, Ordering::Relaxed);
    }

    /// Whether a run was ever stopped on its caller's thread.
    pub(crate) fn was_cut_off(&self) -> bool {
        self.was_cut_off.load(Ordering::Relaxed)
    }

    /// Takes in how long a run with inputs of that many bytes took, and what is `long`.
    pub(crate) fn note(&self, bytes: u64, time: Duration, long: Duration) {
        let Some(unit) = self.unit else { return };
        let sample = nanoseconds(time) / times(bytes, unit);
        // Of two runs that end together one may get lost, which does not matter to these numbers.
        let away = self.away.load(Ordering::Relaxed);
        if time >= long && self.expected(bytes) < SMALL {
            let doubled = self.long.fetch_add(1, Ordering::Relaxed).min(DOUBLES);
            self.away.store(QUICK << doubled, Ordering::Relaxed);
        } else if away > 0 && time < SMALL {
            self.away.store(away - 1, Ordering::Relaxed);
        }
        let average = self.nanoseconds.load(Ordering::Relaxed);
        self.nanoseconds.store((15 * average + sample) / 16, Ordering::Relaxed);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    time.min(LONGEST).as_nanos() as u64
}

fn times(bytes: u64, unit: u64) -> u64 {
    (bytes / unit.max(1)).max(1)
}

/// A clock for runs on this thread: what it has worked, so that a run which is measured while others
/// serve is not longer for it; or where others work, the time.
pub(crate) fn clock(session: &Session) -> Duration {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    if !session.alone {
        return BEGIN.elapsed();
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to the place given; the clock is there on every system with threads.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds)
        + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default())
}

/// Why a model was not run on zeros.
struct NotWarm {
    problem: String,
    /// Its time was up.
    stopped: bool,
}

impl From<String> for NotWarm {
    fn from(problem: String) -> Self {
        Self { problem, stopped: false }
    }
}

/// The shortest of a few runs, since the first allocates what later ones find, and the bytes of
/// their inputs.
fn warm_up(session: &Arc<Session>, deadlines: &Deadlines) -> Result<(Duration, u64), NotWarm> {
    let (tensors, bytes) = zeros(session)?;
    let inputs: Vec<_> = tensors.iter().enumerate().collect();
    let outputs: Vec<_> = (0..session.outputs.len()).collect();
    let mut shortest = Duration::MAX;
    let begin = Instant::now();
    while shortest == Duration::MAX || (begin.elapsed() < ENOUGH && begin.elapsed() < 20 * shortest)
    {
        let watched = deadlines.watch_here(Instant::now() + PATIENCE);
        let (watched, run) = watched.map_err(|error| error.to_string())?;
        let start = clock(session);
        let ran = session.run(&inputs, &outputs, &run.stop);
        ran.map_err(|problem| NotWarm { problem, stopped: watched.is_dead() })?;
        watched.ended();
        shortest = shortest.min(clock(session).saturating_sub(start));
    }
    Ok((shortest, bytes))
}

/// Has a model give back the memory that its runs have left, by one on zeros that ends at once.
pub(crate) fn give_back(session: &Arc<Session>) -> Result<(), String> {
    let (tensors, _) = zeros(session)?;
    let inputs: Vec<_> = tensors.iter().enumerate().collect();
    let outputs: Vec<_> = (0..session.outputs.len()).collect();
    // It was stopped, so that it fails.
    let _ = session.run(&inputs, &outputs, &Stop::giving_back()?);
    Ok(())
}

fn zeros(session: &Session) -> Result<(Vec<Tensor>, u64), String> {
    let mut total = 0u64;
    let mut tensors = Vec::with_capacity(session.inputs.len());
    for ty in &session.inputs {
        let shape: Vec<u64> =
            ty.shape.iter().map(|&dimension| u64::try_from(dimension).unwrap_or(1)).collect();
        // An empty string is four bytes of length.
        let size = ty.datatype.size().unwrap_or(4) as u64;
        let bytes =
            berth_tensor::tensor::elements(&shape).and_then(|count| count.checked_mul(size));
        total = total.saturating_add(bytes.unwrap_or(u64::MAX));
        if total > LARGEST {
            return Err(format!("its inputs take more than {LARGEST} bytes"));
        }
        let data = vec![0; bytes.unwrap_or(0) as usize];
        tensors.push(Tensor::new(ty.datatype, shape, data).map_err(|error| error.to_string())?);
    }
    Ok((tensors, total))
}
