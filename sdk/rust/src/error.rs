//! Why a request failed.

use crate::bindings::processor::berth::plugin::{assets, exchange, model};
use crate::bindings::processor::exports::berth::plugin::processing;
use crate::bindings::processor::wasi::nn;
use crate::{ConfigError, Fault, PolicyError};

/// Why a request failed, and whose fault it is.
///
/// Errors of this crate convert into it with `?` as the plugin's fault. To give one back to the
/// caller, write `.map_err(Error::caller)?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    fault: Fault,
    message: String,
}

impl Error {
    /// The request cannot be answered as it is: the client gets the message.
    pub fn caller(message: impl ToString) -> Self {
        Self { fault: Fault::Caller, message: message.to_string() }
    }

    /// The plugin failed: the log gets the message.
    pub fn plugin(message: impl ToString) -> Self {
        Self { fault: Fault::Plugin, message: message.to_string() }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// What went wrong, for people.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for processing::Error {
    fn from(error: Error) -> Self {
        Self { fault: error.fault, message: error.message }
    }
}

impl From<model::Error> for Error {
    fn from(error: model::Error) -> Self {
        Self::plugin(match error {
            model::Error::Denied(message) => message,
            // A tensor that is only being made has no name yet.
            model::Error::InvalidTensor((name, message)) if name.is_empty() => message,
            model::Error::InvalidTensor((name, message)) => format!("tensor `{name}`: {message}"),
            model::Error::TooLarge(limit) => {
                format!("more than the {limit} bytes that a request may hold in the host")
            }
            model::Error::Overloaded => "the model's queue is full".to_owned(),
            model::Error::Timeout => {
                "the request's deadline passed before the model answered".to_owned()
            }
            model::Error::Runtime(message) => format!("the model failed: {message}"),
        })
    }
}

impl From<nn::errors::Error> for Error {
    fn from(error: nn::errors::Error) -> Self {
        Self::plugin(format!("{}: {}", error.code().name(), error.data()))
    }
}

impl From<assets::Error> for Error {
    fn from(error: assets::Error) -> Self {
        Self::plugin(match error {
            assets::Error::Denied(message) => message,
            assets::Error::Failed(message) => format!("the asset cannot be read: {message}"),
        })
    }
}

impl From<exchange::ReplyError> for Error {
    fn from(error: exchange::ReplyError) -> Self {
        Self::plugin(match error {
            exchange::ReplyError::Misuse(message) => message,
            exchange::ReplyError::TooLarge(limit) => {
                format!("the answer exceeds the endpoint's limit of {limit} bytes")
            }
        })
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::plugin(error)
    }
}

impl From<std::string::FromUtf8Error> for Error {
    fn from(error: std::string::FromUtf8Error) -> Self {
        Self::plugin(error)
    }
}

impl From<Error> for ConfigError {
    /// For what `create` tries out, such as opening a model: no single key is at fault.
    fn from(error: Error) -> Self {
        Self::new("", error.message)
    }
}

impl ConfigError {
    /// `key` is the path of the key that is wrong, such as `resize.width`; `message` says what is
    /// wrong with it and what is expected.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

impl From<ConfigError> for PolicyError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl PolicyError {
    /// A failure that the configuration is not to blame for.
    pub fn failed(message: impl ToString) -> Self {
        Self::Failed(message.to_string())
    }
}

impl nn::errors::ErrorCode {
    /// The code's name in `wasi:nn`, such as `invalid-argument`.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid-argument",
            Self::InvalidEncoding => "invalid-encoding",
            Self::Timeout => "timeout",
            Self::RuntimeError => "runtime-error",
            Self::UnsupportedOperation => "unsupported-operation",
            Self::TooLarge => "too-large",
            Self::NotFound => "not-found",
            Self::Security => "security",
            Self::Unknown => "unknown",
        }
    }
}
