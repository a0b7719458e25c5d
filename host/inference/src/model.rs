//! What a model takes and answers, and one inference on it.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_tensor::{DataType, NamedTensor, Tensor, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;

use crate::batch::Entry;
use crate::deadline::{Answer, Ticket};
use crate::executor::{Lane, Share};
use crate::onnxruntime::Providers;
use crate::onnxruntime::session::{Session, Stop};
use crate::pace::{self, LONG, Pace, SMALL, STALLED, Zeros};
use crate::probe::{self, Batching, Judged, Seen, endless};
use crate::runtime::Lanes;

/// What runs of a model may leave behind for the next ones, in bytes.
const KEPT: u64 = 64 << 20;
/// Those of a model that needs more with every run take it anew after so long: a millisecond for each
/// few MiB, which is then less than a hundredth of the time.
const GIVES_BACK: Duration = Duration::from_secs(10);

/// Why an inference gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferenceError {
    /// An input does not fit the model: the caller's fault.
    #[error("input {input:?}: {problem}")]
    InvalidInput {
        /// The input's name.
        input: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The model has no output of that name: the caller's fault.
    #[error("the model has no output {0:?}")]
    UnknownOutput(String),
    /// The queue is full; trying again later may help.
    #[error("the model's queue is full")]
    Overloaded,
    /// The deadline passed first.
    #[error("the deadline passed before the model answered")]
    Timeout,
    /// The runtime failed, in its own words.
    #[error("ONNX Runtime failed: {0}")]
    Runtime(String),
}

/// A model that is open, shared by all lanes. It is closed, and its memory freed, when the last
/// reference and the last output of it are gone.
pub struct Opened {
    name: String,
    pub(crate) session: Arc<Session>,
    pub(crate) options: BatchOptions,
    lanes: Arc<Lanes>,
    bytes: u64,
    input_index: HashMap<String, usize>,
    output_index: HashMap<String, usize>,
    equal: Vec<EqualDimensions>,
    judged: Judged,
    pace: Pace,
    gave_back: Mutex<Option<Instant>>,
    runs: AtomicU64,
    requests: AtomicU64,
    /// Runs together that failed.
    pub(crate) failed: AtomicU64,
}

/// Dimensions of inputs that go by one name, so that they are of one size.
struct EqualDimensions {
    name: String,
    /// Input and dimension, by index; two or more.
    places: Vec<(usize, usize)>,
}

thread_local! {
    static KEEPS_RUNS: Cell<bool> = const { Cell::new(false) };
}

/// Has models run on this thread from here on, however long they take, beside all lanes and in no batch:
/// for a thread that the system is to prefer others to.
pub fn keep_runs_here() {
    KEEPS_RUNS.set(true);
}

/// Whether this thread [keeps its runs](keep_runs_here).
pub fn runs_are_kept_here() -> bool {
    KEEPS_RUNS.get()
}

/// An open model in a lane: what runs it, and has the lane's share of its device's threads.
pub struct Model {
    opened: Arc<Opened>,
    share: Arc<Share>,
}

impl std::ops::Deref for Model {
    type Target = Opened;

    fn deref(&self) -> &Opened {
        &self.opened
    }
}

/// How the inferences of a model are queued and run together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BatchOptions {
    /// The most rows of one run, the sum of the leading dimensions of its requests: 1 for every
    /// request alone. Without it, the model decides: alone where running together is not safe or
    /// brings nothing.
    pub most: Option<u32>,
    /// How long a request waits for more of them, counted from when it was queued, and at most half
    /// of the time that it has. One that waits alone does not wait for others.
    pub delay: Duration,
    /// Requests that may wait in one lane; the next is refused at once.
    pub queue: usize,
}

impl Default for BatchOptions {
    /// No delay, and 128 requests that wait.
    fn default() -> Self {
        Self { most: None, delay: Duration::ZERO, queue: 128 }
    }
}

/// How a model is opened and run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelOptions {
    /// How its inferences are queued and run together.
    pub batch: BatchOptions,
    /// What runs its operators.
    pub providers: Providers,
}

