//! `wasi:nn`, bound to the models of the variant. The tensors are those of [`crate::model`].
//!
//! `load-by-name` takes a role. A role that is not bound answers `security`, and so does `load`:
//! a plugin brings no models of its own.

use std::sync::Arc;

use berth_inference::{InferenceError, Model};
use berth_tensor::{DataType, NamedTensor, Tensor};
use bytes::Bytes;
use wasmtime::component::{Linker, Resource, ResourceTableError, WasmList};

use crate::bindings::processor::wasi::nn::{errors, graph, inference, tensor};
use crate::exchange::NAME;
use crate::guest_log::cut;
use crate::model::size;
use crate::processor::BoundModel;
use crate::state::{Account, NotCopied, OverHostBytes, State};

use errors::ErrorCode;
use tensor::TensorType;

/// A graph, and at the same time its execution context: neither has state of its own.
pub struct Graph(Arc<Model>);

/// An error as the guest may look at it.
pub struct NnError {
    code: ErrorCode,
    data: String,
}

/// A tensor of the guest's. Its constructor cannot fail, so that one that does not fit is kept and
/// refused when it is used.
pub enum NnTensor {
    /// Data that follows from dimensions and type.
    Fit(Tensor),
    /// Anything else, or more than the guest's account has room for.
    Unfit {
        /// The dimensions given.
        dimensions: Vec<u32>,
        /// The type given.
        ty: DataType,
        /// What whoever uses it is told.
        code: ErrorCode,
        /// Why it is no tensor.
        problem: String,
    },
}

impl NnTensor {
    /// What keeping it takes on the guest's account, in bytes.
    fn held(&self) -> u64 {
        match self {
            Self::Fit(tensor) => tensor.data().len() as u64,
            Self::Unfit { dimensions, .. } => size_of_val(dimensions.as_slice()) as u64,
        }
    }

    fn data(&self) -> Bytes {
        match self {
            Self::Fit(tensor) => tensor.data().clone(),
            Self::Unfit { .. } => Bytes::new(),
        }
    }
}

impl Account {
    /// A tensor of the guest's with a copy of `data`, which is not made before all is known to fit.
    fn nn_tensor(
        &self,
        dimensions: Vec<u32>,
        ty: DataType,
        data: &[u8],
    ) -> Result<NnTensor, OverHostBytes> {
        let shape = dimensions.iter().map(|&dimension| dimension.into()).collect();
        let (code, problem) = match self.copied(ty, shape, data) {
            Ok(tensor) => return Ok(NnTensor::Fit(tensor)),
            Err(NotCopied::Over(over)) => (ErrorCode::TooLarge, over.to_string()),
            Err(NotCopied::Unfit(problem)) => (ErrorCode::InvalidArgument, problem.to_string()),
        };
        let unfit = NnTensor::Unfit { dimensions, ty, code, problem };
        self.hold(unfit.held())?;
        Ok(unfit)
    }
}

impl State {
    /// The model bound to a role, or a sentence that says that none is.
    pub(crate) fn role(&self, role: &str) -> Result<&BoundModel, String> {
        let models = &self.bindings.models;
        match models.iter().find(|bound| bound.role == role) {
            Some(bound) => Ok(bound),
            None => {
                let bound: Vec<&str> = models.iter().map(|bound| bound.role.as_str()).collect();
                Err(format!(
                    "no model is bound to the role {role:?}; bound are: {}",
                    bound.join(", ")
                ))
            }
        }
    }

    fn nn_error<T>(
        &mut self,
        code: ErrorCode,
        data: String,
    ) -> wasmtime::Result<Result<T, Resource<NnError>>> {
        // Kept for as long as the guest likes, and it may quote the guest's own words.
        let data = cut(&data, NAME).to_owned();
        Ok(Err(self.table.push(NnError { code, data })?))
    }

    fn nn_tensor(&self, tensor: &Resource<NnTensor>) -> Result<&NnTensor, ResourceTableError> {
        self.table.get(tensor)
    }
}

impl tensor::Host for State {}

