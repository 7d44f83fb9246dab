//! The follower: an index that is exact at its sequence, and usage that is counted once.

use std::collections::BTreeMap;
use std::time::Duration;

use bursar_quota::{UsageKey, UsageSums, group};
use bursar_store::{IndexError, IndexHandle, scan, verify};

use crate::engine::{Engine, options, policy};

/// Books as the control plane keeps them: sums and the drained sequence, changed together.
#[derive(Default, Clone)]
struct Books {
    sums: BTreeMap<UsageKey, UsageSums>,
    sequence: u64,
}

impl Books {
    /// Drains one batch; says whether there was one.
    fn drain(&mut self, index: &IndexHandle) -> bool {
        let mut page = index.usage_page(self.sequence, &[]).unwrap();
        assert_eq!(page.after_sequence, self.sequence);
        let through = page.through_sequence;
        loop {
            for (key, sums) in &page.groups {
                self.sums.entry(key.clone()).or_default().add(sums);
            }
            if page.next_page.is_empty() {
                break;
            }
            page = index.usage_page(self.sequence, &page.next_page).unwrap();
        }
        let moved = through > self.sequence;
        self.sequence = through;
        moved
    }
}

/// Usage counted from every entry of the ledger.
fn counted(engine: &Engine) -> BTreeMap<UsageKey, UsageSums> {
    let mut sums = BTreeMap::<UsageKey, UsageSums>::new();
    let rollups = policy(1).rollups;
    scan(&engine.dir, 1, |_, _, event| {
        for (key, more) in group(event, &rollups) {
            sums.entry(key).or_default().add(&more);
        }
    })
    .unwrap();
    sums
}

fn run(engine: &mut Engine, pairs: std::ops::Range<u64>) {
    for number in pairs {
        engine.now.0 += 60_000;
        engine.pair(number);
    }
}

fn opened(folder: &tempfile::TempDir) -> Engine {
    let mut engine = Engine::open(folder.path(), options());
    engine.activate(&policy(1 << 40));
    engine
}

#[test]
fn books_that_crash_between_draining_and_committing_count_usage_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = opened(&folder);
    let mut books = Books::default();
    for round in 0..10_u64 {
        run(&mut engine, round * 20..round * 20 + 20);
        engine.settle_disk();
        let index = engine.store().index();
        // Drained, and lost before the books' transaction was committed.
        let mut lost = books.clone();
        lost.drain(&index);
        if round.is_multiple_of(3) {
            engine.reopen(round.is_multiple_of(2));
        }
        let index = engine.store().index();
        assert!(books.drain(&index));
        assert_eq!(books.sums, lost.sums);
    }
    let index = engine.store().index();
    while books.drain(&index) {}
    assert_eq!(books.sums, counted(&engine));
}

#[test]
fn usage_is_counted_once_when_the_index_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = opened(&folder);
    let mut books = Books::default();
    run(&mut engine, 0..40);
    engine.settle_disk();
    let index = engine.store().index();
    assert!(books.drain(&index));
    run(&mut engine, 40..50);
    engine.store.take().unwrap().close().unwrap();
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let mut engine = Engine::succeed(folder.path(), options(), engine.now, &engine.policies);
    let index = engine.store().index();
    assert!(!books.drain(&index), "the index is not where the books are yet");
    run(&mut engine, 50..60);
    engine.settle_disk();
    while books.drain(&index) {}
    assert_eq!(books.sums, counted(&engine));
}

#[test]
fn books_restored_from_an_older_copy_are_given_what_they_lack() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = opened(&folder);
    let mut books = Books::default();
    run(&mut engine, 0..20);
    engine.settle_disk();
    let index = engine.store().index();
    assert!(books.drain(&index));
    let mut old = books.clone();
    run(&mut engine, 20..40);
    engine.settle_disk();
    assert!(books.drain(&index));
    assert!(!books.drain(&index));
    run(&mut engine, 40..45);
    engine.settle_disk();
    while old.drain(&index) {}
    assert_eq!(old.sums, counted(&engine));
    let ahead = index.usage_page(1_000_000, &[]);
    assert!(matches!(ahead, Err(IndexError::BooksAhead { .. })));
}

#[test]
fn a_store_that_was_closed_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = opened(&folder);
    run(&mut engine, 0..100);
    engine.settle_disk();
    engine.store.take().unwrap().close().unwrap();
    let report = verify(folder.path(), &options()).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.entries, report.index_sequence), (201, Some(201)));
    assert!(report.usage_groups > 0);
}

#[test]
fn waiting_for_the_index_ends_when_the_store_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = opened(&folder);
    run(&mut engine, 0..5);
    let index = engine.store().index();
    assert_eq!(index.catch_up(Duration::from_secs(30)).unwrap(), 11);
    drop(engine);
    assert!(matches!(index.catch_up(Duration::from_secs(30)), Err(IndexError::Closed)));
    assert!(matches!(index.usage_page(0, &[]), Err(IndexError::Closed)));
}