/// What is asked of a session, by index.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) inputs: Few<usize>,
    pub(crate) outputs: Few<usize>,
}

/// What is mostly few, and then needs no allocation.
pub(crate) type Few<T> = SmallVec<[T; 4]>;

impl Opened {
    pub(crate) fn new(
        name: &str,
        session: Session,
        options: BatchOptions,
        bytes: u64,
        lanes: Arc<Lanes>,
        judged: Option<Judged>,
    ) -> Self {
        let session = Arc::new(session);
        let known = judged.as_ref().map(|judged| judged.zeros);
        let (pace, zeros) = Pace::measure(name, &session, &lanes.deadlines, known);
        let judged = judged.unwrap_or_else(|| {
            let batching = probe::judge(&session, zeros, options.most, &lanes.deadlines);
            Judged { batching, zeros }
        });
        let index = |types: &[TensorType]| {
            types.iter().enumerate().map(|(index, ty)| (ty.name.clone(), index)).collect()
        };
        Self {
            name: name.to_owned(),
            input_index: index(&session.inputs),
            output_index: index(&session.outputs),
            equal: equal_dimensions(&session),
            session,
            options,
            lanes,
            bytes,
            judged,
            pace,
            gave_back: Mutex::default(),
            runs: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// The model in a lane.
    pub fn in_lane(self: &Arc<Self>, lane: &Arc<Lane>) -> Arc<Model> {
        let share = lane.share(&self.session.device, &self.lanes.executor);
        Arc::new(Model { opened: Arc::clone(self), share })
    }

    /// The name that it was opened under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it takes, in the model's order. An input of no dimensions is a scalar or of any shape;
    /// ONNX Runtime does not tell the two apart.
    pub fn inputs(&self) -> &[TensorType] {
        &self.session.inputs
    }

    /// What it answers, in the model's order.
    pub fn outputs(&self) -> &[TensorType] {
        &self.session.outputs
    }

    /// What the model's file says of itself: operator set, producer, its own metadata.
    pub fn properties(&self) -> &[(String, String)] {
        &self.session.properties
    }

    /// The names of dimensions that vary, by input or output: one for each dimension, empty where it
    /// is fixed or has no name. Those without any such name are left out.
    pub fn symbols(&self) -> &BTreeMap<String, Vec<String>> {
        &self.session.symbols
    }

    /// Whether requests may run together, and why not where they may not.
    pub fn batching(&self) -> &Batching {
        &self.judged.batching
    }

    /// What makes it doubtful that it answers anybody, for people; mostly nothing.
    pub fn warning(&self) -> Option<String> {
        (self.judged.zeros == Zeros::Endless).then(|| {
            format!(
                "{}, and a request has no more than its endpoint's timeout_ms",
                endless("one row")
            )
        })
    }

    /// What was found out about it when it was run.
    pub(crate) fn judged(&self) -> &Judged {
        &self.judged
    }

    /// What can be told of it from outside, to hold another form of it against.
    pub(crate) fn seen(&self) -> Seen {
        Seen::of(&self.session, &self.lanes.deadlines)
    }

    /// The runs of several requests since this was last asked, and those requests.
    pub fn take_counts(&self) -> (u64, u64) {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        (take(&self.runs), take(&self.requests))
    }

    /// Gives the system back what runs have left, if that is much and it is some time ago that it was:
    /// ONNX Runtime keeps it for the next run. Called every second or so. With an ONNX Runtime before
    /// 1.23 it does nothing.
    pub fn give_memory_back(&self) {
        let mut last = self.gave_back.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < GIVES_BACK) {
            return;
        }
        let kept = match self.session.kept() {
            Ok(kept) => kept.filter(|&kept| kept > KEPT),
            Err(problem) => return tracing::debug!("memory of model {}: {problem}", self.name),
        };
        let Some(kept) = kept else { return };
        *last = Some(Instant::now());
        match pace::give_back(&self.session) {
            Ok(()) => tracing::debug!("model {} gives back {kept} bytes", self.name),
            Err(problem) => tracing::debug!("model {} keeps {kept} bytes: {problem}", self.name),
        }
    }

    /// An estimate of the memory that it holds while it is open, in bytes: the size of its
    /// files.
    pub fn resident_bytes(&self) -> u64 {
        self.bytes
    }

    /// Checks what [`Model::run`] checks before it runs anything: names, datatypes, shapes, that
    /// dimensions of one name are of one size, and that BOOL elements are 0 or 1 and BYTES elements
    /// UTF-8, as ONNX has them.
    pub fn check(&self, inputs: &[NamedTensor], outputs: &[String]) -> Result<(), InferenceError> {
        self.plan(inputs, outputs).map(|_| ())
    }

    fn plan(&self, inputs: &[NamedTensor], outputs: &[String]) -> Result<Plan, InferenceError> {
        let types = self.inputs();
        let invalid = |input: &str, problem: String| {
            Err(InferenceError::InvalidInput { input: input.to_owned(), problem })
        };
        let mut given: Few<Option<&Tensor>> = smallvec![None; types.len()];
        let mut order = Few::with_capacity(inputs.len());
        for NamedTensor { name, tensor } in inputs {
            let Some(&index) = self.input_index.get(name.as_str()) else {
                let known: Vec<_> = types.iter().map(|ty| ty.name.as_str()).collect();
                return invalid(name, format!("the model has no such input, it takes {known:?}"));
            };
            if given[index].replace(tensor).is_some() {
                return invalid(name, "given twice".to_owned());
            }
            if let Some(problem) = mismatch(&types[index], tensor) {
                return invalid(name, problem);
            }
            order.push(index);
        }
        if let Some(missing) = given.iter().position(Option::is_none) {
            return invalid(&types[missing].name, "missing".to_owned());
        }
        if let Some((index, problem)) = self.unequal(&given) {
            return invalid(&types[index].name, problem);
        }
        let output = |name: &String| {
            let index = self.output_index.get(name.as_str()).copied();
            index.ok_or_else(|| InferenceError::UnknownOutput(name.clone()))
        };
        let outputs = if outputs.is_empty() {
            (0..self.outputs().len()).collect()
        } else {
            outputs.iter().map(output).collect::<Result<_, _>>()?
        };
        Ok(Plan { inputs: order, outputs })
    }

    /// The first input, all being given by index, of which a dimension is of another size than one of
    /// the same name, and what is wrong with it.
    fn unequal(&self, given: &[Option<&Tensor>]) -> Option<(usize, String)> {
        let size = |&(input, dimension): &(usize, usize)| {
            given[input].and_then(|tensor| tensor.shape().get(dimension).copied())
        };
        self.equal.iter().find_map(|EqualDimensions { name, places }| {
            let (first, others) = places.split_first()?;
            let other = others.iter().find(|place| size(place) != size(first))?;
            let [first_size, other_size] = [first, other].map(|place| size(place).unwrap_or(0));
            let input = &self.inputs()[first.0].name;
            let problem = format!(
                "dimension {} is {other_size}, but it is the model's {name:?}, which is {first_size} in dimension {} of input {input:?}",
                other.1, first.1
            );
            Some((other.0, problem))
        })
    }

    /// The most rows that a run may have.
    pub(crate) fn most_rows(&self) -> u64 {
        match self.judged.batching {
            Batching::Together { most } => most.into(),
            Batching::Alone { .. } => 1,
        }
    }

    /// One run has answered so many requests.
    pub(crate) fn ran_together(&self, requests: usize) {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(requests as u64, Ordering::Relaxed);
    }

    /// A run of several requests has failed; the log has the first, and then fewer and fewer.
    pub(crate) fn failed_together(&self, problem: &str) {
        let failed = self.failed.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if failed.is_power_of_two() {
            tracing::debug!("requests that ran together run one by one: {problem}");
        }
    }

    /// Takes in how long a run with so many bytes of inputs took, and what would be long.
    pub(crate) fn note(&self, answer: &Answer, bytes: u64, took: Duration, long: Duration) {
        match answer {
            Ok(_) => self.pace.note(bytes, took, long),
            // Stopped, it would have taken longer.
            Err(InferenceError::Timeout) if took >= SMALL => self.pace.note(bytes, took, long),
            // What fails by itself may do so early, and says nothing of the others.
            Err(_) => {}
        }
    }

    /// One request by itself.
    pub(crate) fn run<'a>(
        &self,
        plan: &Plan,
        tensors: impl Iterator<Item = &'a Tensor>,
        ticket: &Ticket,
        stop: &Stop,
    ) -> Answer {
        let inputs: Few<_> = plan.inputs.iter().copied().zip(tensors).collect();
        let answer = self.session.run(&inputs, &plan.outputs, stop);
        ticket.ended();
        answer.map_err(|problem| {
            if ticket.is_dead() {
                InferenceError::Timeout
            } else {
                InferenceError::Runtime(problem)
            }
        })
    }
}

