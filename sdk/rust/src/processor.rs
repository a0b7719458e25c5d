//! Processors.

use crate::bindings::processor::berth::plugin::exchange;
use crate::bindings::processor::exports::berth::plugin::processing;
use crate::{ConfigError, DataType, Error, Reply, Request, Signature, TensorType, config};
use serde::de::DeserializeOwned;

/// Prepares and finishes requests around models. Export it with
/// [`export_processor!`](crate::export_processor).
pub trait Processor: Sized + 'static {
    /// The variant's configuration, read from a JSON object.
    type Config: DeserializeOwned;

    /// A processor under one configuration. By default the host makes one for each request; it
    /// also makes one when a revision is applied, so that a configuration that does not fit is
    /// refused with its key named.
    fn create(config: Self::Config) -> Result<Self, ConfigError>;

    /// What the processor takes and answers: the metadata of its endpoint.
    fn signature(&self) -> Signature;

    /// Answers one request.
    fn process(&self, request: &Request<'_>, reply: &Reply<'_>) -> Result<(), Error>;
}

impl Default for Signature {
    /// Takes and answers nothing yet.
    fn default() -> Self {
        Self { content_types: Vec::new(), inputs: Vec::new(), answers: None, outputs: Vec::new() }
    }
}

impl Signature {
    /// Takes bodies of this media type too, such as `image/png` or `image/*`.
    pub fn takes_body(mut self, content_type: &str) -> Self {
        self.content_types.push(content_type.to_owned());
        self
    }

    /// Takes this tensor too.
    pub fn takes(mut self, tensor: TensorType) -> Self {
        self.inputs.push(tensor);
        self
    }

    /// Answers bodies of this media type.
    pub fn answers(mut self, content_type: &str) -> Self {
        self.answers = Some(content_type.to_owned());
        self
    }

    /// Answers this tensor too.
    pub fn answers_tensor(mut self, tensor: TensorType) -> Self {
        self.outputs.push(tensor);
        self
    }
}

impl TensorType {
    /// The type of the tensor `name`: its datatype and its dimensions, outermost first, -1 for one
    /// that varies.
    pub fn new(name: &str, datatype: DataType, shape: &[i64]) -> Self {
        Self { name: name.to_owned(), datatype, shape: shape.to_vec() }
    }
}

/// A processor as the ABI wants it.
#[derive(Debug)]
pub struct ExportedProcessor<P>(P);

impl<P: Processor> processing::Guest for ExportedProcessor<P> {
    type Processor = Self;
}

impl<P: Processor> processing::GuestProcessor for ExportedProcessor<P> {
    fn create(json: String) -> Result<processing::Processor, ConfigError> {
        Ok(processing::Processor::new(Self(P::create(config::parse(&json)?)?)))
    }

    fn signature(&self) -> Signature {
        self.0.signature()
    }

    fn process(
        &self,
        request: &exchange::Request,
        reply: &exchange::Reply,
    ) -> Result<(), processing::Error> {
        Ok(self.0.process(&Request(request), &Reply(reply))?)
    }
}

/// Makes a plugin of a [`Processor`] and writes its manifest.
///
/// After the type come the fields of [`Manifest`](crate::Manifest) that differ from their
/// defaults, in any order:
///
/// ```
/// # use berth_sdk::{ConfigError, Error, NoConfig, Processor, Reply, Request, Signature};
/// # struct Echo;
/// # impl Processor for Echo {
/// #     type Config = NoConfig;
/// #     fn create(_: NoConfig) -> Result<Self, ConfigError> { Ok(Self) }
/// #     fn signature(&self) -> Signature { Signature::default() }
/// #     fn process(&self, request: &Request, reply: &Reply) -> Result<(), Error> { reply.write(request.body()) }
/// # }
/// berth_sdk::export_processor!(Echo, roles: &["default"], assets: &["labels"], memory: 64 << 20);
/// ```
#[macro_export]
macro_rules! export_processor {
    ($processor:ty $(, $field:ident : $value:expr)* $(,)?) => {
        const _: () = {
            type Exported = $crate::export::ExportedProcessor<$processor>;
            $crate::bindings::processor::export!(Exported with_types_in $crate::bindings::processor);
        };
        $crate::write_manifest!("processor" $(, $field : $value)*);
    };
}
