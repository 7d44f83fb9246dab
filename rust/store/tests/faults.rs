//! Calls to the system that fail, at every point where the store makes one: nothing that was acknowledged is lost
//! or counted twice, a store that failed acknowledges nothing more, and one that is only full goes on.
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
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bursar_quota::{Event, Timestamp};
use bursar_store::{FAULT_POINTS, Options, Recovery, Room, Store, scan, verify};
use engine::{Engine, START, commit_request, id, policy, reserve_request};

/// The most pairs a child does before it must have failed.
const PAIRS_MAX: u64 = 20_000;

/// What a child exits with when its store says that nothing more may be answered.
const POISONED: i32 = 70;

/// What a child exits with when the thread that decides has panicked.
const PANICKED: i32 = 101;

/// Each failure that ends a store: where, how, at which hits, and what the reason says.
const ENDS: [(&str, &str, &[u64], &str); 13] = [
    ("write", "EIO", &[1, 7, 150], "a write to the ledger failed: Input/output error"),
    ("write", "ENOSPC", &[9], "a write to the ledger failed: No space left on device"),
    ("write-short", "EIO", &[1, 8, 151], "bytes were taken"),
    ("rename", "EIO", &[1, 3], "a write to the ledger failed: Input/output error"),
    ("sync", "EIO", &[1, 5], "a sync of the ledger failed: Input/output error"),
    ("sync-folder", "EIO", &[1, 2], "a sync of the ledger failed: Input/output error"),
    ("sync", "panic", &[2], "the thread bursar-sync panicked"),
    ("segment-make", "panic", &[2], "the thread bursar-segments panicked"),
    ("index-commit", "EIO", &[1, 4], "the index: Input/output error"),
    ("index-commit", "panic", &[2], "the thread bursar-follower panicked"),
    ("usage-commit", "panic", &[1], ""),
    ("append", "panic", &[1, 40], ""),
    ("write", "panic", &[5], ""),
];

/// Each failure that only leaves no room: where, how, and what the reason says.
const FULL: [(&str, &str, &str); 5] = [
    ("segment-make", "ENOSPC", "No space left on device"),
    ("segment-write", "ENOSPC", "No space left on device"),
    ("segment-write", "EIO", "Input/output error"),
    ("segment-sync", "EIO", "Input/output error"),
    ("index-commit", "ENOSPC", "No space left on device"),
];

fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
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

/// A child: it says which pairs it acknowledges, and ends when its store does.
struct Child {
    engine: Engine,
    out: std::io::Stdout,
}

impl Child {
    fn new(dir: &Path) -> Self {
        let mut engine = open(dir);
        if engine.policies.is_empty() {
            engine.activate(&policy(1 << 40));
        }
        Self { engine, out: std::io::stdout() }
    }

    fn say(&mut self, what: &str) {
        writeln!(self.out, "{what}").unwrap();
        self.out.flush().unwrap();
    }

    /// Writes the turn; where that fails nothing is acknowledged from then on, and the child ends.
    fn flush(&mut self) {
        if let Err(error) = self.engine.store().flush() {
            self.end(&error.to_string());
        }
    }

    fn end(&mut self, why: &str) -> ! {
        for _ in 0..3 {
            assert!(self.engine.store().flush().is_err(), "it went on after: {why}");
        }
        self.say(&format!("ended: {why}"));
        std::process::exit(POISONED)
    }

    fn reserve(&mut self, number: u64) {
        self.engine.now.0 += 25;
        let now = self.engine.now;
        self.engine.set_now(now);
        assert!(self.engine.reserve(&reserve_request(&id(number), "acme", 10, 20)));
        self.flush();
    }

    fn commit(&mut self, number: u64, durable: bool) {
        assert!(self.engine.commit(&commit_request(&id(number), 10, 15)));
        self.flush();
        if durable {
            let sequence = self.engine.store().status().sequence;
            self.engine.store().request_sync();
            while self.engine.store().durable() < sequence {
                if let Some(why) = self.engine.store().status().poisoned {
                    self.end(&why);
                }
                std::thread::yield_now();
            }
        }
        self.say(&number.to_string());
    }

