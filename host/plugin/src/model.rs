//! `berth:plugin/model`: models beyond what `wasi:nn` can say.

use std::sync::Arc;

use berth_inference::InferenceError;
use berth_tensor::{DataType, NamedTensor, Tensor, TensorType};
use tokio::task::JoinHandle;
use wasmtime::component::{Linker, Resource, WasmList};

use crate::bindings::processor::berth::plugin::model::{
    Description, Error, Host, HostInference, HostModel, HostTensor,
};
use crate::bindings::processor::berth::plugin::types;
use crate::exchange::{NAME, slice};
use crate::processor::BoundModel;
use crate::state::{Charge, NotCopied, OverHostBytes, State};

/// A model as the guest holds it.
pub struct OpenModel(BoundModel);

/// An inference under way. Dropping it gives it up.
pub struct Started(Option<Task>);

struct Task {
    run: JoinHandle<Result<Finished, Failed>>,
}

/// What an inference answered, on the guest's account from then on.
struct Finished {
    outputs: Vec<NamedTensor>,
    charge: Charge,
}

enum Failed {
    Inference(InferenceError),
    OverHostBytes(u64),
}

impl Drop for Task {
    fn drop(&mut self) {
        self.run.abort();
    }
}

/// The most inferences that one request may have under way.
const INFERENCES: usize = 64;

/// The most inputs, and the most outputs, that one inference names.
const TENSORS: usize = 1024;

impl Host for State {
    fn roles(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.bindings.models.iter().map(|bound| bound.role.clone()).collect())
    }
}

impl HostTensor for State {
    fn create(
        &mut self,
        datatype: types::Datatype,
        shape: Vec<u64>,
        data: Vec<u8>,
    ) -> wasmtime::Result<Result<Resource<Tensor>, Error>> {
        Ok(match self.account.copied(from_wit(datatype), shape, &data) {
            Ok(tensor) => Ok(self.table.push(tensor)?),
            Err(problem) => Err(problem.into()),
        })
    }

    fn datatype(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<types::Datatype> {
        to_wit(self.table.get(&tensor)?.datatype())
    }

    fn shape(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Vec<u64>> {
        Ok(self.table.get(&tensor)?.shape().to_vec())
    }

    fn size(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&tensor)?.data().len() as u64)
    }

    fn data(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&tensor)?.data().to_vec())
    }

    fn read(
        &mut self,
        tensor: Resource<Tensor>,
        offset: u64,
        length: u64,
    ) -> wasmtime::Result<Vec<u8>> {
        Ok(slice(self.table.get(&tensor)?.data(), offset, length).into())
    }

    fn drop(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<()> {
        let tensor = self.table.delete(tensor)?;
        self.account.release(tensor.data().len() as u64);
        Ok(())
    }
}

impl HostModel for State {
    fn open(&mut self, role: String) -> wasmtime::Result<Result<Resource<OpenModel>, Error>> {
        Ok(match self.role(&role).cloned() {
            Ok(model) => Ok(self.table.push(OpenModel(model))?),
            Err(message) => Err(Error::Denied(message)),
        })
    }