impl Model {
    /// Runs the model and answers `outputs` in their order, or all in the model's order when none is
    /// named. Dropping the future ends the run.
    ///
    /// A run that is expected to take microseconds happens inside the first poll, for as long as
    /// 10 ms; any other, and one that takes longer, on one of the runtime's threads, in its turn among
    /// those of its lane and of others, and together with what waits there for the same model where
    /// that is safe. On a thread that [keeps its runs](keep_runs_here) every one happens there,
    /// once others have had it.
    pub async fn run(
        &self,
        inputs: &[NamedTensor],
        outputs: &[String],
        deadline: Instant,
    ) -> Result<Vec<NamedTensor>, InferenceError> {
        let plan = self.plan(inputs, outputs)?;
        let now = Instant::now();
        if deadline <= now {
            return Err(InferenceError::Timeout);
        }
        let order = plan.outputs.clone();
        let bytes = size(inputs.iter().map(|input| &input.tensor));
        if runs_are_kept_here() {
            // A guest gives back its turn while it waits, and so has to wait.
            tokio::task::yield_now().await;
            let answer = self.run_kept(inputs, &plan, deadline)?;
            return Ok(self.named(order, answer));
        }
        let small = self.pace.is_small(bytes);
        // A run that may yet be stopped is not to hold up this thread for nothing.
        if small && self.pace.was_cut_off() {
            self.lanes.executor.expect_room(&self.share, &self.opened)?;
        }
        let here = match small {
            true => self.run_here(inputs, &plan, bytes, deadline, now)?,
            false => None,
        };
        let answer = match here {
            Some(answer) => answer,
            None => self.run_there(inputs, plan, deadline, now).await?,
        };
        Ok(self.named(order, answer))
    }

