//! Usage groups in the index, by generation: handed to the books once and never twice, whoever crashes.
//!
//! The follower adds to the open generation, in the transaction that moves the index. Asking for usage seals
//! it at the index's sequence. A sealed generation stays until the books say that they have its sequence;
//! until then it is handed out again, the same to the byte. Where the books are at no boundary that is kept
//! (the index was made anew, or the books are older than what they once acknowledged), the groups after
//! the books' sequence are computed again from the ledger.

use std::collections::BTreeMap;
use std::path::Path;

use bursar_proto::ledger::v1 as pb;
use bursar_proto::v1;
use bursar_quota::{Event, UsageKey, UsageSums, group};
use heed::{RoTxn, RwTxn};
use prost::Message as _;

use crate::index::{Index, IndexError};
use crate::intern::CodecError;
use crate::read::ReadError;
use crate::rows;
use crate::tail::Tail;

/// The most groups of one page.
pub const USAGE_PAGE_GROUPS: usize = 10_000;

/// How many bytes of entries are read at once to compute groups again.
const RECOUNT_BYTES: u64 = 1 << 20;

/// Usage by group, summed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage(pub(crate) BTreeMap<UsageKey, UsageSums>);

impl Usage {
    /// Adds sums to a group.
    pub(crate) fn add(&mut self, key: UsageKey, sums: &UsageSums) {
        self.0.entry(key).or_default().add(sums);
    }

    /// The groups of a ledger's entries after one and through another, and the last entry there was.
    pub(crate) fn count(dir: &Path, after: u64, through: u64) -> Result<(Self, u64), ReadError> {
        let mut usage = Self::default();
        let mut last = 0;
        // Rollup keys come with activations, and those lie anywhere before.
        let mut rollups = BTreeMap::new();
        let mut tail = Tail::after(dir, 0);
        loop {
            let batch = tail.batch(through, RECOUNT_BYTES)?;
            if batch.is_empty() {
                return Ok((usage, last));
            }
            for (sequence, _, event) in &batch {
                last = *sequence;
                if let Event::Activated(event) = event {
                    rollups.insert(event.version, event.rollups.clone());
                }
                let Some(version) = event.policy_version().filter(|_| *sequence > after) else {
                    continue;
                };
                let keys = rollups.get(&version).map_or(&[][..], Vec::as_slice);
                for (key, sums) in group(event, keys) {
                    usage.add(key, &sums);
                }
            }
        }
    }
}

/// One page of one generation of usage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsagePage {
    /// The generation's number; 0 when there is nothing new.
    pub generation: u64,
    /// The sequence before which it has nothing.
    pub after_sequence: u64,
    /// The last sequence it includes; that before when there is nothing new.
    pub through_sequence: u64,
    /// At most [`USAGE_PAGE_GROUPS`] groups, each once in a generation; changes, so they may be negative.
    pub groups: Vec<(UsageKey, UsageSums)>,
    /// What to ask the next page with; empty on the last one.
    pub next_page: Vec<u8>,
}

impl UsagePage {
    /// The page as the message that the books read.
    pub fn to_message(&self) -> v1::UsageBatch {
        v1::UsageBatch {
            generation: self.generation,
            after_sequence: self.after_sequence,
            through_sequence: self.through_sequence,
            groups: self.groups.iter().map(|(key, sums)| message(key, sums)).collect(),
            next_page: self.next_page.clone(),
        }
    }
}

/// Sums usage from a ledger's first entry, in one page however long; also while a sidecar writes it.
///
/// # Errors
/// When a file cannot be read, or is broken where a further one follows it.
pub fn scan_usage(dir: &Path) -> Result<UsagePage, ReadError> {
    let (Usage(groups), through_sequence) = Usage::count(dir, 0, u64::MAX)?;
    let groups = groups.into_iter().filter(|(_, sums)| !sums.is_zero()).collect();
    Ok(UsagePage { through_sequence, groups, ..UsagePage::default() })
}

