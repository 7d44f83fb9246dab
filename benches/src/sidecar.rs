//! The data plane under the measuring policy, in a process of its own.

use std::path::Path;
use std::sync::Arc;

use bursar_load::{Driver, LoadError, Place, Shape};
use bursar_quota::Bounds;
use bursar_server::{FOLLOW_INTERVAL, PolicyFile, Server, Settings, Transport};
use prost::Message as _;
use tempfile::TempDir;

use crate::policy::policy;
use crate::{Failure, reader, servers};

/// A data plane that was started, with what it keeps below a folder of its own.
pub(crate) struct Sidecar {
    pub(crate) server: servers::Server,
    folder: TempDir,
}

impl Sidecar {
    /// Starts one with so many limits on a core, with a place for a reader on another.
    pub(crate) fn start(limits: usize, core: usize, reader_core: usize) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let (socket, data) = (folder.path().join("bursar.sock"), folder.path().join("data"));
        let numbers = [limits, core, reader_core].map(|number| number.to_string());
        let [limits, core, reader_core] = &numbers;
        let server = servers::Server::start(&[
            "serve".as_ref(),
            socket.as_ref(),
            data.as_ref(),
            limits.as_ref(),
            core.as_ref(),
            reader_core.as_ref(),
        ])?;
        Ok(Self { server, folder })
    }

    pub(crate) fn connect(&self, shape: Shape, run: &str) -> Result<Driver, LoadError> {
        Driver::connect(&Place::Socket(self.folder.path().join("bursar.sock")), shape, run)
    }
}

/// Serves until standard input ends or it is killed, and says so on standard output.
pub(crate) fn serve(
    socket: &Path,
    data: &Path,
    limits: usize,
    reader_core: usize,
) -> Result<(), Failure> {
    let policy = policy(limits).encode_to_vec();
    // Each limit has an equal share of them: here a million counters of one limit are wanted.
    let counters_max = limits * 1_001_000;
    let running = Server::start(Settings {
        data_directory: data.into(),
        socket: Some(socket.into()),
        listen: None,
        policy: PolicyFile { policy, digest: b"bench".to_vec(), source: Vec::new() },
        segment_bytes: 64 << 20,
        ledger_bytes_max: 16 << 30,
        bounds: Bounds { counters_max, ..Bounds::default() },
        follow_interval: FOLLOW_INTERVAL,
        transport: Transport::default(),
        hand_clock: None,
        reset_changed: false,
    })?;
    println!("serving");
    let running = Arc::new(running);
    reader::obey(&running, reader_core)
}
