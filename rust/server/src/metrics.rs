//! What the data plane counts, and how it reads as Prometheus' text. No caller's text becomes a label.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bursar_proto::v1;
use bursar_quota::{CommitAnswer, Reason, RecordAnswer, ReleaseAnswer, ReserveAnswer};

use crate::engine::Engine;
use crate::wire::answer;

/// Every reason of a denial: the values of one label.
const REASONS: [Reason; 6] = [
    Reason::Limit,
    Reason::RequestCap,
    Reason::Untagged,
    Reason::TooManyCounters,
    Reason::TooManyReservations,
    Reason::TooManyLimits,
];

/// The upper bounds of the buckets of latencies, in microseconds.
const BUCKETS_US: [u64; 12] =
    [10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 20_000, 100_000, 1_000_000];

/// How often what has happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    granted: u64,
    dry_run: u64,
    replayed: u64,
    denied: BTreeMap<Reason, u64>,
    committed: u64,
    committed_late: u64,
    released: u64,
    recorded: u64,
    settled_again: u64,
    /// Reservations that nobody settled in time.
    pub(crate) expired: u64,
    failed: BTreeMap<&'static str, u64>,
}

impl Counts {
    pub(crate) fn decided(&mut self, answer: &ReserveAnswer) {
        match answer {
            ReserveAnswer::Granted(_, Some(_)) => self.granted += 1,
            ReserveAnswer::Granted(_, None) => self.dry_run += 1,
            ReserveAnswer::Replayed(_) => self.replayed += 1,
            ReserveAnswer::Denied(denial) => *self.denied.entry(denial.reason).or_default() += 1,
        }
    }

    pub(crate) fn committed(&mut self, answer: &CommitAnswer) {
        match (answer.replayed, answer.late) {
            (true, _) => self.settled_again += 1,
            (false, true) => self.committed_late += 1,
            (false, false) => self.committed += 1,
        }
    }

    pub(crate) fn released(&mut self, answer: &ReleaseAnswer) {
        if answer.replayed { self.settled_again += 1 } else { self.released += 1 }
    }

    pub(crate) fn recorded(&mut self, answer: &RecordAnswer) {
        if answer.replayed { self.settled_again += 1 } else { self.recorded += 1 }
    }

    pub(crate) fn failed(&mut self, name: &'static str) {
        *self.failed.entry(name).or_default() += 1;
    }
}

/// How long answers took, from the question read to the answer known to be safe.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    buckets: [AtomicU64; BUCKETS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Latencies {
    pub(crate) fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.iter().position(|bound| us <= *bound);
        if let Some(bucket) = bucket.and_then(|at| self.buckets.get(at)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// A page being written.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }
}

/// Everything that is counted, as Prometheus' text.
pub(crate) fn render(engine: &Engine, latencies: &Latencies, connections: usize) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    decisions(&mut page, &engine.counts);
    settlements(&mut page, &engine.counts);
    state(&mut page, engine, connections);
    ledger(&mut page, engine);
    histogram(&mut page, latencies);
    page.0
}

fn decisions(page: &mut Page, counts: &Counts) {
    const NAME: &str = "bursar_decisions_total";
    page.family(NAME, "counter", "Decisions about Reserve, by outcome and reason.");
    for (outcome, count) in
        [("granted", counts.granted), ("dry_run", counts.dry_run), ("replayed", counts.replayed)]
    {
        page.sample(NAME, &format!("{{outcome=\"{outcome}\",reason=\"\"}}"), count);
    }
    for reason in REASONS {
        let count = counts.denied.get(&reason).copied().unwrap_or(0);
        let reason = answer::reason(reason).as_str_name().trim_start_matches("REASON_");
        page.sample(NAME, &format!("{{outcome=\"denied\",reason=\"{reason}\"}}"), count);
    }
    const FAILED: &str = "bursar_faults_total";
    page.family(FAILED, "counter", "Questions that got no answer, by the reason sent.");
    for (name, count) in &counts.failed {
        page.sample(FAILED, &format!("{{reason=\"{name}\"}}"), count);
    }
}

