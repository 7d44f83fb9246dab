//! The scenarios, held against a sidecar over gRPC, started on a hand clock.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program fails loudly")]

mod sidecar;

#[path = "../../../tests/scenarios/mod.rs"]
mod scenarios;

use bursar_proto::v1;
use bursar_quota::{
    Allowed, Bounds, CalendarUnit, Fallback, LabelMatch, Line, Override, Policy, Timestamp, Unit,
    Window,
};
use bursar_server::{Running, Server};
use scenarios::driver::Reply;
use scenarios::parser::{Commit, Input, Record, Reserve};
use scenarios::{Backend, run_all};
use sidecar::Client;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A sidecar that is started with the first policy, and again with each later one.
struct OverGrpc {
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
    bounds: Bounds,
    now: Timestamp,
    serving: Option<(Running, Client)>,
    activations: usize,
}

impl OverGrpc {
    fn open(bounds: &Bounds) -> Self {
        Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            folder: tempfile::tempdir().unwrap(),
            bounds: *bounds,
            now: sidecar::START,
            serving: None,
            activations: 0,
        }
    }

    fn client(&self) -> Client {
        self.serving.as_ref().unwrap().1.clone()
    }
}

impl Backend for OverGrpc {
    fn activate(&mut self, policy: &Policy) {
        if let Some((running, _)) = self.serving.take() {
            running.stop(sidecar::GRACE);
        }
        self.activations += 1;
        let mut settings = sidecar::settings(self.folder.path(), &policy_message(policy));
        settings.policy.digest = self.activations.to_le_bytes().to_vec();
        settings.bounds = self.bounds;
        settings.hand_clock = Some(self.now);
        // Tables also tell what a limit does that begins empty.
        settings.reset_changed = true;
        let running = Server::start(settings).unwrap();
        let socket = self.folder.path().join("bursar.sock");
        let channel = self.runtime.block_on(sidecar::unix_channel(&socket));
        self.serving = Some((running, Client::new(channel)));
    }

    fn set_now(&mut self, now: Timestamp) {
        self.now = now;
        if let Some((running, _)) = &self.serving {
            running.set_hand_clock(now).unwrap();
        }
    }

    fn reserve(&mut self, ask: &Reserve) -> Reply {
        let mut client = self.client();
        match self.runtime.block_on(client.reserve(reserve_message(ask))) {
            Ok(answer) => reserved(&answer.into_inner()),
            Err(status) => refused(&status),
        }
    }

    fn commit(&mut self, ask: &Commit) -> Reply {
        let mut client = self.client();
        let message = v1::CommitRequest {
            reservation_id: ask.id.clone(),
            lines: lines(&ask.lines),
            outcome: i32::from(ask.outcome as u8),
            model: ask.model.clone().unwrap_or_default(),
            service_tier: ask.tier.clone().unwrap_or_default(),
            labels: ask.labels.iter().cloned().collect(),
            total_tokens: ask.total,
            ..Default::default()
        };
        match self.runtime.block_on(client.commit(message)) {
            Ok(answer) => committed(&answer.into_inner()),
            Err(status) => refused(&status),
        }
    }

    fn release(&mut self, id: &str, reason: &str) -> Reply {
        let mut client = self.client();
        let message = v1::ReleaseRequest {
            reservation_id: id.into(),
            reason: reason.into(),
            ..Default::default()
        };
        match self.runtime.block_on(client.release(message)) {
            Ok(answer) => {
                let answer = answer.into_inner();
                Reply {
                    word: "released".into(),
                    tokens: Some(answer.tokens_released),
                    replayed: answer.replayed,
                    ..Reply::default()
                }
            }
            Err(status) => refused(&status),
        }
    }

    fn record(&mut self, ask: &Record, occurred_at: Timestamp) -> Reply {
        let mut client = self.client();
        let message = v1::RecordRequest {
            record_id: ask.id.clone(),
            model: ask.model.clone(),
            service_tier: ask.tier.clone(),
            labels: ask.labels.iter().cloned().collect(),
            lines: lines(&ask.lines),
            occurred_at_unix_ms: occurred_at.0,
            outcome: i32::from(ask.outcome as u8),
            total_tokens: ask.total,
            ..Default::default()
        };
        match self.runtime.block_on(client.record(message)) {
            Ok(answer) => {
                let answer = answer.into_inner();
                Reply {
                    word: "recorded".into(),
                    tokens: Some(answer.tokens_committed),
                    replayed: answer.replayed,
                    advice: advice(&answer.advisories),
                    ..Reply::default()
                }
            }
            Err(status) => refused(&status),
        }
    }

