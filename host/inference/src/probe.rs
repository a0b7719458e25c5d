//! Whether requests for a model may run as one.
//!
//! They may when every input and output has the same dimension that varies in front, and two inputs
//! come to the same alone and together; or when the model's file says so. Where it is left to the
//! model, they do only when that is quicker.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_tensor::{DataType, Digest, Tensor, TensorType};
use serde::{Deserialize, Serialize};

use crate::batch;
use crate::deadline::Deadlines;
use crate::onnxruntime::session::{OWN, Session};
use crate::pace::{PATIENCE, Zeros, clock};

/// What a model's file may say under this key of its metadata: [`TOGETHER`] or [`ALONE`].
const DECLARED: &str = "berth.batching";
const TOGETHER: &str = "together";
const ALONE: &str = "alone";

/// The most rows of a run where nobody says how many.
const ROWS: u32 = 32;
/// Rows with which it is measured what running together brings.
const MEASURED: u64 = 8;
/// A model of which one row takes longer is not measured: it is long past the point at which a core
/// has enough to do, and measuring would delay whoever waits for the model.
const LONGEST: Duration = Duration::from_millis(5);
/// The same for a device, which takes many rows to have enough to do.
const LONGEST_ON_DEVICE: Duration = Duration::from_millis(100);
/// A row must take less than this part of what it takes alone.
const WORTH: f64 = 0.8;
/// Inputs that are tried, at most.
const TRIALS: u64 = 4;
/// What a dimension is probed with that varies beside the leading one.
const OTHER: u64 = 4;
/// Sizes of the rows of a second trial.
const UNEVEN: [f64; 3] = [1.0, 0.0625, 16.0];
/// A model with larger inputs is not probed, in bytes for a row.
const LARGEST: u64 = 64 << 20;
/// How far the results of floating-point outputs may be apart, absolutely and relatively; sums are
/// taken in another order when there are more rows, so that what is rounded is a step away.
const TOLERANCE: [(DataType, f64, f64); 8] = [
    (DataType::Fp64, 1e-6, 1e-6),
    (DataType::Fp32, 1e-5, 1e-3),
    (DataType::Fp16, 1e-2, 1e-2),
    (DataType::Bf16, 1e-1, 1e-1),
    (DataType::Float8E4M3Fn, 1e-1, 1.5e-1),
    (DataType::Float8E4M3Fnuz, 1e-1, 1.5e-1),
    (DataType::Float8E5M2, 1e-1, 3e-1),
    (DataType::Float8E5M2Fnuz, 1e-1, 3e-1),
];

/// Whether requests for a model may run as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batching {
    /// They do, up to so many rows.
    Together {
        /// The most rows of one run.
        most: u32,
    },
    /// Each runs by itself.
    Alone {
        /// Why, for people.
        why: String,
    },
}

impl std::fmt::Display for Batching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Together { most } => {
                write!(f, "up to {most} rows of several requests in one run")
            }
            Self::Alone { why, .. } => write!(f, "every request alone: {why}"),
        }
    }
}

/// What is known of a model once it has been run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Judged {
    pub(crate) batching: Batching,
    pub(crate) zeros: Zeros,
}

/// Judges a model whose run on zeros has come to that. `most` is what the operator asks for.
pub(crate) fn judge(
    session: &Arc<Session>,
    zeros: Zeros,
    most: Option<u32>,
    deadlines: &Deadlines,
) -> Batching {
    let refused = |why: String| Batching::Alone { why };
    if most.is_some_and(|most| most <= 1) {
        return Batching::Alone { why: "so it is configured".to_owned() };
    }
    let declared =
        session.properties.iter().find(|(key, _)| key.strip_prefix(OWN) == Some(DECLARED));
    match declared.map(|(_, value)| value.as_str()) {
        Some(TOGETHER) => match session.leading.as_ref() {
            Err(why) if !session.leads() => return refused(why.clone()),
            _ => return Batching::Together { most: most.unwrap_or(ROWS) },
        },
        Some(ALONE) => return refused(format!("the model's file says so ({DECLARED})")),
        Some(other) => {
            return refused(format!(
                "{DECLARED} in the model's file is {other:?}; it is {TOGETHER:?} or {ALONE:?}"
            ));
        }
        None => {}
    }
    if let Err(why) = &session.leading {
        return refused(why.clone());
    }
    if zeros == Zeros::Endless {
        return refused(format!("it could not be tried: {}", endless("one row")));
    }
    let probe = Probe { session, deadlines };
    if most.is_none() {
        match probe.brings_nothing() {
            Err(problem) => return refused(format!("it could not be tried: {problem}")),
            Ok(Some(why)) => return Batching::Alone { why },
            Ok(None) => {}
        }
    }
    match probe.agrees() {
        Err(why) => refused(why),
        Ok(()) => Batching::Together { most: most.unwrap_or(ROWS) },
    }
}

