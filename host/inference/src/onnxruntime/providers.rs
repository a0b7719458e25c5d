//! What runs a model's operators: ONNX Runtime's execution providers, by the names that an operator
//! gives them. A further one is an entry in [`KNOWN`].

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::Path;
use std::ptr;

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ExecutionProvider};
use ort::session::builder::SessionBuilder;
use serde::{Deserialize, Serialize};

use super::words::{is_memory, one_line};
use super::{check, why};

/// Which providers run a model. Each takes the operators that it has of those that the ones before it
/// have left; `cpu` has all and is last.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<(String, Options)>", into = "Vec<(String, Options)>")]
pub struct Providers {
    devices: Vec<Provider>,
    /// The CPU's options where it gets what they leave. If not, a model with such operators does not
    /// open.
    cpu: Option<Options>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Provider {
    name: &'static str,
    options: Options,
}

type Options = BTreeMap<String, String>;

impl Default for Providers {
    /// `cpu` alone.
    fn default() -> Self {
        Self { devices: Vec::new(), cpu: Some(Options::new()) }
    }
}

impl TryFrom<Vec<(String, Options)>> for Providers {
    type Error = String;

    fn try_from(named: Vec<(String, Options)>) -> Result<Self, String> {
        Self::new(named)
    }
}

impl From<Providers> for Vec<(String, Options)> {
    fn from(providers: Providers) -> Self {
        let devices = providers.devices.into_iter();
        let devices = devices.map(|provider| (provider.name.to_owned(), provider.options));
        devices.chain(providers.cpu.map(|options| (CPU.to_owned(), options))).collect()
    }
}

/// A provider that can be asked for beside the CPU's, which ONNX Runtime always has.
struct Known {
    name: &'static str,
    /// ONNX Runtime's name of it.
    full_name: &'static str,
    /// The options that may be set: those that hold no addresses and leave a session to any number
    /// of threads.
    options: &'static [&'static str],
    /// The library beside ONNX Runtime's that it is in, without what the system puts around names.
    library: &'static str,
    /// How to get an ONNX Runtime that has it.
    get: &'static str,
    /// What else it needs on the machine.
    needs: &'static str,
    /// What messages say that come from what it needs.
    says: &'static [&'static str],
    register: fn(&Options, &mut SessionBuilder) -> ort::Result<()>,
}

const CPU: &str = "cpu";

/// The CPU's only option: threads of one run, the one that asks for it among them.
const THREADS: &str = "intra_op_num_threads";

/// The most of them.
const MOST_THREADS: usize = 256;

/// What has a queue and threads of its own: the CPU, or one device of a provider.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Device {
    provider: &'static str,
    /// As its `device_id` says, where it has one.
    number: String,
}

impl Default for Device {
    /// The CPU.
    fn default() -> Self {
        Self { provider: CPU, number: String::new() }
    }
}

impl Device {
    pub(crate) fn is_cpu(&self) -> bool {
        self.provider == CPU
    }
}

const KNOWN: [Known; 1] = [Known {
    name: "cuda",
    full_name: ep::CUDA::NAME,
    // Not graphs, which record the addresses of one run's inputs, nor streams and allocators,
    // which are addresses.
    options: &[
        "arena_extend_strategy",
        "cudnn_conv1d_pad_to_nc1d",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "device_id",
        "enable_skip_layer_norm_strict_mode",
        "fuse_conv_bias",
        "gpu_mem_limit",
        "prefer_nhwc",
        "sdpa_kernel",
        "use_tf32",
    ],
    library: "onnxruntime_providers_cuda",
    get: "install PyPI's onnxruntime-gpu and name its libonnxruntime with --onnxruntime",
    needs: "an NVIDIA GPU with its driver, and CUDA and cuDNN where the system looks for libraries (pip install onnxruntime-gpu[cuda,cudnn] brings them; name their folders in LD_LIBRARY_PATH)",
    says: &["CUDA failure", "CUDNN failure", "CUBLAS failure", "CUDA error"],
    register: |options, session| {
        let set = |cuda: ep::CUDA, (key, value)| cuda.with_arbitrary_config(key, value);
        options.iter().fold(ep::CUDA::default(), set).register(session)
    },
}];

impl Known {
    fn lacks(&self, problem: &str) -> ProviderProblem {
        let problem = format!("{problem}; it needs {}", self.needs);
        ProviderProblem { provider: self.name, problem }
    }
}

/// Why a provider does not run a model, and what to do.
pub(super) struct ProviderProblem {
    pub(super) provider: &'static str,
    pub(super) problem: String,
}

impl Providers {
    /// The providers of these names with their options, first the one that is asked first. Says what
    /// is wrong with what ONNX Runtime would not take or not use.
    pub fn new(
        named: impl IntoIterator<Item = (String, BTreeMap<String, String>)>,
    ) -> Result<Self, String> {
        let mut providers = Self { devices: Vec::new(), cpu: None };
        for (name, options) in named {
            let known = KNOWN.iter().find(|known| known.name == name);
            if known.is_none() && name != CPU {
                let names: Vec<_> = KNOWN.iter().map(|known| known.name).chain([CPU]).collect();
                return Err(format!("there is no provider {name:?}, only {}", names.join(", ")));
            }
            let settable = known.map_or(&[THREADS][..], |known| known.options);
            if let Some(key) = options.keys().find(|key| !settable.contains(&key.as_str())) {
                return Err(format!(
                    "{name} has no option {key:?}; it has {}",
                    settable.join(", ")
                ));
            }
            if let Some((key, _)) = options.iter().find(|(_, value)| value.contains('\0')) {
                return Err(format!("option {key} of {name} has a zero byte"));
            }
            if providers.names().any(|before| before == name) {
                return Err(format!("{name} is there twice"));
            }
            if providers.cpu.is_some() {
                return Err(format!(
                    "{CPU} has all operators, so that {name} behind it would get none: put {CPU} last"
                ));
            }
            match known {
                None => {
                    check_threads(&options)?;
                    providers.cpu = Some(options);
                }
                Some(known) => providers.devices.push(Provider { name: known.name, options }),
            }
        }
        if providers.names().next().is_none() {
            return Err(format!("name at least one, such as {CPU:?}"));
        }
        Ok(providers)
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let devices = self.devices.iter().map(|provider| provider.name);
        devices.chain(self.cpu.is_some().then_some(CPU))
    }

