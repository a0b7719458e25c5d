//! The thread's session.

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::Context as _;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionOutputs};
use ort::value::TensorRef;

thread_local! {
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
}

/// A model file that opens, and its one input and one output.
pub struct Model {
    file: PathBuf,
    environment: ort::environment::Environment,
    /// The input's name and shape; -1 is a dimension that varies.
    pub input: (String, Vec<i64>),
    /// The output's name and shape.
    pub output: (String, Vec<i64>),
}

impl Model {
    /// Opens the model once, to see what it takes.
    pub fn open(file: &str) -> anyhow::Result<Self> {
        let library = std::env::var("ORT_DYLIB_PATH").context("ORT_DYLIB_PATH is not set")?;
        let environment = ort::init_from(library)?.with_telemetry(false).build()?;
        // The environment starts at the most verbose level, which costs every run its formatting.
        environment.set_log_level(ort::logging::LogLevel::Warning);
        let outlet = |outlet: &ort::value::Outlet| {
            let shape = outlet.dtype().tensor_shape().context("only tensors are taken")?;
            anyhow::Ok((outlet.name().to_owned(), shape.to_vec()))
        };
        let session = build(&environment, file.as_ref())?;
        let ([input], [output]) = (session.inputs(), session.outputs()) else {
            anyhow::bail!("{file} has other than one input and one output");
        };
        let (input, output) = (outlet(input)?, outlet(output)?);
        Ok(Self { file: file.into(), environment, input, output })
    }

    /// Runs the model on the thread's session, which is opened when there is none yet, and lets
    /// `take` have what came out: the shape and the values.
    pub fn run<T>(
        &self,
        shape: &[i64],
        values: &[f32],
        take: impl FnOnce(&[i64], &[f32]) -> T,
    ) -> ort::Result<T> {
        SESSION.with_borrow_mut(|slot| {
            let session = match slot {
                Some(session) => session,
                None => slot.insert(build(&self.environment, &self.file)?),
            };
            let input = TensorRef::from_array_view((shape, values))?;
            let outputs: SessionOutputs<'_> =
                session.run(ort::inputs![self.input.0.as_str() => input])?;
            let (shape, values) = outputs[0].try_extract_tensor::<f32>()?;
            Ok(take(shape, values))
        })
    }
}

fn build(
    environment: &ort::environment::Environment,
    file: &std::path::Path,
) -> ort::Result<Session> {
    Session::builder(environment)?
        .with_intra_threads(1)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .commit_from_file(file)
}