fn settlements(page: &mut Page, counts: &Counts) {
    const NAME: &str = "bursar_settlements_total";
    page.family(NAME, "counter", "Reservations and records settled, by kind.");
    for (kind, count) in [
        ("committed", counts.committed),
        ("committed_late", counts.committed_late),
        ("released", counts.released),
        ("expired", counts.expired),
        ("recorded", counts.recorded),
        ("replayed", counts.settled_again),
    ] {
        page.sample(NAME, &format!("{{kind=\"{kind}\"}}"), count);
    }
}

fn state(page: &mut Page, engine: &Engine, connections: usize) {
    let gauges: [(&str, &str, u64); 7] = [
        (
            "bursar_reservations_open",
            "Reservations open now.",
            wide(engine.state.reservations_len()),
        ),
        (
            "bursar_reservations_open_max",
            "The most that may be open.",
            wide(engine.bounds.reservations_open_max),
        ),
        ("bursar_counters", "Counters live now.", wide(engine.state.counters_len())),
        ("bursar_counters_max", "The most that may be live.", wide(engine.bounds.counters_max)),
        ("bursar_settled_ids", "Ids remembered now.", wide(engine.state.remembered_len())),
        (
            "bursar_settled_ids_max",
            "The most ids that are remembered.",
            wide(engine.bounds.settled_ids_max),
        ),
        ("bursar_connections", "Connections open on the data plane.", wide(connections)),
    ];
    for (name, help, value) in gauges {
        page.single(name, "gauge", help, value);
    }
    page.single("bursar_policy_version", "gauge", "The policy in force.", engine.in_force().0);
}

fn ledger(page: &mut Page, engine: &Engine) {
    let status: v1::LedgerStatus = crate::status::ledger(engine);
    let gauges: [(&str, &str, u64); 8] = [
        ("bursar_ledger_sequence", "The last sequence written.", status.sequence),
        (
            "bursar_ledger_durable_sequence",
            "The last sequence known to survive power loss.",
            status.durable_sequence,
        ),
        (
            "bursar_ledger_index_sequence",
            "The last sequence the index includes.",
            status.index_sequence,
        ),
        ("bursar_ledger_bytes", "Bytes of all segments.", status.bytes),
        ("bursar_ledger_bytes_max", "The most bytes of all segments.", status.bytes_max),
        ("bursar_ledger_segments", "Segments on disk.", status.segments),
        (
            "bursar_ledger_entries_cut",
            "Entries cut off at the start because power was lost before they were synced.",
            status.entries_cut,
        ),
        (
            "bursar_poisoned",
            "1 if a write failed and nothing more is answered.",
            u64::from(engine.poisoned.is_some()),
        ),
    ];
    for (name, help, value) in gauges {
        page.single(name, "gauge", help, value);
    }
    not_ready(page, engine);
}

/// Why nothing is reserved now: one sample for each reason there is.
fn not_ready(page: &mut Page, engine: &Engine) {
    const NAME: &str = "bursar_not_ready";
    page.family(NAME, "gauge", "1 for each reason why nothing can be reserved now.");
    let status = engine.store.status();
    for (reason, holds) in [
        ("draining", engine.draining),
        ("ledger_full", status.ledger_full.is_some()),
        ("index_full", status.index_full.is_some()),
        ("poisoned", engine.poisoned.is_some() || status.poisoned.is_some()),
    ] {
        page.sample(NAME, &format!("{{reason=\"{reason}\"}}"), u64::from(holds));
    }
}

fn histogram(page: &mut Page, latencies: &Latencies) {
    const NAME: &str = "bursar_answer_seconds";
    page.family(NAME, "histogram", "From a question read to its answer safe to give.");
    let mut below = 0;
    for (bound_us, bucket) in BUCKETS_US.iter().zip(&latencies.buckets) {
        below += bucket.load(Ordering::Relaxed);
        page.sample(
            &format!("{NAME}_bucket"),
            &format!("{{le=\"{}\"}}", seconds(*bound_us)),
            below,
        );
    }
    let count = latencies.count.load(Ordering::Relaxed);
    page.sample(&format!("{NAME}_bucket"), "{le=\"+Inf\"}", count);
    page.sample(&format!("{NAME}_sum"), "", seconds(latencies.sum_us.load(Ordering::Relaxed)));
    page.sample(&format!("{NAME}_count"), "", count);
}

/// Microseconds as seconds, exactly.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
