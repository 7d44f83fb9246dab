//! The calls that are measured: four labels, a model, counted input, and answers of the usual size.

use bursar_proto::v1;

/// Tokens that each Reserve asks for: its input and the most output.
pub const RESERVED_TOKENS: u64 = INPUT_TOKENS + OUTPUT_TOKENS_MAX;
/// Tokens that each Commit reports.
pub const COMMITTED_TOKENS: u64 = INPUT_TOKENS + OUTPUT_TOKENS;

const INPUT_TOKENS: u64 = 1_200;
const OUTPUT_TOKENS_MAX: u64 = 800;
const OUTPUT_TOKENS: u64 = 600;
const MODEL: &str = "openai/gpt-4.1-mini";

/// The id of a run's call by number; as long as a UUID where the run's name has 23 bytes.
fn id(run: &str, number: u64) -> String {
    format!("{run}-{number:012x}")
}

/// A Reserve of a run, by number; each number is a reservation of its own, of one of so many tenants.
pub fn reserve(
    run: &str,
    number: u64,
    tenants: u64,
    durability: v1::Durability,
) -> v1::ReserveRequest {
    let tenant = match number.checked_rem(tenants) {
        None | Some(0) => "acme",
        Some(other) => &format!("tenant-{other}"),
    };
    let labels = [
        ("tenant", tenant),
        ("feature", "support-chat"),
        ("team", "customer-experience"),
        ("environment", "production"),
    ];
    v1::ReserveRequest {
        reservation_id: id(run, number),
        model: MODEL.into(),
        labels: labels.map(|(key, value)| (key.into(), value.into())).into(),
        input: Some(v1::reserve_request::Input::InputTokens(INPUT_TOKENS)),
        output_tokens_max: OUTPUT_TOKENS_MAX,
        durability: durability.into(),
        ..Default::default()
    }
}

/// The Commit of the Reserve of that number.
pub fn commit(run: &str, number: u64, durability: v1::Durability) -> v1::CommitRequest {
    let line =
        |meter: v1::Meter, tokens| v1::Line { meter: meter.into(), tokens, ..Default::default() };
    v1::CommitRequest {
        reservation_id: id(run, number),
        lines: vec![line(v1::Meter::Input, INPUT_TOKENS), line(v1::Meter::Output, OUTPUT_TOKENS)],
        outcome: v1::Outcome::Completed.into(),
        latency_ms: 850,
        durability: durability.into(),
        ..Default::default()
    }
}

/// The Release of the Reserve of that number.
pub(crate) fn release(run: &str, number: u64) -> v1::ReleaseRequest {
    v1::ReleaseRequest {
        reservation_id: id(run, number),
        reason: "measured".into(),
        durability: v1::Durability::Process.into(),
    }
}

/// A standing as answers have it.
fn standing() -> v1::Standing {
    v1::Standing {
        limit: "tenant-hour".into(),
        unit: v1::Unit::Tokens.into(),
        scope: [("tenant".into(), "acme".into())].into(),
        amount: 1 << 50,
        committed: 20_000_000,
        reserved: 20_000,
        remaining: (1 << 50) - 20_020_000,
        window_start_unix_ms: Some(1_700_000_000_000),
        window_end_unix_ms: Some(1_700_003_600_000),
        exhausted_in_ms: Some(1 << 40),
        ..Default::default()
    }
}

/// A grant as the sidecar words it: the echo gives it to everyone.
pub(crate) fn grant() -> v1::ReserveResponse {
    let grant = v1::Grant {
        reservation_id: id("0190a5c2-7b1e-7000-8000", 0),
        state: v1::State::Open.into(),
        model: MODEL.into(),
        input_tokens: INPUT_TOKENS,
        counted_by: Some(v1::CountedBy {
            method: v1::Method::Given.into(),
            tokenizer: String::new(),
        }),
        output_tokens_granted: OUTPUT_TOKENS_MAX,
        tokens_reserved: RESERVED_TOKENS,
        expires_in_ms: 300_000,
        expires_at_unix_ms: 1_700_000_300_000,
        tightest: Some(standing()),
        ..Default::default()
    };
    v1::ReserveResponse {
        outcome: Some(v1::reserve_response::Outcome::Grant(grant)),
        policy_version: 1,
        ..Default::default()
    }
}

/// An answer to Commit as the sidecar words it.
pub(crate) fn committed() -> v1::CommitResponse {
    v1::CommitResponse {
        tokens_committed: COMMITTED_TOKENS,
        tightest: Some(standing()),
        ledger_sequence: 1 << 20,
        ..Default::default()
    }
}
