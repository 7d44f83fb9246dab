//! Open reservations by when they expire.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bursar_quota::{Event, State, Timestamp};

/// One entry for each open reservation: bounded by how many may be open.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(BTreeMap<(Timestamp, u64), Arc<str>>);

impl Deadlines {
    /// The deadlines of every open reservation of a state.
    pub(crate) fn of(state: &State) -> Self {
        let deadline = |(id, reservation): (&Arc<str>, &bursar_quota::Reservation)| {
            ((reservation.expires_at, reservation.sequence), id.clone())
        };
        Self(state.reservations().map(deadline).collect())
    }

    /// Takes note of an event that is about to be applied to the state.
    pub(crate) fn note(&mut self, sequence: u64, instant: Timestamp, event: &Event, state: &State) {
        match event {
            Event::Reserved(event) => {
                self.0.insert((instant.after(event.ttl), sequence), event.id.clone());
            }
            Event::Settled(event) => {
                if let Some(open) = state.reservation(&event.id) {
                    self.0.remove(&(open.expires_at, open.sequence));
                }
            }
            Event::Activated(_) | Event::Recorded(_) => {}
        }
    }

    /// Open reservations by when they expire, after one of them if it is given.
    pub(crate) fn after(
        &self,
        place: Option<(Timestamp, u64)>,
    ) -> impl Iterator<Item = ((Timestamp, u64), &Arc<str>)> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.range((from, Bound::Unbounded)).map(|(place, id)| (*place, id))
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.0.first_key_value().map(|((at, _), _)| *at)
    }

    /// A reservation that is due.
    pub(crate) fn due(&self, now: Timestamp) -> Option<&Arc<str>> {
        self.0.first_key_value().filter(|((at, _), _)| *at <= now).map(|(_, id)| id)
    }
}
