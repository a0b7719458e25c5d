//! Revisions and the way of a request through them.
//!
//! - [`spec`]: the endpoint file
//! - [`documents`]: what the store keeps
//! - [`catalog`]: models and plugins and their versions
//! - [`prepare`]: from a revision's document to one that answers
//! - [`live`]: a revision that answers, and the request's way
//! - [`draw`]: the draw of an arm from shares
//! - [`host`]: the snapshot, and apply, rollback and delete

pub mod catalog;
pub mod documents;
pub mod draw;
pub mod error;
pub mod host;
pub mod live;
pub mod prepare;
mod sink;
pub mod spec;

pub use error::{ControlError, RequestError};
pub use host::{Applied, Host, HostOptions};
pub use live::{Incoming, LiveRevision, Metadata, Outcome, PredictionId};
pub use spec::{AttributeSource, EndpointSpec, PolicySpec, VariantSpec};