/// What a session takes and says of itself, and what it answers to a few inputs.
#[derive(PartialEq, Eq)]
pub(crate) struct Seen {
    ports: [Vec<TensorType>; 2],
    properties: Vec<(String, String)>,
    symbols: BTreeMap<String, Vec<String>>,
    leading: Result<(), String>,
    /// Of each input that it was run on; none where it does not run on that.
    answers: Vec<Option<Contents>>,
}

/// Datatype, shape and content of a model's outputs.
type Contents = Vec<(DataType, Vec<u64>, Digest)>;

/// What dimensions that vary are in turn, until a model has run on two of them.
const SEEN: [u64; 3] = [1, 2, 16];

impl Seen {
    pub(crate) fn of(session: &Arc<Session>, deadlines: &Deadlines) -> Self {
        let probe = Probe { session, deadlines };
        let mut answers = Vec::new();
        for size in SEEN {
            let ran = probe.inputs(size, size, size, &[1.0]).and_then(|inputs| probe.run(&inputs));
            let outputs = |(outputs, _): (Vec<Tensor>, Duration)| {
                let content =
                    |it: &Tensor| (it.datatype(), it.shape().to_vec(), Digest::of(it.data()));
                outputs.iter().map(content).collect()
            };
            answers.push(ran.ok().map(outputs));
            if answers.iter().flatten().count() == 2 {
                break;
            }
        }
        Self {
            ports: [session.inputs.clone(), session.outputs.clone()],
            properties: session.properties.clone(),
            symbols: session.symbols.clone(),
            leading: session.leading.clone(),
            answers,
        }
    }

    /// Whether it answers anything, so that two can be told apart.
    pub(crate) fn tells(&self) -> bool {
        self.answers.iter().any(Option::is_some)
    }
}

fn failed(rows: &str) -> impl FnOnce(String) -> String {
    move |problem| format!("it could not be tried with {rows}: {problem}")
}

/// What is said of a run that was stopped.
pub(crate) fn endless(rows: &str) -> String {
    format!("a run of {rows} took longer than {} s", PATIENCE.as_secs())
}

struct Probe<'a> {
    session: &'a Arc<Session>,
    deadlines: &'a Deadlines,
}

