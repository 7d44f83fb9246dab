//! Opening: what holds is kept, what is broken above what was durable is cut, below it is refused.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bursar_quota::{Compiled, Timestamp};
use bursar_store::{OpenError, Options, Store, scan};

use crate::engine::{Engine, options, policy};

fn filled(folder: &Path, options: Options, pairs: u64) -> Engine {
    let mut engine = Engine::open(folder, options);
    engine.activate(&policy(1 << 40));
    for number in 0..pairs {
        engine.now.0 += 11;
        engine.pair(number);
    }
    engine
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder.join("ledger"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    all.sort();
    all
}

/// Where each entry of a segment begins, and where they end.
fn places(path: &Path) -> Vec<u64> {
    let bytes = std::fs::read(path).unwrap();
    let mut at = 128;
    let mut out = vec![128];
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        if length == 0 {
            break;
        }
        at += length;
        out.push(at as u64);
    }
    out
}

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// Settings under which nothing is known durable but what a test makes so.
fn unsynced() -> Options {
    Options { sync_interval: std::time::Duration::from_secs(3600), ..options() }
}

/// A copy of the folder as a kill would leave it, with what an engine needs besides.
struct Killed {
    copy: tempfile::TempDir,
    now: Timestamp,
    policies: Vec<Compiled>,
}

impl Killed {
    fn path(&self) -> &Path {
        self.copy.path()
    }

    fn open(&self) -> Engine {
        Engine::succeed(self.path(), options(), self.now, &self.policies)
    }
}

fn killed(engine: Engine, folder: &Path) -> Killed {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder, copy.path());
    Killed { copy, now: engine.now, policies: engine.policies.clone() }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else if entry.file_name() != "lock.mdb" {
            // A segment being made ahead may be renamed or removed meanwhile.
            let _ = std::fs::copy(entry.path(), target);
        }
    }
}

#[test]
fn a_reopened_store_goes_on_with_the_next_sequence() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = filled(folder.path(), options(), 3);
    engine.reopen(true);
    assert_eq!(engine.recovery.last_sequence, 7);
    assert_eq!(engine.recovery.entries_rewritten, 0);
    engine.pair(99);
    assert_eq!(engine.store().status().sequence, 9);
    for sequence in 1..=9 {
        engine.store().read(sequence).unwrap();
    }
    assert!(engine.store().read(10).is_err());
}

#[test]
fn a_second_opener_is_told_who_has_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let _first = filled(folder.path(), options(), 1);
    let error = Store::open(folder.path(), options()).err().unwrap();
    let text = error.to_string();
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
}

#[test]
fn many_segments_read_as_one_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = filled(folder.path(), options(), 300);
    assert!(segments(folder.path()).len() > 3);
    let live = engine.dump();
    assert_eq!(engine.replayed(), live);
    for sequence in [1, 2, 150, 300, 601] {
        engine.store().read(sequence).unwrap();
    }
    engine.reopen(false);
    assert_eq!(engine.dump(), live);
    for sequence in [601, 300, 150, 2, 1] {
        engine.store().read(sequence).unwrap();
    }
}

#[test]
fn entries_that_were_not_known_durable_are_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = filled(folder.path(), unsynced(), 5);
    let live = engine.dump();
    let copy = killed(engine, folder.path());
    let mut again = copy.open();
    assert_eq!(again.recovery.entries_rewritten, 11);
    assert_eq!(again.dump(), live);
    assert_eq!(again.replayed(), live);
    again.pair(77);
    again.reopen(true);
    assert_eq!(again.recovery.last_sequence, 13);
}

