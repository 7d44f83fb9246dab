//! The store as its users see it: on disk, through its public names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod engine;
mod following;
mod opening;
mod properties;
mod room;
mod size;
