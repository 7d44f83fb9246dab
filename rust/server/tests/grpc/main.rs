//! The data plane as its callers meet it: over a socket and over TCP, through the generated client.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program fails loudly")]

mod counting;
mod discovery;
mod lifetime;
mod operators;
mod questions;
mod races;
mod reload;
#[path = "../sidecar/mod.rs"]
mod sidecar;
mod transport;
