//! Questions that get no answer: which gRPC status each is, with a name that any language can branch on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bursar_quota::Refusal;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of every `google.rpc.ErrorInfo` sent from here.
pub(crate) const DOMAIN: &str = "bursar";

/// The names of all faults, under which they are counted and sent.
pub(crate) const NAMES: [&str; 14] = [
    "INVALID_FIELD",
    "MESSAGE_UNREADABLE",
    "ID_USED_WITH_OTHER_CONTENT",
    "RESERVATION_NOT_FOUND",
    "RESERVATION_NOT_OPEN",
    "USAGE_TOO_OLD",
    "DRAINING",
    "LEDGER_FULL",
    "DISK_FULL",
    "LEDGER_UNREADABLE",
    "POISONED",
    "TOO_MANY_COUNTS",
    "NOT_SERVED",
    "BUG",
];

/// How long a caller waits before it asks again, where nothing says better.
const RETRY: Duration = Duration::from_millis(100);

/// The metadata by which gRPC clients with a retry policy are told when to come again.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A question that gets no answer; nothing was changed by it.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The question is wrong.
    Invalid {
        /// The field, with its place in a list: `lines[3].tokens`.
        field: String,
        /// What was got, and what it must be.
        problem: String,
    },
    /// What came is no message of the call; what was wrong with it.
    Unreadable(String),
    /// The rules do not answer it.
    Refused(Refusal),
    /// No decision can be made now.
    Unavailable(Unavailable),
    /// This version does not serve the call.
    NotServed(&'static str),
    /// We have a bug.
    Bug(String),
}

/// Why no decision can be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// The sidecar is about to stop.
    Draining,
    /// There is room for settlements only; why.
    LedgerFull(Arc<str>),
    /// There is room for nothing; why.
    DiskFull(Arc<str>),
    /// What the ledger says of an id cannot be read; why.
    Unreadable(Arc<str>),
    /// A write failed: nothing more is answered until a restart has read what is on disk.
    Poisoned,
    /// Too many texts wait to be counted.
    TooManyCounts,
}

impl Unavailable {
    /// The reason in `google.rpc.ErrorInfo`.
    fn reason(&self) -> &'static str {
        match self {
            Self::Draining => "DRAINING",
            Self::LedgerFull(_) => "LEDGER_FULL",
            Self::DiskFull(_) => "DISK_FULL",
            Self::Unreadable(_) => "LEDGER_UNREADABLE",
            Self::Poisoned => "POISONED",
            Self::TooManyCounts => "TOO_MANY_COUNTS",
        }
    }

    fn text(&self) -> String {
        let text = match self {
            Self::Draining => {
                "the sidecar is stopping and takes no new reservations: ask again when it is back"
            }
            Self::LedgerFull(why) => {
                return format!(
                    "only settlements are taken: {why}; free disk space, or raise ledger_bytes_max"
                );
            }
            Self::DiskFull(why) => {
                return format!(
                    "not even the room kept for settlements is left: {why}; free disk space"
                );
            }
            Self::Unreadable(why) => {
                return format!(
                    "what the ledger says of this id cannot be read: {why}; look at the disk"
                );
            }
            Self::Poisoned => {
                "the ledger could not be written, so nothing is decided until the sidecar has restarted"
            }
            Self::TooManyCounts => {
                "too many large texts wait to be counted: ask again, or send input_tokens or input_bytes"
            }
        };
        text.into()
    }
}

impl Fault {
    /// A wrong field: `got` and what it must be.
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    /// The name under which the fault is counted.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "INVALID_FIELD",
            Self::Unreadable(_) => "MESSAGE_UNREADABLE",
            Self::Refused(refusal) => refusal_name(refusal),
            Self::Unavailable(why) => why.reason(),
            Self::NotServed(_) => "NOT_SERVED",
            Self::Bug(_) => "BUG",
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid { field, problem } => Self::invalid(field, problem),
            other => Self::Refused(other),
        }
    }
}

fn refusal_name(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Invalid { .. } => "INVALID_FIELD",
        Refusal::Conflict { .. } => "ID_USED_WITH_OTHER_CONTENT",
        Refusal::NotFound(_) => "RESERVATION_NOT_FOUND",
        Refusal::NotOpen { .. } => "RESERVATION_NOT_OPEN",
        Refusal::TooOld { .. } => "USAGE_TOO_OLD",
    }
}

fn refusal_code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Invalid { .. } => Code::InvalidArgument,
        Refusal::Conflict { .. } => Code::AlreadyExists,
        Refusal::NotFound(_) => Code::NotFound,
        Refusal::NotOpen { .. } | Refusal::TooOld { .. } => Code::FailedPrecondition,
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let mut details = ErrorDetails::new();
        details.set_error_info(fault.name(), DOMAIN, HashMap::new());
        match fault {
            Fault::Invalid { field, problem } => {
                let message = format!("{field}: {problem}");
                details.add_bad_request_violation(field, problem);
                Self::with_error_details(Code::InvalidArgument, message, details)
            }
            Fault::Unreadable(problem) => Self::with_error_details(
                Code::InvalidArgument,
                format!(
                    "the message cannot be read; send one that the contract's proto generates: {problem}"
                ),
                details,
            ),
            Fault::Refused(refusal) => {
                Self::with_error_details(refusal_code(&refusal), refusal.to_string(), details)
            }
            Fault::Unavailable(why) => {
                details.set_retry_info(Some(RETRY));
                let mut metadata = MetadataMap::new();
                let pushback = u32::try_from(RETRY.as_millis()).unwrap_or(u32::MAX);
                metadata.insert(PUSHBACK, MetadataValue::from(pushback));
                Self::with_error_details_and_metadata(
                    Code::Unavailable,
                    why.text(),
                    details,
                    metadata,
                )
            }
            Fault::NotServed(call) => Self::with_error_details(
                Code::Unimplemented,
                format!("{call} is not served by this version"),
                details,
            ),
            Fault::Bug(what) => Self::with_error_details(
                Code::Internal,
                format!("this is a bug in bursar, please report it: {what}"),
                details,
            ),
        }
    }
}