fn message(key: &UsageKey, sums: &UsageSums) -> v1::UsageGroup {
    let tokens = sums.tokens.iter().map(|((meter, basis), tokens)| v1::MeterTokens {
        meter: i32::from(*meter as u8),
        basis: i32::from(*basis as u8),
        tokens: *tokens,
    });
    v1::UsageGroup {
        hour_unix_ms: key.hour.0,
        labels: key.labels.iter().map(|(key, value)| (key.into(), value.into())).collect(),
        tokens: tokens.collect(),
        calls: sums.calls,
        calls_assumed: sums.calls_assumed,
        calls_overrun: sums.calls_overrun,
        calls_late: sums.calls_late,
        latency_ms_sum: sums.latency_ms_sum,
        latency_calls: sums.latency_calls,
    }
}

/// Groups with their sums.
pub(crate) type Groups = Vec<(UsageKey, UsageSums)>;

/// A generation as the index has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Generation {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// The sequence before which it has nothing.
    pub(crate) after: u64,
    /// The last sequence it includes; none while it is open.
    pub(crate) through: Option<u64>,
}

impl Index {
    /// Every generation kept, oldest first.
    pub(crate) fn generations(&self, txn: &RoTxn<'_>) -> Result<Vec<Generation>, IndexError> {
        let mut out = Vec::new();
        for row in self.tables.generations.iter(txn)? {
            let (key, value) = row?;
            let row = pb::Generation::decode(value).map_err(CodecError::Message)?;
            let number = rows::number_of(key).unwrap_or_default();
            let (after, through) = (row.after_sequence, row.through_sequence);
            out.push(Generation { number, after, through });
        }
        Ok(out)
    }

