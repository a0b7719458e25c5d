//! A model opened in ONNX Runtime.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use berth_tensor::{Tensor, TensorType};
use ort::AsPointer;
use ort::session::{RunOptions, builder::GraphOptimizationLevel};
use ort::sys;
use ort::value::{Outlet, TensorElementType, ValueType};
use smallvec::smallvec;

use super::arena;
use super::check;
use super::library::Library;
use super::providers::{Device, ProviderProblem, Providers};
use super::value::{self, Lent, Value};
use super::words::{is_memory, one_line, shown, without_paths};
use crate::data_files::DataFileError;
use crate::model::Few;

/// Why a model cannot be opened. Every message names the model and its file.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be read.
    #[error("model {name}: {} cannot be read: {problem}", file.display())]
    Unreadable {
        /// The model.
        name: String,
        /// Its file.
        file: PathBuf,
        /// The system's words.
        problem: String,
    },
    /// The file is no ONNX model, or a damaged one.
    #[error("model {name}: {} is no complete ONNX model; export or copy it again (ONNX Runtime {version}: {problem})", file.display())]
    NotAModel {
        /// The model.
        name: String,
        /// Its file.
        file: PathBuf,
        /// The runtime's version.
        version: String,
        /// The runtime's words.
        problem: String,
    },
    /// The model is one, but the runtime cannot run it.
    #[error("model {name}: ONNX Runtime {version} cannot run {}; export it with an operator set and operators that this version has, or install a newer one ({problem})", file.display())]
    Unsupported {
        /// The model.
        name: String,
        /// Its file.
        file: PathBuf,
        /// The runtime's version.
        version: String,
        /// The runtime's words.
        problem: String,
    },
    /// The files that it names for its weights are not to be had.
    #[error("model {name}: {} {problem}", file.display())]
    DataFiles {
        /// The model.
        name: String,
        /// Its file.
        file: PathBuf,
        /// What is wrong.
        problem: DataFileError,
    },
    /// There is not enough memory for it.
    #[error("model {name}: there is no memory left for {}, of {bytes} bytes; give the host more, or delete endpoints (ONNX Runtime: {problem})", file.display())]
    Memory {
        /// The model.
        name: String,
        /// Its file.
        file: PathBuf,
        /// The size of the file.
        bytes: u64,
        /// The runtime's words.
        problem: String,
    },
    /// The system has no threads to open it, or for the device that it runs on.
    #[error(
        "model {name}: no thread could be started for it, for want of memory or over the limit on threads of the host: {problem}"
    )]
    Threads {
        /// The model.
        name: String,
        /// The system's words.
        problem: String,
    },
    /// Whoever wanted it did so no more before its trial had ended.
    #[error("model {name}: it was not wanted any more before its trial had ended")]
    Unwanted {
        /// The model.
        name: String,
    },
    /// It ended the process in which it was tried, or took that too much.
    #[error("model {name}: {} is refused, because in a trial {problem}", file.display())]
    Trial {
        /// The model.
        name: String,
        /// Its file.
        file: PathBuf,
        /// What happened, and the way out.
        problem: String,
    },
    /// It was not tried on the ONNX Runtime that would run it: there is another one in its place.
    #[error("model {name} cannot be tried: {} is not the ONNX Runtime {loaded} any more that this host has loaded: {problem}; start the host anew", library.display())]
    Replaced {
        /// The model.
        name: String,
        /// The library's file.
        library: PathBuf,
        /// The version of the one that is loaded.
        loaded: String,
        /// What is there now.
        problem: String,
    },
    /// A provider that was asked for does not run it.
    #[error("model {name}: the provider {provider} of ONNX Runtime {version} at {} does not run it: {problem}", library.display())]
    Provider {
        /// The model.
        name: String,
        /// The runtime's library.
        library: PathBuf,
        /// The runtime's version.
        version: String,
        /// The provider.
        provider: &'static str,
        /// What keeps it from running the model, and what to do.
        problem: String,
    },
    /// An input or output is something that cannot be sent or answered.
    #[error("model {name}: {} has {port} of type {found}, and only tensors of the Open Inference Protocol's datatypes and of floats of 8 bits can be served; export the model without it", file.display())]
    PortType {
        /// The model.
        name: String,
        /// Its file.
        file: PathBuf,
        /// The input or output, such as `output "probabilities"`.
        port: String,
        /// Its type.
        found: String,
    },
}

