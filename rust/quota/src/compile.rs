//! A policy made ready to decide by: labels as numbered slots, identities computed once.

use hashbrown::HashMap;

use crate::identity::of_unit;
use crate::labels::Labels;
use crate::mapping::NONE;
use crate::matching::Matching;
use crate::overrides::Overrides;
use crate::pattern::{Pattern, Values};
use crate::policy::{Amount, Fallback, LabelMatch, LabelRule, Limit, Policy, Unit, Window};

/// A policy that has no mistakes, with all that decisions would otherwise compute again and again.
#[derive(Debug, Clone)]
pub struct Compiled {
    policy: Policy,
    /// Keys that limits match or count by; the first three come from the request.
    keys: Vec<Box<str>>,
    /// Whether limits scoped by the key do not apply where it is missing.
    skips: Vec<bool>,
    limits: Vec<Ready>,
    matching: Matching,
    by_identity: HashMap<u64, usize>,
    /// How many limits keep counters.
    counting: usize,
}

/// A limit made ready.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    /// Its place in the policy.
    pub(crate) index: usize,
    /// Its identity.
    pub(crate) identity: u64,
    /// Whether it matches or counts by model, provider or service tier.
    pub(crate) by_model: bool,
    matches: Vec<(usize, Pattern)>,
    except: Vec<(usize, Pattern)>,
    scope: Vec<usize>,
    overrides: Option<Box<Overrides>>,
}

/// What keeps a limit from concerning a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    /// The label at this place of its `match` has another value.
    Match(usize),
    /// Every label of its `except` matches.
    Except,
    /// The label at this place of its scope is missing, and the policy skips it then.
    Skipped(usize),
}

/// Scope labels and their values, in the policy's order.
pub(crate) struct Scope<'a> {
    pairs: [(&'a str, &'a str); Policy::SCOPE_LABELS_MAX],
    len: usize,
}

impl<'a> Scope<'a> {
    pub(crate) fn pairs(&self) -> &[(&'a str, &'a str)] {
        self.pairs.get(..self.len).unwrap_or_default()
    }
}

/// The provider of `provider/model`.
fn provider(model: &str) -> &str {
    model.split_once('/').map_or(NONE, |(provider, _)| provider)
}

/// A service tier as limits and reports know it: the empty one is `standard`.
pub(crate) fn service_tier(tier: &str) -> &str {
    if tier.is_empty() { "standard" } else { tier }
}

/// The value a request itself gives to a label; none for the caller's labels.
pub fn from_request<'a>(key: &str, model: &'a str, tier: &'a str) -> Option<&'a str> {
    match key {
        "model" => Some(model),
        "provider" => Some(provider(model)),
        "service_tier" => Some(service_tier(tier)),
        _ => None,
    }
}

impl Policy {
    /// Makes it ready to decide by.
    ///
    /// # Errors
    /// Every mistake that [`Policy::check`] finds.
    pub fn compile(mut self) -> Result<Compiled, Vec<String>> {
        let mistakes = self.check();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        for rule in &mut self.labels {
            rule.values.sort_unstable();
            rule.renamed.sort_unstable();
        }
        Ok(Compiled::new(self))
    }
}

impl Compiled {
    fn new(policy: Policy) -> Self {
        let mut keys: Vec<Box<str>> = Policy::FROM_REQUEST.map(Into::into).to_vec();
        let limits: Vec<Ready> = policy
            .limits
            .iter()
            .enumerate()
            .map(|(index, limit)| Ready::new(index, limit, &mut keys))
            .collect();
        let skips = |key: &str| {
            policy.labels.iter().any(|rule| *rule.key == *key && rule.missing == Fallback::Skip)
        };
        Self {
            skips: keys.iter().map(|key| skips(key)).collect(),
            by_identity: limits.iter().map(|limit| (limit.identity, limit.index)).collect(),
            counting: policy.limits.iter().filter(|limit| limit.window.counts()).count(),
            matching: Matching::new(limits.iter().map(|limit| &*limit.matches)),
            keys,
            limits,
            policy,
        }
    }

    /// The policy as it was given, its label values sorted.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The identity of each limit's counters of each unit, in the policy's order.
    pub fn identities(&self) -> Vec<u64> {
        let counters = self.limits.iter().flat_map(|ready| {
            let amounts = self.limit(ready).map(|limit| &*limit.amounts).unwrap_or_default();
            amounts.iter().map(|amount| of_unit(ready.identity, amount.unit))
        });
        counters.collect()
    }

    /// The limits in the policy's order, each with the identity of its counters.
    pub fn limits(&self) -> impl Iterator<Item = (&Limit, u64)> {
        self.limits.iter().filter_map(|ready| Some((self.limit(ready)?, ready.identity)))
    }

    /// What a scope value of the limit of an identity may have of a unit.
    pub(crate) fn amount_of(
        &self,
        identity: u64,
        unit: Unit,
        scope: &[(Box<str>, Box<str>)],
    ) -> Option<(&Limit, u64)> {
        let index = *self.by_identity.get(&identity)?;
        let limit = self.policy.limits.get(index)?;
        let amount = *limit.amounts.iter().find(|amount| amount.unit == unit)?;
        let value = |place: usize| scope.get(place).map_or("", |(_, value)| value);
        Some((limit, self.limits.get(index)?.amount_for(amount, value).amount))
    }