    fn describe(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<Description> {
        let BoundModel { name, model, .. } = &self.table.get(&model)?.0;
        Ok(Description {
            name: name.clone(),
            inputs: model.inputs().iter().map(type_to_wit).collect::<Result<_, _>>()?,
            outputs: model.outputs().iter().map(type_to_wit).collect::<Result<_, _>>()?,
            properties: model.properties().to_vec(),
        })
    }

    fn start(
        &mut self,
        model: Resource<OpenModel>,
        inputs: Vec<(String, Resource<Tensor>)>,
        outputs: Vec<String>,
    ) -> wasmtime::Result<Result<Resource<Started>, Error>> {
        let model = Arc::clone(&self.table.get(&model)?.0.model);
        if self.account.inferences >= INFERENCES {
            return Ok(Err(Error::Denied(format!(
                "a request has at most {INFERENCES} inferences under way"
            ))));
        }
        let named = inputs.len().max(outputs.len());
        let longest = inputs.iter().map(|(name, _)| name).chain(&outputs).map(String::len).max();
        if named > TENSORS || longest > Some(NAME) {
            return Ok(Err(Error::Denied(format!(
                "an inference names at most {TENSORS} inputs and outputs, by at most {NAME} bytes each"
            ))));
        }
        let mut named = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            named.push(NamedTensor { name, tensor: self.table.get(&tensor)?.clone() });
        }
        let account = Arc::clone(&self.account.host_bytes);
        // The host holds the inputs also when the guest has dropped them.
        let inputs = match account.charge(size(&named)) {
            Ok(inputs) => inputs,
            Err(OverHostBytes(limit)) => return Ok(Err(Error::TooLarge(limit))),
        };
        let deadline = self.deadline;
        let run = tokio::spawn(async move {
            let outputs = model.run(&named, &outputs, deadline).await.map_err(Failed::Inference)?;
            drop((named, inputs));
            let charge = account.charge(size(&outputs));
            let charge = charge.map_err(|OverHostBytes(limit)| Failed::OverHostBytes(limit))?;
            Ok(Finished { outputs, charge })
        });
        self.account.inferences += 1;
        Ok(Ok(self.table.push(Started(Some(Task { run })))?))
    }

    fn drop(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<()> {
        self.table.delete(model)?;
        Ok(())
    }
}

impl HostInference for State {
    async fn wait(
        &mut self,
        inference: Resource<Started>,
    ) -> wasmtime::Result<Result<Vec<(String, Resource<Tensor>)>, Error>> {
        let Some(mut task) = self.table.get_mut(&inference)?.0.take() else {
            return Ok(Err(Error::Denied("this inference has been waited for before".into())));
        };
        let clock = Arc::clone(&self.account.cpu);
        let request = Arc::clone(&self.request);
        let waits = request.reports.waits();
        let result = clock.wait(&mut task.run).await;
        drop(waits);
        self.account.inferences -= 1;
        let Finished { outputs, charge } = match result {
            Ok(Ok(finished)) => {
                self.failed_inference = None;
                finished
            }
            Ok(Err(Failed::Inference(error))) => {
                let seen = error_to_wit(&error);
                self.failed_inference = Some(error);
                return Ok(Err(seen));
            }
            Ok(Err(Failed::OverHostBytes(limit))) => return Ok(Err(Error::TooLarge(limit))),
            Err(error) => return Ok(Err(Error::Runtime(error.to_string()))),
        };
        // Each is released when the guest drops it.
        charge.hand_over();
        let mut handed = Vec::with_capacity(outputs.len());
        for NamedTensor { name, tensor } in outputs {
            handed.push((name, self.table.push(tensor)?));
        }
        Ok(Ok(handed))
    }

    fn drop(&mut self, inference: Resource<Started>) -> wasmtime::Result<()> {
        if self.table.delete(inference)?.0.is_some() {
            self.account.inferences -= 1;
        }
        Ok(())
    }
}

impl From<NotCopied> for Error {
    fn from(problem: NotCopied) -> Self {
        match problem {
            NotCopied::Unfit(problem) => Self::InvalidTensor((String::new(), problem.to_string())),
            NotCopied::Over(OverHostBytes(limit)) => Self::TooLarge(limit),
        }
    }
}

/// Replaces the calls that take and hand out data by ones that copy it once, straight from the guest,
/// once it is known to fit, and straight into it.
pub(crate) fn add_copies_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut model = linker.instance("berth:plugin/model@0.1.0")?;
    model.func_wrap(
        "[static]tensor.create",
        |mut store, (datatype, shape, data): (types::Datatype, Vec<u64>, WasmList<u8>)| {
            store.data_mut().called();
            let bytes = data.as_le_slice(&store);
            let made = store.data().account.copied(from_wit(datatype), shape, bytes);
            Ok((match made {
                Ok(tensor) => Ok(store.data_mut().table.push(tensor)?),
                Err(problem) => Err(Error::from(problem)),
            },))
        },
    )?;
    model.func_wrap("[method]tensor.data", |mut store, (tensor,): (Resource<Tensor>,)| {
        Ok((store.data_mut().called().table.get(&tensor)?.data().clone(),))
    })?;
    model.func_wrap(
        "[method]tensor.read",
        |mut store, (tensor, offset, length): (Resource<Tensor>, u64, u64)| {
            let tensor = store.data_mut().called().table.get(&tensor)?;
            Ok((slice(tensor.data(), offset, length),))
        },
    )
}