impl OpenError {
    /// The same of a file that whoever reads it knows by another name.
    pub fn of(mut self, known_as: &str) -> Self {
        match &mut self {
            Self::Unreadable { file, .. }
            | Self::NotAModel { file, .. }
            | Self::Unsupported { file, .. }
            | Self::DataFiles { file, .. }
            | Self::Memory { file, .. }
            | Self::Trial { file, .. }
            | Self::PortType { file, .. } => *file = known_as.into(),
            Self::Threads { .. }
            | Self::Unwanted { .. }
            | Self::Replaced { .. }
            | Self::Provider { .. } => {}
        }
        self
    }
}

/// Stops one run, from any thread.
pub(crate) struct Stop(RunOptions);

impl Stop {
    pub(crate) fn new() -> Result<Self, String> {
        RunOptions::new().map(Self).map_err(|error| one_line(error.message()))
    }

    /// Of a run that ends before its first operator, and gives the system back what runs before have
    /// left: ONNX Runtime does that at the end of a run alone.
    pub(crate) fn giving_back() -> Result<Self, String> {
        let mut stop = Self::new()?;
        let [key, value] = arena::GIVE_BACK;
        stop.0.set(key, value).map_err(|error| one_line(error.message()))?;
        stop.stop();
        Ok(stop)
    }

    /// Lets the run end after the operator that it is in.
    pub(crate) fn stop(&self) {
        if let Err(error) = self.0.terminate() {
            tracing::warn!("a run could not be stopped: {}", error.message());
        }
    }
}

