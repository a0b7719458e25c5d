//! `berth:plugin/exchange`: the request and the answer of one call.

use std::time::Instant;

use berth_tensor::{NamedTensor, Tensor};
use bytes::Bytes;
use wasmtime::component::{Linker, Resource};

use crate::bindings::processor::berth::plugin::exchange::{
    Host, HostReply, HostRequest, ReplyError,
};
use crate::reports::Reports;
use crate::state::State;

/// What a client sent.
#[derive(Debug)]
pub struct Request {
    /// The client's `x-request-id`, or the one that the host made.
    pub id: String,
    /// The host's id of this prediction, sortable by time.
    pub prediction: String,
    /// The body or the tensors.
    pub body: Body,
    /// The outputs asked for by name; empty for all.
    pub outputs: Vec<String>,
    /// The values of the endpoint's declared attributes.
    pub attributes: Vec<(String, String)>,
    /// The W3C `traceparent` under which the call stands, when there is one.
    pub trace_context: Option<String>,
    /// Where the processor's own numbers are noted beside the sink.
    pub reports: Reports,
}

/// What a request or an answer carries.
#[derive(Clone, Debug)]
pub enum Body {
    /// Bytes and their media type.
    Bytes {
        /// The media type, as given.
        content_type: Option<String>,
        /// The content.
        bytes: Bytes,
    },
    /// Named tensors.
    Tensors(Vec<NamedTensor>),
}

impl Body {
    /// The bytes of it, without names and shapes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Bytes { bytes, .. } => bytes.len(),
            Self::Tensors(tensors) => bytes_of(tensors),
        }
    }
}

fn bytes_of(tensors: &[NamedTensor]) -> usize {
    tensors.iter().map(|named| named.tensor.data().len()).sum()
}

impl Request {
    /// The value of a declared attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn bytes(&self) -> Bytes {
        match &self.body {
            Body::Bytes { bytes, .. } => bytes.clone(),
            Body::Tensors(_) => Bytes::new(),
        }
    }
}

/// An answer as the processor builds it.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The media type of the body, when set.
    pub content_type: Option<String>,
    /// Named values for the client.
    pub parameters: Vec<(String, String)>,
    /// The parts of the body, in order.
    pub parts: Vec<Bytes>,
    /// The tensors, in order.
    pub tensors: Vec<NamedTensor>,
}

impl Reply {
    /// Whether nothing was answered.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.tensors.is_empty()
    }

    /// The bytes of its parts and tensors, without names and shapes.
    pub fn bytes(&self) -> usize {
        bytes_of(&self.tensors) + self.parts.iter().map(Bytes::len).sum::<usize>()
    }
}

/// The most parts or tensors, and the most parameters, that an answer has.
const PARTS: usize = 4096;
const PARAMETERS: usize = 64;

/// The longest name of a tensor that the host keeps, in bytes.
pub(crate) const NAME: usize = 1024;

/// There is one request and one reply in a store, so a handle needs no number of its own.
pub(crate) const ONLY: u32 = 0;

impl Host for State {}

impl HostRequest for State {
    fn id(&mut self, _: Resource<Request>) -> wasmtime::Result<String> {
        Ok(self.request.id.clone())
    }

    fn prediction_id(&mut self, _: Resource<Request>) -> wasmtime::Result<String> {
        Ok(self.request.prediction.clone())
    }

    fn content_type(&mut self, _: Resource<Request>) -> wasmtime::Result<Option<String>> {
        Ok(match &self.request.body {
            Body::Bytes { content_type, .. } => content_type.clone(),
            Body::Tensors(_) => None,
        })
    }

    fn body_size(&mut self, _: Resource<Request>) -> wasmtime::Result<u64> {
        Ok(self.request.bytes().len() as u64)
    }

