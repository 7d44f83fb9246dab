//! One operation, so many times, for valgrind to count: `bursar-instructions OPERATION COUNT`.
//!
//! What a count costs is the difference between two counts, so that setting up is not in it.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bursar_quota::{
    Activated, Amount, Basis, Bounds, Candidate, CommitRequest, Compiled, Counted, Event, IdHash,
    LabelMatch, Labels, Limit, Line, Meter, Method, Milliseconds, Outcome, Policy, ReserveAnswer,
    ReserveRequest, Rules, State, Timestamp, Unit, Unsettled, Window,
};
use bursar_store::{Opened, Options, Store};

type Failure = Box<dyn Error>;

/// How many entries share a write, where entries are stored.
const ENTRIES_PER_WRITE: u64 = 64;

/// 2026-03-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_772_323_200_000);

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let operation = arguments.next().unwrap_or_default();
    let count: u64 = arguments.next().unwrap_or_default().parse()?;
    let limit = |number: usize| if number < 3 { None } else { Some("nobody") };
    match &*operation {
        "reserve" => Engine::new(policy(3, limit)?, 1_000)?.reserve(count),
        "reserve_256_limits" => Engine::new(policy(256, limit)?, 1_000)?.reserve(count),
        "reserve_100k_counters" => Engine::new(policy(3, limit)?, 100_000)?.reserve(count),
        "denied" => Engine::new(policy(3, limit)?, 1_000)?.denied(count),
        "reserve_and_commit" => Engine::new(policy(3, limit)?, 1_000)?.pairs(count, None),
        "reserve_and_commit_stored" => {
            let folder = tempfile::tempdir()?;
            let Opened { mut store, .. } = Store::open(folder.path(), store_options())?;
            Engine::new(policy(3, limit)?, 1_000)?.pairs(count, Some(&mut store))?;
            store.close()?;
            Ok(())
        }
        other => Err(format!("no such operation: {other}").into()),
    }
}

/// A store whose own threads rest: an index that valgrind can map, and nobody who waits for a sync.
fn store_options() -> Options {
    let rest = Duration::from_secs(3_600);
    Options {
        index_bytes_max: 64 << 20,
        sync_interval: rest,
        follow_interval: rest,
        ..Options::default()
    }
}

/// So many limits, of which the first three concern every request and none refuses.
fn policy(
    limits: usize,
    tenant: impl Fn(usize) -> Option<&'static str>,
) -> Result<Compiled, Failure> {
    let scopes: [&[&str]; 3] = [&["tenant"], &["feature", "environment"], &[]];
    let limit = |number: usize| Limit {
        name: format!("limit-{number}").into(),
        matches: tenant(number)
            .map(|tenant| LabelMatch { key: "tenant".into(), values: vec![tenant.into()] })
            .into_iter()
            .collect(),
        except: Vec::new(),
        scope: scopes
            .get(number)
            .copied()
            .unwrap_or_default()
            .iter()
            .map(|key| (*key).into())
            .collect(),
        window: Window::Fixed(Milliseconds(3_600_000)),
        amounts: vec![Amount { unit: Unit::Tokens, amount: 1 << 50 }],
        overrides: Vec::new(),
    };
    let policy = Policy {
        name: "instructions".into(),
        time_zone: jiff::tz::TimeZone::UTC,
        labels: Vec::new(),
        ttl: Milliseconds(300_000),
        unsettled: Unsettled::ChargeInput,
        limits: (0..limits).map(limit).collect(),
        rollups: ["feature", "tenant", "model"].map(Into::into).into(),
    };
    policy.compile().map_err(|mistakes| format!("{mistakes:?}").into())
}

/// The rules over a state, without a clock.
struct Engine {
    state: State,
    policy: Compiled,
    bounds: Bounds,
    sequence: u64,
}

