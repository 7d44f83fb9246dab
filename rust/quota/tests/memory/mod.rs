//! The rules with a state and a list of events in memory: what every test of them drives.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "shared by test programs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program fails loudly")]

use std::sync::Arc;

use bursar_quota::{
    Activated, Bounds, CommitAnswer, CommitRequest, Compiled, Counter, CounterKey, Event, IdHash,
    Past, Policy, RecordAnswer, RecordRequest, Refusal, ReleaseAnswer, ReleaseRequest,
    ReserveAnswer, ReserveRequest, Rules, State, Timestamp, Unit,
};

/// The rules, a state, and the events in memory.
pub struct Memory {
    pub state: State,
    pub bounds: Bounds,
    pub now: Timestamp,
    pub policies: Vec<Compiled>,
    pub ledger: Vec<(Timestamp, Event)>,
}

impl Memory {
    pub fn open(bounds: &Bounds) -> Self {
        Self {
            state: State::default(),
            bounds: *bounds,
            now: Timestamp(0),
            policies: Vec::new(),
            ledger: Vec::new(),
        }
    }

    pub fn rules(&self) -> Rules<'_> {
        Rules {
            state: &self.state,
            policy: self.policies.last().unwrap(),
            policy_version: self.policies.len() as u64,
            bounds: &self.bounds,
            now: self.now,
        }
    }

    pub fn enter(&mut self, event: Event) {
        let sequence = self.ledger.len() as u64 + 1;
        self.state.apply(sequence, self.now, &event).unwrap();
        self.ledger.push((self.now, event));
        while self.state.forget(self.now, &self.bounds, 100) {}
    }

    fn entry(&self, sequence: u64) -> &(Timestamp, Event) {
        &self.ledger[usize::try_from(sequence).unwrap() - 1]
    }

    pub fn past(&self, id: &str) -> Option<Past> {
        if self.state.reservation(id).is_some() {
            return None;
        }
        let sequence = self.state.remembered(IdHash::of(id))?.sequence;
        match &self.entry(sequence).1 {
            Event::Settled(settled) => {
                let (granted_at, reserved) = self.entry(settled.reserved_sequence);
                let Event::Reserved(reserved) = reserved else { panic!("not a grant") };
                Some(Past::Settled {
                    granted_at: *granted_at,
                    reserved: reserved.clone(),
                    sequence,
                    settled: settled.clone(),
                })
            }
            Event::Recorded(recorded) => {
                Some(Past::Recorded { sequence, recorded: recorded.clone() })
            }
            _ => panic!("{id} is remembered by something else"),
        }
    }

    /// A policy comes into force.
    pub fn activate(&mut self, policy: Policy) {
        let policy = policy.compile().unwrap();
        let event = Event::Activated(Activated {
            version: self.policies.len() as u64 + 1,
            digest: Box::default(),
            policy: Box::default(),
            source: Box::default(),
            rollups: policy.policy().rollups.clone(),
            identities: policy.identities(),
        });
        self.policies.push(policy);
        self.enter(event);
    }

    /// It becomes so late; what is due expires, the earliest first.
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = now;
        let due = self.state.reservations().filter(|(_, open)| open.expires_at <= now);
        let mut due: Vec<_> = due.map(|(id, open)| (open.expires_at, id.clone())).collect();
        due.sort();
        for (_, id) in due {
            let event = self.rules().expire(&id).unwrap();
            self.enter(event);
        }
        while self.state.forget(now, &self.bounds, 100) {}
    }

    /// Asks for a reservation and enters what changes.
    pub fn reserve(&mut self, request: &ReserveRequest) -> Result<ReserveAnswer, Refusal> {
        let past = self.past(&request.id);
        let answer = self.rules().reserve(request, past.as_ref());
        if let Ok(ReserveAnswer::Granted(_, Some(event))) = &answer {
            self.enter(event.clone());
        }
        answer
    }

    /// Commits and enters what changes.
    pub fn commit(&mut self, request: &CommitRequest) -> Result<CommitAnswer, Refusal> {
        let past = self.past(&request.id);
        let version = match (&past, self.state.reservation(&request.id)) {
            (_, Some(open)) => Some(open.policy_version),
            (Some(Past::Settled { reserved, .. }), _) => Some(reserved.policy_version),
            _ => None,
        };
        let granted_by =
            version.map(|version| &self.policies[usize::try_from(version).unwrap() - 1]);
        let answer = self.rules().commit(request, past.as_ref(), granted_by);
        if let Some(event) = answer.as_ref().ok().and_then(|answer| answer.event.clone()) {
            self.enter(event);
        }
        answer
    }

    /// Releases and enters what changes.
    pub fn release(&mut self, request: &ReleaseRequest) -> Result<ReleaseAnswer, Refusal> {
        let past = self.past(&request.id);
        let answer = self.rules().release(request, past.as_ref());
        if let Some(event) = answer.as_ref().ok().and_then(|answer| answer.event.clone()) {
            self.enter(event);
        }
        answer
    }

    /// Records and enters what changes.
    pub fn record(&mut self, request: &RecordRequest) -> Result<RecordAnswer, Refusal> {
        let past = self.past(&request.id);
        let answer = self.rules().record(request, past.as_ref());
        if let Some(event) = answer.as_ref().ok().and_then(|answer| answer.event.clone()) {
            self.enter(event);
        }
        answer
    }

    /// The counter of a limit that counts now.
    pub fn counter(
        &self,
        limit: &str,
        unit: Unit,
        scope: &[(String, String)],
    ) -> Option<(Arc<CounterKey>, Counter)> {
        let wanted = |key: &CounterKey| {
            let pairs = key.scope.iter().map(|(key, value)| (key.to_string(), value.to_string()));
            *key.limit == *limit
                && key.unit == unit
                && key.span.holds(self.now)
                && pairs.eq(scope.iter().cloned())
        };
        let mut counters = self.state.counters();
        let found = counters
            .find(|(key, counter)| wanted(key) && self.rules().standing(key, *counter).is_some());
        found.map(|(key, counter)| (key.clone(), counter))
    }

    /// The state follows from the events alone.
    pub fn check_replay(&self) {
        let mut again = State::default();
        for (at, (instant, event)) in self.ledger.iter().enumerate() {
            again.apply(at as u64 + 1, *instant, event).unwrap();
        }
        while again.forget(self.now, &self.bounds, 100) {}
        for (key, counter) in self.state.counters() {
            assert_eq!(again.counter(key), counter, "{key:?}");
        }
        assert_eq!(again.counters_len(), self.state.counters_len());
        assert_eq!(again.reservations_len(), self.state.reservations_len());
        assert_eq!(again.remembered_len(), self.state.remembered_len());
        assert_eq!(again.horizon(), self.state.horizon());
    }
}