    fn body(&mut self, _: Resource<Request>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.request.bytes().into())
    }

    fn read_body(
        &mut self,
        _: Resource<Request>,
        offset: u64,
        length: u64,
    ) -> wasmtime::Result<Vec<u8>> {
        Ok(slice(&self.request.bytes(), offset, length).into())
    }

    fn tensor_names(&mut self, _: Resource<Request>) -> wasmtime::Result<Vec<String>> {
        Ok(match &self.request.body {
            Body::Bytes { .. } => Vec::new(),
            Body::Tensors(tensors) => tensors.iter().map(|tensor| tensor.name.clone()).collect(),
        })
    }

    fn tensor(
        &mut self,
        _: Resource<Request>,
        name: String,
    ) -> wasmtime::Result<Option<Resource<Tensor>>> {
        let tensor = match &self.request.body {
            Body::Bytes { .. } => None,
            Body::Tensors(tensors) => tensors.iter().find(|tensor| tensor.name == name),
        };
        let Some(tensor) = tensor.map(|tensor| tensor.tensor.clone()) else {
            return Ok(None);
        };
        self.account.hold(tensor.data().len() as u64)?;
        Ok(Some(self.table.push(tensor)?))
    }

    fn requested_outputs(&mut self, _: Resource<Request>) -> wasmtime::Result<Vec<String>> {
        Ok(self.request.outputs.clone())
    }

    fn attribute(
        &mut self,
        _: Resource<Request>,
        name: String,
    ) -> wasmtime::Result<Option<String>> {
        Ok(self.request.attribute(&name).map(str::to_owned))
    }

    fn attributes(&mut self, _: Resource<Request>) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.request.attributes.clone())
    }

    fn remaining_us(&mut self, _: Resource<Request>) -> wasmtime::Result<u64> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        Ok(u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX))
    }

    fn trace_context(&mut self, _: Resource<Request>) -> wasmtime::Result<Option<String>> {
        Ok(self.request.trace_context.clone())
    }

    fn drop(&mut self, _: Resource<Request>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl HostReply for State {
    fn content_type(
        &mut self,
        _: Resource<Reply>,
        value: String,
    ) -> wasmtime::Result<Result<(), ReplyError>> {
        if !self.reply.is_empty() {
            return Ok(misuse("the content type must be set before the first part"));
        }
        if value.is_empty()
            || value.len() > 256
            || !value.bytes().all(|c| (0x20..0x7f).contains(&c))
        {
            return Ok(misuse("a content type is 1 to 256 printable ASCII characters"));
        }
        self.reply.content_type = Some(value);
        Ok(Ok(()))
    }

    fn parameter(
        &mut self,
        _: Resource<Reply>,
        name: String,
        value: String,
    ) -> wasmtime::Result<Result<(), ReplyError>> {
        let named = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        if !named {
            return Ok(misuse("a parameter's name is 1 to 64 of a-z, 0-9 and '-'"));
        }
        if value.len() > 1024 || !value.bytes().all(|c| (0x20..0x7f).contains(&c)) {
            return Ok(misuse("a parameter's value is at most 1024 printable ASCII characters"));
        }
        if self.reply.parameters.len() >= PARAMETERS {
            return Ok(misuse("an answer has at most 64 parameters"));
        }
        self.reply.parameters.retain(|(known, _)| *known != name);
        self.reply.parameters.push((name, value));
        Ok(Ok(()))
    }

    fn write(
        &mut self,
        _: Resource<Reply>,
        part: Vec<u8>,
    ) -> wasmtime::Result<Result<(), ReplyError>> {
        if !self.reply.tensors.is_empty() {
            return Ok(misuse("the answer already carries tensors, so it cannot carry a body"));
        }
        if let Err(over) = self.account.hold(part.len() as u64) {
            return Ok(Err(ReplyError::TooLarge(over.0)));
        }
        if self.reply.parts.len() >= PARTS {
            return Ok(misuse("an answer has at most 4096 parts"));
        }
        self.reply.parts.push(part.into());
        Ok(Ok(()))
    }

    fn add_tensor(
        &mut self,
        _: Resource<Reply>,
        name: String,
        value: Resource<Tensor>,
    ) -> wasmtime::Result<Result<(), ReplyError>> {
        if !self.reply.parts.is_empty() || self.reply.content_type.is_some() {
            return Ok(misuse("the answer already carries a body, so it cannot carry tensors"));
        }
        if name.len() > NAME {
            return Ok(misuse("a tensor's name is at most 1024 bytes"));
        }
        if self.reply.tensors.len() >= PARTS {
            return Ok(misuse("an answer has at most 4096 tensors"));
        }
        if self.reply.tensors.iter().any(|tensor| tensor.name == name) {
            return Ok(misuse(&format!("the answer already has a tensor {name:?}")));
        }
        let tensor = self.table.get(&value)?.clone();
        if let Err(over) = self.account.hold((name.len() + tensor.data().len()) as u64) {
            return Ok(Err(ReplyError::TooLarge(over.0)));
        }
        self.reply.tensors.push(NamedTensor { name, tensor });
        Ok(Ok(()))
    }

    fn drop(&mut self, _: Resource<Reply>) -> wasmtime::Result<()> {
        Ok(())
    }
}

fn misuse(message: &str) -> Result<(), ReplyError> {
    Err(ReplyError::Misuse(message.to_owned()))
}

/// Up to `length` bytes from `offset`.
pub(crate) fn slice(bytes: &Bytes, offset: u64, length: u64) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(bytes.len());
    bytes.slice(start..end)
}

/// Replaces the calls that hand out a body by ones that copy it once, straight into the guest.
pub(crate) fn add_copies_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut exchange = linker.instance("berth:plugin/exchange@0.1.0")?;
    exchange.func_wrap("[method]request.body", |mut store, (_,): (Resource<Request>,)| {
        Ok((store.data_mut().called().request.bytes(),))
    })?;
    exchange.func_wrap(
        "[method]request.read-body",
        |mut store, (_, offset, length): (Resource<Request>, u64, u64)| {
            Ok((slice(&store.data_mut().called().request.bytes(), offset, length),))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_end_with_the_bytes() {
        let bytes = Bytes::from_static(b"abcdef");
        for (offset, length, expected) in [
            (0, 6, "abcdef"),
            (0, 0, ""),
            (4, 9, "ef"),
            (9, 9, ""),
            (2, u64::MAX, "cdef"),
            (u64::MAX, 1, ""),
        ] {
            assert_eq!(slice(&bytes, offset, length), expected.as_bytes());
        }
    }
}
