//! Overrides made ready: the amount of a scope value, found by a hash of the value and not by a look at each.

use hashbrown::{Equivalent, HashMap};

use crate::pattern::Pattern;
use crate::policy::{Allowed, Amount, LabelMatch, Limit, Policy, Unit};

/// The most lists that one entry with several labels is put in; a longer list of one label's values is used
/// whole, and what an entry wants besides is looked at then.
const LISTED_MAX: usize = 64;

/// The overrides of one limit.
#[derive(Debug, Clone)]
pub(crate) struct Overrides {
    entries: Vec<Entry>,
    /// One for each choice of places in the scope that entries are listed by.
    listings: Vec<Listing>,
}

/// Entries by the whole values they want at some places in the scope. Those that want none at any place are
/// all listed by no place, under no values.
#[derive(Debug, Clone)]
struct Listing {
    /// At most [`Policy::SCOPE_LABELS_MAX`], in order.
    places: Vec<usize>,
    /// In the policy's order under each.
    entries: HashMap<Box<[Box<str>]>, Vec<usize>>,
}

/// Values borrowed from a request; they hash as owned ones do.
#[derive(Hash)]
struct ValuesRef<'a>(&'a [&'a str]);

impl Equivalent<Box<[Box<str>]>> for ValuesRef<'_> {
    fn equivalent(&self, values: &Box<[Box<str>]>) -> bool {
        self.0.iter().copied().eq(values.iter().map(|value| &**value))
    }
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
        let mut made =
            Self { entries: Vec::with_capacity(limit.overrides.len()), listings: Vec::new() };
        for (at, entry) in limit.overrides.iter().enumerate() {
            let place = |key: &str| limit.scope.iter().position(|other| **other == *key);
            let pattern =
                |entry: &LabelMatch| Some((place(&entry.key)?, Pattern::new(&entry.values)));
            let patterns: Vec<_> = entry.matches.iter().filter_map(pattern).collect();
            made.list(at, &patterns);
            made.entries.push(Entry { patterns, allowed: entry.allowed.clone() });
        }
        Some(Box::new(made))
    }

    /// Lists an entry under the values of the patterns that have only whole ones, the fewest first, but not
    /// of further ones once it would be listed under too many.
    fn list(&mut self, at: usize, patterns: &[(usize, Pattern)]) {
        let whole = patterns.iter().filter_map(|(place, pattern)| Some((*place, pattern.whole()?)));
        let mut whole: Vec<_> = whole.collect();
        whole.sort_by_key(|(_, values)| values.len());
        let mut listed = 1;
        whole.retain(|(_, values)| {
            let kept = listed == 1 || listed * values.len() <= LISTED_MAX;
            listed *= if kept { values.len() } else { 1 };
            kept
        });
        whole.sort_by_key(|(place, _)| *place);
        let places: Vec<usize> = whole.iter().map(|(place, _)| *place).collect();
        let known = self.listings.iter().position(|listing| listing.places == places);
        let known = known.unwrap_or_else(|| {
            self.listings.push(Listing { places, entries: HashMap::new() });
            self.listings.len() - 1
        });
        let mut tuples: Vec<Vec<Box<str>>> = vec![Vec::new()];
        for (_, values) in whole {
            let with = |tuple: &[Box<str>]| {
                let tuple = tuple.to_vec();
                values.iter().map(move |value| [&*tuple, std::slice::from_ref(value)].concat())
            };
            tuples = tuples.iter().flat_map(|tuple| with(tuple)).collect();
        }
        if let Some(listing) = self.listings.get_mut(known) {
            for tuple in tuples {
                listing.entries.entry(tuple.into()).or_default().push(at);
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
        let found = self.listings.iter().filter_map(|listing| first(listing.under(&value)?)).min();
        Amount { unit: amount.unit, amount: found.map_or(amount.amount, |(_, amount)| amount) }
    }
}

impl Listing {
    /// The entries that may be for a scope value.
    fn under<'v>(&self, value: impl Fn(usize) -> &'v str) -> Option<&Vec<usize>> {
        let mut values = [""; Policy::SCOPE_LABELS_MAX];
        for (at, place) in values.iter_mut().zip(&self.places) {
            *at = value(*place);
        }
        self.entries.get(&ValuesRef(values.get(..self.places.len())?))
    }
}
