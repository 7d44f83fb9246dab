//! A counter: one limit, one unit, one scope value, one window.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::Equivalent;

use crate::policy::Unit;
use crate::time::Timestamp;

/// What makes a counter that counter. Order is by limit, unit, scope, then window.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CounterKey {
    /// A digest over all that makes the limit's counters what they are: name, match, except, scope, window.
    pub identity: u64,
    /// What it counts.
    pub unit: Unit,
    /// Scope labels and their values, in the policy's order.
    pub scope: Box<[(Box<str>, Box<str>)]>,
    /// The span it counts over.
    pub span: Span,
    /// The limit's name, for people.
    pub limit: Arc<str>,
}

impl CounterKey {
    /// What is before every key of a limit, and after those of the limits before it.
    pub(crate) fn first_of(identity: u64) -> Self {
        Self {
            identity,
            unit: Unit::Tokens,
            scope: Box::default(),
            span: Span::ALWAYS,
            limit: "".into(),
        }
    }
}

impl Hash for CounterKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(
            self.identity,
            self.unit,
            self.span,
            self.scope.iter().map(|(_, value)| &**value),
            state,
        );
    }
}

/// What tells counters apart: the identity stands for the limit's name and for the labels of its scope.
fn hash<'a, H: Hasher>(
    identity: u64,
    unit: Unit,
    span: Span,
    values: impl Iterator<Item = &'a str>,
    state: &mut H,
) {
    state.write_u64(identity);
    state.write_u8(unit as u8);
    state.write_i64(span.start.map_or(i64::MIN, |start| start.0));
    values.for_each(|value| value.hash(state));
}

/// A counter's key borrowed from a request, so that looking one up makes nothing. It hashes as the key does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyRef<'a> {
    pub(crate) identity: u64,
    pub(crate) unit: Unit,
    pub(crate) scope: &'a [(&'a str, &'a str)],
    pub(crate) span: Span,
    pub(crate) limit: &'a Arc<str>,
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(
            self.identity,
            self.unit,
            self.span,
            self.scope.iter().map(|(_, value)| *value),
            state,
        );
    }
}

impl KeyRef<'_> {
    /// The key, owned.
    pub(crate) fn to_key(self) -> Arc<CounterKey> {
        let scope = self.scope.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        Arc::new(CounterKey {
            identity: self.identity,
            unit: self.unit,
            scope: scope.collect(),
            span: self.span,
            limit: self.limit.clone(),
        })
    }
}

impl Equivalent<Arc<CounterKey>> for KeyRef<'_> {
    fn equivalent(&self, key: &Arc<CounterKey>) -> bool {
        self.identity == key.identity
            && self.unit == key.unit
            && self.span == key.span
            && *self.limit == key.limit
            && self.scope.len() == key.scope.len()
            && self.scope.iter().zip(&key.scope).all(|(a, b)| *a.0 == *b.0 && *a.1 == *b.1)
    }
}

/// A span of time: from its start to before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first instant; none means always.
    pub start: Option<Timestamp>,
    /// The first instant after it; none means never.
    pub end: Option<Timestamp>,
}

impl Span {
    /// The span that holds every instant.
    pub const ALWAYS: Self = Self { start: None, end: None };

    /// Whether it holds the instant.
    pub fn holds(self, at: Timestamp) -> bool {
        self.start.is_none_or(|start| start <= at) && self.end.is_none_or(|end| at < end)
    }

    /// Whether it has ended by then.
    pub fn ended(self, at: Timestamp) -> bool {
        self.end.is_some_and(|end| end <= at)
    }
}

/// How much a counter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    /// Used for certain.
    pub committed: u64,
    /// Set aside by open reservations.
    pub reserved: u64,
    /// How many open reservations refer to it; while there is one, the counter stays.
    pub holders: u32,
}

impl Counter {
    /// What is taken: committed and reserved together.
    pub fn taken(self) -> u64 {
        self.committed.saturating_add(self.reserved)
    }
}
