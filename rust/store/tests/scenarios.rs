//! The scenarios, held against the rules over a store that is closed and reopened between any two lines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test program")]

#[path = "../../../tests/scenarios/mod.rs"]
mod scenarios;

#[path = "store/engine.rs"]
mod engine;

use bursar_quota::{Bounds, Policy, ReserveAnswer, Timestamp, Unit};
use engine::Engine;
use scenarios::driver::Reply;
use scenarios::parser::{Commit, Record, Reserve};
use scenarios::{Backend, facts, run_all};

/// A store in a folder of its own.
struct OnDisk {
    engine: Engine,
    lines: usize,
    _folder: tempfile::TempDir,
}

impl OnDisk {
    fn open(bounds: &Bounds) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = bursar_store::Options { bounds: *bounds, ..engine::options() };
        Self { engine: Engine::open(folder.path(), options), lines: 0, _folder: folder }
    }
}

impl Backend for OnDisk {
    fn activate(&mut self, policy: &Policy) {
        self.engine.activate(policy);
    }

    fn set_now(&mut self, now: Timestamp) {
        self.engine.set_now(now);
    }

    fn reserve(&mut self, ask: &Reserve) -> Reply {
        let past = self.engine.past(&ask.id);
        let answer = self.engine.rules().reserve(&facts::reserve_request(ask), past.as_ref());
        let reply = facts::reserved(&answer);
        if let Ok(ReserveAnswer::Granted(_, Some(event))) = answer {
            self.engine.enter(&event);
        }
        reply
    }

    fn commit(&mut self, ask: &Commit) -> Reply {
        let past = self.engine.past(&ask.id);
        let version = match (&past, self.engine.state.reservation(&ask.id)) {
            (_, Some(open)) => Some(open.policy_version),
            (Some(bursar_quota::Past::Settled { reserved, .. }), _) => {
                Some(reserved.policy_version)
            }
            _ => None,
        };
        let policies = &self.engine.policies;
        let granted_by = version.map(|version| &policies[usize::try_from(version).unwrap() - 1]);
        let request = facts::commit_request(ask);
        let answer = self.engine.rules().commit(&request, past.as_ref(), granted_by);
        let reply = facts::committed(&answer);
        if let Some(event) = answer.ok().and_then(|answer| answer.event) {
            self.engine.enter(&event);
        }
        reply
    }

    fn release(&mut self, id: &str, reason: &str) -> Reply {
        let past = self.engine.past(id);
        let request = facts::release_request(id, reason);
        let answer = self.engine.rules().release(&request, past.as_ref());
        let reply = facts::released(&answer);
        if let Some(event) = answer.ok().and_then(|answer| answer.event) {
            self.engine.enter(&event);
        }
        reply
    }

    fn record(&mut self, ask: &Record, occurred_at: Timestamp) -> Reply {
        let past = self.engine.past(&ask.id);
        let request = facts::record_request(ask, occurred_at);
        let answer = self.engine.rules().record(&request, past.as_ref());
        let reply = facts::recorded(&answer);
        if let Some(event) = answer.ok().and_then(|answer| answer.event) {
            self.engine.enter(&event);
        }
        reply
    }

    fn standing(&mut self, limit: &str, unit: Unit, scope: &[(String, String)]) -> Option<Reply> {
        let rules = self.engine.rules();
        let wanted = |key: &bursar_quota::CounterKey| {
            let pairs = key.scope.iter().map(|(key, value)| (key.to_string(), value.to_string()));
            *key.limit == *limit
                && key.unit == unit
                && key.span.holds(self.engine.now)
                && pairs.eq(scope.iter().cloned())
        };
        let (key, counter) = self.engine.state.counters().find(|(key, _)| wanted(key))?;
        let standing = rules.standing(key, counter)?;
        Some(Reply { tightest: None, ..facts::standing(Some(&standing)) })
    }

    /// Closes and reopens: in order, or as after a kill that left the index behind.
    fn between_lines(&mut self) {
        self.lines += 1;
        self.engine.flush();
        let before = self.engine.dump();
        self.engine.reopen(self.lines.is_multiple_of(2));
        assert_eq!(self.engine.dump(), before, "line {}", self.lines);
    }
}

#[test]
fn scenarios_hold_for_a_store_that_is_reopened_between_any_two_lines() {
    let counts = run_all("store", OnDisk::open);
    assert!(counts.files >= 15 && counts.lines > 0, "{counts:?}");
}
