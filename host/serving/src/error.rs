//! Why the control plane or the request path says no.

use std::collections::BTreeMap;

use berth_inference::OpenError;
use berth_monitor::predictions::FileError;
use berth_plugin::{CallError, CreateError, LoadError, PolicyError};
use berth_store::StoreError;
use berth_tensor::{Digest, ReferenceError};

use crate::spec::SpecError;

/// Why an operator's request was not carried out. The message names what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// The endpoint file does not fit.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A name or reference does not fit.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A plugin is refused.
    #[error("plugin {plugin}: {source}")]
    Plugin {
        /// Its name, with its version when it has one.
        plugin: String,
        /// Why.
        source: LoadError,
    },
    /// A model is refused.
    #[error(transparent)]
    Model(#[from] Box<OpenError>),
    /// A file that holds a model's weights is not to be had from the store.
    #[error("model {model}: data file {file:?}: {source}")]
    DataFile {
        /// The model.
        model: String,
        /// The file's name.
        file: String,
        /// Why.
        source: Box<StoreError>,
    },
    /// Files are to be uploaded first: the bytes that are there of each.
    #[error(
        "{} of the model's files are not here yet: upload each to /v1/uploads, then ask again",
        .0.len()
    )]
    NotUploaded(BTreeMap<Digest, u64>),
    /// A variant's processor cannot be made.
    #[error("variants.{variant}: processor {plugin}: {source}")]
    Processor {
        /// The variant.
        variant: String,
        /// The plugin's name and version.
        plugin: String,
        /// Why.
        source: CreateError,
    },
    /// A policy gives no shares.
    #[error("{table}: policy {plugin}: {source}")]
    Policy {
        /// What it is for: `routing` or `rollout`.
        table: &'static str,
        /// The plugin's name and version.
        plugin: String,
        /// Why.
        source: PolicyError,
    },
    /// Recorded predictions cannot be read.
    #[error(transparent)]
    Predictions(#[from] FileError),
    /// What is asked for does not fit; the message says what.
    #[error("{0}")]
    Invalid(String),
    /// What is asked for does not fit the state.
    #[error("{0}")]
    Conflict(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host failed.
    #[error("{0}")]
    Host(String),
}

impl ControlError {
    /// The first line: the stack of a trap, which follows, is in the log already.
    pub(crate) fn first_line(&self) -> String {
        self.to_string().lines().next().unwrap_or_default().to_owned()
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no such endpoint or variant.
    #[error("{0}")]
    NotFound(String),
    /// The endpoint does not let clients choose.
    #[error("{0}")]
    Forbidden(String),
    /// The request does not fit; the message says what.
    #[error("{0}")]
    Invalid(String),
    /// The model or the plugin failed; the details are in the log under the prediction id.
    #[error("{0}")]
    Failed(String),
    /// The deadline passed.
    #[error("no answer within {0} ms")]
    Timeout(u64),
    /// The endpoint has no revision that answers.
    #[error("{0}")]
    Unavailable(String),
    /// The plugin used up its CPU time.
    #[error("the plugin used more than its {0} ms of CPU time")]
    CpuTime(u128),
    /// There is no room now.
    #[error("the host is overloaded; try again later")]
    Overloaded,
    /// Its client went away before there was one.
    #[error("the client went away before it was answered")]
    Gone,
}

impl RequestError {
    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Forbidden(_) => "forbidden",
            Self::Invalid(_) => "invalid",
            Self::Failed(_) => "failed",
            Self::Timeout(_) => "timeout",
            Self::CpuTime(_) => "cpu",
            Self::Unavailable(_) => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Gone => "gone",
        }
    }

    /// Whether another variant may answer in place of one that failed so: never where the caller is at
    /// fault.
    pub(crate) fn lets_fall_back(&self) -> bool {
        match self {
            Self::NotFound(_) | Self::Forbidden(_) | Self::Invalid(_) | Self::Gone => false,
            Self::Failed(_)
            | Self::Timeout(_)
            | Self::Unavailable(_)
            | Self::CpuTime(_)
            | Self::Overloaded => true,
        }
    }

    /// What the client is told of a processor's failure. Traps and the plugin's own failures stay
    /// in the log.
    pub(crate) fn of_call(error: &CallError, timeout_ms: u64, prediction: &str) -> Self {
        match error {
            CallError::Caller(message) => Self::Invalid(message.clone()),
            CallError::Timeout => Self::Timeout(timeout_ms),
            CallError::Cpu(limit) => Self::CpuTime(limit.as_millis()),
            CallError::Overloaded => Self::Overloaded,
            CallError::Plugin(_) => {
                Self::Failed(format!("the plugin failed; the log has it under {prediction}"))
            }
            CallError::Trap(_) => {
                Self::Failed(format!("the plugin was stopped; the log has it under {prediction}"))
            }
            CallError::NoReply => Self::Failed("the plugin gave no answer".into()),
        }
    }
}