    pub(crate) fn limit(&self, ready: &Ready) -> Option<&Limit> {
        self.policy.limits.get(ready.index)
    }

    pub(crate) fn rule(&self, key: &str) -> Option<&LabelRule> {
        self.policy.labels.iter().find(|rule| *rule.key == *key)
    }

    pub(crate) fn limits_counting(&self) -> usize {
        self.counting
    }

    /// The values of a call under the keys that limits know.
    pub(crate) fn values<'a>(
        &self,
        model: &'a str,
        tier: &'a str,
        labels: &'a Labels,
    ) -> Values<'a> {
        let value = |key| from_request(key, model, tier).or_else(|| labels.get(key));
        Values::new(self.keys.iter().map(|key| value(key)).collect())
    }

    /// The limits that concern a call, whatever the time.
    pub(crate) fn concerning(&self, values: &Values<'_>) -> impl Iterator<Item = &Ready> {
        let candidates = self.matching.candidates(values);
        candidates
            .filter_map(|place| self.limits.get(place))
            .filter(|limit| self.bar(limit, values).is_none())
    }

    /// Every limit, in the policy's order.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &Ready> {
        self.limits.iter()
    }

    /// What keeps a limit from concerning a call; none if nothing does.
    pub(crate) fn bar(&self, limit: &Ready, values: &Values<'_>) -> Option<Bar> {
        let holds =
            |(slot, pattern): &(usize, Pattern)| pattern.holds(values.get(*slot).unwrap_or(NONE));
        let skipped = |slot: &usize| {
            values.get(*slot).is_none() && self.skips.get(*slot).copied().unwrap_or_default()
        };
        if let Some(place) = limit.matches.iter().position(|entry| !holds(entry)) {
            return Some(Bar::Match(place));
        }
        if !limit.except.is_empty() && limit.except.iter().all(holds) {
            return Some(Bar::Except);
        }
        limit.scope.iter().position(skipped).map(Bar::Skipped)
    }

    /// The value a call has under a key that limits know; none if the label is missing.
    pub(crate) fn value<'a>(&self, key: &str, values: &Values<'a>) -> Option<&'a str> {
        values.get(self.keys.iter().position(|known| **known == *key)?)
    }

    /// The scope value of a call under a limit.
    pub(crate) fn scope<'a>(&'a self, limit: &Ready, values: &Values<'a>) -> Scope<'a> {
        let mut pairs = [("", ""); Policy::SCOPE_LABELS_MAX];
        let mut len = 0;
        for (pair, slot) in pairs.iter_mut().zip(&limit.scope) {
            let key = self.keys.get(*slot).map_or("", |key| key);
            *pair = (key, values.get(*slot).unwrap_or(NONE));
            len += 1;
        }
        Scope { pairs, len }
    }

    /// The scope labels of a limit that a call lacks.
    pub(crate) fn scope_missing<'a>(
        &'a self,
        limit: &'a Ready,
        values: &'a Values<'_>,
    ) -> impl Iterator<Item = &'a Box<str>> {
        let missing = limit.scope.iter().filter(|slot| values.get(**slot).is_none());
        missing.filter_map(|slot| self.keys.get(*slot))
    }
}

impl Ready {
    fn new(index: usize, limit: &Limit, keys: &mut Vec<Box<str>>) -> Self {
        let mut slot = |key: &str| {
            keys.iter().position(|known| **known == *key).unwrap_or_else(|| {
                keys.push(key.into());
                keys.len() - 1
            })
        };
        let mut patterns = |matches: &[LabelMatch]| {
            let pattern = |entry: &LabelMatch| (slot(&entry.key), Pattern::new(&entry.values));
            matches.iter().map(pattern).collect()
        };
        Self {
            index,
            identity: limit.identity(),
            by_model: limit.depends_on_model(),
            matches: patterns(&limit.matches),
            except: patterns(&limit.except),
            scope: limit.scope.iter().map(|key| slot(key)).collect(),
            overrides: Overrides::of(limit),
        }
    }

    /// What a scope value may have, by its values in the scope's order.
    pub(crate) fn amount_for<'v>(
        &self,
        amount: Amount,
        value: impl Fn(usize) -> &'v str,
    ) -> Amount {
        self.overrides.as_ref().map_or(amount, |overrides| overrides.amount(amount, value))
    }
}

impl Limit {
    /// Whether it matches or counts by model, provider or service tier.
    pub fn depends_on_model(&self) -> bool {
        let matched = self.matches.iter().chain(&self.except).map(|entry| &entry.key);
        matched.chain(&self.scope).any(|key| Policy::FROM_REQUEST.contains(&&**key))
    }
}

impl Window {
    /// Whether a limit with it keeps counters.
    pub(crate) fn counts(&self) -> bool {
        !matches!(self, Self::Request)
    }
}