    fn standing(&mut self, limit: &str, unit: Unit, scope: &[(String, String)]) -> Option<Reply> {
        let request = v1::ListStandingsRequest {
            limit: limit.into(),
            scope: scope.iter().cloned().collect(),
            ..Default::default()
        };
        let (running, _) = self.serving.as_ref().unwrap();
        let answer = running.standings(request).unwrap();
        let of_unit = |standing: &&v1::Standing| {
            standing.unit == i32::from(unit as u8) && standing.scope.len() == scope.len()
        };
        let found = answer.standings.iter().find(of_unit)?;
        Some(standing(Some(found)))
    }
}

fn reserve_message(ask: &Reserve) -> v1::ReserveRequest {
    use v1::reserve_request::Input as Sent;
    let input = match &ask.input {
        Input::Tokens(0) => None,
        Input::Tokens(tokens) => Some(Sent::InputTokens(*tokens)),
        Input::Lines(given) => Some(Sent::InputLines(v1::InputLines { lines: lines(given) })),
    };
    v1::ReserveRequest {
        reservation_id: ask.id.clone(),
        model: ask.model.clone(),
        fallback_models: ask.fallbacks.clone(),
        service_tier: ask.tier.clone(),
        labels: ask.labels.iter().cloned().collect(),
        input,
        output_tokens_max: ask.output_max,
        output_tokens_min: ask.output_min,
        choices: ask.choices,
        ttl_ms: ask.ttl.map_or(0, |ttl| ttl.0),
        dry_run: ask.dry,
        ..Default::default()
    }
}

fn lines(lines: &[Line]) -> Vec<v1::Line> {
    let message = |line: &Line| v1::Line {
        meter: i32::from(line.meter as u8),
        tokens: line.tokens,
        component: line.component.to_string(),
        source: line.source.to_string(),
        basis: i32::from(line.basis as u8),
    };
    lines.iter().map(message).collect()
}

fn refused(status: &Status) -> Reply {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    let word = match (status.code(), &*reason) {
        (Code::InvalidArgument, _) => "invalid",
        (Code::AlreadyExists, _) => "conflict",
        (Code::NotFound, _) => "not-found",
        (Code::FailedPrecondition, "USAGE_TOO_OLD") => "too-old",
        (Code::FailedPrecondition, _) => "not-open",
        _ => panic!("{status:?}"),
    };
    let violations = details.bad_request().map(|bad| bad.field_violations.clone());
    let field = violations.and_then(|all| all.into_iter().next()).map(|violation| violation.field);
    Reply { word: word.into(), field, ..Reply::default() }
}

fn reserved(answer: &v1::ReserveResponse) -> Reply {
    if let Some(grant) = sidecar::grant(answer) {
        return Reply {
            word: "granted".into(),
            out: Some(grant.output_tokens_granted),
            holds: Some(grant.tokens_reserved),
            model: Some(grant.model.clone()),
            state: Some(word(grant.state().as_str_name(), "STATE_")),
            expires_at: Some(Timestamp(grant.expires_at_unix_ms)),
            replayed: answer.replayed,
            advice: advice(&grant.advisories),
            ..standing(grant.tightest.as_ref())
        };
    }
    let denial = sidecar::denial(answer).unwrap();
    let first = denial.shortfalls.first();
    let named = |short: &v1::Shortfall| short.standing.as_ref().unwrap().limit.clone();
    Reply {
        word: "denied".into(),
        by: denial.shortfalls.iter().map(named).collect(),
        reason: Some(word(denial.reason().as_str_name(), "REASON_")),
        retry: denial.retry_after_ms.map(bursar_quota::Milliseconds),
        settles: first.is_some_and(|short| short.clears_on_settle),
        ..standing(first.and_then(|short| short.standing.as_ref()))
    }
}

fn committed(answer: &v1::CommitResponse) -> Reply {
    Reply {
        word: if answer.late { "late" } else { "committed" }.into(),
        tokens: Some(answer.tokens_committed),
        overrun: Some(answer.tokens_overrun),
        replayed: answer.replayed,
        advice: advice(&answer.advisories),
        ..standing(answer.tightest.as_ref())
    }
}

fn standing(standing: Option<&v1::Standing>) -> Reply {
    let Some(standing) = standing else { return Reply::default() };
    Reply {
        remaining: Some(standing.remaining),
        committed: Some(standing.committed),
        reserved: Some(standing.reserved),
        tightest: Some(standing.limit.clone()),
        incomplete: standing.incomplete_since_unix_ms.is_some(),
        scope: standing.scope.clone().into_iter().collect(),
        ..Reply::default()
    }
}

fn advice(advisories: &[v1::Advisory]) -> Vec<String> {
    advisories.iter().map(|each| word(each.advice().as_str_name(), "ADVICE_")).collect()
}

/// `REASON_REQUEST_CAP` as the tables write it: `request-cap`.
fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase().replace('_', "-")
}

