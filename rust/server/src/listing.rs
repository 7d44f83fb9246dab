//! Listings: pages that are gathered in steps, so that none of them holds decisions up.

use std::collections::BTreeMap;

use crate::fault::Fault;

/// The most rows in one answer, and how many where the question does not say.
const SIZE_MAX: usize = 1_000;
const SIZE_DEFAULT: usize = 100;

/// The most labels to filter by.
const LABELS_MAX: usize = 16;

/// The most that one step looks at, and the most rows it makes of that: so long decisions wait.
pub(crate) const LOOKED_AT_PER_STEP_MAX: usize = 256;
pub(crate) const ROWS_PER_STEP_MAX: usize = 32;

/// The most steps for one answer: past them it is a short page, with a token to go on from.
pub(crate) const STEPS_MAX: usize = 256;

/// A page that is being gathered.
pub(crate) struct Page<Row, Place> {
    /// The rows so far.
    pub(crate) found: Vec<Row>,
    /// What was looked at last.
    pub(crate) after: Option<Place>,
    /// The ledger's sequence at the last step.
    pub(crate) sequence: u64,
    /// Whether nothing is left.
    pub(crate) ended: bool,
}

impl<Row, Place> Page<Row, Place> {
    /// An empty page that begins after a place.
    pub(crate) fn after(after: Option<Place>) -> Self {
        Self { found: Vec::new(), after, sequence: 0, ended: false }
    }
}

/// How many rows a page is to have.
pub(crate) fn size(asked: u32) -> Result<usize, Fault> {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => Ok(SIZE_DEFAULT),
        size if size <= SIZE_MAX => Ok(size),
        size => {
            let problem = format!("got {size}; it must be at most {SIZE_MAX}");
            Err(Fault::invalid("page_size", problem))
        }
    }
}

/// Labels to filter by, within the bound.
pub(crate) fn labels(labels: BTreeMap<String, String>) -> Result<Vec<(String, String)>, Fault> {
    if labels.len() > LABELS_MAX {
        let problem = format!("got {} of them; there may be at most {LABELS_MAX}", labels.len());
        return Err(Fault::invalid("labels", problem));
    }
    Ok(labels.into_iter().collect())
}

/// The place that a token names; none for the first page.
pub(crate) fn token<Place>(
    token: &str,
    read: impl FnOnce(&str) -> Option<Place>,
) -> Result<Option<Place>, Fault> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong = "it is not one that an answer gave; leave it empty for the first page";
    read(token).map(Some).ok_or_else(|| Fault::invalid("page_token", wrong))
}
