//! One request and the answer to it.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::processor::berth::plugin::exchange;
use crate::{Error, Tensor};

/// What the client sent: a body or named tensors. It lives in the host; what is not asked for is
/// not copied.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a>(pub(crate) &'a exchange::Request);

impl Request<'_> {
    /// The client's `x-request-id`, or the one that the host made.
    pub fn id(&self) -> String {
        self.0.id()
    }

    /// The host's id of this prediction, sortable by time.
    pub fn prediction_id(&self) -> String {
        self.0.prediction_id()
    }

    /// The media type of the body, as the client gave it.
    pub fn content_type(&self) -> Option<String> {
        self.0.content_type()
    }

    /// The size of the body in bytes; 0 when the request carries tensors.
    pub fn body_size(&self) -> u64 {
        self.0.body_size()
    }

    /// The whole body; empty when the request carries tensors.
    pub fn body(&self) -> Vec<u8> {
        self.0.body()
    }

    /// Up to `length` bytes of the body from `offset`; fewer at its end.
    pub fn read_body(&self, offset: u64, length: u64) -> Vec<u8> {
        self.0.read_body(offset, length)
    }

    /// The body read as JSON. One that does not fit is the caller's error.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body())
            .map_err(|error| Error::caller(format!("the body is not as expected: {error}")))
    }

    /// The names of the tensors, in the client's order; empty when the request carries a body.
    pub fn tensor_names(&self) -> Vec<String> {
        self.0.tensor_names()
    }

    /// The tensor of that name. One that is missing is the caller's error.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        self.0.tensor(name).map(Tensor::from).ok_or_else(|| {
            let names = self.tensor_names();
            let given = if names.is_empty() {
                "a body without tensors".to_owned()
            } else {
                names.join(", ")
            };
            Error::caller(format!("input `{name}` is missing; got {given}"))
        })
    }

    /// The outputs that the client asked for by name; empty for all of them.
    pub fn requested_outputs(&self) -> Vec<String> {
        self.0.requested_outputs()
    }

    /// One attribute that the endpoint declares, when the request has it.
    pub fn attribute(&self, name: &str) -> Option<String> {
        self.0.attribute(name)
    }

    /// Every declared attribute that the request has.
    pub fn attributes(&self) -> Vec<(String, String)> {
        self.0.attributes()
    }

    /// Time until the host gives the request up.
    pub fn remaining(&self) -> Duration {
        Duration::from_micros(self.0.remaining_us())
    }

    /// The W3C `traceparent` of the host's span for this call, when there is one.
    pub fn trace_context(&self) -> Option<String> {
        self.0.trace_context()
    }
}

/// The answer, built up by the processor: a body or named tensors, never both.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a>(pub(crate) &'a exchange::Reply);

impl Reply<'_> {
    /// Answers a body of this media type in one part.
    pub fn body(&self, content_type: &str, body: impl AsRef<[u8]>) -> Result<(), Error> {
        self.content_type(content_type)?;
        self.write(body)
    }

    /// Answers `value` as JSON.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Error> {
        self.body("application/json", serde_json::to_vec(value)?)
    }

    /// Adds a named tensor. One that lies in the host already is not copied.
    pub fn tensor(&self, name: &str, value: &Tensor) -> Result<(), Error> {
        Ok(self.0.add_tensor(name, &*value.to_host()?)?)
    }

    /// Sets a named value that goes to the client with the answer: a parameter beside tensors, a
    /// `berth-NAME` header beside a body. Set it before the first part.
    pub fn parameter(&self, name: &str, value: &str) -> Result<(), Error> {
        Ok(self.0.parameter(name, value)?)
    }

    /// Sets the media type of a body that is written in several parts. Set it before the first
    /// part; without it a body is `application/octet-stream`.
    pub fn content_type(&self, value: &str) -> Result<(), Error> {
        Ok(self.0.content_type(value)?)
    }

    /// Appends a part of the body.
    pub fn write(&self, part: impl AsRef<[u8]>) -> Result<(), Error> {
        Ok(self.0.write(part.as_ref())?)
    }
}