#[test]
fn a_torn_last_entry_above_what_is_durable_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let engine = filled(folder.path(), unsynced(), 5);
    let copy = killed(engine, folder.path());
    let path = segments(copy.path()).pop().unwrap();
    let places = places(&path);
    let torn = places[places.len() - 2] + 40;
    File::options().write(true).open(&path).unwrap().set_len(torn).unwrap();
    let mut again = copy.open();
    assert_eq!(again.recovery.last_sequence, 10);
    assert_eq!(again.recovery.entries_cut, 0);
    again.reopen(true);
    assert_eq!(again.recovery.last_sequence, 10);
}

#[test]
fn a_hole_above_what_is_durable_cuts_what_follows_and_says_how_much() {
    let folder = tempfile::tempdir().unwrap();
    let engine = filled(folder.path(), unsynced(), 5);
    let copy = killed(engine, folder.path());
    let path = segments(copy.path()).pop().unwrap();
    let places = places(&path);
    // An unsynced page that never reached the disk: zeros where entry 6 was.
    let length = usize::try_from(places[6] - places[5]).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0; length], places[5]).unwrap();
    let again = copy.open();
    assert_eq!(again.recovery.last_sequence, 5);
    assert_eq!(again.recovery.entries_cut, 5);
    assert_eq!(again.replayed(), again.dump());
}

#[test]
fn a_flipped_bit_above_what_is_durable_cuts_there() {
    let folder = tempfile::tempdir().unwrap();
    let engine = filled(folder.path(), unsynced(), 5);
    let copy = killed(engine, folder.path());
    let path = segments(copy.path()).pop().unwrap();
    flip(&path, places(&path)[7] + 30);
    let again = copy.open();
    assert_eq!((again.recovery.last_sequence, again.recovery.entries_cut), (7, 3));
}

#[test]
fn a_flipped_bit_at_or_below_what_is_durable_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = filled(folder.path(), unsynced(), 5);
    // One more entry, made after the others were known durable, says so.
    engine.store().request_sync();
    while engine.store().durable() < 11 {
        std::thread::yield_now();
    }
    engine.pair(500);
    let copy = killed(engine, folder.path());
    let path = segments(copy.path()).pop().unwrap();
    let places = places(&path);
    for damaged in [0, 10] {
        let offset = places[damaged] + 20;
        flip(&path, offset);
        let error = Store::open(copy.path(), options()).err().unwrap();
        match &error {
            OpenError::Corrupt { offset, sequence, .. } => {
                assert_eq!((*offset, *sequence), (places[damaged], damaged as u64 + 1));
            }
            other => panic!("{other}"),
        }
        let text = error.to_string();
        let place = format!("{} is broken at byte {}", path.display(), places[damaged]);
        assert!(text.contains(&place) && text.contains("a copy of the data directory"), "{text}");
        assert!(!text.contains("bursar verify"), "there is no such command: {text}");
        flip(&path, offset);
    }
    // The entry behind it was not known durable.
    flip(&path, places[11] + 20);
    assert_eq!(copy.open().recovery.last_sequence, 11);
}

#[test]
fn a_segment_that_lost_its_header_is_refused_below_and_cut_above_what_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let engine = filled(folder.path(), unsynced(), 250);
    let copy = killed(engine, folder.path());
    let all = segments(copy.path());
    assert!(all.len() > 2);
    let first_of_last: u64 =
        all[all.len() - 1].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    flip(&all[all.len() - 1], 9);
    let mut again = copy.open();
    assert_eq!(again.recovery.last_sequence, first_of_last - 1);
    again.reopen(true);
    drop(again);
    flip(&segments(copy.path())[0], 9);
    assert!(Store::open(copy.path(), options()).is_err());
}

#[test]
fn a_ledger_that_ends_before_its_index_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = filled(folder.path(), options(), 5);
    engine.settle_disk();
    engine.store.take().unwrap().close().unwrap();
    drop(engine);
    let path = segments(folder.path()).pop().unwrap();
    let places = places(&path);
    File::options().write(true).open(&path).unwrap().set_len(places[4]).unwrap();
    match Store::open(folder.path(), options()).err().unwrap() {
        OpenError::IndexAhead { index: 11, ledger: 4 } => {}
        // Entries knew of each other that they were durable.
        OpenError::Corrupt { sequence: 5, .. } => {}
        other => panic!("{other}"),
    }
    std::fs::remove_dir_all(folder.path().join("ledger")).unwrap();
    let error = Store::open(folder.path(), options()).err().unwrap();
    assert!(matches!(error, OpenError::IndexAhead { index: 11, ledger: 0 }), "{error}");
}

