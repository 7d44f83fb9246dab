//! A policy from its message: converted here, checked by the rules; every mistake at once.

use std::sync::Arc;

use bursar_proto::v1;
use bursar_quota::{
    Allowed, Amount, CalendarUnit, Compiled, Fallback, LabelMatch, LabelRule, Limit, Milliseconds,
    Override, Policy, Timestamp, Unit, Unsettled, Window,
};
use jiff::tz::TimeZone;
use prost::Message as _;

/// Reads a policy from the bytes of a `bursar.v1.Policy`, ready to decide by.
///
/// # Errors
/// Every mistake found, in words; empty is never an error.
pub(crate) fn policy_from_bytes(bytes: &[u8]) -> Result<Compiled, Vec<String>> {
    let message = v1::Policy::decode(bytes)
        .map_err(|error| vec![format!("the policy is not a bursar.v1.Policy: {error}")])?;
    parse_policy(message)
}

/// Converts and checks a policy.
///
/// # Errors
/// Every mistake found, in words.
fn parse_policy(message: v1::Policy) -> Result<Compiled, Vec<String>> {
    let mut mistakes = Vec::new();
    let time_zone = zone(&message.time_zone, "time_zone", &mut mistakes);
    let rules = message.reservations.unwrap_or_default();
    let policy = Policy {
        name: message.name.into(),
        labels: message.labels.into_iter().map(|rule| label_rule(rule, &mut mistakes)).collect(),
        ttl: Milliseconds(rules.ttl_ms),
        unsettled: unsettled(rules.unsettled, &mut mistakes),
        limits: message
            .limits
            .into_iter()
            .map(|message| limit(message, &time_zone, &mut mistakes))
            .collect(),
        rollups: message.rollups.into_iter().map(Into::into).collect(),
        time_zone,
    };
    match policy.compile() {
        Ok(compiled) if mistakes.is_empty() => Ok(compiled),
        Ok(_) => Err(mistakes),
        Err(more) => {
            mistakes.extend(more);
            Err(mistakes)
        }
    }
}

fn zone(name: &str, place: &str, mistakes: &mut Vec<String>) -> TimeZone {
    if name.is_empty() {
        return TimeZone::UTC;
    }
    TimeZone::get(name).unwrap_or_else(|_| {
        mistakes.push(format!(
            "{place}: got {name:?}; it must be a zone of the IANA database, for example Europe/Berlin"
        ));
        TimeZone::UTC
    })
}

fn label_rule(rule: v1::LabelRule, mistakes: &mut Vec<String>) -> LabelRule {
    let mut values: Vec<Box<str>> = rule.values.into_iter().map(Into::into).collect();
    values.sort_unstable();
    let place = |part: &str| format!("labels.{}.{part}", rule.key);
    let missing = fallback(rule.missing);
    let otherwise = fallback(rule.otherwise);
    if otherwise == Fallback::Skip {
        mistakes.push(format!("{}: skip is for a missing label only", place("otherwise")));
    }
    LabelRule {
        values,
        // A map of the message is sorted by its keys.
        renamed: rule.renamed.into_iter().map(|(old, new)| (old.into(), new.into())).collect(),
        missing,
        otherwise,
        key: rule.key.into(),
    }
}

fn fallback(message: Option<v1::LabelFallback>) -> Fallback {
    use v1::label_fallback::Action;
    match message.and_then(|message| message.action) {
        Some(Action::Deny(true)) => Fallback::Deny,
        Some(Action::Skip(true)) => Fallback::Skip,
        Some(Action::As(value)) => Fallback::As(value.into()),
        Some(Action::Deny(false) | Action::Skip(false)) | None => Fallback::None,
    }
}

fn unsettled(number: i32, mistakes: &mut Vec<String>) -> Unsettled {
    match v1::Unsettled::try_from(number) {
        Ok(v1::Unsettled::Release) => Unsettled::Release,
        Ok(v1::Unsettled::ChargeInput) => Unsettled::ChargeInput,
        Ok(v1::Unsettled::ChargeEstimate) => Unsettled::ChargeEstimate,
        Ok(v1::Unsettled::Unspecified) | Err(_) => {
            mistakes.push(format!(
                "reservations.unsettled: got {number}; it must be release, charge_input or charge_estimate"
            ));
            Unsettled::ChargeInput
        }
    }
}

fn limit(message: v1::Limit, policy_zone: &TimeZone, mistakes: &mut Vec<String>) -> Limit {
    let place = format!("limits.{}", message.name);
    let overrides = message.overrides.into_iter().enumerate();
    let overrides = overrides
        .map(|(at, entry)| override_of(entry, &format!("{place}.overrides[{at}]"), mistakes))
        .collect();
    Limit {
        window: window(message.window, &place, policy_zone, mistakes),
        amounts: message.amounts.iter().map(|each| amount(*each, &place, mistakes)).collect(),
        name: Arc::from(message.name),
        matches: message.r#match.into_iter().map(label_match).collect(),
        except: message.except.into_iter().map(label_match).collect(),
        scope: message.scope.into_iter().map(Into::into).collect(),
        overrides,
    }
}