fn policy_message(policy: &Policy) -> v1::Policy {
    let label_rule = |rule: &bursar_quota::LabelRule| v1::LabelRule {
        key: rule.key.to_string(),
        values: rule.values.iter().map(ToString::to_string).collect(),
        renamed: rule.renamed.iter().map(|(old, new)| (old.to_string(), new.to_string())).collect(),
        missing: fallback(&rule.missing),
        otherwise: fallback(&rule.otherwise),
    };
    v1::Policy {
        name: policy.name.to_string(),
        time_zone: zone(&policy.time_zone),
        labels: policy.labels.iter().map(label_rule).collect(),
        reservations: Some(v1::ReservationRules {
            ttl_ms: policy.ttl.0,
            unsettled: i32::from(policy.unsettled as u8),
        }),
        limits: policy.limits.iter().map(limit_message).collect(),
        rollups: policy.rollups.iter().map(ToString::to_string).collect(),
    }
}

fn limit_message(limit: &bursar_quota::Limit) -> v1::Limit {
    let matches = |matches: &[LabelMatch]| -> Vec<v1::LabelMatch> {
        let message = |entry: &LabelMatch| v1::LabelMatch {
            key: entry.key.to_string(),
            values: entry.values.iter().map(ToString::to_string).collect(),
        };
        matches.iter().map(message).collect()
    };
    let amount = |amount: &bursar_quota::Amount| v1::Amount {
        unit: i32::from(amount.unit as u8),
        amount: amount.amount,
    };
    let other = |entry: &Override| {
        let (amounts, unlimited) = match &entry.allowed {
            Allowed::Unlimited => (Vec::new(), true),
            Allowed::Amounts(amounts) => (amounts.iter().map(amount).collect(), false),
        };
        v1::Override { r#match: matches(&entry.matches), amounts, unlimited }
    };
    v1::Limit {
        name: limit.name.to_string(),
        r#match: matches(&limit.matches),
        except: matches(&limit.except),
        scope: limit.scope.iter().map(ToString::to_string).collect(),
        window: window(&limit.window),
        amounts: limit.amounts.iter().map(amount).collect(),
        overrides: limit.overrides.iter().map(other).collect(),
    }
}

fn fallback(fallback: &Fallback) -> Option<v1::LabelFallback> {
    use v1::label_fallback::Action;
    let action = match fallback {
        Fallback::None => return None,
        Fallback::Deny => Action::Deny(true),
        Fallback::Skip => Action::Skip(true),
        Fallback::As(value) => Action::As(value.to_string()),
    };
    Some(v1::LabelFallback { action: Some(action) })
}

fn zone(zone: &jiff::tz::TimeZone) -> String {
    zone.iana_name().unwrap().into()
}

fn calendar(unit: CalendarUnit) -> v1::CalendarWindow {
    let (unit, week, month, year) = match unit {
        CalendarUnit::Hour => (v1::CalendarUnit::Hour, 0, 0, 0),
        CalendarUnit::Day => (v1::CalendarUnit::Day, 0, 0, 0),
        CalendarUnit::Week { starts_on } => (v1::CalendarUnit::Week, starts_on, 0, 0),
        CalendarUnit::Month { starts_on } => (v1::CalendarUnit::Month, 0, starts_on, 0),
        CalendarUnit::Quarter { starts_in, starts_on } => {
            (v1::CalendarUnit::Quarter, 0, starts_on, starts_in)
        }
        CalendarUnit::Year { starts_in, starts_on } => {
            (v1::CalendarUnit::Year, 0, starts_on, starts_in)
        }
    };
    v1::CalendarWindow {
        unit: unit.into(),
        week_starts_on: week.unsigned_abs().into(),
        month_starts_on: month.unsigned_abs().into(),
        year_starts_in: year.unsigned_abs().into(),
        ..Default::default()
    }
}

fn window(window: &Window) -> Option<v1::Window> {
    use v1::window::Kind;
    let kind = match window {
        Window::Open => return None,
        Window::Request => Kind::Request(v1::RequestWindow {}),
        Window::Fixed(length) => Kind::Fixed(v1::FixedWindow { length_ms: length.0 }),
        Window::Calendar(unit, of) => {
            Kind::Calendar(v1::CalendarWindow { time_zone: zone(of), ..calendar(*unit) })
        }
        Window::Total { from, until } => Kind::Total(v1::TotalWindow {
            from_unix_ms: from.map(|at| at.0),
            until_unix_ms: until.map(|at| at.0),
        }),
    };
    Some(v1::Window { kind: Some(kind) })
}

#[test]
fn scenarios_hold_for_a_sidecar_over_grpc() {
    let counts = run_all("sidecar", OverGrpc::open);
    assert!(counts.files >= 15 && counts.lines > 0, "{counts:?}");
}
