//! What happens when the disk, or what it may be used for, is full.

use bursar_store::{Options, Room};

use crate::engine::{Engine, commit_request, id, options, policy, reserve_request};

/// Waits until the store has no further segment, by the work of its own thread.
fn until_tight(engine: &mut Engine) -> String {
    loop {
        match engine.store().room() {
            Room::SettlementsOnly(reason) | Room::Nothing(reason) => return reason.to_string(),
            Room::Free => std::thread::yield_now(),
        }
    }
}

#[test]
fn past_the_bound_reservations_wait_and_settlements_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 16 << 10, ledger_bytes_max: 32 << 10, ..options() };
    let mut engine = Engine::open(folder.path(), options);
    engine.activate(&policy(1 << 40));
    for number in 0..50 {
        assert!(engine.reserve(&reserve_request(&id(number), "acme", 10, 10)));
        engine.flush();
    }
    assert_eq!(engine.store().room(), Room::Free);
    let mut number = 50;
    while engine.store().status().segments < 2 {
        assert!(engine.reserve(&reserve_request(&id(number), "acme", 10, 10)));
        engine.flush();
        number += 1;
    }
    let reason = until_tight(&mut engine);
    assert!(reason.contains("32768"), "{reason}");
    assert!(matches!(engine.store().room(), Room::SettlementsOnly(_)));
    let mut settled = 0;
    while matches!(engine.store().room(), Room::SettlementsOnly(_)) && settled < number {
        assert!(engine.commit(&commit_request(&id(settled), 10, 10)));
        engine.flush();
        settled += 1;
    }
    println!("settled {settled} of {number} in the space kept");
    assert!(settled >= 50);
    let before = engine.dump();
    engine.reopen(true);
    assert_eq!(engine.dump(), before);
    assert_ne!(engine.store().room(), Room::Nothing("".into()));
    until_tight(&mut engine);
}

#[test]
fn a_bound_of_less_than_two_segments_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { ledger_bytes_max: 20 << 10, ..options() };
    let error = bursar_store::Store::open(folder.path(), options).err().unwrap();
    assert_eq!(error.to_string(), "ledger_bytes_max must be at least 32768 (got 20480)");
}

#[test]
fn an_index_that_has_reached_its_bound_leaves_settlements_going_and_follows_once_that_is_raised() {
    let folder = tempfile::tempdir().unwrap();
    let interval = std::time::Duration::from_millis(5);
    let small = Options { index_bytes_max: 256 << 10, follow_interval: interval, ..options() };
    let mut engine = Engine::open(folder.path(), Options { sync_interval: interval, ..small });
    engine.activate(&policy(1 << 40));
    let mut number = 0;
    while engine.store().room() == Room::Free {
        assert!(engine.reserve(&reserve_request(&id(number), "acme", 10, 10)));
        engine.flush();
        number += 1;
        assert!(number < 100_000, "the index was never full");
    }
    let reason = until_tight(&mut engine);
    assert!(reason.contains("the index has no room: MDB_MAP_FULL"), "{reason}");
    let status = engine.store().status();
    assert!(status.index_full.is_some() && status.ledger_full.is_none(), "{status:?}");
    for settled in 0..number / 2 {
        assert!(engine.commit(&commit_request(&id(settled), 10, 10)));
        engine.flush();
    }
    // Whoever asks for usage is told that it comes late, and the store goes on.
    let late = engine.store().index().catch_up(std::time::Duration::from_millis(50));
    assert!(matches!(late, Err(bursar_store::IndexError::Late { .. })), "{late:?}");
    assert!(matches!(engine.store().room(), Room::SettlementsOnly(_)));
    let before = engine.dump();
    engine.options.index_bytes_max = 64 << 20;
    engine.reopen(true);
    assert_eq!(engine.dump(), before);
    engine.settle_disk();
    assert_eq!(engine.store().room(), Room::Free);
}
