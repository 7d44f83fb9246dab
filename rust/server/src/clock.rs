//! What time it is for every decision: the highest wall clock seen, or what a test's hand says.

use bursar_quota::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::deadlines::Lived;

/// How far the wall may run ahead of what the boot clock says before that is suspected, in milliseconds.
const JUMP_MS_MAX: i64 = 15 * 60 * 1_000;
/// How long a suspected reading must hold before it is followed, in milliseconds.
const JUMP_HOLDS_MS: i64 = 10 * 60 * 1_000;

/// The source of all time in the data plane.
#[derive(Debug)]
pub(crate) enum Clock {
    /// The machine's clocks.
    Wall(Wall),
    /// Moved by hand.
    Hand(Timestamp),
}

impl Clock {
    /// The machine's clocks, never before `at_least`.
    pub(crate) fn wall(at_least: Timestamp) -> Self {
        Self::Wall(Wall::new(wall_ms(), boot_ms(), at_least.0))
    }

    /// A clock that moves by hand, never before `at_least`.
    pub(crate) fn hand(at: Timestamp, at_least: Timestamp) -> Self {
        Self::Hand(at.max(at_least))
    }

    /// Now; it never goes back.
    pub(crate) fn now(&mut self) -> Timestamp {
        match self {
            Self::Wall(wall) => Timestamp(wall.read(wall_ms(), boot_ms())),
            Self::Hand(at) => *at,
        }
    }

    /// The instant of the last look at the clock, on the one that deadlines are kept on; a hand moves both.
    pub(crate) fn lived(&self) -> Lived {
        match self {
            Self::Wall(wall) => Lived(wall.boot_ms),
            Self::Hand(at) => Lived(at.0),
        }
    }

    /// Moves a hand clock, not back; says whether it is one.
    pub(crate) fn set(&mut self, to: Timestamp) -> bool {
        match self {
            Self::Wall(_) => false,
            Self::Hand(at) => {
                *at = to.max(*at);
                true
            }
        }
    }
}

fn wall_ms() -> i64 {
    milliseconds(ClockId::Realtime)
}

/// Unlike a monotonic clock, the boot clock goes on while the machine sleeps.
fn boot_ms() -> i64 {
    milliseconds(ClockId::Boottime)
}

fn milliseconds(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000)
}

/// The wall clock, guarded against a bogus reading that would close a month at once.
#[derive(Debug)]
pub(crate) struct Wall {
    highest_ms: i64,
    /// The boot clock at the last reading.
    boot_ms: i64,
    /// A wall reading that was followed, and the boot clock then.
    anchor_wall_ms: i64,
    anchor_boot_ms: i64,
    /// Since when the wall has been suspected, on the boot clock.
    suspected_since_boot_ms: Option<i64>,
}

impl Wall {
    fn new(wall_ms: i64, boot_ms: i64, at_least_ms: i64) -> Self {
        Self {
            highest_ms: wall_ms.max(at_least_ms),
            boot_ms,
            anchor_wall_ms: wall_ms,
            anchor_boot_ms: boot_ms,
            suspected_since_boot_ms: None,
        }
    }

    fn read(&mut self, wall_ms: i64, boot_ms: i64) -> i64 {
        self.boot_ms = boot_ms;
        let expected_ms = self.anchor_wall_ms.saturating_add(boot_ms - self.anchor_boot_ms);
        let ahead_ms = wall_ms.saturating_sub(expected_ms);
        let mut now_ms = wall_ms;
        if ahead_ms > JUMP_MS_MAX {
            let since_ms = *self.suspected_since_boot_ms.get_or_insert(boot_ms);
            if boot_ms - since_ms < JUMP_HOLDS_MS {
                now_ms = expected_ms;
            }
        } else {
            self.suspected_since_boot_ms = None;
        }
        if now_ms == wall_ms && ahead_ms > 0 {
            // A wall that went back keeps its anchor, so that its return is no jump.
            self.anchor_wall_ms = wall_ms;
            self.anchor_boot_ms = boot_ms;
            self.suspected_since_boot_ms = None;
        }
        self.highest_ms = self.highest_ms.max(now_ms);
        self.highest_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 60 * 60 * 1_000;
    const START: i64 = 1_000 * HOUR;

    #[test]
    fn time_never_goes_back() {
        let mut wall = Wall::new(START, 0, 0);
        assert_eq!(wall.read(START + 10, 10), START + 10);
        assert_eq!(wall.read(START - HOUR, 20), START + 10);
        assert_eq!(wall.read(START + 30, 30), START + 30);
    }

    #[test]
    fn time_is_not_before_the_last_entry() {
        let mut wall = Wall::new(START, 0, START + HOUR);
        assert_eq!(wall.read(START + 10, 10), START + HOUR);
    }

    #[test]
    fn one_bogus_reading_does_not_move_time() {
        let mut wall = Wall::new(START, 0, 0);
        assert_eq!(wall.read(START + 1_000 * HOUR, 10), START + 10);
        assert_eq!(wall.read(START + 20, 20), START + 20);
    }

    #[test]
    fn a_jump_that_holds_is_followed() {
        let mut wall = Wall::new(START, 0, 0);
        assert_eq!(wall.read(START + HOUR, 10), START + 10);
        let held = 10 + JUMP_HOLDS_MS;
        assert_eq!(wall.read(START + HOUR + held, held), START + HOUR + held);
    }

    #[test]
    fn a_sleeping_machine_is_no_jump() {
        let mut wall = Wall::new(START, 0, 0);
        assert_eq!(wall.read(START + 100 * HOUR, 100 * HOUR), START + 100 * HOUR);
    }

    #[test]
    fn a_small_step_is_followed_at_once() {
        let mut wall = Wall::new(START, 0, 0);
        assert_eq!(wall.read(START + JUMP_MS_MAX, 0), START + JUMP_MS_MAX);
    }
}
