//! Which limits a call can concern at all, found by its labels instead of limit by limit.

use hashbrown::HashMap;

use crate::mapping::NONE;
use crate::pattern::{Pattern, Values};
use crate::policy::Policy;

/// One bit for each limit that a policy may have.
type Word = u64;
const WORDS: usize = Policy::LIMITS_MAX.div_ceil(Word::BITS as usize);

/// Some of a policy's limits, by their place in it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Places([Word; WORDS]);

impl Places {
    fn add(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / Word::BITS as usize) {
            *word |= 1 << (place % Word::BITS as usize);
        }
    }

    fn both(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
        self
    }

    fn either(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word |= other);
        self
    }

    /// The places, least first.
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        let Self(mut words) = self;
        let mut at = 0;
        std::iter::from_fn(move || {
            while let Some(word) = words.get_mut(at) {
                if *word != 0 {
                    let lowest = word.trailing_zeros() as usize;
                    *word &= *word - 1;
                    return Some(at * Word::BITS as usize + lowest);
                }
                at += 1;
            }
            None
        })
    }
}

/// What a policy's limits want of the labels that they match by whole values.
#[derive(Debug, Clone)]
pub(crate) struct Matching {
    every: Places,
    labels: Vec<Label>,
}

/// What they want of one label.
#[derive(Debug, Clone)]
struct Label {
    slot: usize,
    /// Limits that want nothing of it that is kept here.
    indifferent: Places,
    /// Limits that want a value of it.
    by_value: HashMap<Box<str>, Places>,
}

impl Matching {
    /// From what each limit matches, in the policy's order.
    pub(crate) fn new<'a>(limits: impl Iterator<Item = &'a [(usize, Pattern)]>) -> Self {
        let mut every = Places::default();
        let mut wanted: Vec<(Label, Places)> = Vec::new();
        for (place, matches) in limits.enumerate() {
            every.add(place);
            for (slot, pattern) in matches {
                let Some(values) = pattern.whole() else { continue };
                let at = wanted.iter().position(|(label, _)| label.slot == *slot);
                let at = at.unwrap_or_else(|| {
                    let (indifferent, by_value) = (Places::default(), HashMap::new());
                    wanted.push((Label { slot: *slot, indifferent, by_value }, Places::default()));
                    wanted.len() - 1
                });
                let Some((label, concerned)) = wanted.get_mut(at) else { continue };
                concerned.add(place);
                for value in values {
                    label.by_value.entry(value.clone()).or_default().add(place);
                }
            }
        }
        let label = |(mut label, concerned): (Label, Places)| {
            label.indifferent =
                Places(std::array::from_fn(|word| every.0[word] & !concerned.0[word]));
            label
        };
        Self { every, labels: wanted.into_iter().map(label).collect() }
    }

    /// The limits that a call can concern, in the policy's order: all that do, and some that other things
    /// than whole values keep from it.
    pub(crate) fn candidates(&self, values: &Values<'_>) -> impl Iterator<Item = usize> {
        let candidates = self.labels.iter().fold(self.every, |candidates, label| {
            let value = values.get(label.slot).unwrap_or(NONE);
            let wanted = label.by_value.get(value);
            let left = wanted.map_or(label.indifferent, |places| label.indifferent.either(places));
            candidates.both(&left)
        });
        candidates.iter()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails loudly")]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use crate::labels::Labels;
    use crate::policy::{
        Amount, Fallback, LabelMatch, LabelRule, Limit, Policy, Unit, Unsettled, Window,
    };
    use crate::time::Milliseconds;

    const KEYS: [&str; 4] = ["tenant", "feature", "model", "team"];
    const VALUES: [&str; 6] = ["a/1", "a/2", "b/1", "(none)", "a/*", "b*"];

    /// What a limit matches or leaves out: each key at most once, some values of it.
    fn entries() -> impl Strategy<Value = Vec<LabelMatch>> {
        let keys = proptest::sample::subsequence(KEYS.to_vec(), 0..=3).prop_shuffle();
        let values = proptest::sample::subsequence(VALUES.to_vec(), 1..=2);
        (keys, proptest::collection::vec(values, 3)).prop_map(|(keys, values)| {
            let entry = |(key, values): (&str, Vec<&str>)| LabelMatch {
                key: key.into(),
                values: values.into_iter().map(Into::into).collect(),
            };
            keys.into_iter().zip(values).map(entry).collect()
        })
    }

    fn limits() -> impl Strategy<Value = Vec<Limit>> {
        let scope = proptest::sample::subsequence(KEYS.to_vec(), 0..=2);
        let each = (entries(), proptest::option::weighted(0.2, entries()), scope);
        proptest::collection::vec(each, 1..=Policy::LIMITS_MAX).prop_map(|limits| {
            let limit =
                |(place, (matches, except, scope)): (usize, (_, Option<_>, Vec<&str>))| Limit {
                    name: format!("limit-{place}").into(),
                    matches,
                    except: except.unwrap_or_default(),
                    scope: scope.into_iter().map(Into::into).collect(),
                    window: Window::Fixed(Milliseconds(3_600_000)),
                    amounts: vec![Amount { unit: Unit::Tokens, amount: 1 }],
                    overrides: Vec::new(),
                };
            limits.into_iter().enumerate().map(limit).collect()
        })
    }

    proptest! {
        #[test]
        fn the_limits_found_by_labels_are_those_found_one_by_one(
            limits in limits(),
            calls in proptest::collection::vec((0..4usize, proptest::array::uniform3(0..5usize)), 20),
        ) {
            let policy = Policy {
                name: "any".into(),
                time_zone: TimeZone::UTC,
                // Where it is missing, limits scoped by it do not apply.
                labels: vec![LabelRule {
                    key: "feature".into(),
                    values: Vec::new(),
                    renamed: Vec::new(),
                    missing: Fallback::Skip,
                    otherwise: Fallback::None,
                }],
                ttl: Milliseconds(60_000),
                unsettled: Unsettled::Release,
                limits,
                rollups: Vec::new(),
            }
            .compile()
            .unwrap();
            for (model, labels) in calls {
                let given = [("tenant", labels[0]), ("feature", labels[1]), ("team", labels[2])];
                // The fifth value is no value: the label is missing.
                let given = given.iter().filter(|(_, value)| *value < 4);
                let labels = Labels::new(given.map(|(key, value)| (*key, VALUES[*value])));
                let values = policy.values(VALUES[model], "", &labels);
                let found: Vec<usize> = policy.concerning(&values).map(|limit| limit.index).collect();
                let one_by_one = policy.ready().filter(|limit| policy.bar(limit, &values).is_none());
                prop_assert_eq!(found, one_by_one.map(|limit| limit.index).collect::<Vec<_>>());
            }
        }
    }
}
