//! Unary Reserve against a bare tonic echo of the same messages. Each round gives a ratio; the median of the
//! ratios is the figure.

use std::path::Path;

use bursar_load::{Driver, Echo, Place, Round, Shape, Work};
use bursar_proto::v1::Durability;

use crate::figures::{half_and_tail, middle, rate, spread, us};
use crate::servers::{Server, pin};
use crate::sidecar::Sidecar;
use crate::{Failure, LONG, RUN};

/// How many calls of each server a round measures, after a tenth as many unmeasured.
const CALLS_PER_ROUND: u64 = 10_000;
/// How many rounds there are; odd, so that there is a median.
const ROUNDS: usize = 9;
/// How many calls are in flight at once.
const IN_FLIGHT: [usize; 2] = [1, 128];

/// Which cores the client and the servers run on.
struct Placement {
    name: &'static str,
    client: usize,
    server: usize,
}

const PLACEMENTS: [Placement; 2] = [
    Placement { name: "one core", client: 0, server: 0 },
    Placement { name: "two cores", client: 0, server: 1 },
];

/// Serves the echo until killed, and says so on standard output.
pub(crate) fn serve(socket: &Path) -> Result<(), Failure> {
    let _echo = Echo::start(Some(socket.into()), None)?;
    println!("serving");
    loop {
        std::thread::park();
    }
}

pub(crate) fn compare() -> Result<(), Failure> {
    println!(
        "unary Reserve, 4 labels, 3 limits, durability process, follower running; {ROUNDS} rounds by turns, \
         {CALLS_PER_ROUND} calls each"
    );
    println!(
        "{:<10} {:>9}  {:>21}  {:>21}  {:>24}",
        "placement", "in flight", "echo p50/p99 µs", "bursar p50/p99 µs", "ratio median (min–max)"
    );
    for placement in &PLACEMENTS {
        for in_flight in IN_FLIGHT {
            let rounds = measure(placement, in_flight)?;
            report(placement, in_flight, &rounds);
        }
    }
    Ok(())
}

/// Starts both servers and drives them by turns.
fn measure(placement: &Placement, in_flight: usize) -> Result<Vec<(Round, Round)>, Failure> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("echo.sock");
    let core = placement.server.to_string();
    let _echo = Server::start(&["serve-echo".as_ref(), socket.as_ref(), core.as_ref()])?;
    let sidecar = Sidecar::start(3, placement.server, placement.server)?;
    pin(placement.client)?;
    let shape = Shape { connections: 1, in_flight, tenants: 1 };
    let mut echo = Driver::connect(&Place::Socket(socket), shape, RUN)?;
    let mut bursar = sidecar.connect(shape, RUN)?;
    let work = Work::Reserve(Durability::Process);
    for driver in [&mut echo, &mut bursar] {
        driver.round(work, LONG, CALLS_PER_ROUND / 10)?;
    }
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let of_echo = echo.round(work, LONG, CALLS_PER_ROUND)?;
        rounds.push((of_echo, bursar.round(work, LONG, CALLS_PER_ROUND)?));
    }
    Ok(rounds)
}

fn report(placement: &Placement, in_flight: usize, rounds: &[(Round, Round)]) {
    let echo = || rounds.iter().map(|(echo, _)| echo);
    let bursar = || rounds.iter().map(|(_, bursar)| bursar);
    let ratio =
        |of: fn(&Round) -> f64| spread(rounds.iter().map(|(echo, bursar)| of(bursar) / of(echo)));
    println!(
        "{:<10} {in_flight:>9}  {:>21}  {:>21}  {:>24}",
        placement.name,
        half_and_tail(echo()),
        half_and_tail(bursar()),
        format!("p50 {}", ratio(|round| us(round.p50_ns))),
    );
    let rates = |(_, half, _): (f64, f64, f64)| format!("{half:.0}/s");
    println!(
        "{:<10} {:>9}  {:>21}  {:>21}  {:>24}",
        "",
        "",
        rates(middle(echo().map(rate))),
        rates(middle(bursar().map(rate))),
        format!("rate {}", ratio(rate)),
    );
}
