//! What operators' reading does to decisions: the same calls while nobody reads, while a neighbour computes, and
//! while an operator pages through everything without a rest.
//!
//! A reader takes processor time wherever it runs. So that what is compared is only what it does to the data
//! plane's thread, the neighbour in its place computes and asks nothing.

use bursar_load::{Driver, Round, Shape, Work};
use bursar_proto::v1::Durability;

use crate::figures::{middle, us};
use crate::reader::Mode;
use crate::servers::pin;
use crate::sidecar::Sidecar;
use crate::{Failure, LONG, RUN};

/// Reservations that are open, each of a tenant of its own and so with a counter of its own.
const OPEN: u64 = 100_000;
/// How many calls a round measures.
const CALLS_PER_ROUND: u64 = 5_000;
/// How many rounds there are of each mode; odd, so that there is a median.
const ROUNDS: usize = 9;
const IN_FLIGHT: [usize; 2] = [1, 16];
/// How the ids of what is open beforehand begin.
const FILLED: &str = "0190a5c2-7b1e-7000-9000";

/// The client has core 0, the data plane core 1; the reader shares one of them.
const READERS: [(&str, usize); 2] = [("the data plane's core", 1), ("the client's core", 0)];

pub(crate) fn compare() -> Result<(), Failure> {
    println!(
        "unary Reserve, client on core 0, data plane on core 1, {OPEN} reservations open with as many counters; \
         {ROUNDS} rounds by turns, {CALLS_PER_ROUND} calls each"
    );
    println!(
        "{:<22} {:>9}  {:<9} {:>9} {:>9} {:>9} {:>9}   read meanwhile",
        "reader on", "in flight", "", "p50 µs", "p99 µs", "p99.9 µs", "max µs"
    );
    for (name, core) in READERS {
        let mut sidecar = Sidecar::start(3, 1, core)?;
        pin(0)?;
        let filling = Shape { connections: 1, in_flight: 128, tenants: OPEN };
        let mut filler = sidecar.connect(filling, FILLED)?;
        filler.round(Work::Reserve(Durability::Process), LONG, OPEN)?;
        for in_flight in IN_FLIGHT {
            for (mode, rounds) in measure(&mut sidecar, in_flight)? {
                report(name, in_flight, mode, &rounds);
            }
        }
    }
    Ok(())
}

/// What a round gave, and what was read meanwhile.
type Turn = (Round, String);

/// Rounds of each mode by turns.
fn measure(sidecar: &mut Sidecar, in_flight: usize) -> Result<Vec<(Mode, Vec<Turn>)>, Failure> {
    let shape = Shape { connections: 1, in_flight, tenants: 1_000 };
    // Of another run each time: ids are remembered.
    let mut driver = sidecar.connect(shape, &format!("{}{in_flight:03}", &RUN[..RUN.len() - 3]))?;
    let mut found: Vec<_> = Mode::ALL.into_iter().map(|mode| (mode, Vec::new())).collect();
    for warm in std::iter::once(true).chain([false; ROUNDS]) {
        for (mode, rounds) in &mut found {
            let round = turn(sidecar, &mut driver, *mode)?;
            if !warm {
                rounds.push(round);
            }
        }
    }
    Ok(found)
}

fn turn(
    sidecar: &mut Sidecar,
    driver: &mut Driver,
    mode: Mode,
) -> Result<(Round, String), Failure> {
    sidecar.server.say(mode.name())?;
    let round = driver.round(Work::Reserve(Durability::Process), LONG, CALLS_PER_ROUND)?;
    let read = sidecar.server.say(Mode::Rest.name())?;
    // Not measured: every round begins with the same open.
    driver.release()?;
    Ok((round, read))
}

fn report(reader: &str, in_flight: usize, mode: Mode, rounds: &[Turn]) {
    let median = |of: fn(&Round) -> u64| middle(rounds.iter().map(|(round, _)| us(of(round)))).1;
    let read = rounds.last().map_or("", |(_, read)| read);
    println!(
        "{reader:<22} {in_flight:>9}  {:<9} {:>9.1} {:>9.1} {:>9.1} {:>9.1}   {}",
        mode.name(),
        median(|round| round.p50_ns),
        median(|round| round.p99_ns),
        median(|round| round.p999_ns),
        median(|round| round.max_ns),
        if matches!(mode, Mode::Read) { read } else { "" },
    );
}
