//! The scenarios, held against the rules in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test program")]

#[path = "../../../tests/scenarios/mod.rs"]
mod scenarios;

use bursar_quota::{
    Activated, Bounds, Compiled, Event, IdHash, Past, Policy, ReserveAnswer, Rules, State,
    Timestamp, Unit,
};
use scenarios::driver::Reply;
use scenarios::parser::{Commit, Record, Reserve};
use scenarios::{Backend, facts, run_all};

/// The rules, a state, and the events in memory.
struct Memory {
    state: State,
    bounds: Bounds,
    now: Timestamp,
    policies: Vec<Compiled>,
    ledger: Vec<(Timestamp, Event)>,
}

impl Memory {
    fn open(bounds: &Bounds) -> Self {
        Self {
            state: State::default(),
            bounds: *bounds,
            now: Timestamp(0),
            policies: Vec::new(),
            ledger: Vec::new(),
        }
    }

    fn rules(&self) -> Rules<'_> {
        Rules {
            state: &self.state,
            policy: self.policies.last().unwrap(),
            policy_version: self.policies.len() as u64,
            bounds: &self.bounds,
            now: self.now,
        }
    }

    fn enter(&mut self, event: Event) {
        let sequence = self.ledger.len() as u64 + 1;
        self.state.apply(sequence, self.now, &event).unwrap();
        self.ledger.push((self.now, event));
        while self.state.forget(self.now, &self.bounds, 100) {}
    }

    fn entry(&self, sequence: u64) -> &(Timestamp, Event) {
        &self.ledger[usize::try_from(sequence).unwrap() - 1]
    }

    fn past(&self, id: &str) -> Option<Past> {
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
}

impl Backend for Memory {
    fn activate(&mut self, policy: &Policy) {
        let policy = policy.clone().compile().unwrap();
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

    fn set_now(&mut self, now: Timestamp) {
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

    fn reserve(&mut self, ask: &Reserve) -> Reply {
        let past = self.past(&ask.id);
        let answer = self.rules().reserve(&facts::reserve_request(ask), past.as_ref());
        let reply = facts::reserved(&answer);
        if let Ok(ReserveAnswer::Granted(_, Some(event))) = answer {
            self.enter(event);
        }
        reply
    }

    fn commit(&mut self, ask: &Commit) -> Reply {
        let past = self.past(&ask.id);
        let version = match (&past, self.state.reservation(&ask.id)) {
            (_, Some(open)) => Some(open.policy_version),
            (Some(Past::Settled { reserved, .. }), _) => Some(reserved.policy_version),
            _ => None,
        };
        let granted_by =
            version.map(|version| &self.policies[usize::try_from(version).unwrap() - 1]);
        let answer = self.rules().commit(&facts::commit_request(ask), past.as_ref(), granted_by);
        let reply = facts::committed(&answer);
        if let Some(event) = answer.ok().and_then(|answer| answer.event) {
            self.enter(event);
        }
        reply
    }

    fn release(&mut self, id: &str, reason: &str) -> Reply {
        let past = self.past(id);
        let answer = self.rules().release(&facts::release_request(id, reason), past.as_ref());
        let reply = facts::released(&answer);
        if let Some(event) = answer.ok().and_then(|answer| answer.event) {
            self.enter(event);
        }
        reply
    }

    fn record(&mut self, ask: &Record, occurred_at: Timestamp) -> Reply {
        let past = self.past(&ask.id);
        let answer = self.rules().record(&facts::record_request(ask, occurred_at), past.as_ref());
        let reply = facts::recorded(&answer);
        if let Some(event) = answer.ok().and_then(|answer| answer.event) {
            self.enter(event);
        }
        reply
    }

    fn standing(&mut self, limit: &str, unit: Unit, scope: &[(String, String)]) -> Option<Reply> {
        let rules = self.rules();
        let wanted = |key: &bursar_quota::CounterKey| {
            let pairs = key.scope.iter().map(|(key, value)| (key.to_string(), value.to_string()));
            *key.limit == *limit
                && key.unit == unit
                && key.span.holds(self.now)
                && pairs.eq(scope.iter().cloned())
        };
        let (key, counter) = self.state.counters().find(|(key, _)| wanted(key))?;
        let standing = rules.standing(key, counter)?;
        Some(Reply { tightest: None, ..facts::standing(Some(&standing)) })
    }

    /// What is remembered follows from the events alone.
    fn between_lines(&mut self) {
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
    }
}

#[test]
fn scenarios_hold_for_the_rules_in_memory() {
    let counts = run_all("rules", Memory::open);
    assert!(counts.files >= 15 && counts.lines > 0, "{counts:?}");
}
