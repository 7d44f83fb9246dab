//! What is on disk: the ledger, and LMDB as its follower.
//!
//! The ledger is the truth: segments of entries, written in front of every answer. The index follows it,
//! reading only what is durable and applying it with the function that also recovers and verifies. The
//! store stores; it does not decide.
//!
//! Nothing is removed from the ledger yet: `ledger_bytes_max` bounds it, and past the bound reservations
//! are refused while settlements go on in the space kept for them.

mod codec;
mod crash;
mod dump;
mod fault;
mod follow;
mod follower;
mod frame;
mod generations;
mod handle;
mod index;
mod intern;
mod lock;
mod number;
mod open;
mod options;
mod read;
mod rows;
mod segment;
mod shared;
mod spare;
mod store;
mod survey;
mod sync;
mod tail;
mod totals;
mod uuid;
mod verify;
mod writer;

pub use codec::CodecError;
pub use crash::POINTS as CRASH_POINTS;
pub use dump::dump;
pub use fault::{POINTS as FAULT_POINTS, held};
pub use generations::{USAGE_PAGE_GROUPS, UsagePage, scan_usage};
pub use handle::{Entries, IndexHandle};
pub use index::IndexError;
pub use lock::{Lock, LockRefused, lock};
pub use open::{OpenError, Recovery};
pub use options::Options;
pub use read::ReadError;
pub use segment::Holder;
pub use shared::{Poisoned, Room};
pub use store::{Opened, Store, StoreStatus};
pub use tail::scan;
pub use totals::{Totals, scan_totals};
pub use verify::{Report, verify};
