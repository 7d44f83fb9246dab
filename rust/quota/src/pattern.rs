//! The values of a call, and what matches them.

/// Values that match a label.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// Whole values, sorted.
    exact: Vec<Box<str>>,
    /// Beginnings.
    prefixes: Vec<Box<str>>,
}

impl Pattern {
    pub(crate) fn new(values: &[Box<str>]) -> Self {
        let mut exact = Vec::new();
        let mut prefixes = Vec::new();
        for value in values {
            match value.strip_suffix('*') {
                Some(prefix) => prefixes.push(prefix.into()),
                None => exact.push(value.clone()),
            }
        }
        exact.sort_unstable();
        Self { exact, prefixes }
    }

    /// The values, if all of them are whole.
    pub(crate) fn whole(&self) -> Option<&[Box<str>]> {
        self.prefixes.is_empty().then_some(&*self.exact)
    }

    pub(crate) fn holds(&self, value: &str) -> bool {
        self.exact.binary_search_by(|known| (**known).cmp(value)).is_ok()
            || self.prefixes.iter().any(|prefix| value.starts_with(&**prefix))
    }
}

/// The values of one call, by slot; none where the label is missing.
pub(crate) struct Values<'a>(Vec<Option<&'a str>>);

impl<'a> Values<'a> {
    pub(crate) fn new(by_slot: Vec<Option<&'a str>>) -> Self {
        Self(by_slot)
    }

    pub(crate) fn get(&self, slot: usize) -> Option<&'a str> {
        self.0.get(slot).copied().flatten()
    }
}
