//! The policy under which the sidecar is measured.

use bursar_proto::v1;

/// The policy: so many limits, at least three, of which three apply and none is ever reached.
pub(crate) fn policy(limits: usize) -> v1::Policy {
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
    let fixed = || v1::window::Kind::Fixed(v1::FixedWindow { length_ms: 3_600_000 });
    let others = (3..limits).map(|number| v1::Limit {
        r#match: vec![v1::LabelMatch {
            key: "tenant".into(),
            values: vec![format!("nobody-{number}")],
        }],
        ..limit(&format!("other-{number}"), &["tenant"], fixed())
    });
    let applying = [
        limit("tenant-hour", &["tenant"], fixed()),
        limit("feature-month", &["feature", "environment"], v1::window::Kind::Calendar(month)),
        limit("everything", &[], v1::window::Kind::Total(v1::TotalWindow::default())),
    ];
    v1::Policy {
        name: "bench".into(),
        reservations: Some(v1::ReservationRules {
            ttl_ms: 300_000,
            unsettled: v1::Unsettled::ChargeInput.into(),
        }),
        limits: applying.into_iter().chain(others).collect(),
        rollups: ["feature", "tenant", "team", "model"].map(Into::into).into(),
        ..Default::default()
    }
}
