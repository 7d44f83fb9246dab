//! The load generator: a closed loop of calls against a sidecar, and the bare echo it is compared with.
//!
//! Both ends speak `bursar.v1.QuotaService` and nothing else: what is measured is any server of it.

mod calls;
mod drive;
mod echo;
mod place;
mod tally;

pub use calls::{COMMITTED_TOKENS, RESERVED_TOKENS, commit, reserve};
pub use drive::{Driver, IN_FLIGHT_MAX, Round, Shape, Work};
pub use echo::Echo;
pub use place::Place;
pub use tally::Tally;

/// Why a load could not be driven, or its server not started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was done.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Nobody answers there, or the connection broke.
    #[error("cannot connect to {place}: {why}")]
    Connect {
        /// Where.
        place: Place,
        /// What went wrong.
        why: String,
    },
    /// A call was not answered.
    #[error("{call} was answered {code:?}: {message}")]
    Call {
        /// The call.
        call: &'static str,
        /// The status's code.
        code: tonic::Code,
        /// The status's message.
        message: String,
    },
    /// A call was answered no: what denies cannot be measured.
    #[error("Reserve was denied: {0}")]
    Denied(String),
    /// A round took so much longer than it should that somebody hangs.
    #[error("no answer for {0} s: the server hangs")]
    Stalled(u64),
    /// The question is wrong.
    #[error("{0}")]
    Wrong(String),
    /// We have a bug.
    #[error("{0}: this is a bug in bursar")]
    Bug(String),
}

impl LoadError {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::System { what, error }
    }

    pub(crate) fn call(call: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Call { call, code: status.code(), message: status.message().into() }
    }
}
