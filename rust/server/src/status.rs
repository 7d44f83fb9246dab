//! What operators ask of the data plane first: its status and its policy.

use bursar_proto::v1;
use prost::Message as _;

use crate::engine::Engine;
use crate::fault::Fault;

/// The ledger and who follows it; the books' sequence is the control plane's to add.
pub(crate) fn ledger(engine: &Engine) -> v1::LedgerStatus {
    let status = engine.store.status();
    v1::LedgerStatus {
        sequence: status.sequence,
        durable_sequence: status.durable,
        index_sequence: status.index_sequence,
        books_sequence: 0,
        bytes: status.bytes,
        bytes_max: engine.ledger_bytes_max,
        segments: wide(status.segments),
        entries_cut: status.cut,
        poisoned: engine.poisoned.clone().or(status.poisoned).unwrap_or_default(),
    }
}

/// What the data plane knows of its status.
pub(crate) fn status(engine: &mut Engine) -> v1::GetStatusResponse {
    let now = engine.clock.now();
    let not_ready_reason = not_ready(engine);
    let (version, policy) = engine.in_force();
    let digest = engine.state.policy(version).map(|record| hexadecimal(&record.digest));
    v1::GetStatusResponse {
        ready: not_ready_reason.is_empty(),
        not_ready_reason,
        policy_name: policy.policy().name.to_string(),
        policy_version: version,
        policy_digest: digest.unwrap_or_default(),
        ledger: Some(ledger(engine)),
        reservations_open: wide(engine.state.reservations_len()),
        reservations_open_max: wide(engine.bounds.reservations_open_max),
        counters: wide(engine.state.counters_len()),
        counters_max: wide(engine.bounds.counters_max),
        settled_ids: wide(engine.state.remembered_len()),
        settled_ids_max: wide(engine.bounds.settled_ids_max),
        settled_horizon_unix_ms: engine.state.horizon().map_or(0, |forgotten| forgotten.0),
        window_time_unix_ms: now.0,
        ..Default::default()
    }
}

fn not_ready(engine: &Engine) -> String {
    if let Some(why) = &engine.poisoned {
        return format!("the ledger could not be written: {why}");
    }
    if engine.draining {
        return "it is stopping".into();
    }
    match engine.store.room() {
        bursar_store::Room::Free => String::new(),
        bursar_store::Room::SettlementsOnly(why) | bursar_store::Room::Nothing(why) => {
            why.to_string()
        }
    }
}

/// The policy in force.
pub(crate) fn policy(engine: &Engine) -> Result<v1::GetPolicyResponse, Fault> {
    let Some((version, record)) = engine.state.policy_in_force() else {
        return Ok(v1::GetPolicyResponse::default());
    };
    let policy = v1::Policy::decode(&*record.policy)
        .map_err(|error| Fault::Bug(format!("policy version {version} cannot be read: {error}")))?;
    Ok(v1::GetPolicyResponse {
        policy: Some(policy),
        version,
        digest: hexadecimal(&record.digest),
        activated_at_unix_ms: record.activated_at.0,
        source: String::from_utf8_lossy(&record.source).into_owned(),
    })
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn bytes_of(hexadecimal: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    hexadecimal.as_bytes().chunks(2).map(pair).collect()
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
