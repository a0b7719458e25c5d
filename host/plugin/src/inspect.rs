//! What a component is, asks for and says of itself, read from its bytes before anything runs.

use serde::{Deserialize, Serialize};
use wasmparser::{Encoding, Parser, Payload};

/// The version of the plugin ABI that this host speaks: that of `wit/`.
pub const ABI: &str = "0.1.0";

const MANIFEST_SECTION: &str = "berth:manifest";

/// What a plugin is for, found from what it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Prepares and finishes requests around models.
    Processor,
    /// Chooses among arms.
    Policy,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Processor => "processor",
            Self::Policy => "policy",
        })
    }
}

/// What a plugin says of itself in its custom section `berth:manifest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    /// The plugin ABI that it was built for.
    pub abi: String,
    /// The author's name for it.
    pub name: String,
    /// The author's version of it.
    pub version: String,
    /// The roles of models that it uses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// The assets that it reads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assets: Vec<String>,
    /// The attributes that it looks at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
    /// The limits that it would like; the operator's maximum holds.
    pub limits: WantedLimits,
}

/// Limits that a manifest asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WantedLimits {
    /// Bytes of linear memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Milliseconds of CPU time for a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
}

/// What was read from a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// What it is for.
    pub kind: Kind,
    /// Whether it is a policy that sees each request.
    pub routes: bool,
    /// The interfaces that it imports, in its order.
    pub imports: Vec<String>,
    /// What it says of itself; default when it carries no manifest.
    pub manifest: Manifest,
}

/// How the words of [`LoadError::Cache`] begin, also where another process says them.
pub(crate) const CACHE: &str = "the cache of compiled code: ";

/// Why a component is refused.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes are no WebAssembly component.
    #[error("not a WebAssembly component: {0}; build it for wasm32-wasip2")]
    NotAComponent(String),
    /// It exports neither a processor nor a policy.
    #[error("exports no world of Berth's: found {found}, expected {expected}")]
    UnknownWorld {
        /// What it exports.
        found: String,
        /// What Berth knows.
        expected: String,
    },
    /// It imports what a plugin of its kind is not granted.
    #[error("imports {import}, which a {kind} is not granted; {hint}")]
    ImportNotGranted {
        /// The import's full name.
        import: String,
        /// What the component is.
        kind: Kind,
        /// What to do about it.
        hint: &'static str,
    },
    /// Its manifest cannot be read.
    #[error("its section berth:manifest does not fit: {0}")]
    Manifest(String),
    /// It was built for another ABI.
    #[error(
        "was built for plugin ABI {found}, this host speaks {ABI}; build it with a matching SDK"
    )]
    Abi {
        /// The ABI of the manifest.
        found: String,
    },
    /// It is larger than what is compiled.
    #[error("{0}")]
    TooLarge(String),
    /// It does not compile or link.
    #[error("does not compile: {0}")]
    Compile(String),
    /// The process that compiles refused it, in these words.
    #[error("{0}")]
    Refused(String),
    /// What it imports or exports has other types than the interfaces of Berth.
    #[error("does not fit the interfaces in wit/: {0}; build it with a matching SDK")]
    Interface(String),
    /// Compiling it takes more than the operator grants.
    #[error(
        "compiling it took more than {most}: make it or its largest functions smaller, or give `berth serve` a higher {flag}"
    )]
    TooCostly {
        /// What it took more of.
        most: String,
        /// The flag that sets it.
        flag: &'static str,
    },
    /// The process that compiles could not be run.
    #[error("the compiler cannot be run: {0}")]
    Compiler(std::io::Error),
    /// The compiled form could not be kept or read.
    #[error("{CACHE}{0}")]
    Cache(#[from] std::io::Error),
}

/// Interfaces that the standard library itself brings, to both kinds.
const STANDARD: [&str; 13] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:io/error",
    "wasi:io/streams",
    "wasi:random/insecure-seed",
];

/// `wasi:io/poll` comes with `wasi:io/streams`; nothing that it could wait for is granted.
const POLL: &str = "wasi:io/poll";

const PROCESSOR: [&str; 10] = [
    "wasi:nn/tensor",
    "wasi:nn/graph",
    "wasi:nn/inference",
    "wasi:nn/errors",
    "berth:plugin/types",
    "berth:plugin/model",
    "berth:plugin/exchange",
    "berth:plugin/assets",
    "berth:plugin/log",
    "berth:plugin/metrics",
];

const POLICY: [&str; 4] =
    ["berth:plugin/types", "berth:plugin/observing", "berth:plugin/planning", "berth:plugin/log"];

const EXPORTS: [(&str, Kind); 2] =
    [("berth:plugin/processing", Kind::Processor), ("berth:plugin/evaluating", Kind::Policy)];