    /// The groups of a generation, by the order of their keys, after a key and at most so many; with the key to
    /// go on after, empty at the end.
    pub(crate) fn groups(
        &self,
        txn: &RoTxn<'_>,
        generation: u64,
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<(Groups, Vec<u8>), IndexError> {
        let first = generation.to_be_bytes();
        let end = (generation + 1).to_be_bytes();
        let from = match after {
            Some(key) => std::ops::Bound::Excluded(key),
            None => std::ops::Bound::Included(&first[..]),
        };
        let range = (from, std::ops::Bound::Excluded(&end[..]));
        let (mut groups, mut last) = (Vec::new(), Vec::new());
        for row in self.tables.usage.range(txn, &range)? {
            let (key, value) = row?;
            if groups.len() == max {
                return Ok((groups, last));
            }
            groups.push(rows::usage_in(value)?);
            if groups.len() == max {
                last = key.to_vec();
            }
        }
        Ok((groups, Vec::new()))
    }

    fn put_generation(&self, txn: &mut RwTxn<'_>, one: Generation) -> Result<(), IndexError> {
        let row = pb::Generation { after_sequence: one.after, through_sequence: one.through };
        let key = one.number.to_be_bytes();
        Ok(self.tables.generations.put(txn, &key, &row.encode_to_vec())?)
    }

    /// Adds a batch's usage to the open generation, beginning one where there is none.
    pub(crate) fn add_usage(&self, txn: &mut RwTxn<'_>, usage: &Usage) -> Result<(), IndexError> {
        let open = match self.generations(txn)?.last() {
            Some(last) if last.through.is_none() => *last,
            _ => {
                // The first of an index: what came before it is in no generation.
                let after = self.position(txn)?.map_or(0, |position| position.sequence);
                let open = Generation { number: 1, after, through: None };
                self.put_generation(txn, open)?;
                open
            }
        };
        self.add_groups(txn, open.number, usage)
    }

    fn add_groups(
        &self,
        txn: &mut RwTxn<'_>,
        generation: u64,
        usage: &Usage,
    ) -> Result<(), IndexError> {
        for (key, sums) in &usage.0 {
            let row_key = rows::usage_key(generation, key);
            let mut total = sums.clone();
            if let Some(row) = self.tables.usage.get(txn, &row_key)? {
                let (known, before) = rows::usage_in(row)?;
                if known != *key {
                    return Err(IndexError::Inconsistent("usage"));
                }
                total.add(&before);
            }
            self.tables.usage.put(txn, &row_key, &rows::usage_out(key, &total))?;
        }
        Ok(())
    }

    /// Frees what the books have, seals what is new, and gives a page of it: see the module.
    pub(crate) fn usage_page(
        &self,
        dir: &Path,
        books_sequence: u64,
        page: &[u8],
    ) -> Result<UsagePage, IndexError> {
        if page.is_empty() {
            return match self.hand_out(dir, books_sequence)? {
                Some(sealed) => self.page(sealed, None),
                None => Ok(UsagePage {
                    after_sequence: books_sequence,
                    through_sequence: books_sequence,
                    ..Default::default()
                }),
            };
        }
        let number = rows::number_of(page).ok_or(IndexError::PageGone)?;
        let sealed = {
            let txn = self.read()?;
            let kept = self.generations(&txn)?;
            kept.into_iter().find(|one| one.number == number && one.through.is_some())
        };
        self.page(sealed.ok_or(IndexError::PageGone)?, Some(page))
    }

    fn page(&self, sealed: Generation, after: Option<&[u8]>) -> Result<UsagePage, IndexError> {
        let txn = self.read()?;
        let (groups, next_page) = self.groups(&txn, sealed.number, after, USAGE_PAGE_GROUPS)?;
        Ok(UsagePage {
            generation: sealed.number,
            after_sequence: sealed.after,
            through_sequence: sealed.through.unwrap_or(sealed.after),
            groups,
            next_page,
        })
    }

    /// The sealed generation that begins where the books are; none when there is nothing new.
    fn hand_out(&self, dir: &Path, books_sequence: u64) -> Result<Option<Generation>, IndexError> {
        let mut txn = self.write()?;
        let sequence = self.position(&txn)?.map_or(0, |position| position.sequence);
        if books_sequence > sequence || sequence == 0 {
            // An index that is being made anew has yet to come to where the books are.
            return Ok(None);
        }
        let mut kept = self.generations(&txn)?;
        kept.retain(|one| one.through.is_none_or(|through| through > books_sequence));
        let first = kept.first().copied();
        let freed = kept.first().map_or(u64::MAX, |one| one.number);
        self.free(&mut txn, freed)?;
        let sealed = match first {
            Some(first) if first.after == books_sequence => match first.through {
                Some(_) => Some(first),
                None if sequence > first.after => Some(self.seal(&mut txn, first, sequence)?),
                None => None,
            },
            _ => Some(self.recount(&mut txn, dir, books_sequence, sequence)?),
        };
        let sealed = sealed.filter(|one| one.through != Some(one.after));
        crate::fault::point("usage-commit").map_err(heed::Error::Io)?;
        txn.commit()?;
        Ok(sealed)
    }

    /// Removes the generations before a number, with their groups.
    fn free(&self, txn: &mut RwTxn<'_>, before: u64) -> Result<(), IndexError> {
        let end = before.to_be_bytes();
        let range = (std::ops::Bound::Unbounded, std::ops::Bound::Excluded(&end[..]));
        self.tables.usage.delete_range(txn, &range)?;
        self.tables.generations.delete_range(txn, &range)?;
        Ok(())
    }

    /// Ends the open generation at a sequence and begins the next.
    fn seal(
        &self,
        txn: &mut RwTxn<'_>,
        open: Generation,
        through: u64,
    ) -> Result<Generation, IndexError> {
        let sealed = Generation { through: Some(through), ..open };
        self.put_generation(txn, sealed)?;
        let next = Generation { number: open.number + 1, after: through, through: None };
        self.put_generation(txn, next)?;
        Ok(sealed)
    }

    /// Replaces every generation by one that begins where the books are, computed from the ledger.
    fn recount(
        &self,
        txn: &mut RwTxn<'_>,
        dir: &Path,
        after: u64,
        through: u64,
    ) -> Result<Generation, IndexError> {
        let number = self.generations(txn)?.last().map_or(1, |last| last.number + 1);
        self.tables.usage.clear(txn)?;
        self.tables.generations.clear(txn)?;
        let (usage, _) = Usage::count(dir, after, through)?;
        self.add_groups(txn, number, &usage)?;
        self.seal(txn, Generation { number, after, through: None }, through)
    }
}
