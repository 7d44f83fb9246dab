//! The data plane: listen, ask the rules, store, answer.
//!
//! [`Server::start`] opens the ledger and serves `bursar.v1.QuotaService` on a thread of its own; the
//! [`Running`] it gives is asked and stopped from any other thread.

mod accept;
mod ahead;
mod clock;
mod count;
mod deadlines;
mod engine;
mod explain;
mod fault;
mod frames;
mod http;
mod listen;
mod listing;
mod metrics;
mod plane;
mod reservations;
mod running;
mod service;
mod settings;
mod shared;
mod slots;
mod standings;
mod status;
mod sweep;
mod watch;
mod wire;

pub use ahead::{check_policy, check_request, count_tokens};
pub use listen::ListenError;
pub use metrics::{FAMILIES, Family};
pub use running::{ActivateError, AskError, End, Running, Server, StartError};
pub use settings::{FOLLOW_INTERVAL, PolicyFile, Settings, Transport};
pub use watch::{WATCHERS_MAX, Watch};
