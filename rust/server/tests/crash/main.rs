//! Kills a real data plane again and again, with many calls in flight, and proves that nothing acknowledged is
//! lost and nothing counts twice.
//!
//! The child is this same program: it serves on a socket, compiled with points at which it kills itself. The
//! parent's callers repeat every call until it is answered, whoever serves by then; what they were told is
//! asked again after each kill, and at the end the ledger, the index and the callers' own sums must agree.
//!
//! `BURSAR_CRASH_SEED` repeats the choices of a run; what the threads and the disk do is their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it expects in the shortest way, and prints what it measured"
)]

mod caller;
mod chance;
mod child;
mod life;
mod link;
mod plan;
mod settings;
mod sums;

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::plan::{By, Kills, Plan};

/// How many callers have a call in flight, all the time.
const CALLERS: usize = 32;
/// The fewest calls in flight at a kill that counts.
const IN_FLIGHT_MIN: usize = 16;
/// How many kills at each point, and how many at an instant of the parent's choice.
const KILLS_AT_POINT: usize = 8;
const KILLS_AT_RANDOM: usize = 12;
/// How many kills lie between two comparisons of index and tail with a replay.
const KILLS_PER_PROOF: usize = 10;

fn main() {
    if let Some(wanted) = child::wanted() {
        child::serve(wanted);
    }
    let seed = match std::env::var("BURSAR_CRASH_SEED") {
        Ok(text) => text.parse().expect("BURSAR_CRASH_SEED must be a number"),
        Err(_) => {
            u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()) | 1
        }
    };
    println!("whatever_is_killed_nothing_acknowledged_is_lost_and_nothing_counts_twice");
    println!("BURSAR_CRASH_SEED={seed}");
    let begun = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let kills = run(folder.path(), seed);
    kills.print();
    kills.check();
    println!("took {:.1} s", begun.elapsed().as_secs_f64());
    println!("1 passed, 0 failed");
}

fn run(folder: &Path, seed: u64) -> Kills {
    let (link, callers, events) = caller::start(CALLERS, seed);
    let mut plan = Plan::new(seed);
    let mut kills = Kills::default();
    let mut starts = 0;
    while let Some(kill) = plan.next() {
        if kills.all() > 0 && kills.all() % KILLS_PER_PROOF == 0 {
            sums::prove_index(folder);
        }
        starts += 1;
        let mut child = link::Child::start(folder, starts, kill.point.as_deref(), &events.sender);
        let by = plan::follow(&mut child, &kill, &link, &events.receiver);
        link.cut();
        let in_flight = callers.in_flight();
        let at = match (by, &kill.point) {
            (By::Itself, Some(point)) => point.as_str(),
            _ => plan::RANDOM,
        };
        child.must_have_been_killed();
        if in_flight < IN_FLIGHT_MIN || !kills.count(&kill, at, in_flight) {
            plan.again(kill);
        }
    }
    let mut child = link::Child::start(folder, starts + 1, None, &events.sender);
    plan::until_ready(&events.receiver);
    link.open(&child);
    let now = child.now();
    let lives = callers.finish();
    child.stop();
    sums::prove_index(folder);
    sums::prove_sums(folder, &lives, now);
    kills
}
