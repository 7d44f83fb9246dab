//! The rules over a store, as small as it can be: decide, append, apply.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bursar_quota::{
    Activated, Amount, Basis, Bounds, Candidate, CommitRequest, Compiled, Counted, Event, IdHash,
    Labels, Limit, Line, Meter, Method, Milliseconds, Outcome, Past, Policy, RecordRequest,
    ReleaseRequest, ReserveAnswer, ReserveRequest, Rules, State, Timestamp, Unit, Unsettled,
    Window,
};
use bursar_store::{Options, Recovery, Store, dump, scan};

/// When tests begin.
pub const START: Timestamp = Timestamp(1_790_000_000_000);

/// Settings with small segments and no follower that comes on its own.
pub fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
        ledger_bytes_max: 64 << 20,
        index_bytes_max: 64 << 20,
        follow_interval: Duration::from_secs(3600),
        follow_bytes: 4 << 10,
        ..Options::default()
    }
}

pub struct Engine {
    pub dir: PathBuf,
    pub options: Options,
    pub store: Option<Store>,
    pub state: State,
    pub recovery: Recovery,
    pub now: Timestamp,
    pub policies: Vec<Compiled>,
}

impl Engine {
    pub fn open(dir: &Path, options: Options) -> Self {
        let opened = Store::open(dir, options.clone()).unwrap();
        Self {
            dir: dir.into(),
            options,
            store: Some(opened.store),
            state: opened.state,
            recovery: opened.recovery,
            now: START,
            policies: Vec::new(),
        }
    }

    /// Opens what another engine left, as late and with the policies it had.
    pub fn succeed(dir: &Path, options: Options, now: Timestamp, policies: &[Compiled]) -> Self {
        let mut engine = Self::open(dir, options);
        engine.now = now;
        engine.policies = policies.to_vec();
        engine.forget();
        engine
    }

    pub fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    /// Closes the store, in order or by dropping it, and opens it again.
    pub fn reopen(&mut self, in_order: bool) {
        let store = self.store.take().unwrap();
        if in_order {
            store.close().unwrap();
        } else {
            drop(store);
        }
        let opened = Store::open(&self.dir, self.options.clone()).unwrap();
        (self.store, self.state) = (Some(opened.store), opened.state);
        self.recovery = opened.recovery;
        self.policies.truncate(self.state.policies().count());
        self.forget();
    }

    /// Appends and applies; not flushed.
    pub fn enter(&mut self, event: &Event) -> u64 {
        let now = self.now;
        let sequence = self.store().append(now, event);
        self.state.apply(sequence, now, event).unwrap();
        self.forget();
        sequence
    }

    fn forget(&mut self) {
        while self.state.forget(self.now, &self.options.bounds, 100) {}
    }

    pub fn flush(&mut self) {
        self.store().flush().unwrap();
    }

    pub fn rules(&self) -> Rules<'_> {
        Rules {
            state: &self.state,
            policy: self.policies.last().unwrap(),
            policy_version: self.policies.len() as u64,
            bounds: &self.options.bounds,
            now: self.now,
        }
    }

    pub fn activate(&mut self, policy: &Policy) {
        let policy = policy.clone().compile().unwrap();
        let event = Event::Activated(Activated {
            version: self.policies.len() as u64 + 1,
            digest: [7; 32].into(),
            policy: policy.policy().name.as_bytes().into(),
            source: b"policy: test".as_slice().into(),
            rollups: policy.policy().rollups.clone(),
            identities: policy.identities(),
        });
        self.policies.push(policy);
        self.enter(&event);
    }

    pub fn set_now(&mut self, now: Timestamp) {
        self.now = now;
        let due = self.state.reservations().filter(|(_, open)| open.expires_at <= now);
        let mut due: Vec<_> = due.map(|(id, open)| (open.expires_at, id.clone())).collect();
        due.sort();
        for (_, id) in due {
            let event = self.rules().expire(&id).unwrap();
            self.enter(&event);
        }
        self.forget();
    }

    pub fn past(&mut self, id: &str) -> Option<Past> {
        if self.state.reservation(id).is_some() {
            return None;
        }
        let sequence = self.state.remembered(IdHash::of(id))?.sequence;
        let (_, event) = self.store().read(sequence).unwrap();
        Some(match event {
            Event::Settled(settled) => {
                let (granted_at, granted) = self.store().read(settled.reserved_sequence).unwrap();
                let Event::Reserved(reserved) = granted else { panic!("not a grant") };
                Past::Settled { granted_at, reserved, sequence, settled }
            }
            Event::Recorded(recorded) => Past::Recorded { sequence, recorded },
            _ => panic!("{id} is remembered by something else"),
        })
    }

    pub fn reserve(&mut self, request: &ReserveRequest) -> bool {
        let past = self.past(&request.id);
        match self.rules().reserve(request, past.as_ref()) {
            Ok(ReserveAnswer::Granted(_, Some(event))) => {
                self.enter(&event);
                true
            }
            _ => false,
        }
    }

    pub fn commit(&mut self, request: &CommitRequest) -> bool {
        let past = self.past(&request.id);
        let version = match (&past, self.state.reservation(&request.id)) {
            (_, Some(open)) => Some(open.policy_version),
            (Some(Past::Settled { reserved, .. }), _) => Some(reserved.policy_version),
            _ => None,
        };
        let granted_by =
            version.map(|version| &self.policies[usize::try_from(version).unwrap() - 1]);
        let answer = self.rules().commit(request, past.as_ref(), granted_by);
        answer.ok().and_then(|answer| answer.event).map(|event| self.enter(&event)).is_some()
    }

    pub fn release(&mut self, id: &str) -> bool {
        let past = self.past(id);
        let request = ReleaseRequest { id: id.into(), digest: 3, reason: "unused".into() };
        let answer = self.rules().release(&request, past.as_ref());
        answer.ok().and_then(|answer| answer.event).map(|event| self.enter(&event)).is_some()
    }

    pub fn record(&mut self, request: &RecordRequest) -> bool {
        let past = self.past(&request.id);
        let answer = self.rules().record(request, past.as_ref());
        answer.ok().and_then(|answer| answer.event).map(|event| self.enter(&event)).is_some()
    }

    /// Reserves and commits, flushed.
    pub fn pair(&mut self, number: u64) {
        let id = id(number);
        assert!(self.reserve(&reserve_request(&id, "acme", 120, 500)));
        assert!(self.commit(&commit_request(&id, 100, 250)));
        self.flush();
    }

    /// Flushes, makes all of it durable and lets the index have it.
    pub fn settle_disk(&mut self) {
        self.flush();
        self.store().index().catch_up(Duration::from_secs(30)).unwrap();
    }

    pub fn dump(&self) -> Vec<u8> {
        dump(&self.state, &self.options.bounds, self.now)
    }

    /// The state computed from the first segment.
    pub fn replayed(&self) -> Vec<u8> {
        let mut state = State::default();
        scan(&self.dir, 1, |sequence, instant, event| {
            state.apply(sequence, instant, event).unwrap();
        })
        .unwrap();
        dump(&state, &self.options.bounds, self.now)
    }
}

