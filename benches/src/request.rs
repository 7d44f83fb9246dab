//! The call that is measured: a Reserve with four labels under three limits, and an answer of the usual size.

use bursar_proto::v1;

/// The request with a number of its own.
pub(crate) fn reserve(number: u64) -> v1::ReserveRequest {
    let labels = [
        ("tenant", "acme"),
        ("feature", "support-chat"),
        ("team", "customer-experience"),
        ("environment", "production"),
    ];
    v1::ReserveRequest {
        reservation_id: format!("0190a5c2-7b1e-7000-8000-{number:012x}"),
        model: "openai/gpt-4.1-mini".into(),
        labels: labels.map(|(key, value)| (key.into(), value.into())).into(),
        input: Some(v1::reserve_request::Input::InputTokens(1200)),
        output_tokens_max: 800,
        output_tokens_min: Some(100),
        durability: v1::Durability::Process.into(),
        ..Default::default()
    }
}

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

/// An answer as the sidecar gives it to this request: the echo gives it to everyone.
pub(crate) fn answer() -> v1::ReserveResponse {
    let tightest = v1::Standing {
        limit: "tenant-hour".into(),
        unit: v1::Unit::Tokens.into(),
        scope: [("tenant".into(), "acme".into())].into(),
        amount: 1 << 50,
        committed: 0,
        reserved: 20_000_000,
        remaining: (1 << 50) - 20_000_000,
        window_start_unix_ms: Some(1_700_000_000_000),
        window_end_unix_ms: Some(1_700_003_600_000),
        exhausted_in_ms: Some(1 << 40),
        ..Default::default()
    };
    let grant = v1::Grant {
        reservation_id: "0190a5c2-7b1e-7000-8000-000000000000".into(),
        state: v1::State::Open.into(),
        model: "openai/gpt-4.1-mini".into(),
        input_tokens: 1200,
        counted_by: Some(v1::CountedBy {
            method: v1::Method::Given.into(),
            tokenizer: String::new(),
        }),
        output_tokens_granted: 800,
        tokens_reserved: 2000,
        expires_in_ms: 300_000,
        expires_at_unix_ms: 1_700_000_300_000,
        tightest: Some(tightest),
        ..Default::default()
    };
    v1::ReserveResponse {
        outcome: Some(v1::reserve_response::Outcome::Grant(grant)),
        policy_version: 1,
        ..Default::default()
    }
}