const ROUTING: &str = "berth:plugin/routing";

/// Reads what a component is, refusing one that is of no known world, imports what it is not
/// granted or was built for another ABI. Runs nothing of it.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, LoadError> {
    let Surface { imports, exports, manifest } = Surface::read(bytes)?;
    let exported = |interface: &str| exports.iter().any(|name| interface_of(name) == interface);
    let kinds: Vec<Kind> = EXPORTS
        .iter()
        .filter(|(interface, _)| exported(interface))
        .map(|&(_, kind)| kind)
        .collect();
    let &[kind] = kinds.as_slice() else {
        return Err(LoadError::UnknownWorld {
            found: if exports.is_empty() { "nothing".into() } else { exports.join(", ") },
            expected: format!(
                "either {}@{ABI} (a processor) or {}@{ABI} (a policy)",
                EXPORTS[0].0, EXPORTS[1].0
            ),
        });
    };
    let granted: &[&str] = match kind {
        Kind::Processor => &PROCESSOR,
        Kind::Policy => &POLICY,
    };
    for import in &imports {
        let interface = interface_of(import);
        if !(STANDARD.contains(&interface) || interface == POLL || granted.contains(&interface)) {
            return Err(LoadError::ImportNotGranted {
                import: import.clone(),
                kind,
                hint: hint(interface),
            });
        }
    }
    let manifest: Manifest = match manifest {
        Some(json) => {
            serde_json::from_slice(&json).map_err(|error| LoadError::Manifest(error.to_string()))?
        }
        None => Manifest::default(),
    };
    if !manifest.abi.is_empty() && manifest.abi != ABI {
        return Err(LoadError::Abi { found: manifest.abi });
    }
    Ok(Inspection { kind, routes: exported(ROUTING), imports, manifest })
}

fn interface_of(name: &str) -> &str {
    name.split_once('@').map_or(name, |(interface, _)| interface)
}

fn hint(interface: &str) -> &'static str {
    match interface.split_once('/').map_or(interface, |(package, _)| package) {
        "wasi:filesystem" => "files reach a plugin only as assets: use the SDK's Asset",
        "wasi:sockets" | "wasi:http" => "plugins have no network",
        "wasi:clocks" => "plugins have no clock: use the request's remaining time",
        "wasi:random" => "plugins have no randomness but the hash seed",
        "wasi:nn" | "berth:plugin" => "see the worlds in wit/worlds.wit",
        _ => "plugins reach nothing but what their world in wit/worlds.wit lists",
    }
}

/// The outer names of a component, and the manifest of its main module.
struct Surface {
    imports: Vec<String>,
    exports: Vec<String>,
    manifest: Option<Vec<u8>>,
}

impl Surface {
    fn read(bytes: &[u8]) -> Result<Self, LoadError> {
        // The parser's own message about this takes many lines.
        if !bytes.starts_with(b"\0asm") {
            return Err(LoadError::NotAComponent("it does not begin as WebAssembly does".into()));
        }
        let wrong =
            |error: wasmparser::BinaryReaderError| LoadError::NotAComponent(error.to_string());
        let mut surface = Self { imports: Vec::new(), exports: Vec::new(), manifest: None };
        // Sections of nested modules and components come between those of the outer one.
        let mut depth = 0usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(wrong)? {
                Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                    return Err(LoadError::NotAComponent("it is a core module".into()));
                }
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        surface.imports.push(import.map_err(wrong)?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        surface.exports.push(export.map_err(wrong)?.name.name.to_owned());
                    }
                }
                Payload::CustomSection(section) if section.name() == MANIFEST_SECTION => {
                    let before = surface.manifest.replace(section.data().to_vec());
                    before.map_or(Ok(()), |_| {
                        Err(LoadError::Manifest("there is more than one".into()))
                    })?;
                }
                _ => {}
            }
        }
        Ok(surface)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_refused() {
        for bytes in [&b""[..], b"hello", b"\0asm\x01\0\0\0"] {
            let error = inspect(bytes).unwrap_err().to_string();
            assert!(
                error.contains("wasm32-wasip2") || error.contains("exports no world"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_component_without_a_world_is_refused() {
        let error = inspect(b"\0asm\x0d\0\x01\0").unwrap_err().to_string();
        assert!(error.contains("found nothing"), "{error}");
    }

    /// What the fuzzer has found worth keeping neither panics nor runs away.
    #[test]
    fn the_fuzzers_components_are_read_or_refused() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/component");
        let read = |file: std::io::Result<std::fs::DirEntry>| {
            inspect(&std::fs::read(file.unwrap().path()).unwrap()).is_ok()
        };
        let read: Vec<bool> = std::fs::read_dir(folder).unwrap().map(read).collect();
        assert!(read.contains(&true) && read.contains(&false));
    }
}
