//! Kills at every point where the store can be interrupted: what was acknowledged is there, once, and the index
//! with the tail equals a replay from the first segment, byte for byte.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program"
)]

#[path = "store/engine.rs"]
mod engine;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bursar_quota::{Event, Timestamp};
use bursar_store::{CRASH_POINTS, Options, scan, verify};
use engine::{Engine, START, commit_request, id, policy, reserve_request};

/// How many kills at each point.
const KILLS_EACH: u64 = 8;

/// The most pairs a child does before it must have been killed.
const PAIRS_MAX: u64 = 20_000;

/// The number of the signal that nothing survives.
const SIGKILL: i32 = 9;

fn options() -> Options {
    Options {
        segment_bytes: 8 << 10,
        ledger_bytes_max: 1 << 30,
        sync_interval: Duration::from_millis(4),
        follow_interval: Duration::from_millis(8),
        ..engine::options()
    }
}

fn open(dir: &Path) -> Engine {
    let mut engine = Engine::open(dir, options());
    let compiled = policy(1 << 40).compile().unwrap();
    engine.policies = vec![compiled; engine.state.policies().count()];
    engine.now = Timestamp(START.0.max(engine.state.instant().0));
    engine
}

/// Works until it is killed, and says after each flush which pair it acknowledges.
fn child(dir: &Path, first: u64) {
    let mut engine = open(dir);
    if engine.policies.is_empty() {
        engine.activate(&policy(1 << 40));
    }
    let mut out = std::io::stdout().lock();
    for number in first..first + PAIRS_MAX {
        engine.now.0 += 25;
        let now = engine.now;
        engine.set_now(now);
        let name = id(number);
        assert!(engine.reserve(&reserve_request(&name, "acme", 10, 20)));
        engine.flush();
        assert!(engine.commit(&commit_request(&name, 10, 15)));
        engine.flush();
        writeln!(out, "{number}").unwrap();
        out.flush().unwrap();
        if number.is_multiple_of(16) {
            engine.store().request_sync();
        }
    }
}

/// Runs a child that is to die at a hit of a point; gives the pairs it acknowledged, or none if it lived.
fn kill(dir: &Path, point: &str, hit: u64, first: u64) -> Option<Vec<u64>> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", dir.to_str().unwrap(), &first.to_string()])
        .env("BURSAR_CRASH_AT", format!("{point}:{hit}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let killed = child.wait().unwrap().signal() == Some(SIGKILL);
    // A line that was cut short acknowledges nothing.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    killed.then(|| whole.lines().map(|line| line.parse().unwrap()).collect())
}

/// Opens what a kill left and holds it against what was acknowledged.
fn check(dir: &Path, acknowledged: &[u64]) {
    let mut engine = open(dir);
    assert_eq!(engine.dump(), engine.replayed());
    let mut settled = BTreeMap::<String, u64>::new();
    scan(dir, 1, |_, _, event| {
        if let Event::Settled(event) = event {
            *settled.entry(event.id.to_string()).or_default() += 1;
        }
    })
    .unwrap();
    for number in acknowledged {
        assert_eq!(settled.get(&id(*number)), Some(&1), "pair {number}");
    }
    assert!(settled.values().all(|count| *count == 1));
    let before = engine.dump();
    engine.settle_disk();
    engine.reopen(false);
    assert_eq!(engine.recovery.entries_replayed, 0);
    assert_eq!(engine.dump(), before);
    drop(engine);
    let report = verify(dir, &options()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, dir, first] = &arguments[..]
        && word == "child"
    {
        child(Path::new(dir), first.parse().unwrap());
        return;
    }
    let mut counts = BTreeMap::new();
    let (mut pairs, mut first) = (0, 0);
    for point in CRASH_POINTS {
        let folder = tempfile::tempdir().unwrap();
        // Something to open, not all of it known durable.
        let mut acknowledged = kill(folder.path(), "written", 61, first).unwrap();
        for round in 1..=KILLS_EACH {
            first += PAIRS_MAX;
            let hit = match point {
                _ if point.starts_with("open") => 1,
                // How often it comes to that within the child's pairs, the machine's load decides.
                _ if point.starts_with("follow") => round,
                _ => round * round,
            };
            let more = kill(folder.path(), point, hit, first);
            let more = more.unwrap_or_else(|| panic!("{point}:{hit} was not met"));
            acknowledged.extend(more);
            if !point.starts_with("open") || round.is_multiple_of(2) {
                check(folder.path(), &acknowledged);
                first += PAIRS_MAX;
                acknowledged.extend(kill(folder.path(), "written", 31, first).unwrap());
            }
            *counts.entry(point).or_insert(0) += 1;
        }
        first += PAIRS_MAX;
        pairs += acknowledged.len();
    }
    let kills: u64 = counts.values().sum();
    println!("{kills} kills, {pairs} acknowledged pairs found once each: {counts:?}");
}