#[test]
fn an_index_of_another_ledger_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&one, &other] {
        let mut engine = filled(folder.path(), options(), 5);
        engine.settle_disk();
    }
    std::fs::remove_dir_all(one.path().join("index")).unwrap();
    copy_folder(&other.path().join("index"), &one.path().join("index"));
    let error = Store::open(one.path(), options()).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

#[test]
fn an_index_that_is_gone_is_made_anew_from_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = filled(folder.path(), options(), 200);
    engine.settle_disk();
    let live = engine.dump();
    engine.store.take().unwrap().close().unwrap();
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let mut again = Engine::open(folder.path(), options());
    assert_eq!((again.recovery.index_sequence, again.recovery.entries_replayed), (0, 401));
    again.settle_disk();
    again.reopen(false);
    assert_eq!(again.recovery.index_sequence, 401);
    assert_eq!(again.dump(), live);
}

/// Writes a segment's header as a version of that number would, with a checksum that holds.
fn with_version(path: &Path, version: u32) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut head = [0; 128];
    file.read_exact_at(&mut head, 0).unwrap();
    head[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c::crc32c(&head[..124]).to_le_bytes();
    head[124..].copy_from_slice(&crc);
    file.write_all_at(&head, 0).unwrap();
}

#[test]
fn a_ledger_of_a_newer_format_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let engine = filled(folder.path(), unsynced(), 5);
    // Without an index nothing else says that the entries were ever known durable.
    let copy = killed(engine, folder.path());
    std::fs::remove_dir_all(copy.path().join("index")).unwrap();
    let path = segments(copy.path()).pop().unwrap();
    with_version(&path, 2);
    let before = std::fs::read(&path).unwrap();
    for _ in 0..2 {
        let text = Store::open(copy.path(), options()).err().unwrap().to_string();
        assert!(text.contains("format 2") && text.contains(path.to_str().unwrap()), "{text}");
        // Nor is it read as one that holds nothing.
        let text = scan(copy.path(), 1, |_, _, _| {}).err().unwrap().to_string();
        assert!(text.contains("format 2"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    with_version(&path, 1);
    assert_eq!(copy.open().recovery.last_sequence, 11);
}

#[test]
fn an_index_whose_file_is_damaged_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = filled(folder.path(), options(), 200);
    engine.settle_disk();
    let live = engine.dump();
    engine.store.take().unwrap().close().unwrap();
    let path = folder.path().join("index").join("data.mdb");
    let whole = std::fs::read(&path).unwrap();
    let damages: [(&str, Vec<u8>); 4] = [
        ("cut short", whole[..whole.len() / 2].to_vec()),
        ("cut to its first pages", whole[..8192].to_vec()),
        ("no index", vec![0x5a; whole.len()]),
        ("cut within its first page", whole[..100].to_vec()),
    ];
    for (how, bytes) in damages {
        std::fs::write(&path, bytes).unwrap();
        let text = Store::open(folder.path(), options()).err().unwrap().to_string();
        assert!(text.contains("remove the folder `index`"), "{how}: {text}");
    }
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let again = Engine::open(folder.path(), options());
    assert_eq!(again.dump(), live);
}

#[test]
fn a_lock_that_cannot_be_signed_is_a_lock_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    // What is written into it comes to nothing, as on a full disk.
    std::os::unix::fs::symlink("/dev/full", folder.path().join("lock")).unwrap();
    filled(folder.path(), options(), 1);
}
