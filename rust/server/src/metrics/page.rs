//! What is counted as Prometheus' text. No caller's text becomes a label.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;

use bursar_proto::v1;
use bursar_quota::Reason;

use super::{BUCKETS_COUNTERS, BUCKETS_US, Counts, Latencies, METHODS};
use crate::engine::Engine;
use crate::fault;
use crate::shared::Shared;
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

/// One metric: its name, type, labels and meaning.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The labels of its samples, separated by commas.
    pub labels: &'static str,
    /// What it says.
    pub help: &'static str,
}

macro_rules! families {
    ($($constant:ident: $kind:literal $name:literal [$labels:literal] $help:literal)*) => {
        $(const $constant: Family =
            Family { name: $name, kind: $kind, labels: $labels, help: $help };)*
        /// Every metric of the data plane, in the order of its page.
        pub const FAMILIES: &[Family] = &[$($constant),*];
    };
}

families! {
    DECISIONS: "counter" "bursar_decisions_total" ["outcome, reason"]
        "Decisions about Reserve, by outcome and reason."
    REFUSALS: "counter" "bursar_limit_refusals_total" ["limit"]
        "Denials that a limit of the policy in force had a part in."
    LIMITS_MATCHED: "histogram" "bursar_limits_matched" [""]
        "How many counters a grant takes from: a limit has one for each of its units."
    UNATTRIBUTED: "counter" "bursar_unattributed_total" ["label"]
        "Grants without a label that usage is kept by, or with a stand-in for it."
    FAULTS: "counter" "bursar_faults_total" ["reason"]
        "Questions that got no answer, by the reason sent."
    SETTLEMENTS: "counter" "bursar_settlements_total" ["kind"]
        "Reservations and records settled, by kind."
    TOKENS: "counter" "bursar_tokens_total" ["kind"]
        "Tokens reserved, committed (records among them), and used beyond what was reserved."
    OVERRUNS: "counter" "bursar_overruns_total" [""]
        "Commits of more than was reserved."
    RESERVATIONS_OPEN: "gauge" "bursar_reservations_open" [""] "Reservations open now."
    RESERVATIONS_OPEN_MAX: "gauge" "bursar_reservations_open_max" [""] "The most that may be open."
    COUNTERS: "gauge" "bursar_counters" [""] "Counters live now."
    COUNTERS_MAX: "gauge" "bursar_counters_max" [""] "The most that may be live."
    SETTLED_IDS: "gauge" "bursar_settled_ids" [""] "Ids remembered now."
    SETTLED_IDS_MAX: "gauge" "bursar_settled_ids_max" [""] "The most ids that are remembered."
    CONNECTIONS: "gauge" "bursar_connections" [""] "Connections open on the data plane."
    CONNECTIONS_REFUSED: "counter" "bursar_connections_refused_total" ["cause"]
        "Connections closed at once: as many are open in all, or of that user, as may be."
    WATCHERS: "gauge" "bursar_watchers" [""] "Who watches events now."
    POLICY_VERSION: "gauge" "bursar_policy_version" [""] "The policy in force."
    LEDGER_SEQUENCE: "gauge" "bursar_ledger_sequence" [""] "The last sequence written."
    DURABLE_SEQUENCE: "gauge" "bursar_ledger_durable_sequence" [""]
        "The last sequence known to survive power loss."
    INDEX_SEQUENCE: "gauge" "bursar_ledger_index_sequence" [""]
        "The last sequence the index includes."
    LEDGER_BYTES: "gauge" "bursar_ledger_bytes" [""] "Bytes of all segments."
    LEDGER_BYTES_MAX: "gauge" "bursar_ledger_bytes_max" [""] "The most bytes of all segments."
    LEDGER_SEGMENTS: "gauge" "bursar_ledger_segments" [""] "Segments on disk."
    ENTRIES_CUT: "gauge" "bursar_ledger_entries_cut" [""]
        "Entries cut off at the start because power was lost before they were synced."
    SYNC_SECONDS: "summary" "bursar_ledger_sync_seconds" [""]
        "Syncs of the ledger to disk, and how long they took."
    POISONED: "gauge" "bursar_poisoned" [""] "1 if a write failed and nothing more is answered."
    READY: "gauge" "bursar_ready" [""] "1 if reservations are taken."
    NOT_READY: "gauge" "bursar_not_ready" ["reason"]
        "1 for each reason why nothing can be reserved now."
    ANSWER_SECONDS: "histogram" "bursar_answer_seconds" ["method"]
        "From a question read to its answer safe to give, by call."
}

