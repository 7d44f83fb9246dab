//! The data plane under the measuring policy, in a process of its own.

use std::path::Path;

use bursar_server::{FOLLOW_INTERVAL, PolicyFile, Server, Settings, Transport};
use prost::Message as _;

use crate::{Failure, LONG, policy::policy};

/// Serves until killed, and says so on standard output.
pub(crate) fn serve(socket: &Path, data: &Path) -> Result<(), Failure> {
    let policy = policy().encode_to_vec();
    let running = Server::start(Settings {
        data_directory: data.into(),
        socket: Some(socket.into()),
        listen: None,
        policy: PolicyFile { policy, digest: b"bench".to_vec(), source: Vec::new() },
        segment_bytes: 64 << 20,
        ledger_bytes_max: 16 << 30,
        bounds: bursar_quota::Bounds::default(),
        follow_interval: FOLLOW_INTERVAL,
        transport: Transport::default(),
        hand_clock: None,
        reset_changed: false,
    })?;
    println!("serving");
    loop {
        if let Some(end) = running.wait(LONG) {
            return Err(format!("the sidecar ended: {end:?}").into());
        }
    }
}
