//! Processor that fails in the way its configuration asks for: `{"mode": …}`, see [`Mode`].

use std::collections::TryReserveError;
use std::hint::black_box;

use berth_sdk::bindings::processor::berth::plugin::model as host;
use berth_sdk::bindings::processor::wasi::nn;
use berth_sdk::{
    ConfigError, DataType, Error, Graph, Model, Processor, Reply, Request, Signature, Tensor,
    TensorType,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Faults {
    mode: Mode,
    #[serde(default)]
    score: f64,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Answers `ok`: what a healthy processor does.
    None,
    /// Refuses every configuration, for the key `mode`.
    CreateRefuse,
    /// Traps in `create`.
    CreateTrap,
    /// Never comes back from `create`.
    CreateLoop,
    /// Traps in `signature`.
    SignatureTrap,
    /// Takes 100,000 media types, so it says.
    SignatureFlood,
    /// Traps.
    Trap,
    /// Panics, which writes a message to standard error and traps.
    Panic,
    /// Never comes back.
    Loop,
    /// Allocates without end.
    Memory,
    /// Does without more memory when it is refused, and panics.
    RefusedPanic,
    /// Does without more memory when it is refused, asks for the time that is left, and traps.
    RefusedTrap,
    /// Does without more memory when it is refused, and calls itself without end.
    RefusedStack,
    /// Calls itself without end, each time with more of its memory.
    Stack,
    /// Calls itself without end, with nothing in its memory.
    DeepStack,
    /// Asks for the time that is left again and again: what sleeping comes to without a clock.
    Poll,
    /// Hands the host a million lists that are all the same 8 MiB.
    Lifting,
    /// Makes tensors in the host without end, until the host refuses one.
    Tensors,
    /// Makes tensors in the host over `wasi:nn`, far more than it may hold there, and uses the last.
    TensorsNn,
    /// Makes a tensor of four bytes in the host from 128 MiB, over `wasi:nn` and `model`.
    Overlong,
    /// Starts three inferences, waits for none, and makes a tensor of 2 MiB in the host again and
    /// again, until the host refuses it.
    Unwaited,
    /// Takes handles of tensors in the host without end, until the host refuses one.
    Handles,
    /// Makes tensors of a million dimensions in the host without end, until the host refuses one.
    Dimensions,
    /// Uses a tensor that it has dropped.
    StaleHandle,
    /// Uses a tensor that it was never given.
    UnknownHandle,
    /// Uses a graph as a tensor.
    ForeignHandle,
    /// Opens the role `default` without end.
    Graphs,
    /// Answers without end, until the host refuses a part.
    Endless,
    /// Logs 100,000 lines, then answers.
    Chatter,
    /// Logs 1,000 lines, then traps.
    ChatterTrap,
    /// Counts under 10,000 names of metrics, then answers.
    Names,
    /// Reports the number `score` of its configuration as its metric of that name.
    Score,
    /// The request is wrong, so it says.
    Caller,
    /// It failed, so it says.
    Plugin,
    /// The request is wrong, so it says in 3 MiB.
    LongCaller,
    /// It failed, so it says in 3 MiB.
    LongPlugin,
    /// Answers a tensor by a name of 8 MiB.
    LongName,
    /// Comes back without an answer.
    Silent,
    /// Answers a body and then a tensor.
    Twice,
    /// Sets the media type after the first part.
    LateHead,
    /// Answers a tensor that its signature does not declare.
    WrongAnswer,
    /// Gives the model, over `wasi:nn`, a tensor of shape [1, 64] with 3 bytes of data.
    WrongLength,
    /// Makes a tensor of `model` of shape [1, 64] with 3 bytes of data.
    WrongLengthModel,
    /// Makes a tensor of `model` whose dimensions overflow.
    WrongOverflow,
    /// Gives the model a tensor of shape [3, 5, 7] over `wasi:nn`.
    WrongShape,
    /// Gives the model a tensor of shape [3, 5, 7] over `model`.
    WrongShapeModel,
    /// Gives the model integers where it takes other numbers, in the right shape.
    WrongDatatype,
    /// Has the model answer what `wasi:nn` has no form for, 5,000 times over, and answers `ok` when each
    /// was refused.
    RefusedOutputs,
    /// Gives the model an input that it does not have.
    WrongInput,
    /// Asks the model for an output that it does not have.
    WrongOutput,
}

impl Processor for Faults {
    type Config = Self;

    fn create(config: Self) -> Result<Self, ConfigError> {
        match config.mode {
            Mode::CreateRefuse => Err(ConfigError::new("mode", "create-refuse is refused")),
            Mode::CreateTrap => std::process::abort(),
            Mode::CreateLoop => forever(),
            _ => Ok(config),
        }
    }

    fn signature(&self) -> Signature {
        match self.mode {
            Mode::SignatureTrap => std::process::abort(),
            Mode::SignatureFlood => {
                (0..100_000).fold(Signature::default(), |signature, _| signature.takes_body("a/b"))
            }
            Mode::WrongAnswer => {
                let scores = TensorType::new("scores", DataType::Fp32, &[1, 2]);
                Signature::default().takes_body("*/*").answers_tensor(scores)
            }
            _ => Signature::default().takes_body("*/*").answers("text/plain"),
        }
    }

    fn process(&self, request: &Request, reply: &Reply) -> Result<(), Error> {
        self.fail(request, reply)?;
        match self.mode {
            Mode::Silent | Mode::WrongAnswer => Ok(()),
            _ => reply.body("text/plain", "ok"),
        }
    }
}

berth_sdk::export_processor!(Faults, roles: &["default"]);

impl Faults {
    fn fail(&self, request: &Request, reply: &Reply) -> Result<(), Error> {
        match self.mode {
            Mode::None
            | Mode::CreateRefuse
            | Mode::CreateTrap
            | Mode::CreateLoop
            | Mode::SignatureTrap
            | Mode::SignatureFlood => Ok(()),
            Mode::Trap => std::process::abort(),
            Mode::Panic => panic!("the guest panics on {} bytes", request.body_size()),
            Mode::Loop => forever(),
            Mode::Memory => hoard(|| Ok(vec![1u8; 1 << 20])),
            Mode::RefusedPanic => panic!("after {:?}", refused()),
            Mode::RefusedTrap => {
                black_box((refused(), request.remaining()));
                std::process::abort()
            }
            Mode::RefusedStack => {
                black_box(refused());
                Err(Error::plugin(deeper_still(1)))
            }
            Mode::Stack => Err(Error::plugin(deeper(1))),
            Mode::DeepStack => Err(Error::plugin(deeper_still(1))),
            Mode::Poll => loop {
                black_box(request.remaining());
            },
            Mode::Lifting => {
                lift_overlapping();
                Ok(())
            }
            Mode::Dimensions => {
                let dimensions = vec![1; 1 << 20];
                hoard(|| Ok(nn::tensor::Tensor::new(&dimensions, nn::tensor::TensorType::U8, &[])))
            }
            Mode::StaleHandle => {
                let tensor = host::Tensor::create(DataType::Uint8, &[1], &[1])?;
                let handle = tensor.handle();
                drop(tensor);
                use_as_tensor(handle)
            }
            Mode::UnknownHandle => use_as_tensor(12_345),
            Mode::ForeignHandle => use_as_tensor(nn::graph::load_by_name("default")?.handle()),
            Mode::Tensors => {
                hoard(|| Ok(host::Tensor::create(DataType::Uint8, &[1 << 20], &vec![1; 1 << 20])?))
            }
            Mode::TensorsNn => {
                let data = vec![1; 3 << 20];
                let ty = nn::tensor::TensorType::U8;
                let make = |_| nn::tensor::Tensor::new(&[3 << 20], ty, &data);
                let mut made: Vec<_> = (0..200).map(make).collect();
                let last = made.pop().ok_or_else(|| Error::plugin("none was made"))?;
                let context = nn::graph::load_by_name("default")?.init_execution_context()?;
                context.compute(vec![(input()?.name, last)])?;
                Ok(())
            }
            Mode::Overlong => {
                let data = vec![1; 128 << 20];
                nn::tensor::Tensor::new(&[4], nn::tensor::TensorType::U8, &data);
                host::Tensor::create(DataType::Uint8, &[4], &data)?;
                Ok(())
            }
            Mode::Unwaited => {
                let (input, model) = (input()?, Model::open("default")?);
                let tensor = floats(&fixed(&input))?;
                let start = || model.start(&[(&*input.name, &tensor)], &[]);
                let _started = [start()?, start()?, start()?];
                let data = vec![1; 2 << 20];
                loop {
                    host::Tensor::create(DataType::Uint8, &[2 << 20], &data)?;
                }
            }
            Mode::Handles => {
                let name = request.tensor_names().into_iter().next().unwrap_or_default();
                hoard(|| request.tensor(&name))
            }
            Mode::Graphs => hoard(|| Graph::load("default")),
            Mode::Endless => loop {
                reply.write([0; 1 << 16])?;
            },
            Mode::Chatter => {
                chatter(100_000);
                Ok(())
            }
            Mode::ChatterTrap => {
                chatter(1000);
                std::process::abort()
            }
            Mode::Score => {
                berth_sdk::metrics::observe("score", self.score);
                Ok(())
            }
            Mode::Names => {
                (0..10_000).for_each(|name| berth_sdk::metrics::count(&format!("name_{name}"), 1));
                Ok(())
            }
            Mode::Caller => Err(Error::caller("the body is not to the guest's taste")),
            Mode::Plugin => Err(Error::plugin("the guest says no")),
            Mode::LongCaller => Err(Error::caller("no\n".repeat(1 << 20))),
            Mode::LongPlugin => Err(Error::plugin("no\n".repeat(1 << 20))),
            Mode::LongName => reply.tensor(&"n".repeat(8 << 20), &Tensor::from_f32(&[1], &[1.0])?),
            Mode::Silent => Ok(()),
            Mode::Twice => {
                reply.write("ok")?;
                reply.tensor("scores", &Tensor::from_f32(&[1], &[1.0])?)
            }
            Mode::LateHead => {
                reply.write("ok")?;
                reply.content_type("text/html")
            }
            Mode::WrongAnswer => reply.tensor("scores", &Tensor::new(&[3], &[1i64, 2, 3])?),
            Mode::WrongLength => {
                let graph = nn::graph::load_by_name("default")?;
                let tensor =
                    nn::tensor::Tensor::new(&[1, 64], nn::tensor::TensorType::Fp32, &[1, 2, 3]);
                graph.init_execution_context()?.compute(vec![(input()?.name, tensor)])?;
                Ok(())
            }
            Mode::WrongLengthModel => {
                host::Tensor::create(DataType::Fp32, &[1, 64], &[1, 2, 3])?;
                Ok(())
            }
            Mode::WrongOverflow => {
                host::Tensor::create(DataType::Uint8, &[0, u64::MAX, u64::MAX], &[])?;
                host::Tensor::create(DataType::Fp32, &[1 << 63, 1 << 63], &[])?;
                Ok(())
            }
            Mode::WrongShape => {
                Graph::load("default")?.run(&[(&input()?.name, &floats(&[3, 5, 7])?)])?;
                Ok(())
            }
            Mode::WrongShapeModel => run(&input()?.name, &floats(&[3, 5, 7])?, &[]),
            Mode::WrongDatatype => {
                let input = input()?;
                let shape = fixed(&input);
                let count = shape.iter().product::<u64>() as usize;
                let tensor = match input.datatype {
                    DataType::Int32 => Tensor::new(&shape, &vec![1u8; count])?,
                    _ => Tensor::new(&shape, &vec![1i32; count])?,
                };
                run(&input.name, &tensor, &[])
            }
            Mode::RefusedOutputs => {
                let input = input()?;
                let context = nn::graph::load_by_name("default")?.init_execution_context()?;
                for _ in 0..5000 {
                    let tensor =
                        nn::tensor::Tensor::new(&[1], nn::tensor::TensorType::Fp32, &[0; 4]);
                    match context.compute(vec![(input.name.clone(), tensor)]) {
                        Err(error)
                            if error.code() == nn::errors::ErrorCode::UnsupportedOperation => {}
                        Err(error) => return Err(error.into()),
                        Ok(_) => return Err(Error::plugin("wasi:nn has a form for every output")),
                    }
                }
                Ok(())
            }
            Mode::WrongInput => run("no-such-input", &floats(&fixed(&input()?))?, &[]),
            Mode::WrongOutput => {
                let input = input()?;
                run(&input.name, &floats(&fixed(&input))?, &["no-such-output"])
            }
        }
    }
}

fn chatter(lines: u32) {
    (0..lines).for_each(|line| berth_sdk::error!("line {line}"));
}

fn forever() -> ! {
    loop {
        black_box(());
    }
}

fn hoard<T>(make: impl Fn() -> Result<T, Error>) -> Result<(), Error> {
    let mut hoard = Vec::new();
    loop {
        hoard.push(make()?);
        black_box(&hoard);
    }
}

/// Asks for a memory beyond every limit.
fn refused() -> Option<TryReserveError> {
    let mut memory = Vec::<u8>::new();
    black_box(&mut memory).try_reserve(1 << 30).err()
}

#[expect(unconditional_recursion, reason = "what it is for")]
fn deeper(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    deeper(depth + 1) + room[(depth % 64) as usize]
}

#[inline(never)]
fn deeper_still(depth: u64) -> u64 {
    if depth == u64::MAX { depth } else { deeper_still(depth + 1).rotate_left(1) ^ depth }
}

fn use_as_tensor(handle: u32) -> Result<(), Error> {
    // SAFETY: none: what the host makes of a handle that is no tensor's is what this is for.
    let tensor = unsafe { host::Tensor::from_handle(handle) };
    tensor.size();
    Ok(())
}

/// `wasi:nn`'s `load` as the component model calls it, past the bindings, which would make every
/// list a list of its own.
fn lift_overlapping() {
    #[link(wasm_import_module = "wasi:nn/graph@0.2.0-rc-2024-10-28")]
    unsafe extern "C" {
        #[link_name = "load"]
        fn load(lists: *mut u8, count: usize, encoding: i32, target: i32, result: *mut u8);
    }
    let same = vec![1u8; 8 << 20];
    let mut lists = vec![(same.as_ptr(), same.len()); 1 << 20];
    let mut result = [0u32; 4];
    // SAFETY: the host reads the lists within this memory and writes two words.
    unsafe { load(lists.as_mut_ptr().cast(), lists.len(), 0, 0, result.as_mut_ptr().cast()) };
    black_box(result);
}

fn input() -> Result<TensorType, Error> {
    let inputs = Model::open("default")?.describe().inputs;
    inputs.into_iter().next().ok_or_else(|| Error::plugin("the model takes no input"))
}

/// The input's shape with 1 for what varies.
fn fixed(input: &TensorType) -> Vec<u64> {
    input.shape.iter().map(|&dimension| u64::try_from(dimension).unwrap_or(1)).collect()
}

fn floats(shape: &[u64]) -> Result<Tensor, Error> {
    Tensor::from_f32(shape, &vec![0.5; shape.iter().product::<u64>() as usize])
}

fn run(input: &str, tensor: &Tensor, outputs: &[&str]) -> Result<(), Error> {
    Model::open("default")?.start(&[(input, tensor)], outputs)?.wait()?;
    Ok(())
}