/// A page being written.
struct Page(String);

impl Page {
    fn family(&mut self, family: Family) {
        let Family { name, kind, help, .. } = family;
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn single(&mut self, family: Family, value: impl Display) {
        self.family(family);
        self.sample(family.name, "", value);
    }

    /// A family with one label: a sample for each of its values.
    fn by<'a>(&mut self, family: Family, values: impl IntoIterator<Item = (&'a str, u64)>) {
        self.family(family);
        for (value, count) in values {
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            self.sample(family.name, &format!("{{{}=\"{value}\"}}", family.labels), count);
        }
    }
}

/// Everything that is counted, as Prometheus' text.
pub(crate) fn render(engine: &Engine, shared: &Shared) -> String {
    let mut page = Page(String::with_capacity(16 * 1024));
    decisions(&mut page, engine);
    settlements(&mut page, &engine.counts);
    state(&mut page, engine, shared);
    ledger(&mut page, engine);
    readiness(&mut page, engine);
    answers(&mut page, &shared.latencies);
    page.0
}

fn decisions(page: &mut Page, engine: &Engine) {
    let counts = &engine.counts;
    page.family(DECISIONS);
    for (outcome, count) in
        [("granted", counts.granted), ("dry_run", counts.dry_run), ("replayed", counts.replayed)]
    {
        page.sample(DECISIONS.name, &format!("{{outcome=\"{outcome}\",reason=\"\"}}"), count);
    }
    for reason in REASONS {
        let count = counts.denied.get(&reason).copied().unwrap_or(0);
        let reason = answer::reason(reason).as_str_name().trim_start_matches("REASON_");
        let labels = format!("{{outcome=\"denied\",reason=\"{reason}\"}}");
        page.sample(DECISIONS.name, &labels, count);
    }
    let policy = engine.in_force().1.policy();
    let refused = |name: &str| counts.refused.get(name).copied().unwrap_or(0);
    let limits = policy.limits.iter().map(|limit| (&*limit.name, refused(&limit.name)));
    page.by(REFUSALS, limits);
    page.family(LIMITS_MATCHED);
    let mut below = 0;
    for (bound, count) in BUCKETS_COUNTERS.iter().zip(&counts.granted_from) {
        below += count;
        page.sample("bursar_limits_matched_bucket", &format!("{{le=\"{bound}\"}}"), below);
    }
    page.sample("bursar_limits_matched_bucket", "{le=\"+Inf\"}", counts.granted);
    page.sample("bursar_limits_matched_sum", "", counts.counters_taken_from);
    page.sample("bursar_limits_matched_count", "", counts.granted);
    let missing = |key: &str| counts.unattributed.get(key).copied().unwrap_or(0);
    let by_caller = policy.rollups.iter().filter(|key| !super::NEVER_MISSING.contains(&&***key));
    page.by(UNATTRIBUTED, by_caller.map(|key| (&**key, missing(key))));
    let failed = |name: &str| counts.failed.get(name).copied().unwrap_or(0);
    page.by(FAULTS, fault::NAMES.into_iter().map(|name| (name, failed(name))));
}