/// A UUID of a number.
pub fn id(number: u64) -> String {
    format!("019447f3-0c5e-7b1a-9c2d-{number:012x}")
}

pub fn labels(tenant: &str) -> Arc<Labels> {
    Arc::new(Labels::new([
        ("tenant", tenant),
        ("feature", "answers"),
        ("environment", "production"),
        ("service", "gateway"),
    ]))
}

pub fn reserve_request(id: &str, tenant: &str, input: u64, output: u64) -> ReserveRequest {
    ReserveRequest {
        id: id.into(),
        digest: 0x0123_4567_89ab_cdef,
        candidates: vec![Candidate {
            model: "openai/gpt-4o".into(),
            input: [Line::plain(Meter::Input, input, Basis::Estimated)].into(),
            counted: Counted { method: Method::Exact, tokenizer: "o200k_base".into() },
        }],
        service_tier: "".into(),
        labels: labels(tenant),
        output_tokens_max: output,
        output_tokens_min: None,
        choices: 1,
        ttl: None,
        dry_run: false,
    }
}

pub fn commit_request(id: &str, input: u64, output: u64) -> CommitRequest {
    CommitRequest {
        id: id.into(),
        digest: 0xfedc_ba98_7654_3210,
        lines: vec![
            Line::plain(Meter::Input, input, Basis::Measured),
            Line::plain(Meter::Output, output, Basis::Measured),
        ],
        outcome: Outcome::Completed,
        model: None,
        model_version: "gpt-4o-2024-08-06".into(),
        service_tier: None,
        response_id: "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT".into(),
        labels: Arc::default(),
        total_tokens: None,
        latency_ms: 1_834,
        first_token_ms: 312,
    }
}

pub fn record_request(id: &str, tenant: &str, tokens: u64, at: Timestamp) -> RecordRequest {
    RecordRequest {
        id: id.into(),
        digest: tokens,
        model: "openai/gpt-4o".into(),
        model_version: "".into(),
        service_tier: "".into(),
        labels: labels(tenant),
        lines: vec![Line::plain(Meter::Input, tokens, Basis::Measured)],
        outcome: Outcome::Completed,
        occurred_at: at,
        response_id: "".into(),
        total_tokens: None,
        latency_ms: 0,
    }
}

fn limit(name: &str, scope: &[&str], window: Window, amounts: &[(Unit, u64)]) -> Limit {
    Limit {
        name: name.into(),
        matches: Vec::new(),
        except: Vec::new(),
        scope: scope.iter().map(|key| (*key).into()).collect(),
        window,
        amounts: amounts
            .iter()
            .map(|(unit, amount)| Amount { unit: *unit, amount: *amount })
            .collect(),
        overrides: Vec::new(),
    }
}

/// Three limits: tokens a minute for each tenant, tokens in all, reservations open at once.
pub fn policy(tokens_per_minute: u64) -> Policy {
    let minute = Window::Fixed(Milliseconds(60_000));
    let total = Window::Total { from: None, until: None };
    Policy {
        name: "test".into(),
        time_zone: jiff::tz::TimeZone::UTC,
        labels: Vec::new(),
        ttl: Milliseconds(300_000),
        unsettled: Unsettled::ChargeInput,
        limits: vec![
            limit("tenant", &["tenant"], minute, &[(Unit::Tokens, tokens_per_minute)]),
            limit("all", &[], total, &[(Unit::Tokens, 1 << 50)]),
            limit("open", &["tenant"], Window::Open, &[(Unit::Concurrency, 1 << 20)]),
        ],
        rollups: vec!["tenant".into(), "feature".into(), "model".into()],
    }
}

/// Bounds so small that tests reach them.
pub fn small_bounds() -> Bounds {
    Bounds {
        counters_max: 1_000,
        reservations_open_max: 100,
        settled_ids_max: 12,
        settled_span: Milliseconds(10 * 60_000),
    }
}