/// What is made of the graph in a model's file.
#[derive(Clone, Copy)]
pub(crate) enum Graph<'a> {
    /// It is optimised.
    Given,
    /// It is optimised and written to this file, with its larger weights in [`WEIGHTS`] beside it.
    Written(&'a Path),
    /// It is left aside, and that of this file, which was so written, run as it is.
    Optimised(&'a Path),
}

/// The file of weights beside a graph that was written.
pub(crate) const WEIGHTS: &str = "weights";

/// Weights of fewer bytes lie in the graph's own file: ONNX Runtime copies them from there to where
/// memory is aligned, and maps the others.
const SMALL_WEIGHTS: usize = 64 << 10;

/// A model opened in ONNX Runtime, for any number of runs at once.
pub(crate) struct Session {
    session: ort::session::Session,
    library: Arc<Library>,
    pub(crate) inputs: Vec<TensorType>,
    pub(crate) outputs: Vec<TensorType>,
    pub(crate) properties: Vec<(String, String)>,
    /// For each input and output with dimensions that vary by name: those names, and nothing for the
    /// others.
    pub(crate) symbols: BTreeMap<String, Vec<String>>,
    /// Where it runs.
    pub(crate) device: Device,
    /// Whether the thread that asks for a run does all of its work.
    pub(crate) alone: bool,
    /// Whether one dimension that varies, by its name, is in front of all inputs and outputs and
    /// nowhere else; or why not.
    pub(crate) leading: Result<(), String>,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
}

impl Session {
    pub(crate) fn open(
        library: &Arc<Library>,
        name: &str,
        file: &Path,
        graph: Graph<'_>,
        providers: &Providers,
    ) -> Result<Self, OpenError> {
        // ONNX Runtime's words for these two are misleading.
        let unreadable = |problem: String| OpenError::Unreadable {
            name: name.to_owned(),
            file: file.to_path_buf(),
            problem,
        };
        let read = if let Graph::Optimised(optimised) = graph { optimised } else { file };
        let metadata = std::fs::metadata(read).map_err(|error| unreadable(error.to_string()))?;
        if !metadata.is_file() {
            return Err(unreadable("it is not a file".to_owned()));
        }
        // `ort` panics on types of inputs and outputs that it does not know. ONNX Runtime 1.31 opens
        // no model with such a type, but the library is the operator's choice.
        let opened = catch_unwind(AssertUnwindSafe(|| build(library, read, graph, providers)));
        let session = opened.unwrap_or_else(|_| {
            Err(Refusal::Unsupported("an input or output is of an unknown type".to_owned()))
        });
        let session = session.map_err(|refusal| {
            let (name, version) = (name.to_owned(), library.version.clone());
            let refusal = refusal.map(|problem| without_paths(&problem, file));
            let file = file.to_path_buf();
            match refusal {
                Refusal::NotAModel(problem) => {
                    OpenError::NotAModel { name, file, version, problem }
                }
                Refusal::Unsupported(problem) => {
                    OpenError::Unsupported { name, file, version, problem }
                }
                Refusal::Memory(problem) => {
                    OpenError::Memory { name, file, bytes: metadata.len(), problem }
                }
                Refusal::Provider(ProviderProblem { provider, problem }) => {
                    let library = library.path.clone();
                    OpenError::Provider { name, library, version, provider, problem }
                }
            }
        })?;
        let types = |outlets: &[Outlet], port: Port| -> Result<Vec<TensorType>, OpenError> {
            let port_type = |outlet: &Outlet, found: String| {
                let port = format!("{} {:?}", port.kind(), outlet.name());
                OpenError::PortType { name: name.to_owned(), file: file.to_path_buf(), port, found }
            };
            let checked = |(index, outlet): (usize, &Outlet)| {
                // `ort` calls both kinds of tensors the same.
                if is_sparse(&session, port, index) {
                    return Err(port_type(outlet, format!("sparse {}", type_name(outlet.dtype()))));
                }
                tensor_type(outlet).ok_or_else(|| port_type(outlet, type_name(outlet.dtype())))
            };
            outlets.iter().enumerate().map(checked).collect()
        };
        let inputs = types(session.inputs(), Port::Input)?;
        let outputs = types(session.outputs(), Port::Output)?;
        Ok(Self {
            input_names: names(&inputs),
            output_names: names(&outputs),
            properties: properties(&session),
            alone: providers.device().is_cpu() && providers.threads() == 1,
            device: providers.device(),
            leading: leading(&session),
            symbols: symbols(&session),
            inputs,
            outputs,
            session,
            library: Arc::clone(library),
        })
    }

    /// Whether the leading dimension of everything varies, whatever its name.
    pub(crate) fn leads(&self) -> bool {
        let mut ports = self.inputs.iter().chain(&self.outputs);
        ports.all(|port| port.shape.first().is_some_and(|&size| size < 0))
    }

    /// The bytes that runs have left for the next ones. None, with an ONNX Runtime before 1.23.
    pub(crate) fn kept(&self) -> Result<Option<u64>, String> {
        arena::kept(&self.session, &self.library.memory)
    }

    /// One run. Inputs and outputs are by index; what is put out is in the order asked for.
    ///
    /// Any number of threads may be in here at once.
    pub(crate) fn run(
        self: &Arc<Self>,
        inputs: &[(usize, &Tensor)],
        outputs: &[usize],
        stop: &Stop,
    ) -> Result<Vec<Tensor>, String> {
        let lent = inputs
            .iter()
            .map(|(_, tensor)| Lent::new(tensor, &self.library.memory))
            .collect::<Result<Few<_>, _>>()?;
        let values: Few<_> = lent.iter().map(Lent::pointer).collect();
        let input_names: Few<_> =
            inputs.iter().map(|&(index, _)| self.input_names[index].as_ptr()).collect();
        let output_names: Few<_> =
            outputs.iter().map(|&index| self.output_names[index].as_ptr()).collect();
        let mut results: Few<_> = smallvec![ptr::null_mut(); outputs.len()];
        // SAFETY: every pointer is valid for the call and every length is that of its array. The
        // session is used by shared reference: `Run` is documented as callable from many threads at
        // once (`InferenceSession::Run` in ONNX Runtime's source). The CPU provider keeps nothing
        // between runs; CUDA's has a stream for each run and handles for each thread, but where it
        // records graphs, which is no option here; and where a provider says that it cannot do it,
        // the session lets in one run after the other. Without a place of their own, outputs are
        // copied to the CPU's memory.
        let ran = check(unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                stop.0.ptr(),
                input_names.as_ptr(),
                values.as_ptr(),
                values.len(),
                output_names.as_ptr(),
                output_names.len(),
                results.as_mut_ptr(),
            )
        });
        // Taken over before anything can fail, so that none is left behind.
        // SAFETY: `Run` has handed over what it wrote, and wrote nothing where the pointer is null.
        let results: Few<_> =
            results.into_iter().map(|result| unsafe { Value::from_raw(result) }).collect();
        ran.map_err(|problem| match is_memory(&problem) {
            true => {
                format!("there is no memory left for this run; give it less at once ({problem})")
            }
            false => problem,
        })?;
        let missing = |index: usize| format!("output {:?} has no value", self.outputs[index].name);
        let read = |(result, &index): (Option<Value>, &usize)| {
            value::read(result.ok_or_else(|| missing(index))?, self, &lent)
        };
        results.into_iter().zip(outputs).map(read).collect()
    }
}