fn settlements(page: &mut Page, counts: &Counts) {
    page.by(
        SETTLEMENTS,
        [
            ("committed", counts.committed),
            ("committed_late", counts.committed_late),
            ("released", counts.released),
            ("expired", counts.expired),
            ("recorded", counts.recorded),
            ("replayed", counts.settled_again),
        ],
    );
    page.by(
        TOKENS,
        [
            ("reserved", counts.tokens_reserved),
            ("committed", counts.tokens_committed),
            ("overrun", counts.tokens_overrun),
        ],
    );
    page.single(OVERRUNS, counts.overruns);
}

fn state(page: &mut Page, engine: &Engine, shared: &Shared) {
    page.single(RESERVATIONS_OPEN, engine.state.reservations_len());
    page.single(RESERVATIONS_OPEN_MAX, engine.bounds.reservations_open_max);
    page.single(COUNTERS, engine.state.counters_len());
    page.single(COUNTERS_MAX, engine.bounds.counters_max);
    page.single(SETTLED_IDS, engine.state.remembered_len());
    page.single(SETTLED_IDS_MAX, engine.bounds.settled_ids_max);
    page.single(CONNECTIONS, shared.slots.taken());
    let (in_all, of_caller) = shared.slots.refused();
    page.by(CONNECTIONS_REFUSED, [("in_all", in_all), ("of_caller", of_caller)]);
    page.single(WATCHERS, shared.denials.watchers());
    page.single(POLICY_VERSION, engine.in_force().0);
}

fn ledger(page: &mut Page, engine: &Engine) {
    let status: v1::LedgerStatus = crate::status::ledger(engine);
    page.single(LEDGER_SEQUENCE, status.sequence);
    page.single(DURABLE_SEQUENCE, status.durable_sequence);
    page.single(INDEX_SEQUENCE, status.index_sequence);
    page.single(LEDGER_BYTES, status.bytes);
    page.single(LEDGER_BYTES_MAX, status.bytes_max);
    page.single(LEDGER_SEGMENTS, status.segments);
    page.single(ENTRIES_CUT, status.entries_cut);
    let (syncs, sync_us) = engine.store.syncs();
    page.family(SYNC_SECONDS);
    page.sample("bursar_ledger_sync_seconds_sum", "", seconds(sync_us));
    page.sample("bursar_ledger_sync_seconds_count", "", syncs);
}

fn readiness(page: &mut Page, engine: &Engine) {
    let status = engine.store.status();
    let poisoned = engine.poisoned.is_some() || status.poisoned.is_some();
    let reasons = [
        ("draining", engine.draining),
        ("ledger_full", status.ledger_full.is_some()),
        ("index_full", status.index_full.is_some()),
        ("poisoned", poisoned),
    ];
    page.single(POISONED, u8::from(poisoned));
    page.single(READY, u8::from(!reasons.iter().any(|(_, holds)| *holds)));
    page.by(NOT_READY, reasons.map(|(reason, holds)| (reason, u64::from(holds))));
}

fn answers(page: &mut Page, latencies: &Latencies) {
    page.family(ANSWER_SECONDS);
    for (method, latency) in METHODS.iter().zip(&latencies.0) {
        let mut below = 0;
        for (bound_us, bucket) in BUCKETS_US.iter().zip(&latency.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let labels = format!("{{method=\"{method}\",le=\"{}\"}}", seconds(*bound_us));
            page.sample("bursar_answer_seconds_bucket", &labels, below);
        }
        let count = latency.count.load(Ordering::Relaxed);
        let sum_us = latency.sum_us.load(Ordering::Relaxed);
        let of = format!("{{method=\"{method}\"}}");
        let all = format!("{{method=\"{method}\",le=\"+Inf\"}}");
        page.sample("bursar_answer_seconds_bucket", &all, count);
        page.sample("bursar_answer_seconds_sum", &of, seconds(sum_us));
        page.sample("bursar_answer_seconds_count", &of, count);
    }
}

/// Microseconds as seconds, exactly.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}