    fn named(&self, order: Few<usize>, answer: Vec<Tensor>) -> Vec<NamedTensor> {
        let named = |(index, tensor): (usize, Tensor)| {
            let name = self.outputs()[index].name.clone();
            NamedTensor { name, tensor }
        };
        order.into_iter().zip(answer).map(named).collect()
    }

    /// Inferences of the model's lane that wait for a thread, and runs under way there.
    pub fn queue(&self) -> (usize, usize) {
        self.lanes.executor.queue(&self.share)
    }

    /// Runs on this thread, or answers none when that takes too long for it.
    fn run_here(
        &self,
        inputs: &[NamedTensor],
        plan: &Plan,
        bytes: u64,
        deadline: Instant,
        now: Instant,
    ) -> Result<Option<Vec<Tensor>>, InferenceError> {
        let (watched, run) = self.lanes.deadlines.watch_here(deadline.min(now + LONG))?;
        let tensors = inputs.iter().map(|input| &input.tensor);
        let answer = self.opened.run(plan, tensors, &watched, &run.stop);
        let took = now.elapsed();
        // What it takes is found out where it is run to its end.
        if answer == Err(InferenceError::Timeout) && now + took < deadline {
            self.pace.cut_off();
            return Ok(None);
        }
        self.note(&answer, bytes, took, STALLED);
        answer.map(Some)
    }