/// The bytes of tensors together.
pub(crate) fn size(tensors: &[NamedTensor]) -> u64 {
    tensors.iter().map(|named| named.tensor.data().len() as u64).sum()
}

fn error_to_wit(error: &InferenceError) -> Error {
    match error {
        InferenceError::InvalidInput { input, problem } => {
            Error::InvalidTensor((input.clone(), problem.clone()))
        }
        InferenceError::UnknownOutput(name) => {
            Error::InvalidTensor((name.clone(), "the model has no such output".into()))
        }
        InferenceError::Overloaded => Error::Overloaded,
        InferenceError::Timeout => Error::Timeout,
        InferenceError::Runtime(message) => Error::Runtime(message.clone()),
    }
}

fn type_to_wit(ty: &TensorType) -> wasmtime::Result<types::TensorType> {
    let (name, datatype, shape) = (ty.name.clone(), to_wit(ty.datatype)?, ty.shape.clone());
    Ok(types::TensorType { name, datatype, shape })
}

pub(crate) fn type_from_wit(ty: types::TensorType) -> TensorType {
    TensorType { name: ty.name, datatype: from_wit(ty.datatype), shape: ty.shape }
}

/// The first of the datatypes; plugins have no names for the others, as enums of `berth:plugin` do not
/// grow.
const DATATYPES: [(DataType, types::Datatype); 14] = [
    (DataType::Bool, types::Datatype::Bool),
    (DataType::Uint8, types::Datatype::Uint8),
    (DataType::Uint16, types::Datatype::Uint16),
    (DataType::Uint32, types::Datatype::Uint32),
    (DataType::Uint64, types::Datatype::Uint64),
    (DataType::Int8, types::Datatype::Int8),
    (DataType::Int16, types::Datatype::Int16),
    (DataType::Int32, types::Datatype::Int32),
    (DataType::Int64, types::Datatype::Int64),
    (DataType::Fp16, types::Datatype::Fp16),
    (DataType::Fp32, types::Datatype::Fp32),
    (DataType::Fp64, types::Datatype::Fp64),
    (DataType::Bf16, types::Datatype::Bf16),
    (DataType::Bytes, types::Datatype::Bytes),
];

/// Whether plugins have a name for a datatype. Neither a model that takes or answers tensors of another
/// nor such a tensor may be handed to them.
pub fn has_name(datatype: DataType) -> bool {
    DATATYPES.get(datatype as usize).is_some()
}

fn to_wit(datatype: DataType) -> wasmtime::Result<types::Datatype> {
    let known = DATATYPES.get(datatype as usize).map(|&(_, theirs)| theirs);
    known.ok_or_else(|| wasmtime::format_err!("a tensor of {datatype} in a guest's hands"))
}

fn from_wit(datatype: types::Datatype) -> DataType {
    DATATYPES[datatype as usize].0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datatypes_stand_in_their_order() {
        for (index, (ours, theirs)) in DATATYPES.into_iter().enumerate() {
            assert_eq!((ours as usize, theirs as usize), (index, index));
            assert_eq!(from_wit(to_wit(ours).unwrap()), ours);
        }
    }
}
