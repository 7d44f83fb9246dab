//! The index as other threads see it: usage for the books, and waiting for it.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bursar_quota::{Event, Timestamp};

use crate::follower::Follower;
use crate::generations::UsagePage;
use crate::index::{Index, IndexError};
use crate::read::ReadError;
use crate::shared::Shared;
use crate::sync::Syncer;
use crate::tail::Tail;

/// A way to the index from any thread; it outlives the store and then answers [`IndexError::Closed`].
#[derive(Clone)]
pub struct IndexHandle {
    pub(crate) dir: PathBuf,
    pub(crate) index: Weak<Index>,
    pub(crate) follower: Weak<Follower>,
    pub(crate) syncer: Weak<Syncer>,
    pub(crate) shared: Arc<Shared>,
}

impl IndexHandle {
    /// Makes durable all that was written so far and waits until the index has it; gives its sequence.
    ///
    /// # Errors
    /// When it takes too long, or the store fails or closes meanwhile.
    pub fn catch_up(&self, timeout: Duration) -> Result<u64, IndexError> {
        let wanted = self.shared.written.load(Ordering::Acquire);
        let syncer = self.syncer.upgrade().ok_or(IndexError::Closed)?;
        let follower = self.follower.upgrade().ok_or(IndexError::Closed)?;
        syncer.request(wanted);
        follower.catch_up(wanted, timeout)
    }

    /// The next usage for books that have everything through a sequence: frees what they have, and gives
    /// the first page (an empty `page`) or the one that the page before named. A page without groups and
    /// `through_sequence` equal to `books_sequence` says that there is nothing new.
    ///
    /// # Errors
    /// When the books are further than the ledger, the page is not kept any more, or the index fails; if it
    /// cannot be used any more, that poisons the store.
    pub fn usage_page(&self, books_sequence: u64, page: &[u8]) -> Result<UsagePage, IndexError> {
        let index = self.index.upgrade().ok_or(IndexError::Closed)?;
        let ledger = self.shared.written.load(Ordering::Acquire);
        if books_sequence > ledger {
            return Err(IndexError::BooksAhead { books: books_sequence, ledger });
        }
        let page = index.usage_page(&self.dir, books_sequence, page);
        if let Err(error) = &page
            && error.is_fatal()
        {
            self.shared.poison(&error.to_string());
        }
        page
    }

    /// Reads one entry that is written, from the files: whoever asks waits, and nobody else does. Its
    /// segment is read from the beginning.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn entry(&self, sequence: u64) -> Result<(Timestamp, Event), ReadError> {
        let first = Tail::after(&self.dir, sequence.saturating_sub(1)).batch(sequence, 1)?;
        let entry = first.into_iter().next().ok_or(ReadError::Absent(sequence))?;
        Ok((entry.1, entry.2))
    }

    /// Reads on after an entry, as entries are written.
    pub fn entries(&self, after: u64) -> Entries {
        Entries { tail: Tail::after(&self.dir, after), shared: self.shared.clone() }
    }

    /// The last sequence written out.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Acquire)
    }

    /// The last sequence in the index.
    pub fn sequence(&self) -> u64 {
        self.shared.index_sequence.load(Ordering::Acquire)
    }
}

/// Entries in order from somewhere on, read from the files: it holds nobody up, and nobody it.
pub struct Entries {
    tail: Tail,
    shared: Arc<Shared>,
}

impl Entries {
    /// The next entries that are written, of about so many bytes; none while there are none.
    ///
    /// # Errors
    /// When a file cannot be read, or is broken.
    pub fn next(&mut self, bytes_max: u64) -> Result<Vec<(u64, Timestamp, Event)>, ReadError> {
        self.tail.batch(self.shared.written.load(Ordering::Acquire), bytes_max)
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Entries").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for IndexHandle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("IndexHandle").field("sequence", &self.sequence()).finish()
    }
}