    /// Runs on this thread for as long as it takes. What that was says nothing of other threads.
    fn run_kept(&self, inputs: &[NamedTensor], plan: &Plan, deadline: Instant) -> Answer {
        let (watched, run) = self.lanes.deadlines.watch_here(deadline)?;
        let tensors = inputs.iter().map(|input| &input.tensor);
        self.opened.run(plan, tensors, &watched, &run.stop)
    }

    async fn run_there(
        &self,
        inputs: &[NamedTensor],
        mut plan: Plan,
        deadline: Instant,
        now: Instant,
    ) -> Answer {
        let (reply, answer) = oneshot::channel();
        let ticket = Ticket::new(Some(reply), None);
        // Dropped last, when whoever has gone or is out of time is dead.
        let _queued = Queued { model: self, ticket: Arc::clone(&ticket) };
        let watched = self.lanes.deadlines.watch(deadline, ticket);
        // In the model's order, in which requests with the same inputs are alike.
        let mut tensors: Vec<(usize, Tensor)> =
            plan.inputs.iter().copied().zip(inputs.iter().map(|it| it.tensor.clone())).collect();
        tensors.sort_unstable_by_key(|&(index, _)| index);
        plan.inputs.sort_unstable();
        let entry = Entry {
            ticket: Arc::clone(&watched),
            opened: Arc::clone(&self.opened),
            plan,
            tensors: tensors.into_iter().map(|(_, tensor)| tensor).collect(),
            // Held for longer, it might be out of time before it has run.
            due: now + self.options.delay.min(deadline.saturating_duration_since(now) / 2),
        };
        self.lanes.executor.submit(&self.share, entry)?;
        // The ticket is dropped unanswered only when the runtime goes down.
        let gone = |_| Err(InferenceError::Runtime("it is shutting down".to_owned()));
        answer.await.unwrap_or_else(gone)
    }
}

/// An inference that may be in its lane's queue. Dropped dead, it takes its tensors from there.
struct Queued<'a> {
    model: &'a Model,
    ticket: Arc<Ticket>,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.ticket.is_dead() {
            self.model.lanes.executor.forget(&self.model.share, &self.ticket);
        }
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.opened.fmt(f)
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("name", &self.name)
            .field("inputs", &self.inputs())
            .field("outputs", &self.outputs())
            .finish_non_exhaustive()
    }
}

/// The bytes of all inputs of a run.
pub(crate) fn size<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> u64 {
    tensors.map(|tensor| tensor.data().len() as u64).sum()
}

/// The dimensions of inputs that share a name.
fn equal_dimensions(session: &Session) -> Vec<EqualDimensions> {
    let mut places: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for (input, ty) in session.inputs.iter().enumerate() {
        let symbols = session.symbols.get(&ty.name).into_iter().flatten().enumerate();
        for (dimension, symbol) in symbols.filter(|(_, symbol)| !symbol.is_empty()) {
            places.entry(symbol).or_default().push((input, dimension));
        }
    }
    let shared = places.into_iter().filter(|(_, places)| places.len() > 1);
    shared.map(|(name, places)| EqualDimensions { name: name.to_owned(), places }).collect()
}

/// Says what keeps `tensor` from being an input of type `ty`.
fn mismatch(ty: &TensorType, tensor: &Tensor) -> Option<String> {
    let any_shape = ty.shape.is_empty() && tensor.datatype() == ty.datatype;
    if let Some(problem) = ty.mismatch(tensor).filter(|_| !any_shape) {
        return Some(problem);
    }
    match ty.datatype {
        DataType::Bool => {
            let (index, value) = tensor.data().iter().enumerate().find(|&(_, &value)| value > 1)?;
            Some(format!("element {index} is {value}, and a BOOL is 0 or 1"))
        }
        DataType::Bytes => {
            let is_text = |string: &[u8]| std::str::from_utf8(string).is_ok();
            let index = tensor.byte_strings().position(|string| !is_text(string))?;
            Some(format!("element {index} is not UTF-8, and ONNX knows no other strings"))
        }
        _ => None,
    }
}
