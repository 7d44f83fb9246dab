//! Generates the messages and services from `proto/`, compiled by protox.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

/// Where the contract lies, seen from this crate.
const PROTO_ROOT: &str = "../../proto";

/// The folders whose messages are compiled; each is one package.
const PACKAGES: [&str; 2] = ["bursar/v1", "bursar/ledger/v1"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join(PROTO_ROOT);
    println!("cargo::rerun-if-changed={}", root.join("bursar").display());
    let files = proto_files(&root)?;
    let descriptors = protox::compile(&files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .build_transport(false)
        // Labels and scopes in a stable order: the same message is the same bytes, wherever it is made.
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}

/// Lists every `.proto` file of `PACKAGES`, sorted, so that a build does not depend on a folder's order.
fn proto_files(root: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for package in PACKAGES {
        let folder = root.join(package);
        let listing = fs::read_dir(&folder)
            .map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
        for entry in listing {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
