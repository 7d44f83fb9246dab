//! Measures the data plane beside something it is compared with, in one run: `cargo run --release -p bursar-benches`.
//!
//! Servers are processes of their own on Unix sockets; one client drives what is compared by turns, so that
//! a machine whose speed drifts drifts for all of it.
#![allow(clippy::print_stdout, reason = "a report is what this program is for")]

mod echo;
mod figures;
mod policy;
mod reader;
mod reading;
mod servers;
mod sidecar;
mod size;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use servers::pin;

/// What any of this program's parts may fail with.
type Failure = Box<dyn Error + Send + Sync>;

/// How the id of every call begins, so that with the call's number it is as long as a UUID.
const RUN: &str = "0190a5c2-7b1e-7000-8000";
/// Longer than a round takes, or a server is waited for before it is waited for again.
const LONG: Duration = Duration::from_secs(60 * 60);

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] => {
            echo::compare()?;
            println!();
            size::compare()?;
            println!();
            reading::compare()
        }
        ["echo"] => echo::compare(),
        ["size"] => size::compare(),
        ["reading"] => reading::compare(),
        ["serve-echo", socket, core] => {
            pin(core.parse()?)?;
            echo::serve(Path::new(socket))
        }
        ["serve", socket, data, limits, core, reader_core] => {
            pin(core.parse()?)?;
            let limits = limits.parse()?;
            sidecar::serve(Path::new(socket), Path::new(data), limits, reader_core.parse()?)
        }
        other => {
            Err(format!("got {other:?}; write echo, size or reading, or nothing for all of them")
                .into())
        }
    }
}
