//! A state as bytes: the same state gives the same bytes, however it came about.

use bursar_quota::{Bounds, State, Timestamp};

use crate::number::wide;
use crate::rows;

/// Every row of a state in a fixed order, as bytes. What nothing can reach any more at the instant `now`
/// (counters that are dead, ids beyond the bounds) is left out, for when it is forgotten is nobody's promise;
/// so `now` must not be before anything that was forgotten already was.
pub fn dump(state: &State, bounds: &Bounds, now: Timestamp) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(state.sequence().to_be_bytes());
    out.extend(rows::instant_key(state.instant()));
    let mut counters: Vec<_> =
        state.counters().filter(|(key, counter)| !counter.dead(key, now)).collect();
    counters.sort_by(|one, other| one.0.cmp(other.0));
    section(&mut out, counters.iter().map(|(key, counter)| rows::counter_out(key, *counter)));
    let mut open: Vec<_> = state.reservations().collect();
    open.sort_by_key(|(_, reservation)| reservation.sequence);
    section(&mut out, open.iter().map(|(id, one)| reservation(id, one)));
    let surplus = state.remembered_len().saturating_sub(bounds.settled_ids_max);
    let mut horizon = state.horizon();
    let mut remembered = Vec::new();
    for (at, (id, one, instant)) in state.remembered_in_order().enumerate() {
        if at < surplus || instant.after(bounds.settled_span) < now {
            horizon = horizon.max(Some(instant));
            continue;
        }
        let row = rows::remembered_out(id, one.digest, instant);
        remembered.push([&one.sequence.to_be_bytes()[..], &row].concat());
    }
    section(&mut out, remembered.into_iter());
    section(&mut out, horizon.into_iter().map(|horizon| rows::instant_key(horizon).to_vec()));
    let policies = state
        .policies()
        .map(|(version, record)| [&version.to_be_bytes()[..], &rows::policy_out(record)].concat());
    section(&mut out, policies);
    let mut since: Vec<_> = state.limits_since().collect();
    since.sort_unstable();
    let since = since
        .into_iter()
        .map(|(identity, since)| [&identity.to_be_bytes()[..], &rows::instant_key(since)].concat());
    section(&mut out, since);
    out
}

fn reservation(id: &str, one: &bursar_quota::Reservation) -> Vec<u8> {
    [&one.sequence.to_be_bytes()[..], &rows::reservation_out(id, one)].concat()
}

/// Rows with their lengths, and their number behind them.
fn section(out: &mut Vec<u8>, rows: impl Iterator<Item = Vec<u8>>) {
    let mut count = 0_u64;
    for row in rows {
        out.extend(wide(row.len()).to_be_bytes());
        out.extend(row);
        count += 1;
    }
    out.extend(count.to_be_bytes());
}