#[derive(Clone, Copy)]
enum Port {
    Input,
    Output,
}

impl Port {
    fn kind(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

fn is_sparse(session: &ort::session::Session, port: Port, index: usize) -> bool {
    let api = ort::api();
    let describe = match port {
        Port::Input => api.SessionGetInputTypeInfo,
        Port::Output => api.SessionGetOutputTypeInfo,
    };
    let mut info = ptr::null_mut();
    // SAFETY: the session is valid; an index out of bounds is an error. What is written is released
    // below.
    if check(unsafe { describe(session.ptr(), index, &mut info) }).is_err() {
        return false;
    }
    let mut kind = sys::ONNXType::ONNX_TYPE_UNKNOWN;
    // SAFETY: `info` is valid until it is released.
    let known = check(unsafe { (api.GetOnnxTypeFromTypeInfo)(info, &mut kind) });
    // SAFETY: `info` was handed over by the first call and is not used again.
    unsafe { (api.ReleaseTypeInfo)(info) };
    known.is_ok() && kind == sys::ONNXType::ONNX_TYPE_SPARSETENSOR
}

enum Refusal {
    NotAModel(String),
    Unsupported(String),
    Memory(String),
    Provider(ProviderProblem),
}

impl Refusal {
    fn map(self, words: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::NotAModel(problem) => Self::NotAModel(words(problem)),
            Self::Unsupported(problem) => Self::Unsupported(words(problem)),
            Self::Memory(problem) => Self::Memory(words(problem)),
            Self::Provider(ProviderProblem { provider, problem }) => {
                Self::Provider(ProviderProblem { provider, problem: words(problem) })
            }
        }
    }
}

impl From<ort::Error> for Refusal {
    fn from(error: ort::Error) -> Self {
        let message = one_line(error.message());
        // The file is named beside it.
        let problem = message
            .strip_prefix("Load model from ")
            .and_then(|rest| rest.split_once(" failed:"))
            .map_or(message.as_str(), |(_, problem)| problem);
        match error.code() {
            ort::ErrorCode::InvalidProtobuf | ort::ErrorCode::NoModel => {
                Self::NotAModel(problem.to_owned())
            }
            _ if is_memory(problem) => Self::Memory(problem.to_owned()),
            // So it speaks of an empty file.
            _ if problem.contains("No graph was found") => Self::NotAModel(problem.to_owned()),
            // And so of weights beyond the end of their file, or of another size than their tensor.
            _ if problem.contains("External initializer") && problem.contains("file_length")
                || problem.contains("external data size mismatch") =>
            {
                Self::NotAModel(problem.to_owned())
            }
            _ => Self::Unsupported(problem.to_owned()),
        }
    }
}

fn build(
    library: &Library,
    file: &Path,
    graph: Graph<'_>,
    providers: &Providers,
) -> Result<ort::session::Session, Refusal> {
    let builder = || -> ort::Result<_> {
        // With one thread a session makes none of its own: a run stays on the thread that asks. With
        // more, those that wait for work sleep, as the cores are other models' as well.
        let builder = ort::session::Session::builder(&library.environment)?;
        let builder =
            builder.with_intra_threads(providers.threads())?.with_intra_op_spinning(false)?;
        let level = match graph {
            Graph::Given | Graph::Written(_) => GraphOptimizationLevel::All,
            Graph::Optimised(_) => GraphOptimizationLevel::Disable,
        };
        let builder = builder.with_optimization_level(level)?;
        let Graph::Written(written) = graph else { return Ok(builder) };
        let entry = |of: &str| format!("session.optimized_model_external_initializers_{of}");
        let builder = builder
            .with_optimized_model_path(written)?
            .with_config_entry(entry("file_name"), WEIGHTS)?
            .with_config_entry(entry("min_size_in_bytes"), SMALL_WEIGHTS.to_string())?;
        Ok(builder)
    };
    let mut builder = providers.register(&library.path, builder()?).map_err(Refusal::Provider)?;
    builder.commit_from_file(file).map_err(|error| {
        let refused = providers.refused(&one_line(error.message()));
        refused.map_or_else(|| Refusal::from(error), Refusal::Provider)
    })
}

fn tensor_type(outlet: &Outlet) -> Option<TensorType> {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else { return None };
    let datatype = value::datatype(*ty)?;
    Some(TensorType {
        name: outlet.name().to_owned(),
        datatype,
        shape: shape.iter().map(|&dimension| dimension.max(-1)).collect(),
    })
}

fn symbols(session: &ort::session::Session) -> BTreeMap<String, Vec<String>> {
    let named = |outlet: &Outlet| {
        let ValueType::Tensor { dimension_symbols, .. } = outlet.dtype() else { return None };
        let symbols: Vec<String> =
            dimension_symbols.iter().map(|symbol| symbol.to_owned()).collect();
        symbols.iter().any(|symbol| !symbol.is_empty()).then(|| (outlet.name().to_owned(), symbols))
    };
    session.inputs().iter().chain(session.outputs()).filter_map(named).collect()
}

fn leading(session: &ort::session::Session) -> Result<(), String> {
    let inputs = session.inputs().iter().map(|outlet| (Port::Input, outlet));
    let outputs = session.outputs().iter().map(|outlet| (Port::Output, outlet));
    let mut shared: Option<&str> = None;
    for (port, outlet) in inputs.chain(outputs) {
        let ValueType::Tensor { shape, dimension_symbols, .. } = outlet.dtype() else { continue };
        let what = || format!("{} {:?}", port.kind(), outlet.name());
        let (Some(&size), Some(symbol)) = (shape.first(), dimension_symbols.first()) else {
            return Err(format!("{} has no dimensions", what()));
        };
        if size >= 0 {
            return Err(format!("{} has {size} rows, always", what()));
        }
        if symbol.is_empty() {
            return Err(format!("the leading dimension of {} varies but has no name", what()));
        }
        match shared {
            Some(shared) if shared != symbol => {
                return Err(format!(
                    "{} has {symbol:?} for its leading dimension, another one {shared:?}",
                    what()
                ));
            }
            _ if dimension_symbols[1..].contains(symbol) => {
                return Err(format!("{} has {symbol:?} twice", what()));
            }
            _ => shared = Some(symbol),
        }
    }
    shared.map(drop).ok_or_else(|| "it has no inputs".to_owned())
}

/// A type for people, such as `INT4` or `sequence of FP32`.
fn type_name(ty: &ValueType) -> String {
    // What is no datatype goes by ONNX's name, which `ort` writes in other letters.
    let element = |ty: TensorElementType| match value::datatype(ty) {
        Some(datatype) => datatype.to_string(),
        None => format!("{ty:?}").to_uppercase(),
    };
    match ty {
        ValueType::Tensor { ty, .. } => element(*ty),
        ValueType::Sequence(ty) => format!("sequence of {}", type_name(ty)),
        ValueType::Optional(ty) => format!("optional {}", type_name(ty)),
        ValueType::Map { key, value } => format!("map of {} to {}", element(*key), element(*value)),
    }
}

fn names(types: &[TensorType]) -> Vec<CString> {
    // The names come from C strings, so that none has a zero byte inside.
    types.iter().map(|ty| CString::new(ty.name.as_bytes()).unwrap_or_default()).collect()
}

/// What is before the names of a file's own metadata among its properties.
pub(crate) const OWN: &str = "metadata.";
/// Of its own metadata so many are taken, the first by name.
const PROPERTIES: usize = 256;

/// What the model's file says of itself.
fn properties(session: &ort::session::Session) -> Vec<(String, String)> {
    let mut properties = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            properties.push((name.to_owned(), shown(&value)));
        }
    };
    add(
        "opset",
        session.opset_for_domain(ort::editor::ONNX_DOMAIN).map(|version| version.to_string()),
    );
    if let Ok(metadata) = session.metadata() {
        add("producer", metadata.producer());
        add("graph", metadata.name());
        add("domain", metadata.domain());
        add("description", metadata.description());
        add(
            "version",
            metadata
                .version()
                .filter(|version| (1..i64::MAX).contains(version))
                .map(|version| version.to_string()),
        );
        let mut keys = metadata.custom_keys().unwrap_or_default();
        keys.sort();
        for key in keys.iter().filter(|key| !key.is_empty()).take(PROPERTIES) {
            add(&format!("{OWN}{}", shown(key)), metadata.custom(key));
        }
    }
    properties
}
