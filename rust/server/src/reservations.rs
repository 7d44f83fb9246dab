//! Which reservations are open, a page at a time, and what the ledger says of one.

use std::sync::Arc;

use bursar_proto::v1;
use bursar_quota::{
    Event, IdHash, Milliseconds, Reservation, ReservationState, Reserved, Settled, Timestamp,
    from_request,
};
use bursar_store::{IndexHandle, ReadError};

use crate::deadlines::{Lived, Place};
use crate::engine::Engine;
use crate::fault::Fault;
use crate::listing::{self, Page};
use crate::wire::event;

/// The most entries about one reservation: a settlement can be replaced, not often.
const ENTRIES_MAX: usize = 16;

/// A page of open reservations: each as it is when its step comes to it.
pub(crate) type Open = Page<(Arc<str>, Reservation), Place>;

/// A checked question for open reservations.
pub(crate) struct Wanted {
    labels: Vec<(String, String)>,
    limit: String,
    older_than: Milliseconds,
    size: usize,
}

impl Wanted {
    /// How many rows a page has at most.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    fn concerns(&self, reservation: &Reservation, now: Timestamp) -> bool {
        let held = |limit: &str| reservation.holds.iter().any(|hold| *hold.counter.limit == *limit);
        (self.limit.is_empty() || held(&self.limit))
            && reservation.granted_at.after(self.older_than) <= now
            && self.labels.iter().all(|(key, value)| {
                let (model, tier) = (&reservation.model, &reservation.service_tier);
                let has = from_request(key, model, tier).or_else(|| reservation.labels.get(key));
                has == Some(&**value)
            })
    }
}

/// Reads the question: what is wanted, and the place after which the page begins.
pub(crate) fn wanted(
    request: v1::ListReservationsRequest,
) -> Result<(Wanted, Option<Place>), Fault> {
    let after = listing::token(&request.page_token, place_from_token)?;
    let wanted = Wanted {
        labels: listing::labels(request.labels)?,
        limit: request.limit,
        older_than: Milliseconds(request.older_than_ms),
        size: listing::size(request.page_size)?,
    };
    Ok((wanted, after))
}

/// Takes one step: some of the reservations after the last one looked at, by when they expire.
pub(crate) fn step(engine: &mut Engine, wanted: &Wanted, page: &mut Open) -> Result<(), Fault> {
    let now = engine.begin()?;
    page.sequence = engine.state.sequence();
    let end = wanted.size.min(page.found.len() + listing::ROWS_PER_STEP_MAX);
    for (looked_at, (place, id)) in engine.deadlines.after(page.after).enumerate() {
        if looked_at == listing::LOOKED_AT_PER_STEP_MAX || page.found.len() == end {
            return Ok(());
        }
        page.after = Some(place);
        let found = engine.state.reservation(id).filter(|found| wanted.concerns(found, now));
        page.found.extend(found.map(|found| (id.clone(), found.clone())));
    }
    page.ended = true;
    Ok(())
}

/// The answer, once the page is full or nothing is left.
pub(crate) fn answered(page: Open) -> v1::ListReservationsResponse {
    let next = page.after.filter(|_| !page.ended);
    v1::ListReservationsResponse {
        reservations: page.found.iter().map(|(id, found)| event::open(id, found)).collect(),
        next_page_token: next
            .map(|(at, sequence)| format!("{}.{sequence}", at.0))
            .unwrap_or_default(),
        sequence: page.sequence,
    }
}

fn place_from_token(token: &str) -> Option<Place> {
    let (at, sequence) = token.split_once('.')?;
    Some((Lived(at.parse().ok()?), sequence.parse().ok()?))
}

/// Where the ledger speaks of an id last: its grant while it is open, else its settlement or record.
pub(crate) fn latest(engine: &Engine, id: &str) -> Option<u64> {
    let open = engine.state.reservation(id).map(|open| open.sequence);
    open.or_else(|| engine.state.remembered(IdHash::of(id)).map(|settled| settled.sequence))
}

/// An entry with its number and instant.
type Entry = (u64, Timestamp, Event);

/// All that the ledger says of one id.
pub(crate) struct History {
    /// Its entries, oldest first.
    entries: Vec<Entry>,
}

impl History {
    /// Reads it from the files, back from the latest entry, on whichever thread asks.
    pub(crate) fn read(ledger: &IndexHandle, latest: u64) -> Result<Self, ReadError> {
        let mut wanted = vec![latest];
        let mut entries: Vec<Entry> = Vec::new();
        while let Some(sequence) = wanted.pop().filter(|_| entries.len() < ENTRIES_MAX) {
            if entries.iter().any(|(known, ..)| *known == sequence) {
                continue;
            }
            let (at, event) = ledger.entry(sequence)?;
            if let Event::Settled(settled) = &event {
                wanted.push(settled.reserved_sequence);
                wanted.extend(settled.replaces_sequence);
            }
            entries.push((sequence, at, event));
        }
        entries.sort_unstable_by_key(|(sequence, ..)| *sequence);
        Ok(Self { entries })
    }

    /// The grant and its instant; none of a record.
    pub(crate) fn grant(&self) -> Option<(Timestamp, &Reserved)> {
        self.entries.iter().find_map(|(_, at, event)| match event {
            Event::Reserved(grant) => Some((*at, &**grant)),
            _ => None,
        })
    }

    /// The latest settlement; none while it is open.
    fn settlement(&self) -> Option<&Settled> {
        self.entries.iter().rev().find_map(|(_, _, event)| match event {
            Event::Settled(settled) => Some(&**settled),
            _ => None,
        })
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> ReservationState {
        self.settlement().map_or(ReservationState::Open, |settled| settled.state)
    }

    /// The answer.
    pub(crate) fn answered(&self) -> v1::GetReservationResponse {
        let reservation = match self.grant() {
            Some((at, grant)) => Some(event::reservation(at, grant, self.settlement())),
            None => self.entries.iter().find_map(|(_, at, event)| match event {
                Event::Recorded(record) => Some(event::record(*at, record)),
                _ => None,
            }),
        };
        let entry = |(sequence, at, event): &Entry| event::entry(*sequence, *at, event);
        v1::GetReservationResponse {
            reservation,
            entries: self.entries.iter().map(entry).collect(),
        }
    }
}
