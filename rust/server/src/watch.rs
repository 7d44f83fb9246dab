//! Watching: what happens as it happens. Entries are read from the ledger's files on the watcher's own
//! thread; only denials, which leave no entry, pass through memory, and only while somebody watches.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bursar_proto::v1;
use bursar_quota::{Denial, ReserveRequest, Timestamp, from_request};
use bursar_store::{Entries, IndexHandle, ReadError};

use crate::fault::Fault;
use crate::listing;
use crate::running::Fate;
use crate::wire::event;

/// The most that watch at one time.
pub const WATCHERS_MAX: usize = 16;

/// The most denials kept for watchers that have not come to them yet; older ones are dropped, and counted.
const DENIALS_MAX: usize = 1_024;

/// The most events in one message.
const EVENTS_MAX: usize = 1_000;

/// How much of the ledger is read at once.
const BATCH_BYTES: u64 = 64 << 10;

/// How often a watcher looks whether something was written: it asks nobody, and so holds nobody up.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Denials on their way to watchers.
#[derive(Default)]
pub(crate) struct Denials {
    watchers: AtomicUsize,
    /// How many were dropped because a watcher was just looking.
    missed: AtomicU64,
    kept: Mutex<Kept>,
}

/// The latest denials, at most [`DENIALS_MAX`].
#[derive(Default)]
struct Kept {
    /// The number of the last one, from 1.
    last: u64,
    said: VecDeque<Arc<v1::Event>>,
}

/// How far a watcher is in the denials.
#[derive(Debug, Clone, Copy)]
struct Seen {
    last: u64,
    missed: u64,
}

impl Denials {
    /// Whether anybody watches.
    pub(crate) fn wanted(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// Keeps a denial for watchers; where one of them is just looking it is dropped, so that no decision waits.
    pub(crate) fn put(&self, request: &ReserveRequest, denial: Denial, at: Timestamp) {
        let said = Arc::new(event::denied(request, denial, at));
        let Ok(mut kept) = self.kept.try_lock() else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if kept.said.len() == DENIALS_MAX {
            kept.said.pop_front();
        }
        kept.last += 1;
        kept.said.push_back(said);
    }

    fn seen(&self) -> Seen {
        let last = self.kept.lock().unwrap_or_else(PoisonError::into_inner).last;
        Seen { last, missed: self.missed.load(Ordering::Relaxed) }
    }

    /// Those a watcher has not seen, and how many of them are gone.
    fn after(&self, seen: Seen) -> (Vec<Arc<v1::Event>>, Seen, u64) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = kept.last - seen.last;
        let there = usize::try_from(newer).unwrap_or(usize::MAX).min(kept.said.len());
        let found: Vec<_> = kept.said.iter().skip(kept.said.len() - there).cloned().collect();
        let missed = self.missed.load(Ordering::Relaxed);
        let gone = newer.saturating_sub(u64::try_from(there).unwrap_or(u64::MAX));
        (found, Seen { last: kept.last, missed }, gone + (missed - seen.missed))
    }

    /// How many watch.
    pub(crate) fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    fn enter(&self) -> bool {
        let enter = |watchers| (watchers < WATCHERS_MAX).then_some(watchers + 1);
        self.watchers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).is_ok()
    }
}

/// One who watches. It ends when this is dropped.
pub struct Watch {
    denials: Arc<Denials>,
    seen: Seen,
    entries: Entries,
    sequence: u64,
    labels: Vec<(String, String)>,
    kinds: Vec<i32>,
    fate: Arc<Fate>,
}

impl Watch {
    /// Begins to watch; none where as many watch already as may.
    pub(crate) fn begin(
        request: v1::WatchEventsRequest,
        ledger: &IndexHandle,
        denials: Arc<Denials>,
        fate: Arc<Fate>,
    ) -> Result<Option<Self>, Fault> {
        let labels = listing::labels(request.labels)?;
        if let Some(kind) =
            request.kinds.iter().find(|kind| v1::EventKind::try_from(**kind).is_err())
        {
            return Err(Fault::invalid("kinds", format!("got {kind}; it is no kind of event")));
        }
        let written = ledger.written();
        let sequence = request.after_sequence.unwrap_or(written);
        if sequence > written {
            let problem = format!("got {sequence}; the ledger ends at {written}");
            return Err(Fault::invalid("after_sequence", problem));
        }
        if !denials.enter() {
            return Ok(None);
        }
        Ok(Some(Self {
            seen: denials.seen(),
            denials,
            entries: ledger.entries(sequence),
            sequence,
            labels,
            kinds: request.kinds,
            fate,
        }))
    }

    /// What has happened since the last look, waiting at most so long for something; none once the data
    /// plane has ended and everything was said.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn next(
        &mut self,
        patience: Duration,
    ) -> Result<Option<v1::WatchEventsResponse>, ReadError> {
        let until = Instant::now() + patience;
        loop {
            let ended = self.fate.has_ended();
            let (events, dropped) = self.look(until)?;
            let over = Instant::now() >= until;
            if !events.is_empty() || dropped > 0 || over {
                return Ok(Some(v1::WatchEventsResponse {
                    events,
                    denials_dropped: dropped,
                    through_sequence: self.sequence,
                }));
            }
            if ended {
                return Ok(None);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What there is, in the order of its instants, and how many denials were dropped.
    fn look(&mut self, until: Instant) -> Result<(Vec<v1::Event>, u64), ReadError> {
        let mut found = Vec::new();
        while found.len() < EVENTS_MAX / 2 {
            let entries = self.entries.next(BATCH_BYTES)?;
            let Some((last, ..)) = entries.last() else { break };
            self.sequence = *last;
            let said =
                entries.iter().map(|(sequence, at, event)| event::entry(*sequence, *at, event));
            found.extend(said.filter(|said| self.concerns(said)));
            // A long past with little of what is wanted is gone through a message at a time.
            if Instant::now() >= until {
                break;
            }
        }
        let (denials, seen, dropped) = self.denials.after(self.seen);
        self.seen = seen;
        found
            .extend(denials.iter().filter(|said| self.concerns(said)).map(|said| (**said).clone()));
        found.sort_by_key(|said| said.occurred_at_unix_ms);
        Ok((found, dropped))
    }

    fn concerns(&self, said: &v1::Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&said.kind))
            && self.labels.iter().all(|(key, value)| {
                let has = from_request(key, &said.model, &said.service_tier)
                    .or_else(|| said.labels.get(key).map(String::as_str));
                has == Some(&**value)
            })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.denials.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Watch").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}
