//! What a model takes and answers, and one inference on it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use berth_tensor::{DataType, NamedTensor, Tensor, TensorType};
use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;

use crate::deadline::{Answer, Ticket};
use crate::executor::Job;
use crate::onnxruntime::session::Session;
use crate::pace::Pace;
use crate::runtime::Lanes;

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

/// A model that is open. It is closed, and its memory freed, when the last reference and the last
/// output of it are gone.
pub struct Model {
    name: String,
    session: Arc<Session>,
    lanes: Arc<Lanes>,
    bytes: u64,
    input_index: HashMap<String, usize>,
    output_index: HashMap<String, usize>,
    pace: Arc<Pace>,
}

/// What is asked of a session, by index.
struct Plan {
    inputs: Few<usize>,
    outputs: Few<usize>,
}

/// What is mostly few, and then needs no allocation.
pub(crate) type Few<T> = SmallVec<[T; 4]>;

impl Model {
    pub(crate) fn new(name: &str, session: Session, bytes: u64, lanes: Arc<Lanes>) -> Self {
        let session = Arc::new(session);
        let pace = Arc::new(Pace::measure(name, &session, &lanes.deadlines));
        let index = |types: &[TensorType]| {
            types.iter().enumerate().map(|(index, ty)| (ty.name.clone(), index)).collect()
        };
        Self {
            name: name.to_owned(),
            input_index: index(&session.inputs),
            output_index: index(&session.outputs),
            session,
            lanes,
            bytes,
            pace,
        }
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

    /// An estimate of the memory that it holds while it is open, in bytes: the size of its file.
    pub fn resident_bytes(&self) -> u64 {
        self.bytes
    }

    /// Checks what [`Self::run`] checks before it runs anything: names, datatypes, shapes, and that
    /// BOOL elements are 0 or 1 and BYTES elements UTF-8, as ONNX has them.
    pub fn check(&self, inputs: &[NamedTensor], outputs: &[String]) -> Result<(), InferenceError> {
        self.plan(inputs, outputs).map(|_| ())
    }

    /// Runs the model and answers `outputs` in their order, or all in the model's order when none is
    /// named. Dropping the future ends the run.
    ///
    /// A run that is expected to take microseconds happens inside the first poll, any other on one
    /// of the runtime's threads.
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
        let answer = if self.pace.is_small(size(inputs.iter().map(|input| &input.tensor))) {
            self.run_here(inputs, plan, deadline, now)?
        } else {
            self.run_there(inputs, plan, deadline).await?
        };
        let named = |(index, tensor): (usize, Tensor)| {
            let name = self.session.outputs[index].name.clone();
            NamedTensor { name, tensor }
        };
        Ok(order.into_iter().zip(answer).map(named).collect())
    }

    fn plan(&self, inputs: &[NamedTensor], outputs: &[String]) -> Result<Plan, InferenceError> {
        let types = &self.session.inputs;
        let invalid = |input: &str, problem: String| {
            Err(InferenceError::InvalidInput { input: input.to_owned(), problem })
        };
        let mut given: Few<bool> = smallvec![false; types.len()];
        let mut order = Few::with_capacity(inputs.len());
        for NamedTensor { name, tensor } in inputs {
            let Some(&index) = self.input_index.get(name.as_str()) else {
                let known: Vec<_> = types.iter().map(|ty| ty.name.as_str()).collect();
                return invalid(name, format!("the model has no such input, it takes {known:?}"));
            };
            if std::mem::replace(&mut given[index], true) {
                return invalid(name, "given twice".to_owned());
            }
            if let Some(problem) = mismatch(&types[index], tensor) {
                return invalid(name, problem);
            }
            order.push(index);
        }
        if let Some(missing) = given.iter().position(|given| !given) {
            return invalid(&types[missing].name, "missing".to_owned());
        }
        let output = |name: &String| {
            let index = self.output_index.get(name.as_str()).copied();
            index.ok_or_else(|| InferenceError::UnknownOutput(name.clone()))
        };
        let outputs = if outputs.is_empty() {
            (0..self.session.outputs.len()).collect()
        } else {
            outputs.iter().map(output).collect::<Result<_, _>>()?
        };
        Ok(Plan { inputs: order, outputs })
    }

    fn run_here(
        &self,
        inputs: &[NamedTensor],
        plan: Plan,
        deadline: Instant,
        now: Instant,
    ) -> Answer {
        let watched = self.lanes.deadlines.watch_here(deadline)?;
        let tensors = inputs.iter().map(|input| &input.tensor);
        run(&self.session, &self.pace, &plan, tensors, &watched, now)
    }

    async fn run_there(&self, inputs: &[NamedTensor], plan: Plan, deadline: Instant) -> Answer {
        let (reply, answer) = oneshot::channel();
        let watched = self.lanes.deadlines.watch(deadline, Ticket::new(Some(reply))?);
        let (session, pace) = (Arc::clone(&self.session), Arc::clone(&self.pace));
        let tensors: Vec<Tensor> = inputs.iter().map(|input| input.tensor.clone()).collect();
        let work = Box::new(move |ticket: &Ticket| {
            run(&session, &pace, &plan, tensors.iter(), ticket, Instant::now())
        });
        self.lanes.executor.submit(Job { ticket: Arc::clone(&watched), work })?;
        // The ticket is dropped unanswered only when the runtime goes down.
        let gone = |_| Err(InferenceError::Runtime("it is shutting down".to_owned()));
        answer.await.unwrap_or_else(gone)
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.name)
            .field("inputs", &self.inputs())
            .field("outputs", &self.outputs())
            .finish_non_exhaustive()
    }
}

fn run<'a>(
    session: &Arc<Session>,
    pace: &Pace,
    plan: &Plan,
    tensors: impl Iterator<Item = &'a Tensor>,
    ticket: &Ticket,
    start: Instant,
) -> Answer {
    let inputs: Few<_> = plan.inputs.iter().copied().zip(tensors).collect();
    let answer = session.run(&inputs, &plan.outputs, &ticket.stop);
    ticket.ended();
    // What fails by itself may do so early, and says nothing of the others.
    if answer.is_ok() || ticket.is_dead() {
        pace.note(size(inputs.iter().map(|&(_, tensor)| tensor)), start.elapsed());
    }
    answer.map_err(|problem| {
        if ticket.is_dead() { InferenceError::Timeout } else { InferenceError::Runtime(problem) }
    })
}

/// The bytes of all inputs of a run.
fn size<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> u64 {
    tensors.map(|tensor| tensor.data().len() as u64).sum()
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
