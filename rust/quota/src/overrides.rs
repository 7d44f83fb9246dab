//! Overrides made ready: the amount of a scope value, found by a hash of the value and not by a look at each.

use hashbrown::HashMap;

use crate::compile::Pattern;
use crate::policy::{Allowed, Amount, Limit, Policy, Unit};

/// The overrides of one limit.
#[derive(Debug, Clone)]
pub(crate) struct Overrides {
    entries: Vec<Entry>,
    /// By place in the scope: the entries listed under one value there, in the policy's order.
    listed: Vec<HashMap<Box<str>, Vec<usize>>>,
    /// The entries that know no whole value, in the policy's order.
    others: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Places in the scope and what must be there.
    patterns: Vec<(usize, Pattern)>,
    allowed: Allowed,
}

impl Entry {
    /// The amount it gives to a scope value; none if it is for others, or leaves the unit as it is.
    fn amount<'v>(&self, unit: Unit, value: impl Fn(usize) -> &'v str) -> Option<u64> {
        let amount = match &self.allowed {
            Allowed::Unlimited => Policy::UNLIMITED,
            Allowed::Amounts(amounts) => amounts.iter().find(|other| other.unit == unit)?.amount,
        };
        let holds = self.patterns.iter().all(|(place, pattern)| pattern.holds(value(*place)));
        holds.then_some(amount)
    }
}

impl Overrides {
    /// Those of a limit; none where it has none.
    pub(crate) fn of(limit: &Limit) -> Option<Box<Self>> {
        if limit.overrides.is_empty() {
            return None;
        }
        let mut made = Self {
            entries: Vec::with_capacity(limit.overrides.len()),
            listed: vec![HashMap::new(); limit.scope.len()],
            others: Vec::new(),
        };
        for (at, entry) in limit.overrides.iter().enumerate() {
            let place = |key: &str| limit.scope.iter().position(|other| **other == *key);
            let pattern = |entry: &crate::policy::LabelMatch| {
                Some((place(&entry.key)?, Pattern::new(&entry.values)))
            };
            let patterns: Vec<_> = entry.matches.iter().filter_map(pattern).collect();
            made.list(at, &patterns);
            made.entries.push(Entry { patterns, allowed: entry.allowed.clone() });
        }
        Some(Box::new(made))
    }

    /// Lists an entry under the values of the pattern that has the fewest.
    fn list(&mut self, at: usize, patterns: &[(usize, Pattern)]) {
        let whole = patterns.iter().filter_map(|(place, pattern)| Some((place, pattern.whole()?)));
        let Some((place, values)) = whole.min_by_key(|(_, values)| values.len()) else {
            return self.others.push(at);
        };
        if let Some(by_value) = self.listed.get_mut(*place) {
            for value in values {
                by_value.entry(value.clone()).or_default().push(at);
            }
        }
    }

    /// What a scope value may have of a unit: by the first entry that is for it and names the unit.
    pub(crate) fn amount<'v>(&self, amount: Amount, value: impl Fn(usize) -> &'v str) -> Amount {
        let first = |list: &Vec<usize>| {
            list.iter().find_map(|at| {
                let amount = self.entries.get(*at)?.amount(amount.unit, &value)?;
                Some((*at, amount))
            })
        };
        let listed = self.listed.iter().enumerate();
        let found = listed
            .filter_map(|(place, by_value)| by_value.get(value(place)))
            .chain([&self.others])
            .filter_map(first)
            .min();
        Amount { unit: amount.unit, amount: found.map_or(amount.amount, |(_, amount)| amount) }
    }
}
