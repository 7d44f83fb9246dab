//! Every mistake in a policy, in words.

use std::collections::BTreeSet;

use crate::policy::{
    Allowed, Amount, CalendarUnit, Fallback, LabelMatch, LabelRule, Limit, Policy, Unit, Window,
};
use crate::time::Milliseconds;

const SECOND: Milliseconds = Milliseconds(1000);
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl Policy {
    /// The shortest time a reservation may live.
    pub const TTL_MIN: Milliseconds = SECOND;
    /// The longest time a reservation may live.
    pub const TTL_MAX: Milliseconds = Milliseconds(7 * DAY_MS);
    /// The shortest fixed window.
    pub const FIXED_MIN: Milliseconds = SECOND;
    /// The longest fixed window.
    pub const FIXED_MAX: Milliseconds = Milliseconds(366 * DAY_MS);
    /// The most rules for labels.
    pub const LABEL_RULES_MAX: usize = 64;
    /// The most values of a rule or a match.
    pub const VALUES_MAX: usize = 4096;
    /// The longest name, in bytes.
    pub const NAME_BYTES_MAX: usize = 64;
    /// The longest key of a label, in bytes.
    pub const LABEL_KEY_BYTES_MAX: usize = 32;
    /// The longest value of a label, in bytes.
    pub const LABEL_VALUE_BYTES_MAX: usize = 128;

    /// Every mistake, in words: what is wrong, what was got and what it must be. None means it may come
    /// into force.
    pub fn check(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !(1..=Self::NAME_BYTES_MAX).contains(&self.name.len()) {
            mistakes.push(format!(
                "policy: its name must have 1 to 64 bytes (got {})",
                self.name.len()
            ));
        }
        if !(Self::TTL_MIN..=Self::TTL_MAX).contains(&self.ttl) {
            mistakes.push(format!("reservations.ttl must be 1 s to 7 d (got {} ms)", self.ttl.0));
        }
        at_most("labels", self.labels.len(), Self::LABEL_RULES_MAX, &mut mistakes);
        at_most("limits", self.limits.len(), Self::LIMITS_MAX, &mut mistakes);
        at_most("rollups", self.rollups.len(), Self::ROLLUPS_MAX, &mut mistakes);
        unique("labels", self.labels.iter().map(|rule| &*rule.key), &mut mistakes);
        unique("limits", self.limits.iter().map(|limit| &*limit.name), &mut mistakes);
        unique("rollups", self.rollups.iter().map(|key| &**key), &mut mistakes);
        for rule in &self.labels {
            check_rule(rule, &mut mistakes);
        }
        for limit in &self.limits {
            self.check_limit(limit, &mut mistakes);
        }
        for key in self.rollups.iter().filter(|key| &***key != "component" && !self.knows(key)) {
            mistakes.push(format!("rollups: {key:?} is neither built in nor declared in labels"));
        }
        mistakes
    }

    /// Whether limits may match and count by a label.
    fn knows(&self, key: &str) -> bool {
        Self::BUILT_IN.contains(&key)
            || Self::FROM_REQUEST.contains(&key)
            || self.labels.iter().any(|rule| *rule.key == *key)
    }

    fn check_limit(&self, limit: &Limit, mistakes: &mut Vec<String>) {
        let place = format!("limit {:?}", limit.name);
        if !is_name(&limit.name, Self::NAME_BYTES_MAX) {
            mistakes.push(format!("{place}: a name is [a-z][a-z0-9_.-]* of at most 64 bytes"));
        }
        self.check_matches(&format!("{place}: match"), &limit.matches, mistakes);
        self.check_matches(&format!("{place}: except"), &limit.except, mistakes);
        at_most(&format!("{place}: scope"), limit.scope.len(), Self::SCOPE_LABELS_MAX, mistakes);
        unique(&format!("{place}: scope"), limit.scope.iter().map(|key| &**key), mistakes);
        for key in limit.scope.iter().filter(|key| !self.knows(key)) {
            mistakes.push(format!(
                "{place}: scope: {key:?} is neither built in nor declared in labels"
            ));
        }
        check_amounts(&place, limit, mistakes);
        self.check_overrides(&place, limit, mistakes);
        check_window(&place, &limit.window, mistakes);
    }

    fn check_overrides(&self, place: &str, limit: &Limit, mistakes: &mut Vec<String>) {
        at_most(
            &format!("{place}: overrides"),
            limit.overrides.len(),
            Self::OVERRIDES_MAX,
            mistakes,
        );
        for (at, entry) in limit.overrides.iter().enumerate() {
            let place = format!("{place}: overrides[{at}]");
            self.check_matches(&place, &entry.matches, mistakes);
            if entry.matches.is_empty() {
                mistakes.push(format!("{place}: it must say which scope values it is for"));
            }
            for key in entry.matches.iter().map(|entry| &entry.key) {
                if !limit.scope.contains(key) {
                    mistakes.push(format!(
                        "{place}: {key:?} must be in the limit's scope, which is what it counts by"
                    ));
                }
            }
            check_allowed(&place, limit, &entry.allowed, mistakes);
        }
    }

    fn check_matches(&self, place: &str, matches: &[LabelMatch], mistakes: &mut Vec<String>) {
        unique(place, matches.iter().map(|entry| &*entry.key), mistakes);
        for entry in matches {
            if !self.knows(&entry.key) {
                mistakes.push(format!(
                    "{place}: {:?} is neither built in nor declared in labels",
                    entry.key
                ));
            }
            let place = format!("{place}: {}", entry.key);
            if entry.values.is_empty() {
                mistakes.push(format!("{place}: at least one value is needed"));
            }
            at_most(&place, entry.values.len(), Self::VALUES_MAX, mistakes);
            for value in &entry.values {
                if value.find('*').is_some_and(|at| at + 1 != value.len()) {
                    mistakes.push(format!(
                        "{place}: `*` may only be the last character (got {value:?})"
                    ));
                }
            }
        }
    }
}