fn override_of(message: v1::Override, place: &str, mistakes: &mut Vec<String>) -> Override {
    let amounts: Vec<Amount> =
        message.amounts.iter().map(|each| amount(*each, place, mistakes)).collect();
    if message.unlimited && !amounts.is_empty() {
        mistakes.push(format!("{place}: unlimited is never written beside amounts"));
    }
    let allowed = if message.unlimited { Allowed::Unlimited } else { Allowed::Amounts(amounts) };
    Override { matches: message.r#match.into_iter().map(label_match).collect(), allowed }
}

fn label_match(message: v1::LabelMatch) -> LabelMatch {
    LabelMatch {
        key: message.key.into(),
        values: message.values.into_iter().map(Into::into).collect(),
    }
}

fn amount(message: v1::Amount, place: &str, mistakes: &mut Vec<String>) -> Amount {
    let unit = match v1::Unit::try_from(message.unit) {
        Ok(v1::Unit::Tokens) => Unit::Tokens,
        Ok(v1::Unit::Requests) => Unit::Requests,
        Ok(v1::Unit::Concurrency) => Unit::Concurrency,
        Ok(v1::Unit::Cost) => {
            mistakes.push(format!("{place}.amounts: cost is not served by this version"));
            Unit::Tokens
        }
        Ok(v1::Unit::Unspecified) | Err(_) => {
            mistakes.push(format!(
                "{place}.amounts: got the unit {}; it must be tokens, requests or concurrency",
                message.unit
            ));
            Unit::Tokens
        }
    };
    Amount { unit, amount: message.amount }
}

fn window(
    message: Option<v1::Window>,
    place: &str,
    policy_zone: &TimeZone,
    mistakes: &mut Vec<String>,
) -> Window {
    use v1::window::Kind;
    match message.and_then(|message| message.kind) {
        // Concurrency alone has no window; the rules refuse this beside any other unit.
        None => Window::Open,
        Some(Kind::Request(_)) => Window::Request,
        Some(Kind::Fixed(fixed)) => Window::Fixed(Milliseconds(fixed.length_ms)),
        Some(Kind::Calendar(calendar)) => {
            let zone = match &*calendar.time_zone {
                "" => policy_zone.clone(),
                named => zone(named, &format!("{place}.window.time_zone"), mistakes),
            };
            Window::Calendar(calendar_unit(&calendar, place, mistakes), zone)
        }
        Some(Kind::Total(total)) => Window::Total {
            from: total.from_unix_ms.map(Timestamp),
            until: total.until_unix_ms.map(Timestamp),
        },
    }
}

fn calendar_unit(
    message: &v1::CalendarWindow,
    place: &str,
    mistakes: &mut Vec<String>,
) -> CalendarUnit {
    let anchor = |number: u32| i8::try_from(number.max(1)).unwrap_or(i8::MAX);
    let week = anchor(message.week_starts_on);
    let (starts_in, starts_on) = (anchor(message.year_starts_in), anchor(message.month_starts_on));
    let (unit, takes) = match v1::CalendarUnit::try_from(message.unit) {
        Ok(v1::CalendarUnit::Hour) => (CalendarUnit::Hour, [false; 3]),
        Ok(v1::CalendarUnit::Day) => (CalendarUnit::Day, [false; 3]),
        Ok(v1::CalendarUnit::Week) => {
            (CalendarUnit::Week { starts_on: week }, [true, false, false])
        }
        Ok(v1::CalendarUnit::Month) => (CalendarUnit::Month { starts_on }, [false, true, false]),
        Ok(v1::CalendarUnit::Quarter) => {
            (CalendarUnit::Quarter { starts_in, starts_on }, [false, true, true])
        }
        Ok(v1::CalendarUnit::Year) => {
            (CalendarUnit::Year { starts_in, starts_on }, [false, true, true])
        }
        Ok(v1::CalendarUnit::Unspecified) | Err(_) => {
            mistakes.push(format!(
                "{place}.window.calendar: got {}; it must be hour, day, week, month, quarter or year",
                message.unit
            ));
            (CalendarUnit::Hour, [true; 3])
        }
    };
    let anchors = [
        ("week_starts_on", message.week_starts_on),
        ("month_starts_on", message.month_starts_on),
        ("year_starts_in", message.year_starts_in),
    ];
    for ((name, got), taken) in anchors.into_iter().zip(takes) {
        if got != 0 && !taken {
            mistakes.push(format!("{place}.window: {name} does not go with this calendar"));
        }
    }
    unit
}
