//! From labels as sent to labels as counted: renamed, stood in for, or refused.

use std::sync::Arc;

use crate::labels::Labels;
use crate::policy::{Fallback, LabelRule};
use crate::request::{Advice, Advisory};

/// The value under which a label counts that is missing or not allowed, where nothing else is said.
pub(crate) const NONE: &str = "(none)";

/// Labels after the policy's rules.
pub(crate) struct Mapped {
    /// Labels as they count.
    pub(crate) labels: Arc<Labels>,
    /// Labels as sent, where different.
    pub(crate) sent: Option<Arc<Labels>>,
    /// Keys whose value is not the one sent, or that were missing and count under a stand-in.
    pub(crate) keys: Vec<Box<str>>,
    /// Keys the policy denies, each with the value sent.
    pub(crate) denied: Vec<(Box<str>, Option<Box<str>>)>,
}

/// What a label's value becomes.
enum Value<'a> {
    /// It stays as it was sent, or as it was not.
    Same,
    /// It counts as this.
    Becomes(&'a str),
    /// It counts under `(none)` because it is missing: nothing stands in its place.
    Absent,
    /// The policy denies it.
    Denied,
}

/// Maps labels by rules. A label that the policy denies is left as it is and listed.
pub(crate) fn map_labels(rules: &[LabelRule], sent: &Arc<Labels>) -> Mapped {
    let mut changes: Vec<(&str, &str)> = Vec::new();
    let mut keys = Vec::new();
    let mut denied = Vec::new();
    for rule in rules {
        let value = sent.get(&rule.key);
        match map_value(rule, value) {
            Value::Same => {}
            Value::Becomes(other) => {
                changes.push((&rule.key, other));
                keys.push(rule.key.clone());
            }
            Value::Absent => keys.push(rule.key.clone()),
            Value::Denied => denied.push((rule.key.clone(), value.map(Into::into))),
        }
    }
    if changes.is_empty() {
        return Mapped { labels: sent.clone(), sent: None, keys, denied };
    }
    Mapped { labels: Arc::new(sent.with(changes)), sent: Some(sent.clone()), keys, denied }
}

/// Maps the labels of usage that happened, which is never refused: what a Reserve would deny counts under
/// `(none)`, written out, and so does a label missing from `counted_by`.
pub(crate) fn map_usage_labels(
    rules: &[LabelRule],
    sent: &Arc<Labels>,
    counted_by: &[Box<str>],
) -> (Arc<Labels>, Option<Arc<Labels>>) {
    let mapped = map_labels(rules, sent);
    let denied = mapped.denied.iter().map(|(key, _)| key);
    let missing = mapped.keys.iter().chain(counted_by);
    let missing = missing.filter(|key| mapped.labels.get(key).is_none());
    let changes: Vec<(&str, &str)> = denied.chain(missing).map(|key| (&**key, NONE)).collect();
    if changes.is_empty() {
        return (mapped.labels, mapped.sent);
    }
    (Arc::new(mapped.labels.with(changes)), Some(sent.clone()))
}

/// The value under which a label that settling adds is kept: renamed and checked, never refused.
pub(crate) fn map_added<'a>(rule: Option<&'a LabelRule>, value: &'a str) -> &'a str {
    match rule.map(|rule| map_value(rule, Some(value))) {
        None | Some(Value::Same) => value,
        Some(Value::Becomes(other)) => other,
        Some(Value::Absent | Value::Denied) => NONE,
    }
}

fn map_value<'a>(rule: &'a LabelRule, value: Option<&'a str>) -> Value<'a> {
    let Some(value) = value else {
        return match &rule.missing {
            Fallback::None => Value::Absent,
            Fallback::Deny => Value::Denied,
            Fallback::Skip => Value::Same,
            Fallback::As(stand_in) => Value::Becomes(stand_in),
        };
    };
    let renamed = rule
        .renamed
        .binary_search_by(|(old, _)| (**old).cmp(value))
        .ok()
        .and_then(|at| rule.renamed.get(at))
        .map_or(value, |(_, new)| new);
    let allowed = rule.values.is_empty()
        || rule.values.binary_search_by(|known| (**known).cmp(renamed)).is_ok();
    match &rule.otherwise {
        _ if allowed && renamed == value => Value::Same,
        _ if allowed => Value::Becomes(renamed),
        Fallback::None | Fallback::Skip => Value::Becomes(NONE),
        Fallback::Deny => Value::Denied,
        Fallback::As(stand_in) => Value::Becomes(stand_in),
    }
}

/// One advisory for each key that was mapped.
pub(crate) fn advisories<'a>(
    keys: impl IntoIterator<Item = &'a str>,
    labels: &Labels,
) -> Vec<Advisory> {
    let advisory = |key| Advisory {
        advice: Advice::LabelMapped,
        limit: "".into(),
        text: format!("label {key} counts as {:?}", labels.get(key).unwrap_or(NONE)),
    };
    keys.into_iter().map(advisory).collect()
}

/// The keys whose value as counted is not the one sent.
pub(crate) fn changed_keys<'a>(
    sent: Option<&'a Labels>,
    labels: &'a Labels,
) -> impl Iterator<Item = &'a str> {
    sent.into_iter().flat_map(move |sent| {
        labels.iter().filter(|(key, value)| sent.get(key) != Some(*value)).map(|(key, _)| key)
    })
}
