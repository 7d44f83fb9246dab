//! What a call costs where there is much: many counters, many limits; against a sidecar with few, by turns.

use bursar_load::{Round, Shape, Work};
use bursar_proto::v1::Durability;

use crate::figures::{half_and_tail, rate, spread, us};
use crate::servers::pin;
use crate::sidecar::Sidecar;
use crate::{Failure, LONG, RUN};

/// How many calls of each sidecar a round measures.
const CALLS_PER_ROUND: u64 = 10_000;
/// How many rounds there are; odd, so that there is a median.
const ROUNDS: usize = 9;
/// How many calls are in flight while counters are made.
const FILLING: Shape = Shape { connections: 1, in_flight: 128, tenants: 1 };
/// How the ids of what is made beforehand begin.
const FILLED: &str = "0190a5c2-7b1e-7000-9000";

/// What one of the two sidecars has more of.
struct Size {
    name: &'static str,
    limits: usize,
    counters: u64,
}

const FEW: Size = Size { name: "few", limits: 3, counters: 1_000 };
const MUCH: [Size; 2] = [
    Size { name: "1,000,000 counters against 1,000", counters: 1_000_000, ..FEW },
    Size { name: "256 limits of which 3 apply against 3", limits: 256, ..FEW },
];

pub(crate) fn compare() -> Result<(), Failure> {
    println!(
        "unary Reserve and Commit, one core, one in flight, of 1,000 tenants in turn; {ROUNDS} rounds by turns, \
         {CALLS_PER_ROUND} pairs each"
    );
    println!(
        "{:<38}  {:>16}  {:>16}  {:>22}  {:>22}",
        "", "few p50/p99 µs", "many p50/p99 µs", "p50 ratio", "rate ratio"
    );
    for much in &MUCH {
        report(much, &measure(much)?);
    }
    Ok(())
}

/// Drives a sidecar with few and one with much by turns.
fn measure(much: &Size) -> Result<Vec<[Round; 2]>, Failure> {
    let sidecars = [start(&FEW)?, start(much)?];
    pin(0)?;
    let shape = Shape { connections: 1, in_flight: 1, tenants: FEW.counters };
    let work = Work::ReserveCommit(Durability::Process);
    let mut drivers = Vec::with_capacity(sidecars.len());
    for sidecar in &sidecars {
        let mut driver = sidecar.connect(shape, RUN)?;
        driver.round(work, LONG, CALLS_PER_ROUND / 10)?;
        drivers.push(driver);
    }
    let [few, much] = drivers.as_mut_slice() else { return Err("two are compared".into()) };
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let of_few = few.round(work, LONG, CALLS_PER_ROUND)?;
        rounds.push([of_few, much.round(work, LONG, CALLS_PER_ROUND)?]);
    }
    Ok(rounds)
}

/// A sidecar that has its counters already.
fn start(size: &Size) -> Result<Sidecar, Failure> {
    let sidecar = Sidecar::start(size.limits, 0, 0)?;
    let shape = Shape { tenants: size.counters, ..FILLING };
    let mut driver = sidecar.connect(shape, FILLED)?;
    driver.round(Work::ReserveCommit(Durability::Process), LONG, size.counters)?;
    Ok(sidecar)
}

fn report(much: &Size, rounds: &[[Round; 2]]) {
    let ratio = |of: fn(&Round) -> f64| spread(rounds.iter().map(|[few, much]| of(much) / of(few)));
    println!(
        "{:<38}  {:>16}  {:>16}  {:>22}  {:>22}",
        much.name,
        half_and_tail(rounds.iter().map(|[few, _]| few)),
        half_and_tail(rounds.iter().map(|[_, much]| much)),
        ratio(|round| us(round.p50_ns)),
        ratio(rate),
    );
}
