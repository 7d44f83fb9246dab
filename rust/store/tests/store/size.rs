//! How much the ledger takes.

use crate::engine::{Engine, options, policy};
use bursar_store::Options;

#[test]
fn a_reserve_and_a_commit_take_at_most_300_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 4 << 20, ..options() };
    let mut engine = Engine::open(folder.path(), options);
    engine.activate(&policy(1 << 40));
    engine.flush();
    let used = |pairs: std::ops::Range<u64>, engine: &mut Engine| {
        let before = written_bytes(engine);
        let count = pairs.end - pairs.start;
        for number in pairs {
            engine.now.0 += 7;
            engine.pair(number);
        }
        (written_bytes(engine) - before) / count
    };
    let first = used(0..1, &mut engine);
    let later = used(1..2_001, &mut engine);
    println!("a reserve and a commit, 4 labels, 3 limits: {later} bytes (the first pair: {first})");
    assert!(later <= 300, "{later} bytes");
}

#[test]
fn a_ledger_without_its_index_is_replayed_whole() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, ..options() };
    let mut engine = Engine::open(folder.path(), options.clone());
    engine.activate(&policy(1 << 40));
    for number in 0..10_000 {
        engine.now.0 += 7;
        engine.pair(number);
    }
    let live = engine.dump();
    let (now, policies) = (engine.now, engine.policies.clone());
    drop(engine);
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let began = std::time::Instant::now();
    let engine = Engine::succeed(folder.path(), options, now, &policies);
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(engine.recovery.entries_replayed, 20_001);
    assert_eq!(engine.dump(), live);
    println!("replayed 20001 entries in {seconds:.3} s: {:.0} a second", 20_001.0 / seconds);
}

/// Bytes of the one segment up to its last entry.
fn written_bytes(engine: &Engine) -> u64 {
    let path = engine.dir.join("ledger").join(format!("{:020}.log", 1));
    let bytes = std::fs::read(path).unwrap();
    let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    (bytes.len() - zeros) as u64
}
