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
    /// What callers may take of connections, and how long.
    pub transport: Transport,
    /// The time on a clock that moves by hand; none means the machine's clocks.
    pub hand_clock: Option<Timestamp>,
}

/// How often the index follows the ledger, where nothing else is said: seldom, as it shares a core with decisions.
pub const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

/// What callers may take of connections, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Transport {
    /// The most connections open at once, over all listeners.
    pub connections_max: usize,
    /// The most connections of one user over the Unix socket, and of all who come over TCP.
    pub connections_per_caller_max: usize,
    /// How long a new connection may take until its first request is whole.
    pub first_request: Duration,
    /// After how long a silent connection is asked whether it lives.
    pub keepalive: Duration,
    /// How long it may take to say so before it is closed.
    pub keepalive_answer: Duration,
    /// When a connection is asked to be made anew.
    pub age_max: Duration,
    /// How long its calls in flight may then take.
    pub age_grace: Duration,
    /// How long a call may take, from its headers to its answer: one that is sent a byte at a time ends.
    pub call_max: Duration,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            connections_per_caller_max: 512,
            first_request: Duration::from_secs(5),
            keepalive: Duration::from_secs(20),
            keepalive_answer: Duration::from_secs(5),
            age_max: Duration::from_secs(60 * 60),
            age_grace: Duration::from_secs(60),
            call_max: Duration::from_secs(60),
        }
    }
}

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
