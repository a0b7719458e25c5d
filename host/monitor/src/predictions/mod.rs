//! Recorded predictions, in Parquet files by hour.
//!
//! - [`spec`]: what an endpoint file says about recording
//! - [`row`]: a prediction
//! - `column`: columns, as Parquet keeps them
//! - [`file`]: files, written, merged and read
//! - [`folder`]: the files of an endpoint
//! - [`recorder`]: the queue, and the threads that write and tidy up
//! - [`query`]: predictions, found again

mod column;
pub mod file;
pub mod folder;
pub mod query;
pub mod recorder;
pub mod row;
pub mod spec;

pub use file::FileError;
pub use folder::utc;
pub use query::{Filter, Summary, parse_id, show_id};
pub use recorder::Recorder;
pub use row::{Content, Prediction};
pub use spec::{Kept, Labels, PredictionsSpec};