impl Engine {
    /// A state with so many counters, each of a tenant that reserved once.
    fn new(policy: Compiled, counters: u64) -> Result<Self, Failure> {
        let activated = Event::Activated(Activated {
            version: 1,
            digest: Box::default(),
            policy: Box::default(),
            source: Box::default(),
            rollups: policy.policy().rollups.clone(),
            identities: policy.identities(),
        });
        let bounds = Bounds { settled_ids_max: 1_000, ..Bounds::default() };
        let mut engine = Self { state: State::default(), policy, bounds, sequence: 0 };
        engine.enter(&activated)?;
        for number in 0..counters {
            let request = request(&format!("t{number}"), &format!("tenant-{number}"), 1);
            engine.granted(&request)?;
        }
        Ok(engine)
    }

    fn rules(&self) -> Rules<'_> {
        let Self { state, policy, bounds, .. } = self;
        Rules { state, policy, policy_version: 1, bounds, now: NOW }
    }

    fn enter(&mut self, event: &Event) -> Result<u64, Failure> {
        self.sequence += 1;
        self.state.apply(self.sequence, NOW, event)?;
        self.state.forget_ids(NOW, &self.bounds, 4);
        Ok(self.sequence)
    }

    fn granted(&mut self, request: &ReserveRequest) -> Result<Event, Failure> {
        match self.rules().reserve(request, None)? {
            ReserveAnswer::Granted(_, Some(event)) => {
                self.enter(&event)?;
                Ok(event)
            }
            other => Err(format!("not granted: {other:?}").into()),
        }
    }

    /// Decides only: a state that grows would rehash at times, and the count with it.
    fn reserve(self, count: u64) -> Result<(), Failure> {
        for number in 0..count {
            let request = request(&format!("r{number}"), "tenant-7", 100);
            if !matches!(self.rules().reserve(&request, None)?, ReserveAnswer::Granted(_, Some(_)))
            {
                return Err("it was denied".into());
            }
        }
        Ok(())
    }

    fn denied(self, count: u64) -> Result<(), Failure> {
        for number in 0..count {
            let request = request(&format!("r{number}"), "tenant-7", 1 << 51);
            if !matches!(self.rules().reserve(&request, None)?, ReserveAnswer::Denied(_)) {
                return Err("it was granted".into());
            }
        }
        Ok(())
    }

    fn pairs(mut self, count: u64, mut store: Option<&mut Store>) -> Result<(), Failure> {
        for number in 0..count {
            let id = format!("r{number}");
            let reserved = self.granted(&request(&id, "tenant-7", 100))?;
            let committed = self
                .rules()
                .commit(&commit(&id), None, Some(&self.policy))?
                .event
                .ok_or("it was not committed")?;
            self.enter(&committed)?;
            debug_assert!(self.state.remembered(IdHash::of(&id)).is_some());
            if let Some(store) = &mut store {
                store.append(NOW, &reserved);
                store.append(NOW, &committed);
                if number % (ENTRIES_PER_WRITE / 2) == 0 {
                    store.flush()?;
                }
            }
        }
        if let Some(store) = store {
            store.flush()?;
        }
        Ok(())
    }
}

fn request(id: &str, tenant: &str, tokens: u64) -> ReserveRequest {
    let labels =
        [("tenant", tenant), ("feature", "chat"), ("environment", "production"), ("team", "red")];
    ReserveRequest {
        id: id.into(),
        digest: 7,
        candidates: vec![Candidate {
            model: "openai/gpt-4.1-mini".into(),
            input: [Line::plain(Meter::Input, tokens, Basis::Estimated)].into(),
            counted: Counted { method: Method::Given, tokenizer: "".into() },
        }],
        service_tier: "".into(),
        labels: Arc::new(Labels::new(labels)),
        output_tokens_max: 400,
        output_tokens_min: None,
        choices: 1,
        ttl: None,
        dry_run: false,
    }
}

fn commit(id: &str) -> CommitRequest {
    CommitRequest {
        id: id.into(),
        digest: 9,
        lines: vec![Line::plain(Meter::Output, 97, Basis::Measured)],
        outcome: Outcome::Completed,
        model: None,
        model_version: "".into(),
        service_tier: None,
        response_id: "".into(),
        labels: Arc::default(),
        total_tokens: None,
        latency_ms: 250,
        first_token_ms: 0,
    }
}
