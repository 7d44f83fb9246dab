//! Who may be connected: so many in all, and so many of one user, so that no one takes every place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// A user of this machine, by the uid that the system tells of a Unix socket's other end.
    User(u32),
    /// Whoever comes over TCP: the system does not tell.
    Tcp,
}

/// Why a connection was closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// There are as many as may be.
    InAll,
    /// There are as many of that user, or over TCP, as may be.
    OfCaller,
}

/// The places of connections.
#[derive(Debug)]
pub(crate) struct Slots {
    max: usize,
    per_caller_max: usize,
    open: Mutex<Open>,
    refused_in_all: AtomicU64,
    refused_of_caller: AtomicU64,
}

#[derive(Debug, Default)]
struct Open {
    count: usize,
    /// Only callers with a connection are in it, so it has at most as many as there are places.
    by_caller: HashMap<Caller, usize>,
}

impl Slots {
    pub(crate) fn new(max: usize, per_caller_max: usize) -> Arc<Self> {
        let (refused_in_all, refused_of_caller) = (AtomicU64::new(0), AtomicU64::new(0));
        let open = Mutex::default();
        Arc::new(Self { max, per_caller_max, open, refused_in_all, refused_of_caller })
    }

    /// Takes a place, or says why there is none, and counts that.
    pub(crate) fn take(self: &Arc<Self>, caller: Caller) -> Result<Slot, Full> {
        let mut open = self.open();
        let of_caller = open.by_caller.get(&caller).copied().unwrap_or(0);
        if of_caller >= self.per_caller_max {
            self.refused_of_caller.fetch_add(1, Ordering::Relaxed);
            return Err(Full::OfCaller);
        }
        if open.count >= self.max {
            self.refused_in_all.fetch_add(1, Ordering::Relaxed);
            return Err(Full::InAll);
        }
        open.count += 1;
        open.by_caller.insert(caller, of_caller + 1);
        drop(open);
        Ok(Slot { slots: self.clone(), caller })
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> usize {
        self.open().count
    }

    /// How many connections were refused for want of a place, in all and for one caller.
    pub(crate) fn refused(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.refused_in_all), of(&self.refused_of_caller))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // What a panic left is whole: nothing between two changes can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    caller: Caller,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.open();
        open.count -= 1;
        let left = open.by_caller.get(&self.caller).map_or(0, |count| count - 1);
        if left == 0 {
            open.by_caller.remove(&self.caller);
        } else {
            open.by_caller.insert(self.caller, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_caller_takes_every_place_and_a_place_is_free_once_it_is_left() {
        let slots = Slots::new(3, 2);
        let mine: Vec<_> = (0..2).map(|_| slots.take(Caller::User(7)).unwrap()).collect();
        assert_eq!(slots.take(Caller::User(7)).unwrap_err(), Full::OfCaller);
        let theirs = slots.take(Caller::User(8)).unwrap();
        assert_eq!(slots.take(Caller::Tcp).unwrap_err(), Full::InAll);
        assert_eq!((slots.taken(), slots.refused()), (3, (1, 1)));
        drop((mine, theirs));
        assert_eq!(slots.taken(), 0);
        assert!(slots.open().by_caller.is_empty());
        slots.take(Caller::User(7)).unwrap();
    }
}
