//! What every child serves by: the policy, small segments, and a clock that the parent moves.

use std::time::Duration;

use bursar_proto::v1;
use bursar_quota::{Bounds, Milliseconds};
use bursar_store::Options;
use prost::Message as _;

/// The first child's time; each start moves the clock on by a minute.
pub(crate) const BEGIN_UNIX_MS: i64 = 1_790_000_000_000;
/// How far the clock moves from start to start.
pub(crate) const STEP_MS: i64 = 60_000;
/// Small enough that a few hundred entries change the segment.
pub(crate) const SEGMENT_BYTES: u64 = 32 << 10;
/// Often, so that there is a commit to be killed at in each child's short life.
pub(crate) const FOLLOW_INTERVAL: Duration = Duration::from_millis(50);
/// Tenants whose limit nobody reaches.
pub(crate) const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// The tenant whose limit is reached soon.
pub(crate) const TIGHT: &str = "tight";
/// What that tenant has in all, in tokens.
pub(crate) const TIGHT_TOKENS: u64 = 20_000;
/// More than is ever used.
const PLENTY: u64 = 1 << 50;

/// Bounds past which nothing is forgotten, however often the clock is moved.
pub(crate) fn bounds() -> Bounds {
    Bounds { settled_span: Milliseconds(365 * 24 * 60 * 60 * 1_000), ..Bounds::default() }
}

/// How the parent reads what a child wrote.
pub(crate) fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, bounds: bounds(), ..Options::default() }
}

/// The policy as a message: what is reserved, used and open is counted by tenant, and used tokens by feature.
pub(crate) fn policy() -> Vec<u8> {
    let total = v1::Window { kind: Some(v1::window::Kind::Total(v1::TotalWindow::default())) };
    let limit = |name: &str, scope: &[&str], amounts: &[(v1::Unit, u64)]| v1::Limit {
        name: name.into(),
        scope: scope.iter().map(|key| (*key).into()).collect(),
        window: Some(total.clone()),
        amounts: amounts
            .iter()
            .map(|(unit, amount)| v1::Amount { unit: (*unit).into(), amount: *amount })
            .collect(),
        ..v1::Limit::default()
    };
    let tokens = (v1::Unit::Tokens, PLENTY);
    let tight = v1::Limit {
        r#match: vec![v1::LabelMatch { key: "tenant".into(), values: vec![TIGHT.into()] }],
        ..limit("tight", &[], &[(v1::Unit::Tokens, TIGHT_TOKENS)])
    };
    let in_flight = v1::Limit {
        window: None,
        ..limit("in-flight", &["tenant"], &[(v1::Unit::Concurrency, PLENTY)])
    };
    let policy = v1::Policy {
        name: "crash".into(),
        reservations: Some(v1::ReservationRules {
            ttl_ms: 300_000,
            unsettled: v1::Unsettled::ChargeInput.into(),
        }),
        limits: vec![
            limit("tenant", &["tenant"], &[tokens, (v1::Unit::Requests, PLENTY)]),
            limit("feature", &["feature"], &[tokens]),
            tight,
            in_flight,
        ],
        rollups: vec!["tenant".into(), "feature".into()],
        ..v1::Policy::default()
    };
    policy.encode_to_vec()
}