    /// Works until its store ends.
    fn until_it_ends(mut self, first: u64) {
        for number in first..first + PAIRS_MAX {
            self.reserve(number);
            self.commit(number, number.is_multiple_of(16));
            if number.is_multiple_of(32) {
                // As the books ask for usage, on the thread that asks.
                let _ = self.engine.store().index().usage_page(0, &[]);
            }
        }
    }

    /// Works until there is no room for reservations, settles in the space kept, and goes on when there is.
    fn until_there_is_room_again(mut self, fault: &Path, first: u64) {
        let mut number = first;
        while number < first + 40 {
            self.reserve(number);
            number += 1;
        }
        std::fs::write(fault, "").unwrap();
        let reason = self.until_tight(&mut number);
        self.say(&format!("full: {reason}"));
        let mut settled = first;
        while settled < number && matches!(self.engine.store().room(), Room::SettlementsOnly(_)) {
            self.commit(settled, settled.is_multiple_of(8));
            settled += 1;
        }
        assert!(settled - first >= 15, "{}", settled - first);
        std::fs::remove_file(fault).unwrap();
        while self.engine.store().room() != Room::Free {
            std::thread::yield_now();
        }
        for late in settled..number {
            self.commit(late, false);
        }
        for more in number..number + 300 {
            self.reserve(more);
            self.commit(more, more.is_multiple_of(16));
        }
        self.engine.settle_disk();
        self.engine.store.take().unwrap().close().unwrap();
    }

    /// Reserves until that is refused; gives why.
    fn until_tight(&mut self, number: &mut u64) -> String {
        loop {
            match self.engine.store().room() {
                Room::Free => {}
                Room::SettlementsOnly(why) | Room::Nothing(why) => return why.to_string(),
            }
            self.reserve(*number);
            *number += 1;
            assert!(*number < PAIRS_MAX, "it was never full");
        }
    }
}

fn run(dir: &Path, mode: &str, first: u64, variable: &str, fault: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", dir.to_str().unwrap(), mode, &first.to_string()])
        .env(variable, fault)
        .stderr(Stdio::null())
        .output()
        .unwrap()
}

/// The pairs that a child acknowledged, and the last thing it said besides.
fn said(output: &Output) -> (Vec<u64>, String) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let (numbers, words): (Vec<_>, Vec<_>) =
        text.lines().partition(|line| line.parse::<u64>().is_ok());
    let numbers = numbers.iter().map(|line| line.parse().unwrap()).collect();
    (numbers, words.last().copied().unwrap_or_default().to_owned())
}