impl tensor::HostTensor for State {
    fn new(
        &mut self,
        dimensions: Vec<u32>,
        ty: TensorType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<NnTensor>> {
        let made = self.account.nn_tensor(dimensions, datatype(ty), &data)?;
        Ok(self.table.push(made)?)
    }

    fn dimensions(&mut self, tensor: Resource<NnTensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(match self.nn_tensor(&tensor)? {
            // What does not fit 32 bits is refused where a tensor is handed to the guest.
            NnTensor::Fit(tensor) => {
                tensor.shape().iter().map(|&dimension| dimension as u32).collect()
            }
            NnTensor::Unfit { dimensions, .. } => dimensions.clone(),
        })
    }

    fn ty(&mut self, tensor: Resource<NnTensor>) -> wasmtime::Result<TensorType> {
        let ty = match self.nn_tensor(&tensor)? {
            NnTensor::Fit(tensor) => tensor.datatype(),
            NnTensor::Unfit { ty, .. } => *ty,
        };
        tensor_type(ty).ok_or_else(|| wasmtime::format_err!("a tensor of {ty} in a wasi:nn handle"))
    }

    fn data(&mut self, tensor: Resource<NnTensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.nn_tensor(&tensor)?.data().into())
    }

    fn drop(&mut self, tensor: Resource<NnTensor>) -> wasmtime::Result<()> {
        let tensor = self.table.delete(tensor)?;
        self.account.release(tensor.held());
        Ok(())
    }
}

impl graph::Host for State {
    fn load(
        &mut self,
        _: Vec<Vec<u8>>,
        _: graph::GraphEncoding,
        _: graph::ExecutionTarget,
    ) -> wasmtime::Result<Result<Resource<Graph>, Resource<NnError>>> {
        self.nn_error(
            ErrorCode::Security,
            "plugins bring no models of their own: push the model and bind it to a role".into(),
        )
    }

    fn load_by_name(
        &mut self,
        name: String,
    ) -> wasmtime::Result<Result<Resource<Graph>, Resource<NnError>>> {
        match self.role(&name).map(|bound| Arc::clone(&bound.model)) {
            Ok(model) => Ok(Ok(self.table.push(Graph(model))?)),
            Err(message) => self.nn_error(ErrorCode::Security, message),
        }
    }
}

impl graph::HostGraph for State {
    fn init_execution_context(
        &mut self,
        graph: Resource<Graph>,
    ) -> wasmtime::Result<Result<Resource<Graph>, Resource<NnError>>> {
        let model = Arc::clone(&self.table.get(&graph)?.0);
        Ok(Ok(self.table.push(Graph(model))?))
    }

    fn drop(&mut self, graph: Resource<Graph>) -> wasmtime::Result<()> {
        self.table.delete(graph)?;
        Ok(())
    }
}

impl inference::Host for State {}

impl inference::HostGraphExecutionContext for State {
    async fn compute(
        &mut self,
        context: Resource<Graph>,
        inputs: Vec<inference::NamedTensor>,
    ) -> wasmtime::Result<Result<Vec<inference::NamedTensor>, Resource<NnError>>> {
        let model = Arc::clone(&self.table.get(&context)?.0);
        let mut named = Vec::with_capacity(inputs.len());
        let mut problem = None;
        let mut held = 0;
        for (name, tensor) in inputs {
            // The guest has given the tensors away, and the host has them for as long as the run.
            let tensor = self.table.delete(tensor)?;
            held += tensor.held();
            match tensor {
                NnTensor::Fit(tensor) => named.push(NamedTensor { name, tensor }),
                NnTensor::Unfit { code, problem: error, .. } => {
                    problem = Some((code, format!("tensor {name:?}: {error}")))
                }
            }
        }
        if let Some((code, problem)) = problem {
            self.account.release(held);
            return self.nn_error(code, problem);
        }
        let clock = Arc::clone(&self.account.cpu);
        let request = Arc::clone(&self.request);
        let waits = request.reports.waits();
        let outputs = clock.wait(model.run(&named, &[], self.deadline)).await;
        drop(waits);
        drop(named);
        self.account.release(held);
        let outputs = match outputs {
            Ok(outputs) => {
                self.failed_inference = None;
                outputs
            }
            Err(error) => {
                let (code, data) = (code(&error), error.to_string());
                self.failed_inference = Some(error);
                return self.nn_error(code, data);
            }
        };
        // All or none is handed out: the guest is not told of handles beside an error.
        let beyond = |NamedTensor { name, tensor }: &NamedTensor| {
            let problem = beyond_wasi_nn(tensor)?;
            Some(format!(
                "output {name:?} {problem}, which wasi:nn has no form for: use berth:plugin/model"
            ))
        };
        if let Some(problem) = outputs.iter().find_map(beyond) {
            return self.nn_error(ErrorCode::UnsupportedOperation, problem);
        }
        if let Err(OverHostBytes(limit)) = self.account.hold(size(&outputs)) {
            return self.nn_error(
                ErrorCode::TooLarge,
                format!("the outputs exceed what a request may hold, {limit} bytes"),
            );
        }
        let mut handed = Vec::with_capacity(outputs.len());
        for NamedTensor { name, tensor } in outputs {
            handed.push((name, self.table.push(NnTensor::Fit(tensor))?));
        }
        Ok(Ok(handed))
    }