impl Probe<'_> {
    /// Runs one row, then two others, then all three, and compares.
    fn agrees(&self) -> Result<(), String> {
        // What comes to the same for any row says nothing of how rows would mix; whole numbers are
        // few, so that rows may be alike by chance.
        let differ = |output: &Tensor| {
            let rows = batch::split(output, &[1, 1, 1])?;
            Ok::<_, String>(!(close(&rows[0], &rows[1]) && close(&rows[1], &rows[2])))
        };
        let mut tried = None;
        for seed in 1..=TRIALS {
            let three = self.inputs(3, OTHER, seed, &[1.0])?;
            let all = self.run(&three).map_err(failed("three rows"))?.0;
            let telling = all.iter().map(differ).collect::<Result<Vec<_>, _>>()?;
            if telling.contains(&true) {
                tried = Some((three, all));
                break;
            }
        }
        let Some((three, all)) = tried else {
            return Err("a trial tells nothing: every row comes to the same".to_owned());
        };
        self.agrees_on(&three, &all)?;
        // A model that quantises by what it finds may treat a small row by the measure of a large one.
        let uneven = self.inputs(3, OTHER, 1, &UNEVEN)?;
        let all = self.run(&uneven).map_err(failed("uneven rows"))?.0;
        self.agrees_on(&uneven, &all)
    }

    /// Whether three rows, which have come to `all` together, come to the same in two parts.
    fn agrees_on(&self, three: &[Tensor], all: &[Tensor]) -> Result<(), String> {
        let one = self.run(&part(three, 0..1)?).map_err(failed("one row"))?.0;
        let two = self.run(&part(three, 1..3)?).map_err(failed("two rows"))?.0;
        for (index, output) in all.iter().enumerate() {
            let name = &self.session.outputs[index].name;
            let parts = batch::split(output, &[1, 2])?;
            for (together, alone) in parts.iter().zip([&one[index], &two[index]]) {
                if !close(together, alone) {
                    return Err(format!(
                        "output {name:?} is another when two requests run together"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Compares the time of a row alone with that of one among several; why they are better alone, if
    /// they are.
    fn brings_nothing(&self) -> Result<Option<String>, String> {
        let longest = if self.session.device.is_cpu() { LONGEST } else { LONGEST_ON_DEVICE };
        let several = self.inputs(MEASURED, OTHER, 1, &[1.0])?;
        let alone = part(&several, 0..1)?;
        let shortest = |inputs: &[Tensor], longest: Duration| {
            let mut shortest = Duration::MAX;
            for _ in 0..5 {
                shortest = shortest.min(self.run(inputs)?.1);
                if shortest > longest {
                    break;
                }
            }
            Ok::<_, String>(shortest)
        };
        let one = shortest(&alone, longest)?;
        if one > longest {
            return Ok(Some(format!(
                "a run of one takes {one:.1?}, so that more at once bring nothing; max_batch in the endpoint file has them run together"
            )));
        }
        let row = shortest(&several, longest)?.div_f64(MEASURED as f64);
        let nothing = row.as_secs_f64() > WORTH * one.as_secs_f64();
        Ok(nothing.then(|| format!(
            "a row takes {one:.1?} alone and {row:.1?} among {MEASURED}, so that it brings nothing; max_batch in the endpoint file has them run together"
        )))
    }

    fn run(&self, inputs: &[Tensor]) -> Result<(Vec<Tensor>, Duration), String> {
        let inputs: Vec<_> = inputs.iter().enumerate().collect();
        let outputs: Vec<_> = (0..self.session.outputs.len()).collect();
        let watched = self.deadlines.watch_here(Instant::now() + PATIENCE);
        let (watched, run) = watched.map_err(|error| error.to_string())?;
        let start = clock(self.session);
        let answer = self.session.run(&inputs, &outputs, &run.stop);
        let answer = answer.map_err(|problem| match watched.is_dead() {
            true => endless(&match inputs.first().and_then(|(_, input)| input.shape().first()) {
                Some(1) | None => "one row".to_owned(),
                Some(rows) => format!("{rows} rows"),
            }),
            false => problem,
        })?;
        watched.ended();
        Ok((answer, clock(self.session).saturating_sub(start)))
    }

    /// Inputs of so many rows, each another, and of size `other` wherever else a dimension varies. Their
    /// numbers lie between -1 and 1, times one of `sizes` for each row in turn.
    fn inputs(
        &self,
        rows: u64,
        other: u64,
        seed: u64,
        sizes: &[f64],
    ) -> Result<Vec<Tensor>, String> {
        let mut state = seed;
        let input = |ty: &TensorType| {
            let mut shape: Vec<u64> =
                ty.shape.iter().map(|&size| u64::try_from(size).unwrap_or(other)).collect();
            if let Some(first) = shape.first_mut().filter(|_| ty.shape[0] < 0) {
                *first = rows;
            }
            let rows = shape.first().copied().unwrap_or(1).max(1);
            let counted = rows.min(MEASURED);
            let count = berth_tensor::tensor::elements(&shape)
                .filter(|count| count / counted * ty.datatype.size().unwrap_or(8) as u64 <= LARGEST)
                .ok_or_else(|| format!("a row of input {:?} is too large to be tried", ty.name))?;
            let row = |at: u64| (at / (count / rows).max(1)) as usize;
            let values = (0..count).map(|at| (random(&mut state), sizes[row(at) % sizes.len()]));
            random_tensor(ty.datatype, shape, values).map_err(|error| error.to_string())
        };
        self.session.inputs.iter().map(input).collect()
    }
}

/// Between 0 and 1: splitmix64 (Steele, Lea and Flood, 2014).
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// From numbers between 0 and 1, and of what size each is to be: numbers between -1 and 1 of that size;
/// whole ones are 0 or 1, which is an index or a mask almost anywhere.
fn random_tensor(
    datatype: DataType,
    shape: Vec<u64>,
    values: impl Iterator<Item = (f64, f64)>,
) -> Result<Tensor, berth_tensor::TensorError> {
    let mut data = Vec::new();
    let is_float = tolerance(datatype).is_some();
    for (value, size) in values {
        let bit = u8::from(value > 0.5);
        match datatype {
            DataType::Bytes => data.extend_from_slice(&[1, 0, 0, 0, b'0' + bit]),
            _ if is_float => datatype.write(size * (2.0 * value - 1.0), &mut data),
            _ => datatype.write(bit.into(), &mut data),
        }
    }
    Tensor::new(datatype, shape, data)
}

fn part(inputs: &[Tensor], rows: Range<u64>) -> Result<Vec<Tensor>, String> {
    let parts = |input: &Tensor| {
        let before_and_after = [rows.start, rows.end - rows.start, input.shape()[0] - rows.end];
        let mut parts = batch::split(input, &before_and_after)?;
        Ok(parts.swap_remove(1))
    };
    inputs.iter().map(parts).collect()
}

/// How far apart, absolutely and relatively, elements of a floating-point datatype may be.
fn tolerance(datatype: DataType) -> Option<(f64, f64)> {
    let known = TOLERANCE.iter().find(|(known, ..)| *known == datatype);
    known.map(|&(_, absolute, relative)| (absolute, relative))
}

fn close(one: &Tensor, two: &Tensor) -> bool {
    if (one.datatype(), one.shape()) != (two.datatype(), two.shape()) {
        return false;
    }
    let Some((absolute, relative)) = tolerance(one.datatype()) else {
        return one.data() == two.data();
    };
    // Where some numbers are large, the others are sums of large numbers.
    let finite = two.numbers().filter(|b| b.is_finite());
    let largest = finite.fold(1.0, |most: f64, b| most.max(b.abs()));
    let near = |(a, b): (f64, f64)| {
        (a.is_nan() && b.is_nan())
            || a == b
            || (a - b).abs() <= absolute * largest + relative * b.abs()
    };
    one.numbers().zip(two.numbers()).all(near)
}