/// Opens what a failure left and holds it against what was acknowledged.
fn check(dir: &Path, acknowledged: &[u64]) -> Recovery {
    let mut engine = open(dir);
    let recovery = engine.recovery;
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
    engine.settle_disk();
    engine.store.take().unwrap().close().unwrap();
    let report = verify(dir, &options()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    recovery
}

fn a_failure_ends_the_store_and_loses_nothing_acknowledged() -> usize {
    let mut met = 0;
    for (point, kind, hits, reason) in ENDS {
        let folder = tempfile::tempdir().unwrap();
        let (mut acknowledged, mut first) = (Vec::new(), 0);
        for hit in hits {
            let fault = format!("{point}:{kind}:{hit}");
            let output = run(folder.path(), "until-it-ends", first, "BURSAR_FAULT_AT", &fault);
            let (more, words) = said(&output);
            let expected = if reason.is_empty() { PANICKED } else { POISONED };
            assert_eq!(output.status.code(), Some(expected), "{fault}: {words}");
            assert!(words.contains(reason), "{fault}: {words}");
            acknowledged.extend(more);
            let recovery = check(folder.path(), &acknowledged);
            if point.starts_with("sync") && kind == "EIO" {
                // What the page cache shows may not be on the disk: it was written again.
                assert!(recovery.entries_rewritten > 0, "{fault}: {recovery:?}");
            }
            first += PAIRS_MAX;
            met += 1;
        }
        println!("{point} {kind}: {} acknowledged pairs are there once each", acknowledged.len());
    }
    met
}

fn a_full_disk_keeps_settlements_going_until_there_is_room_again() -> usize {
    for (point, kind, reason) in FULL {
        let folder = tempfile::tempdir().unwrap();
        let (dir, flag) = (folder.path().join("data"), folder.path().join("full"));
        let fault = format!("{point}:{kind}:{}", flag.display());
        let output = run(&dir, "until-there-is-room-again", 0, "BURSAR_FAULT_WHILE", &fault);
        let (acknowledged, words) = said(&output);
        assert!(output.status.success(), "{fault}: {:?} {words}", output.status);
        assert!(words.contains(reason), "{fault}: {words}");
        assert!(acknowledged.len() > 340, "{fault}: {}", acknowledged.len());
        check(&dir, &acknowledged);
        println!(
            "{point} {kind}: {words}; {} settled, and again when there was",
            acknowledged.len()
        );
    }
    FULL.len()
}

fn an_opening_that_cannot_write_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // A sync that fails leaves entries that are to be written again.
    let output = run(folder.path(), "until-it-ends", 0, "BURSAR_FAULT_AT", "sync:EIO:3");
    let (acknowledged, _) = said(&output);
    for kind in ["EIO", "ENOSPC", "EIO"] {
        let fault = format!("open-rewrite:{kind}:1");
        let output = run(folder.path(), "open", 0, "BURSAR_FAULT_AT", &fault);
        let (_, words) = said(&output);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains("ledger"), "{words}");
    }
    assert!(check(folder.path(), &acknowledged).entries_rewritten > 0);
}

fn an_opening_on_a_full_disk_makes_room_of_what_was_ready_for_entries_to_come() {
    for (hits, expected) in [(1, "opened"), (2, "No space left on device")] {
        let folder = tempfile::tempdir().unwrap();
        let output = run(folder.path(), "until-it-ends", 0, "BURSAR_FAULT_AT", "sync:EIO:3");
        let (acknowledged, _) = said(&output);
        let flag = folder.path().join("full");
        let (variable, fault) = match hits {
            1 => ("BURSAR_FAULT_AT", "open-make:ENOSPC:1".to_owned()),
            _ => ("BURSAR_FAULT_WHILE", format!("open-make:ENOSPC:{}", flag.display())),
        };
        std::fs::write(&flag, "").unwrap();
        let (_, words) = said(&run(folder.path(), "open", 0, variable, &fault));
        assert!(words.contains(expected), "{words}");
        check(folder.path(), &acknowledged);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, dir, mode, first] = &arguments[..]
        && word == "child"
    {
        let (dir, first) = (Path::new(dir), first.parse().unwrap());
        match mode.as_str() {
            "until-it-ends" => Child::new(dir).until_it_ends(first),
            "open" => match Store::open(dir, options()) {
                Ok(_) => println!("opened"),
                Err(error) => {
                    println!("refused: {error}");
                    std::process::exit(1);
                }
            },
            _ => Child::new(dir)
                .until_there_is_room_again(&dir.parent().unwrap().join("full"), first),
        }
        return;
    }
    for (point, _) in FAULT_POINTS {
        let named = ENDS.iter().map(|(name, ..)| name).chain(FULL.iter().map(|(name, ..)| name));
        let met = named.clone().any(|name| *name == point);
        // A turn and a question about the past are the data plane's, and have their tests there.
        let elsewhere = ["turn", "read"].contains(&point);
        assert!(met || point.starts_with("open") || elsewhere, "nothing fails at {point}");
    }
    let met = a_failure_ends_the_store_and_loses_nothing_acknowledged();
    let full = a_full_disk_keeps_settlements_going_until_there_is_room_again();
    an_opening_that_cannot_write_again_changes_nothing();
    an_opening_on_a_full_disk_makes_room_of_what_was_ready_for_entries_to_come();
    println!("{} passed, 0 failed", met + full + 2);
}
