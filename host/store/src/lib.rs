//! One log of committed changes, its documents, and blobs: everything that a host keeps, in one
//! folder that one host uses at a time.
//!
//! - [`store`]: the folder, opened; what it offers
//! - [`change`]: what is committed and what is read back
//! - [`error`]: what can go wrong
//! - `log`: changes and documents in SQLite (sole user of rusqlite, with `feedback`)
//! - [`feedback`]: what became known of predictions
//! - [`blobs`]: content by its sha256 in files (sole user of cap-std, with `uploads`)
//! - [`uploads`]: blobs that arrive in several goes
//!
//! Everything blocks on the disk. A commit and a sealed or placed blob have reached it when the call
//! returns.

pub mod blobs;
pub mod change;
pub mod error;
pub mod feedback;
mod log;
pub mod store;
pub mod uploads;

pub use blobs::{BlobWriter, LaidOut, SealedBlob};
pub use change::{Change, Document, Entry, Note, Sequence};
pub use error::StoreError;
pub use feedback::{Feedback, FeedbackLog, Said};
pub use store::Store;
pub use uploads::Upload;
