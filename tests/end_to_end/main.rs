//! The real binary with real plugins and models, driven over HTTP and by its command line.
//!
//! - [`accuracy`]: pictures through the whole path
//! - [`answers`]: the headers of every answer
//! - [`batching`]: requests for one model that run as one
//! - [`command_line`]: the verbs, their output and their exit codes
//! - [`conformance`]: the ONNX project's tests, beside Python's onnxruntime
//! - [`connections`]: too many of them, idle ones, slow ones
//! - [`datatypes`]: tensors of every datatype
//! - [`durability`]: kills, broken files
//! - [`embeddings`]: texts through the whole path
//! - [`full_disk`]: no room for what is pushed and applied
//! - [`graphs`]: what trials leave on the disk
//! - [`guests`]: every guest has a test
//! - [`host_calls`]: host calls with arguments that no SDK gives
//! - [`large_models`]: models of several files, uploads that go on where they broke off
//! - [`overload`]: more than the host takes on at once
//! - [`pictures`]: pictures of every kind, against Pillow and numpy
//! - [`policies`]: policies and routers that fail
//! - [`predictions`]: what is recorded of predictions, said of them, and what it comes to
//! - [`processors`]: processors that fail, and what the others see
//! - [`protocol`]: the data port, and what it refuses
//! - [`refusals`]: files that are refused
//! - [`revisions`]: changes under traffic
//! - [`rollouts`]: traffic that moves from one revision to the next
//! - [`routing`]: which variant answers
//! - [`routing_ticks`]: shares among variants that follow what is observed, fallbacks
//! - [`sandbox`]: components that are hard to compile or fit no interface, limits, what is kept of a trap
//! - [`shadows`]: copies of requests, and how their answers compare
//! - [`shutdown`]: the two signals, and what they end
//! - [`simulation`]: policies on made-up traffic
//! - [`strategies`]: which version wins by what the right answers were
//! - [`swaps`]: change after change under load leaves nothing behind
//! - [`takeover`]: what a revision has to show first
//! - [`trials`]: what goes on while a model is tried, and what is known of one that never answers
//! - [`support`]: the host under test, a client, small models

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod accuracy;
mod answers;
mod batching;
mod command_line;
mod conformance;
mod connections;
mod datatypes;
mod durability;
mod embeddings;
#[cfg(target_os = "linux")]
mod full_disk;
mod graphs;
mod guests;
mod host_calls;
mod large_models;
mod overload;
mod pictures;
mod policies;
mod predictions;
mod processors;
mod protocol;
mod refusals;
mod revisions;
mod rollouts;
mod routing;
mod routing_ticks;
mod sandbox;
mod shadows;
mod shutdown;
mod simulation;
mod strategies;
mod support;
#[cfg(target_os = "linux")]
mod swaps;
mod takeover;
#[cfg(target_os = "linux")]
mod trials;
