//! Interning: strings, label sets and counters that a segment defines once and then names by number.

use std::sync::Arc;

use bursar_proto::ledger::v1 as pb;
use bursar_quota::{CounterKey, Labels, Span, Timestamp, Unit};
use hashbrown::HashMap;

use crate::number::wide;

/// The most symbols of one kind in a segment; a segment that has them is left for the next one.
pub(crate) const SYMBOLS_MAX: usize = 1 << 18;

/// A body that does not mean anything: the ledger is damaged, or written by a later version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// It is not a message.
    #[error("the body is no message: {0}")]
    Message(prost::DecodeError),
    /// It names a symbol that its segment does not define.
    #[error("{kind} number {number} is not defined in the segment")]
    Symbol {
        /// Which kind of symbol.
        kind: &'static str,
        /// Its number.
        number: u64,
    },
    /// A field has a value of no meaning.
    #[error("{field} cannot be {value}")]
    Value {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// It holds no event, or one of a later version.
    #[error("the body holds no event this version knows")]
    Event,
}

/// A label's key and value.
type Pair = (Box<str>, Box<str>);

/// What a segment has defined so far, by number less one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Symbols {
    strings: Vec<Arc<str>>,
    label_sets: Vec<Arc<Labels>>,
    counters: Vec<Arc<CounterKey>>,
}

impl Symbols {
    /// Takes the definitions of an entry.
    pub(crate) fn define(&mut self, body: &pb::Body) -> Result<(), CodecError> {
        self.strings.extend(body.strings.iter().map(|text| Arc::from(text.as_str())));
        for set in &body.label_sets {
            let pairs = self.pairs(&set.pairs)?;
            self.label_sets.push(Arc::new(Labels::new(pairs)));
        }
        for counter in &body.counters {
            let key = CounterKey {
                identity: counter.identity,
                unit: unit(counter.unit)?,
                scope: self.pairs(&counter.scope)?.into(),
                span: Span {
                    start: counter.start_unix_ms.map(Timestamp),
                    end: counter.end_unix_ms.map(Timestamp),
                },
                limit: self.string(counter.limit)?,
            };
            self.counters.push(Arc::new(key));
        }
        Ok(())
    }

    /// The string of a number.
    pub(crate) fn string(&self, number: u32) -> Result<Arc<str>, CodecError> {
        match at(number) {
            None => Ok(Arc::default()),
            Some(at) => self.strings.get(at).cloned().ok_or_else(|| undefined("string", number)),
        }
    }

    /// The label set of a number.
    pub(crate) fn label_set(&self, number: u32) -> Result<Arc<Labels>, CodecError> {
        match at(number) {
            None => Ok(Arc::default()),
            Some(at) => {
                self.label_sets.get(at).cloned().ok_or_else(|| undefined("label set", number))
            }
        }
    }

    /// The counter of a number.
    pub(crate) fn counter(&self, number: u64) -> Result<Arc<CounterKey>, CodecError> {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        at(number)
            .and_then(|at| self.counters.get(at).cloned())
            .ok_or_else(|| undefined("counter", number))
    }

    /// How many symbols there are, of all kinds.
    pub(crate) fn len(&self) -> usize {
        self.strings.len() + self.label_sets.len() + self.counters.len()
    }

    fn pairs(&self, numbers: &[u32]) -> Result<Vec<Pair>, CodecError> {
        numbers
            .chunks_exact(2)
            .map(|pair| match *pair {
                [key, value] => Ok(((*self.string(key)?).into(), (*self.string(value)?).into())),
                _ => Err(CodecError::Event),
            })
            .collect()
    }
}

/// The unit of a number of `bursar.v1.Unit`.
pub(crate) fn unit(number: u32) -> Result<Unit, CodecError> {
    [Unit::Tokens, Unit::Requests, Unit::Concurrency]
        .into_iter()
        .find(|unit| u32::from(*unit as u8) == number)
        .ok_or(CodecError::Value { field: "unit", value: u64::from(number) })
}

fn at(number: u32) -> Option<usize> {
    number.checked_sub(1).and_then(|at| usize::try_from(at).ok())
}

fn undefined(kind: &'static str, number: u32) -> CodecError {
    CodecError::Symbol { kind, number: u64::from(number) }
}

/// The symbols of the segment that is being written, and their numbers.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    symbols: Symbols,
    strings: HashMap<Arc<str>, u32>,
    label_sets: HashMap<Arc<Labels>, u32>,
    counters: HashMap<Arc<CounterKey>, u32>,
}

impl Interner {
    /// Goes on where a segment that was read ended.
    pub(crate) fn resume(symbols: Symbols) -> Self {
        fn numbered<T: std::hash::Hash + Eq + Clone>(all: &[T]) -> HashMap<T, u32> {
            all.iter().cloned().zip(1..).collect()
        }
        Self {
            strings: numbered(&symbols.strings),
            label_sets: numbered(&symbols.label_sets),
            counters: numbered(&symbols.counters),
            symbols,
        }
    }

    /// The symbols, for reading what was written.
    pub(crate) fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// Leaves the symbols for readers of the segment.
    pub(crate) fn into_symbols(self) -> Symbols {
        self.symbols
    }

    /// Whether the segment is to be left for the next one.
    pub(crate) fn full(&self) -> bool {
        self.symbols.len() >= SYMBOLS_MAX
    }

    /// The number of a string, defined in this body if it is new.
    pub(crate) fn string(&mut self, text: &str, body: &mut pb::Body) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(number) = self.strings.get(text) {
            return *number;
        }
        let text: Arc<str> = text.into();
        body.strings.push(text.to_string());
        self.symbols.strings.push(text.clone());
        let number = number_of(self.symbols.strings.len());
        self.strings.insert(text, number);
        number
    }

    /// The number of a label set, defined in this body if it is new.
    pub(crate) fn label_set(&mut self, labels: &Arc<Labels>, body: &mut pb::Body) -> u32 {
        if labels.is_empty() {
            return 0;
        }
        if let Some(number) = self.label_sets.get(labels) {
            return *number;
        }
        let mut set = pb::LabelSet::default();
        for (key, value) in labels.iter() {
            set.pairs.push(self.string(key, body));
            set.pairs.push(self.string(value, body));
        }
        body.label_sets.push(set);
        self.symbols.label_sets.push(labels.clone());
        let number = number_of(self.symbols.label_sets.len());
        self.label_sets.insert(labels.clone(), number);
        number
    }

    /// The number of a counter, defined in this body if it is new.
    pub(crate) fn counter(&mut self, key: &Arc<CounterKey>, body: &mut pb::Body) -> u64 {
        if let Some(number) = self.counters.get(key) {
            return u64::from(*number);
        }
        let mut counter = pb::Counter {
            limit: self.string(&key.limit, body),
            identity: key.identity,
            unit: u32::from(key.unit as u8),
            scope: Vec::with_capacity(key.scope.len() * 2),
            start_unix_ms: key.span.start.map(|start| start.0),
            end_unix_ms: key.span.end.map(|end| end.0),
        };
        for (label, value) in &key.scope {
            counter.scope.push(self.string(label, body));
            counter.scope.push(self.string(value, body));
        }
        body.counters.push(counter);
        self.symbols.counters.push(key.clone());
        let number = number_of(self.symbols.counters.len());
        self.counters.insert(key.clone(), number);
        u64::from(number)
    }
}

/// The number of the symbol defined last; a segment has far fewer than would wrap it.
fn number_of(count: usize) -> u32 {
    u32::try_from(wide(count)).unwrap_or(u32::MAX)
}