    /// Where the runs go: the first that is asked.
    pub(super) fn device(&self) -> Device {
        self.devices.first().map_or_else(Device::default, |provider| Device {
            provider: provider.name,
            number: provider.options.get("device_id").map_or("0", String::as_str).to_owned(),
        })
    }

    /// Threads of one run on the CPU, at least 1: that many less one are the session's own.
    pub(super) fn threads(&self) -> usize {
        let given = self.cpu.as_ref().and_then(|options| options.get(THREADS)?.parse().ok());
        given.unwrap_or(1)
    }

    fn known(&self) -> impl Iterator<Item = (&Provider, &'static Known)> {
        self.devices.iter().filter_map(|provider| {
            Some((provider, KNOWN.iter().find(|known| known.name == provider.name)?))
        })
    }

    /// Has a session use these and no others. `library` is ONNX Runtime's.
    pub(super) fn register(
        &self,
        library: &Path,
        mut session: SessionBuilder,
    ) -> Result<SessionBuilder, ProviderProblem> {
        let available = available();
        for (provider, known) in self.known() {
            if !available.iter().any(|name| name == known.full_name) {
                return Err(ProviderProblem {
                    provider: known.name,
                    problem: format!(
                        "it was built with {} alone; {}",
                        short(&available),
                        known.get
                    ),
                });
            }
            (known.register)(&provider.options, &mut session).map_err(|error| {
                if let Some(option) = option_refused(error.message()) {
                    let problem =
                        format!("it does not take its option {option}, or not that value");
                    return ProviderProblem { provider: known.name, problem };
                }
                let missing = missing(library, known.library);
                let problem = missing.unwrap_or_else(|| one_line(error.message()));
                known.lacks(&problem)
            })?;
        }
        if self.cpu.is_some() {
            return Ok(session);
        }
        session.with_disable_cpu_fallback().map_err(|error| self.fallback(error.message()))
    }

    /// What a session's refusal says of its providers, if it is about them.
    pub(super) fn refused(&self, problem: &str) -> Option<ProviderProblem> {
        if problem.contains("fallback to CPU EP has been explicitly disabled") {
            return Some(self.fallback("it does not have all of the model's operators"));
        }
        if is_memory(problem) {
            return None;
        }
        // What follows is where in its source.
        let problem = problem.split_once(" ; GPU=").map_or(problem, |(said, _)| said);
        let said = |known: &Known| known.says.iter().any(|words| problem.contains(words));
        let (_, known) = self.known().find(|(_, known)| said(known))?;
        Some(known.lacks(problem))
    }

    fn fallback(&self, problem: &str) -> ProviderProblem {
        ProviderProblem {
            provider: self.devices.last().map_or(CPU, |provider| provider.name),
            problem: format!("{}; put {CPU:?} behind it for the others", one_line(problem)),
        }
    }
}

fn check_threads(options: &Options) -> Result<(), String> {
    let fits = |given: &String| {
        given.parse().is_ok_and(|threads: usize| (1..=MOST_THREADS).contains(&threads))
    };
    match options.get(THREADS) {
        Some(given) if !fits(given) => {
            Err(format!("{THREADS} of {CPU} is {given}; give 1 to {MOST_THREADS}"))
        }
        _ => Ok(()),
    }
}

/// The providers that ONNX Runtime was built with, by its own names.
fn available() -> Vec<String> {
    let api = ort::api();
    let (mut names, mut count) = (ptr::null_mut(), 0);
    // SAFETY: writes a list of so many strings, or fails and writes none.
    if check(unsafe { (api.GetAvailableProviders)(&mut names, &mut count) }).is_err() {
        return Vec::new();
    }
    let length = usize::try_from(count).unwrap_or_default();
    let read = |at: usize| {
        // SAFETY: the list has that many strings, each ended by a zero byte.
        unsafe { CStr::from_ptr(*names.add(at)) }.to_string_lossy().into_owned()
    };
    let read = (0..length).map(read).collect();
    // SAFETY: the list was handed over by the first call and is not used again. It fails never.
    let _ = check(unsafe { (api.ReleaseAvailableProviders)(names, count) });
    read
}

/// The providers that ONNX Runtime was built with, for people.
pub(crate) fn built_with() -> String {
    short(&available())
}

/// Such as `cuda, cpu`.
fn short(names: &[String]) -> String {
    let short = |name: &String| name.trim_end_matches("ExecutionProvider").to_lowercase();
    names.iter().map(short).collect::<Vec<_>>().join(", ")
}

/// The option that ONNX Runtime's message is about.
fn option_refused(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("provider option")?;
    rest.split('"').nth(1)
}

/// The library that a provider's own asks for and the system does not find, in the system's words:
/// ONNX Runtime keeps them to its log.
fn missing(library: &Path, name: &str) -> Option<String> {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    let file = library.parent()?.join(format!("{DLL_PREFIX}{name}{DLL_SUFFIX}"));
    // SAFETY: loading runs the library's initialisers, as ONNX Runtime has just tried.
    let loaded = unsafe { libloading::Library::new(&file) };
    loaded.err().map(|error| why(&error))
}