fn check_rule(rule: &LabelRule, mistakes: &mut Vec<String>) {
    let place = format!("labels.{}", rule.key);
    if !is_name(&rule.key, Policy::LABEL_KEY_BYTES_MAX) {
        mistakes.push(format!("{place}: a key is [a-z][a-z0-9_.-]* of at most 32 bytes"));
    }
    if Policy::FROM_REQUEST.contains(&&*rule.key) {
        mistakes.push(format!("{place}: it comes from the request itself and takes no rule"));
    }
    at_most(&format!("{place}.values"), rule.values.len(), Policy::VALUES_MAX, mistakes);
    at_most(&format!("{place}.renamed"), rule.renamed.len(), Policy::VALUES_MAX, mistakes);
    let renamed_from = rule.renamed.iter().map(|(old, _)| &**old);
    unique(&format!("{place}.renamed"), renamed_from, mistakes);
    for (old, new) in &rule.renamed {
        if !rule.values.is_empty() && !rule.values.contains(new) {
            mistakes.push(format!(
                "{place}.renamed: {old:?} becomes {new:?}, which is not among the values"
            ));
        }
    }
    if rule.otherwise == Fallback::Skip {
        mistakes.push(format!("{place}.otherwise: skip is only for a missing label"));
    }
    let stand_ins = [&rule.missing, &rule.otherwise]
        .into_iter()
        .filter_map(|fallback| if let Fallback::As(value) = fallback { Some(value) } else { None });
    let renamed = rule.renamed.iter().flat_map(|(old, new)| [old, new]);
    for value in rule.values.iter().chain(renamed).chain(stand_ins) {
        if !(1..=Policy::LABEL_VALUE_BYTES_MAX).contains(&value.len()) {
            mistakes.push(format!(
                "{place}: a value has 1 to 128 bytes (got {} in {value:?})",
                value.len()
            ));
        }
    }
}

fn check_amounts(place: &str, limit: &Limit, mistakes: &mut Vec<String>) {
    if limit.amounts.is_empty() {
        mistakes.push(format!("{place}: at least one amount is needed"));
    }
    let units = check_units(place, &limit.amounts, mistakes);
    let concurrency = units.contains(&Unit::Concurrency);
    if concurrency && units.len() > 1 {
        mistakes.push(format!("{place}: concurrency is never written beside another unit"));
    }
    if concurrency != (limit.window == Window::Open) {
        mistakes.push(format!("{place}: concurrency has no window, and every other unit has one"));
    }
}

fn check_allowed(place: &str, limit: &Limit, allowed: &Allowed, mistakes: &mut Vec<String>) {
    let Allowed::Amounts(amounts) = allowed else { return };
    if amounts.is_empty() {
        mistakes.push(format!("{place}: an amount is needed, or unlimited"));
    }
    for unit in check_units(place, amounts, mistakes) {
        if !limit.amounts.iter().any(|known| known.unit == unit) {
            mistakes.push(format!("{place}: the limit has no amount of {unit:?}"));
        }
    }
}

/// Checks each amount by itself, and gives the units there are.
fn check_units(place: &str, amounts: &[Amount], mistakes: &mut Vec<String>) -> BTreeSet<Unit> {
    let mut units = BTreeSet::new();
    for amount in amounts {
        if !units.insert(amount.unit) {
            mistakes.push(format!("{place}: {:?} has two amounts", amount.unit));
        }
        if amount.amount > Policy::AMOUNT_MAX {
            mistakes.push(format!("{place}: an amount is at most 2^53 (got {})", amount.amount));
        }
    }
    units
}

fn check_calendar(place: &str, unit: CalendarUnit, mistakes: &mut Vec<String>) {
    let mut within = |what: &str, got: i8, most: i8| {
        if !(1..=most).contains(&got) {
            mistakes.push(format!("{place}: {what} must be 1 to {most} (got {got})"));
        }
    };
    match unit {
        CalendarUnit::Hour | CalendarUnit::Day => {}
        CalendarUnit::Week { starts_on } => within("week_starts_on", starts_on, 7),
        CalendarUnit::Month { starts_on } => within("month_starts_on", starts_on, 28),
        CalendarUnit::Quarter { starts_in, starts_on }
        | CalendarUnit::Year { starts_in, starts_on } => {
            within("year_starts_in", starts_in, 12);
            within("month_starts_on", starts_on, 28);
        }
    }
}

fn check_window(place: &str, window: &Window, mistakes: &mut Vec<String>) {
    match window {
        Window::Fixed(length) if !(Policy::FIXED_MIN..=Policy::FIXED_MAX).contains(length) => {
            mistakes
                .push(format!("{place}: a fixed window has 1 s to 366 d (got {} ms)", length.0));
        }
        Window::Total { from: Some(from), until: Some(until) } if from >= until => {
            mistakes.push(format!("{place}: `until` must be later than `from`"));
        }
        Window::Calendar(unit, _) => check_calendar(place, *unit, mistakes),
        _ => {}
    }
}

fn is_name(name: &str, bytes_max: usize) -> bool {
    let rest =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
    name.len() <= bytes_max
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        && name.bytes().all(rest)
}

fn at_most(place: &str, got: usize, most: usize, mistakes: &mut Vec<String>) {
    if got > most {
        mistakes.push(format!("{place}: at most {most} (got {got})"));
    }
}

fn unique<'a>(place: &str, names: impl Iterator<Item = &'a str>, mistakes: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            mistakes.push(format!("{place}: {name:?} is given twice"));
        }
    }
}
