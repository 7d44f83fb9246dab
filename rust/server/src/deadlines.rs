//! Open reservations by when they expire, on a clock that no one sets: a wall that is set back or forth makes no
//! reservation live longer or shorter.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use bursar_quota::{Event, Milliseconds, State, Timestamp};

/// An instant on the boot clock, which goes on at an even pace also while the machine sleeps; in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lived(pub(crate) i64);

impl Lived {
    /// The instant so much later.
    fn after(self, span: Milliseconds) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.0).unwrap_or(i64::MAX)))
    }

    /// How long it is until another instant; 0 if that is past.
    pub(crate) fn until(self, other: Self) -> Milliseconds {
        Milliseconds(u64::try_from(other.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

/// A deadline with the sequence that makes it one reservation's.
pub(crate) type Place = (Lived, u64);

/// One entry for each open reservation: bounded by how many may be open.
#[derive(Debug)]
pub(crate) struct Deadlines {
    in_order: BTreeMap<Place, Arc<str>>,
    /// Each reservation's deadline, by the sequence it was granted at.
    by_sequence: HashMap<u64, Lived>,
}

impl Deadlines {
    /// The deadlines of every open reservation of a state. What each has left is told by the wall: the boot
    /// clock may have begun anew since it was granted.
    pub(crate) fn of(state: &State, now: Timestamp, lived: Lived) -> Self {
        let mut deadlines = Self { in_order: BTreeMap::new(), by_sequence: HashMap::new() };
        for (id, reservation) in state.reservations() {
            let at = lived.after(now.until(reservation.expires_at));
            deadlines.insert(at, reservation.sequence, id);
        }
        deadlines
    }

    /// Takes note of an event that is about to be applied to the state.
    pub(crate) fn note(&mut self, sequence: u64, lived: Lived, event: &Event, state: &State) {
        match event {
            Event::Reserved(event) => self.insert(lived.after(event.ttl), sequence, &event.id),
            Event::Settled(event) => {
                let open = state.reservation(&event.id).map(|open| open.sequence);
                if let Some((sequence, at)) =
                    open.and_then(|open| self.by_sequence.remove_entry(&open))
                {
                    self.in_order.remove(&(at, sequence));
                }
            }
            Event::Activated(_) | Event::Recorded(_) => {}
        }
    }

    fn insert(&mut self, at: Lived, sequence: u64, id: &Arc<str>) {
        self.in_order.insert((at, sequence), id.clone());
        self.by_sequence.insert(sequence, at);
    }

    /// Open reservations by when they expire, after one of them if it is given.
    pub(crate) fn after(&self, place: Option<Place>) -> impl Iterator<Item = (Place, &Arc<str>)> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.in_order.range((from, Bound::Unbounded)).map(|(place, id)| (*place, id))
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<Lived> {
        self.in_order.first_key_value().map(|((at, _), _)| *at)
    }

    /// A reservation that is due.
    pub(crate) fn due(&self, lived: Lived) -> Option<&Arc<str>> {
        self.in_order.first_key_value().filter(|((at, _), _)| *at <= lived).map(|(_, id)| id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails loudly")]
mod tests {
    use bursar_quota::{Bounds, Compiled, Policy, ReserveAnswer, ReserveRequest, Rules, Unsettled};

    use super::*;

    const TTL: Milliseconds = Milliseconds(60_000);
    const NOW: Timestamp = Timestamp(1_772_323_200_000);

    fn policy() -> Compiled {
        let policy = Policy {
            name: "test".into(),
            time_zone: jiff::tz::TimeZone::UTC,
            labels: Vec::new(),
            ttl: TTL,
            unsettled: Unsettled::Release,
            limits: Vec::new(),
            rollups: Vec::new(),
        };
        policy.compile().unwrap()
    }

    fn reserved(state: &State, policy: &Compiled, id: &str) -> Event {
        let bounds = Bounds::default();
        let rules = Rules { state, policy, policy_version: 1, bounds: &bounds, now: NOW };
        let request = ReserveRequest {
            id: id.into(),
            digest: 1,
            candidates: vec![bursar_quota::Candidate {
                model: "a/b".into(),
                input: [].into(),
                counted: bursar_quota::Counted {
                    method: bursar_quota::Method::Given,
                    tokenizer: "".into(),
                },
            }],
            service_tier: "".into(),
            labels: Arc::default(),
            output_tokens_max: 1,
            output_tokens_min: None,
            choices: 1,
            ttl: None,
            dry_run: false,
        };
        match rules.reserve(&request, None).unwrap() {
            ReserveAnswer::Granted(_, Some(event)) => event,
            other => unreachable!("{other:?}"),
        }
    }

    /// A state with one open reservation, and its deadlines as they were kept from its grant on.
    fn one_open() -> (State, Deadlines) {
        let policy = policy();
        let mut state = State::default();
        let mut deadlines = Deadlines::of(&state, NOW, Lived(500));
        let event = reserved(&state, &policy, "r1");
        deadlines.note(1, Lived(500), &event, &state);
        state.apply(1, NOW, &event).unwrap();
        (state, deadlines)
    }

    #[test]
    fn a_reservation_lives_as_long_as_it_may_whatever_is_done_to_the_wall() {
        let (_, deadlines) = one_open();
        assert_eq!(deadlines.next(), Some(Lived(60_500)));
        assert_eq!(deadlines.due(Lived(60_499)), None);
        assert_eq!(deadlines.due(Lived(60_500)).map(|id| &**id), Some("r1"));
    }

    #[test]
    fn after_a_restart_it_has_left_what_the_wall_says() {
        let (state, _) = one_open();
        // The machine was started anew 100 ms ago, and 20 s have passed since the grant.
        let restarted = Deadlines::of(&state, NOW.after(Milliseconds(20_000)), Lived(100));
        assert_eq!(restarted.next(), Some(Lived(40_100)));
        let late = Deadlines::of(&state, NOW.after(Milliseconds(90_000)), Lived(100));
        assert_eq!(late.due(Lived(100)).map(|id| &**id), Some("r1"));
    }

    #[test]
    fn a_reservation_that_is_settled_has_no_deadline() {
        let (state, mut deadlines) = one_open();
        let policy = policy();
        let bounds = Bounds::default();
        let rules =
            Rules { state: &state, policy: &policy, policy_version: 1, bounds: &bounds, now: NOW };
        let settled = rules.expire("r1").unwrap();
        deadlines.note(2, Lived(700), &settled, &state);
        assert_eq!(deadlines.next(), None);
        assert!(deadlines.by_sequence.is_empty());
    }
}
