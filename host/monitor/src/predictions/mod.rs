//! Recorded predictions, in Parquet files by hour.
//!
//! - [`spec`]: what an endpoint file says about recording
//! - [`row`]: a prediction
//! - `column`: columns, as Parquet keeps them
//! - `fields`: fields of bodies of JSON
//! - [`file`]: files, written, merged and read
//! - [`folder`]: the files of an endpoint
//! - [`recorder`]: the queue, and the threads that write and tidy up
//! - [`query`]: predictions, found again
//! - [`time`]: times, as they are shown and asked for

mod column;
mod fields;
pub mod file;
pub mod folder;
pub mod query;
pub mod recorder;
pub mod row;
pub mod spec;
#[cfg(test)]
mod tests;
pub mod time;

pub use file::FileError;
pub use query::{Filter, Summary, parse_id, show_id};
pub use recorder::Recorder;
pub use row::{BODY, Content, Prediction, text};
pub use spec::{Declared, Kept, Labels, PredictionsSpec};
pub use time::{now_ms, parse_span, parse_time, utc};
