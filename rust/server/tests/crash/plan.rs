//! Which kill comes next, and how many there were of each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::chance::Chance;
use crate::link::{Child, Link};
use crate::{IN_FLIGHT_MIN, KILLS_AT_POINT, KILLS_AT_RANDOM};

/// The name of a kill by the parent.
pub(crate) const RANDOM: &str = "any instant";
/// How many calls are answered before the parent gives up on a point and kills by itself.
const ANSWERS_MAX: u64 = 20_000;
/// The longest that nothing may happen at all.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often a kill is tried that does not come about.
const TRIES_MAX: u64 = 20;

/// What the parent hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The child serves.
    Ready,
    /// A call was answered.
    Answered,
    /// The child has ended.
    Ended,
}

/// Who killed a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The child, at the point it was given.
    Itself,
    /// The parent.
    Parent,
}

/// A kill to come.
#[derive(Debug, Clone)]
pub(crate) struct Kill {
    /// Where, as `name`; none means whenever enough calls were answered.
    name: Option<&'static str>,
    /// Where, as the child is told it: `name:hit`.
    pub(crate) point: Option<String>,
    /// How many calls are answered before the parent kills.
    answers: u64,
    tries: u64,
}

/// The kills to come.
pub(crate) struct Plan {
    chance: Chance,
    kills: VecDeque<Kill>,
}

impl Plan {
    /// Every point as often as is promised, in an order that the seed gives.
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let mut names = vec![None; KILLS_AT_RANDOM];
        for point in bursar_store::CRASH_POINTS {
            names.extend([Some(point); KILLS_AT_POINT]);
        }
        for at in (1..names.len()).rev() {
            names.swap(at, chance.index(at + 1));
        }
        let mut plan = Self { chance, kills: VecDeque::new() };
        // There is nothing to open, to follow or to write again before the first kill.
        plan.push(None, 0);
        for name in names {
            plan.push(name, 0);
        }
        plan
    }

    pub(crate) fn next(&mut self) -> Option<Kill> {
        self.kills.pop_front()
    }

    /// Puts a kill that did not come about at the end, with other numbers.
    pub(crate) fn again(&mut self, kill: Kill) {
        assert!(kill.tries < TRIES_MAX, "{:?} was not reached in {TRIES_MAX} starts", kill.name);
        self.push(kill.name, kill.tries + 1);
    }

    fn push(&mut self, name: Option<&'static str>, tries: u64) {
        let hits_max = match name {
            Some("append" | "write" | "written") => 120,
            Some("sync" | "synced") => 40,
            Some("follow" | "followed") => 4,
            Some("change-write" | "change-rename" | "change-done") => 4,
            _ => 1,
        };
        // The fewer, the more tries there were.
        let hit = 1 + self.chance.below(1 + hits_max / (1 + tries * 4));
        let point = name.map(|name| format!("{name}:{}", if hits_max == 1 { 1 } else { hit }));
        let answers = match name {
            None => 1 + self.chance.below(1_500),
            // It was not met in opening, so it will not be: right after a proof there is nothing to repair.
            Some(name) if name.starts_with("open-") => 1 + self.chance.below(300),
            Some(_) => ANSWERS_MAX,
        };
        self.kills.push_back(Kill { name, point, answers, tries });
    }
}

/// Opens the link when the child serves, and sees to it that it is killed; says by whom.
pub(crate) fn follow(child: &mut Child, kill: &Kill, link: &Link, events: &Receiver<Event>) -> By {
    let mut answers = 0;
    let mut forced = false;
    loop {
        match events.recv_timeout(SILENCE_MAX).expect("something happens") {
            Event::Ready => link.open(child),
            Event::Ended => return if forced { By::Parent } else { By::Itself },
            Event::Answered => answers += 1,
        }
        if answers >= kill.answers && !forced {
            forced = true;
            child.kill();
        }
    }
}

/// Waits until the child serves.
pub(crate) fn until_ready(events: &Receiver<Event>) {
    loop {
        match events.recv_timeout(SILENCE_MAX).expect("something happens") {
            Event::Ready => return,
            Event::Answered => {}
            Event::Ended => panic!("the last child ended before it served"),
        }
    }
}

/// How many kills there were.
#[derive(Debug, Default)]
pub(crate) struct Kills {
    at: BTreeMap<String, usize>,
    in_flight: Vec<usize>,
    all: usize,
}

impl Kills {
    pub(crate) fn all(&self) -> usize {
        self.all
    }

    /// Counts a kill; false if it is not the one that was planned.
    pub(crate) fn count(&mut self, kill: &Kill, at: &str, in_flight: usize) -> bool {
        let name = at.split(':').next().unwrap();
        *self.at.entry(name.into()).or_default() += 1;
        self.in_flight.push(in_flight);
        self.all += 1;
        name == kill.name.unwrap_or(RANDOM)
    }

    /// Prints the counts.
    pub(crate) fn print(&self) {
        for point in bursar_store::CRASH_POINTS.into_iter().chain([RANDOM]) {
            println!("killed at {point:<14} {:>4}", self.at.get(point).copied().unwrap_or(0));
        }
        let fewest = self.in_flight.iter().min().unwrap();
        let most = self.in_flight.iter().max().unwrap();
        println!("killed {} times in all, with {fewest} to {most} calls in flight", self.all);
    }

    /// Checks that there were as many as are promised, everywhere.
    pub(crate) fn check(&self) {
        assert!(self.all >= 100, "only {} kills", self.all);
        for point in bursar_store::CRASH_POINTS {
            let killed = self.at.get(point).copied().unwrap_or(0);
            assert!(killed >= KILLS_AT_POINT, "killed only {killed} times at {point}");
        }
        assert!(self.in_flight.iter().all(|calls| *calls >= IN_FLIGHT_MIN));
    }
}
