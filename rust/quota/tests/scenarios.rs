//! The scenarios, held against the rules in memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program fails loudly")]

mod memory;
#[path = "../../../tests/scenarios/mod.rs"]
mod scenarios;

use bursar_quota::{Policy, Timestamp, Unit};
use memory::Memory;
use scenarios::driver::Reply;
use scenarios::parser::{Commit, Record, Reserve};
use scenarios::{Backend, facts, run_all};

impl Backend for Memory {
    fn activate(&mut self, policy: &Policy) {
        self.activate(policy.clone());
    }

    fn set_now(&mut self, now: Timestamp) {
        self.set_now(now);
    }

    fn reserve(&mut self, ask: &Reserve) -> Reply {
        facts::reserved(&self.reserve(&facts::reserve_request(ask)))
    }

    fn commit(&mut self, ask: &Commit) -> Reply {
        facts::committed(&self.commit(&facts::commit_request(ask)))
    }

    fn release(&mut self, id: &str, reason: &str) -> Reply {
        facts::released(&self.release(&facts::release_request(id, reason)))
    }

    fn record(&mut self, ask: &Record, occurred_at: Timestamp) -> Reply {
        facts::recorded(&self.record(&facts::record_request(ask, occurred_at)))
    }

    fn standing(&mut self, limit: &str, unit: Unit, scope: &[(String, String)]) -> Option<Reply> {
        let (key, counter) = self.counter(limit, unit, scope)?;
        let standing = self.rules().standing(&key, counter)?;
        Some(facts::standing(Some(&standing)))
    }

    fn between_lines(&mut self) {
        self.check_replay();
    }
}

#[test]
fn scenarios_hold_for_the_rules_in_memory() {
    let counts = run_all("rules", Memory::open);
    assert!(counts.files >= 15 && counts.lines > 0, "{counts:?}");
}
