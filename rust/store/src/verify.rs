//! Verifying: the state and the usage computed from the first segment, compared with the index.

use std::path::{Path, PathBuf};

use bursar_quota::{Bounds, State};

use crate::dump::dump;
use crate::generations::Usage;
use crate::index::{Index, IndexError};
use crate::tail::Tail;

/// How many bytes of entries are read at once.
const BATCH_BYTES: u64 = 1 << 20;

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The last whole entry of the ledger.
    pub last_sequence: u64,
    /// How many entries were read and applied, from the first one.
    pub entries: u64,
    /// The last sequence of the index; none where it has none.
    pub index_sequence: Option<u64>,
    /// How many usage groups of the index were compared.
    pub usage_groups: u64,
    /// Everything that is wrong, in words; none if all is well.
    pub problems: Vec<String>,
}

/// Recomputes everything from the first segment and compares it with the index, reading only. A ledger that a
/// sidecar of another process is writing is verified up to what is written.
///
/// # Errors
/// When the index or a file cannot be opened; what is wrong inside them is in the report.
pub fn verify(dir: &Path, options: &crate::Options) -> Result<Report, IndexError> {
    let exists: PathBuf = dir.join("index").join("data.mdb");
    let index = match exists.exists() {
        true => Some(Index::open(dir, options.index_bytes_max)?),
        false => None,
    };
    verify_with(dir, index.as_ref(), &options.bounds)
}

/// As [`verify`], with an index that is open already.
pub(crate) fn verify_with(
    dir: &Path,
    index: Option<&Index>,
    bounds: &Bounds,
) -> Result<Report, IndexError> {
    let mut report = Report::default();
    let kept = match index {
        Some(index) => Kept::read(index)?,
        None => Kept::default(),
    };
    report.index_sequence = kept.state.as_ref().map(State::sequence);
    let mut state = State::default();
    let mut tail = Tail::after(dir, 0);
    loop {
        let batch = match tail.batch(u64::MAX, BATCH_BYTES) {
            Ok(batch) => batch,
            Err(error) => {
                report.problems.push(error.to_string());
                break;
            }
        };
        if batch.is_empty() {
            break;
        }
        for (sequence, instant, event) in &batch {
            if let Err(error) = state.apply(*sequence, *instant, event) {
                report.problems.push(format!("entry {sequence}: {error}"));
                return Ok(report);
            }
            report.entries += 1;
            report.last_sequence = *sequence;
            if report.index_sequence == Some(*sequence) {
                compare_state(&state, &kept, bounds, &mut report);
            }
        }
    }
    if report.index_sequence.is_some_and(|index| index > report.last_sequence) {
        let index = report.index_sequence.unwrap_or_default();
        let last = report.last_sequence;
        report.problems.push(format!("the index is at entry {index}, the ledger ends at {last}"));
    }
    compare_usage(dir, &kept, &mut report)?;
    Ok(report)
}

/// What an index holds, read in one transaction.
#[derive(Default)]
struct Kept {
    state: Option<State>,
    /// Generations: after, through, groups.
    usage: Vec<(u64, u64, Usage)>,
}

impl Kept {
    fn read(index: &Index) -> Result<Self, IndexError> {
        let txn = index.read()?;
        let Some(position) = index.position(&txn)? else { return Ok(Self::default()) };
        let mut usage = Vec::new();
        for one in index.generations(&txn)? {
            let (groups, _) = index.groups(&txn, one.number, None, usize::MAX)?;
            let groups = Usage(groups.into_iter().collect());
            usage.push((one.after, one.through.unwrap_or(position.sequence), groups));
        }
        Ok(Self { state: Some(index.load(&txn)?), usage })
    }
}

fn compare_state(state: &State, kept: &Kept, bounds: &Bounds, report: &mut Report) {
    let Some(index) = &kept.state else { return };
    let now = state.instant();
    if dump(state, bounds, now) == dump(index, bounds, now) {
        return;
    }
    let before = report.problems.len();
    for (key, counter) in state.counters() {
        let known = index.counter(key);
        if !counter.dead(key, now) && known != counter {
            let limit = &key.limit;
            let scope = &key.scope;
            report.problems.push(format!(
                "counter of {limit} {scope:?}: the ledger gives {counter:?}, the index has {known:?}"
            ));
        }
    }
    for (id, reservation) in state.reservations() {
        if index.reservation(id) != Some(reservation) {
            report.problems.push(format!("reservation {id} differs in the index"));
        }
    }
    if report.problems.len() == before {
        let sequence = state.sequence();
        report.problems.push(format!("the state at entry {sequence} differs from the index"));
    }
}

fn compare_usage(dir: &Path, kept: &Kept, report: &mut Report) -> Result<(), IndexError> {
    for (after, through, groups) in &kept.usage {
        let (counted, _) = Usage::count(dir, *after, *through)?;
        for (key, sums) in &counted.0 {
            report.usage_groups += 1;
            let known = groups.0.get(key).cloned().unwrap_or_default();
            if known != *sums {
                report.problems.push(format!(
                    "usage {key:?}: the ledger gives {sums:?}, the index has {known:?}"
                ));
            }
        }
        for (key, sums) in &groups.0 {
            if !counted.0.contains_key(key) && *sums != bursar_quota::UsageSums::default() {
                report
                    .problems
                    .push(format!("usage {key:?} is in the index and not in the ledger"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bursar_quota::{Activated, Event, Timestamp};

    use super::*;
    use crate::{Options, Store};

    fn activated(version: u64) -> Event {
        Event::Activated(Activated {
            version,
            digest: [1].into(),
            policy: [2].into(),
            source: [3].into(),
            rollups: Vec::new(),
            identities: vec![version, 77],
        })
    }

    #[test]
    fn an_index_that_differs_from_the_ledger_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { index_bytes_max: 16 << 20, ..Options::default() };
        let mut store = Store::open(folder.path(), options.clone()).unwrap().store;
        for version in 1..=3 {
            store.append(Timestamp(1), &activated(version));
        }
        store.close().unwrap();
        assert_eq!(verify(folder.path(), &options).unwrap().problems, Vec::<String>::new());
        let index = Index::open(folder.path(), options.index_bytes_max).unwrap();
        let mut txn = index.write().unwrap();
        index.tables.limits_since.delete(&mut txn, &77_u64.to_be_bytes()).unwrap();
        txn.commit().unwrap();
        let report = verify_with(folder.path(), Some(&index), &options.bounds).unwrap();
        assert_eq!(report.problems, ["the state at entry 3 differs from the index"]);
    }
}
