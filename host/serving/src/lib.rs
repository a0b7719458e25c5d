//! Revisions and the way of a request through them.
//!
//! - [`spec`]: the endpoint file
//! - [`provider`]: an execution provider as that file names it
//! - [`documents`]: what the store keeps
//! - [`catalog`]: models and plugins and their versions
//! - `model_files`: a model's files in the store
//! - [`prepare`]: from a revision's document to one that answers
//! - [`routing`]: how a revision chooses among its variants
//! - `slices`, [`measures`]: what policies see of arms, in the whole and in parts
//! - `evaluations`: what a routing policy that is asked again needs of the host, and rewards
//! - [`shadow`]: copies that other arms get once the live answer was made
//! - `compare`, `ranks`: how far two answers are apart; [`examples`]: those that are farthest
//! - [`live`]: a revision that answers, and the request's way
//! - `metadata`: what variants take and answer
//! - `alike`: variants among which chance decides take the same requests
//! - [`warm_up`]: the request that every variant answers before a revision takes over
//! - [`draw`]: the draw of an arm from shares
//! - [`ended`]: the end of a request, from which it is counted
//! - `recording`: what of it is recorded
//! - [`feedback`]: what clients say of predictions afterwards
//! - [`replay`]: a recorded request again
//! - [`scores`]: how good predictions were
//! - [`rolling`]: a rollout under way as requests see it
//! - `rollout_router`: a rollout's policy that looks at each request
//! - `rollouts`: what a rollout needs of the host
//! - [`host`]: the snapshot that requests see, and how it is swapped
//! - [`control`]: push, apply, rollback, delete
//! - `turns`: the order in which that is done to one endpoint, or with one content
//! - `resolve`: from an endpoint file to a revision
//! - [`view`]: the endpoints as an operator sees them

mod alike;
pub mod catalog;
pub mod compare;
pub mod control;
pub mod documents;
pub mod draw;
pub mod ended;
pub mod error;
mod evaluations;
pub mod examples;
pub mod feedback;
pub mod host;
pub mod live;
pub mod measures;
mod metadata;
mod model_files;
mod numbers;
pub mod prepare;
pub mod provider;
mod ranks;
mod recording;
pub mod replay;
mod resolve;
pub mod rolling;
pub mod rollout_router;
mod rollouts;
pub mod routing;
pub mod scores;
pub mod shadow;
mod sink;
mod slices;
pub mod spec;
mod turns;
pub mod view;
pub mod warm_up;

pub use control::Applied;
pub use draw::Drawn;
pub use ended::Ended;
pub use error::{ControlError, RequestError};
pub use evaluations::Rewarded;
pub use host::{Host, HostOptions};
pub use live::{Incoming, LiveRevision, Outcome, PredictionId};
pub use metadata::Metadata;
pub use numbers::{Lies, Numbers};
pub use provider::ProviderSpec;
pub use rolling::{ArmStatus, Chosen, Endpoint, Exposure, Rolling};
pub use rollout_router::RolloutRouter;
pub use rollouts::RolloutPolicy;
pub use routing::{Routed, Standing};
pub use spec::{AttributeSource, EndpointSpec, ModelSpec, PolicySpec, RolloutSpec, VariantSpec};
