//! Rust from the contract: protox reads it, tonic-prost-build writes the client.

use std::error::Error;

const PROTO: &str = "../../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let contract = protox::compile(["bursar/v1/quota.proto"], [PROTO])?;
    tonic_prost_build::configure().build_server(false).compile_fds(contract)?;
    Ok(())
}
