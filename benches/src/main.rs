//! Compares unary Reserve with a bare tonic echo of the same messages, in one run: `cargo run --release -p bursar-benches`.
//!
//! Both servers are processes of their own on Unix sockets; one client drives them by turns, so that a
//! machine whose speed drifts drifts for both. Each round gives a ratio; the median of the ratios is the figure.
#![allow(clippy::print_stdout, reason = "a report is what this program is for")]

mod policy;
mod sidecar;

use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bursar_load::{Driver, Echo, Place, Round, Shape, Work};
use bursar_proto::v1::Durability;

/// What any of this program's parts may fail with.
type Failure = Box<dyn Error + Send + Sync>;

/// How many calls of each server a round measures, after a tenth as many unmeasured.
const CALLS_PER_ROUND: u64 = 10_000;
/// How many rounds there are; odd, so that there is a median.
const ROUNDS: usize = 9;
/// How many calls are in flight at once.
const IN_FLIGHT: [usize; 2] = [1, 128];

/// How the id of every call begins, so that with the call's number it is as long as a UUID.
const RUN: &str = "0190a5c2-7b1e-7000-8000";
/// Longer than a round takes, or a server is waited for before it is waited for again.
const LONG: Duration = Duration::from_secs(60 * 60);

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

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] => compare(),
        ["echo", socket, core] => {
            pin(core.parse()?)?;
            echo(Path::new(socket))
        }
        ["sidecar", socket, data, core] => {
            pin(core.parse()?)?;
            sidecar::serve(Path::new(socket), Path::new(data))
        }
        other => {
            Err(format!("no arguments are expected (got {other:?}): run it without any").into())
        }
    }
}

/// Keeps this process, and the threads it will start, on one core.
fn pin(core: usize) -> Result<(), Failure> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores)
        .map_err(|error| format!("cannot run on core {core}: {error}").into())
}

/// Serves the echo until killed, and says so on standard output.
fn echo(socket: &Path) -> Result<(), Failure> {
    let _echo = Echo::start(Some(socket.into()), None)?;
    println!("serving");
    loop {
        std::thread::park();
    }
}

fn compare() -> Result<(), Failure> {
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
    let (echo_socket, bursar_socket) =
        (folder.path().join("echo.sock"), folder.path().join("bursar.sock"));
    let data = folder.path().join("data");
    let core = placement.server.to_string();
    let _echo = Server::start(&["echo".as_ref(), echo_socket.as_ref(), core.as_ref()])?;
    let _bursar =
        Server::start(&["sidecar".as_ref(), bursar_socket.as_ref(), data.as_ref(), core.as_ref()])?;
    pin(placement.client)?;
    let connect =
        |socket| Driver::connect(&Place::Socket(socket), Shape { connections: 1, in_flight }, RUN);
    let (mut echo, mut bursar) = (connect(echo_socket)?, connect(bursar_socket)?);
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

/// A server in a process of its own, killed when dropped.
struct Server(Child);

impl Server {
    /// Starts this program again in another role, and waits until it says that it serves.
    fn start(arguments: &[&std::ffi::OsStr]) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("the server has no standard output")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
        let server = Self(child);
        if line.trim() == "serving" { Ok(server) } else { Err("the server did not start".into()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn report(placement: &Placement, in_flight: usize, rounds: &[(Round, Round)]) {
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        (values[0], values[values.len() / 2], values[values.len() - 1])
    };
    let p50 = |round: &Round| round.p50_ns as f64 / 1000.0;
    let p99 = |round: &Round| round.p99_ns as f64 / 1000.0;
    let rate = |round: &Round| round.count as f64 * 1e9 / round.elapsed_ns as f64;
    let column = |of: fn(&(Round, Round)) -> &Round| {
        let (_, half, _) = middle(rounds.iter().map(|pair| p50(of(pair))).collect());
        let (_, tail, _) = middle(rounds.iter().map(|pair| p99(of(pair))).collect());
        let (_, rate, _) = middle(rounds.iter().map(|pair| rate(of(pair))).collect());
        (format!("{half:.1}/{tail:.1}"), rate)
    };
    let (echo, echo_rate) = column(|pair| &pair.0);
    let (bursar, bursar_rate) = column(|pair| &pair.1);
    let (low, half, high) =
        middle(rounds.iter().map(|(echo, bursar)| p50(bursar) / p50(echo)).collect());
    println!(
        "{:<10} {in_flight:>9}  {echo:>21}  {bursar:>21}  {:>24}",
        placement.name,
        format!("p50 {half:.2} ({low:.2}–{high:.2})"),
    );
    let (low, half, high) =
        middle(rounds.iter().map(|(echo, bursar)| rate(bursar) / rate(echo)).collect());
    println!(
        "{:<10} {:>9}  {:>19}/s  {:>19}/s  {:>24}",
        "",
        "",
        format!("{echo_rate:.0}"),
        format!("{bursar_rate:.0}"),
        format!("rate {half:.2} ({low:.2}–{high:.2})"),
    );
}