    fn drop(&mut self, context: Resource<Graph>) -> wasmtime::Result<()> {
        self.table.delete(context)?;
        Ok(())
    }
}

impl errors::Host for State {}

impl errors::HostError for State {
    fn code(&mut self, error: Resource<NnError>) -> wasmtime::Result<ErrorCode> {
        Ok(self.table.get(&error)?.code)
    }

    fn data(&mut self, error: Resource<NnError>) -> wasmtime::Result<String> {
        Ok(self.table.get(&error)?.data.clone())
    }

    fn drop(&mut self, error: Resource<NnError>) -> wasmtime::Result<()> {
        self.table.delete(error)?;
        Ok(())
    }
}

/// Replaces the calls that take and hand out data by ones that copy it once, straight from the guest,
/// once it is known to fit, and straight into it.
pub(crate) fn add_copies_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut tensor = linker.instance("wasi:nn/tensor@0.2.0-rc-2024-10-28")?;
    tensor.func_wrap(
        "[constructor]tensor",
        |mut store, (dimensions, ty, data): (Vec<u32>, TensorType, WasmList<u8>)| {
            store.data_mut().called();
            let bytes = data.as_le_slice(&store);
            let made = store.data().account.nn_tensor(dimensions, datatype(ty), bytes)?;
            Ok((store.data_mut().table.push(made)?,))
        },
    )?;
    tensor.func_wrap("[method]tensor.data", |mut store, (tensor,): (Resource<NnTensor>,)| {
        Ok((store.data_mut().called().nn_tensor(&tensor)?.data(),))
    })
}

fn beyond_wasi_nn(tensor: &Tensor) -> Option<String> {
    if tensor_type(tensor.datatype()).is_none() {
        return Some(format!("is of {}", tensor.datatype()));
    }
    let wide = tensor.shape().iter().find(|&&dimension| dimension > u64::from(u32::MAX))?;
    Some(format!("has a dimension of {wide}"))
}

fn code(error: &InferenceError) -> ErrorCode {
    match error {
        InferenceError::InvalidInput { .. } | InferenceError::UnknownOutput(_) => {
            ErrorCode::InvalidArgument
        }
        InferenceError::Timeout => ErrorCode::Timeout,
        InferenceError::Overloaded | InferenceError::Runtime(_) => ErrorCode::RuntimeError,
    }
}

fn datatype(ty: TensorType) -> DataType {
    match ty {
        TensorType::Fp16 => DataType::Fp16,
        TensorType::Fp32 => DataType::Fp32,
        TensorType::Fp64 => DataType::Fp64,
        TensorType::Bf16 => DataType::Bf16,
        TensorType::U8 => DataType::Uint8,
        TensorType::I32 => DataType::Int32,
        TensorType::I64 => DataType::Int64,
    }
}

fn tensor_type(datatype: DataType) -> Option<TensorType> {
    match datatype {
        DataType::Fp16 => Some(TensorType::Fp16),
        DataType::Fp32 => Some(TensorType::Fp32),
        DataType::Fp64 => Some(TensorType::Fp64),
        DataType::Bf16 => Some(TensorType::Bf16),
        DataType::Uint8 => Some(TensorType::U8),
        DataType::Int32 => Some(TensorType::I32),
        DataType::Int64 => Some(TensorType::I64),
        _ => None,
    }
}
