//! The policy under which the sidecar is measured.

use bursar_proto::v1;

/// The policy: three limits, all of which apply and none of which is ever reached.
pub(crate) fn policy() -> v1::Policy {
    let limit = |name: &str, scope: &[&str], window: v1::window::Kind| v1::Limit {
        name: name.into(),
        scope: scope.iter().map(ToString::to_string).collect(),
        window: Some(v1::Window { kind: Some(window) }),
        amounts: vec![v1::Amount { unit: v1::Unit::Tokens.into(), amount: 1 << 50 }],
        ..Default::default()
    };
    let month = v1::CalendarWindow {
        unit: v1::CalendarUnit::Month.into(),
        time_zone: "Europe/Berlin".into(),
        ..Default::default()
    };
    v1::Policy {
        name: "bench".into(),
        reservations: Some(v1::ReservationRules {
            ttl_ms: 300_000,
            unsettled: v1::Unsettled::ChargeInput.into(),
        }),
        limits: vec![
            limit(
                "tenant-hour",
                &["tenant"],
                v1::window::Kind::Fixed(v1::FixedWindow { length_ms: 3_600_000 }),
            ),
            limit("feature-month", &["feature", "environment"], v1::window::Kind::Calendar(month)),
            limit("everything", &[], v1::window::Kind::Total(v1::TotalWindow::default())),
        ],
        rollups: ["feature", "tenant", "team", "model"].map(Into::into).into(),
        ..Default::default()
    }
}
