//! A ledger's reservations added up from its files alone: for audits of what callers were told.

use std::path::Path;

use bursar_quota::{Event, ReservationState, tokens_sum};

use crate::read::ReadError;
use crate::tail::scan;

/// What a ledger's entries add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Reservations granted.
    pub granted: u64,
    /// Tokens reserved by them.
    pub tokens_granted: u64,
    /// Reservations committed, late ones included.
    pub committed: u64,
    /// Tokens committed by them.
    pub tokens_committed: u64,
    /// Reservations released.
    pub released: u64,
    /// Tokens given back by them.
    pub tokens_released: u64,
    /// Reservations that expired.
    pub expired: u64,
}

/// Adds up the reservations whose id begins so, from a ledger's first entry; also while a sidecar writes it.
///
/// # Errors
/// When a file cannot be read, or is broken where a further one follows it.
pub fn scan_totals(dir: &Path, id_prefix: &str) -> Result<Totals, ReadError> {
    let mut totals = Totals::default();
    scan(dir, 0, |_, _, event| match event {
        Event::Reserved(event) if event.id.starts_with(id_prefix) => {
            totals.granted += 1;
            totals.tokens_granted += event.tokens_reserved();
        }
        Event::Settled(event) if event.id.starts_with(id_prefix) => match event.state {
            ReservationState::Committed => {
                totals.committed += 1;
                totals.tokens_committed += tokens_sum(&event.lines);
            }
            ReservationState::Released => {
                totals.released += 1;
                totals.tokens_released += event.tokens_reserved;
            }
            ReservationState::Expired => totals.expired += 1,
            _ => {}
        },
        _ => {}
    })?;
    Ok(totals)
}
