//! What a sidecar's data plane is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bursar_quota::{Bounds, Timestamp};

/// Everything that is decided before the start; whoever starts it has checked nothing but types.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of ledger and index; made if needed.
    pub data_directory: PathBuf,
    /// The Unix socket to listen on.
    pub socket: Option<PathBuf>,
    /// The TCP address to listen on; loopback only.
    pub listen: Option<SocketAddr>,
    /// The policy to come into force, if its digest is not that of the last one that did.
    pub policy: PolicyFile,
    /// Whether a policy may come into force, now and later, that counts something anew, from nothing.
    pub reset_changed: bool,
    /// Bytes of one segment of the ledger.
    pub segment_bytes: u64,
    /// The most bytes all segments may take.
    pub ledger_bytes_max: u64,
    /// How often the index follows the ledger.
    pub follow_interval: Duration,
    /// The bounds of what is kept in memory.
    pub bounds: Bounds,
    /// The most connections open at once, over all listeners.
    pub connections_max: usize,
    /// The time on a clock that moves by hand; none means the machine's clocks.
    pub hand_clock: Option<Timestamp>,
}

/// How often the index follows the ledger, where nothing else is said: seldom, as it shares a core with decisions.
pub const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

/// The most connections open at once, where nothing else is said.
pub const CONNECTIONS_MAX: usize = 1_024;

/// A policy as it was read.
#[derive(Debug, Clone, Default)]
pub struct PolicyFile {
    /// The policy as the bytes of a `bursar.v1.Policy`.
    pub policy: Vec<u8>,
    /// The digest of the file and of all it names.
    pub digest: Vec<u8>,
    /// The file as it was read.
    pub source: Vec<u8>,
}
