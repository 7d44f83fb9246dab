//! Attacks on the port, one after the other, each on a served data plane of its own, with a healthy neighbour
//! beside it: the attacker's connection ends or stays bounded, memory stays bounded, and the neighbour gets
//! every answer. It prints what it found.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program says what it saw"
)]

mod attacks;
mod frames;
#[path = "../sidecar/mod.rs"]
mod sidecar;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bursar_server::{Server, Transport};
use sidecar::{Sidecar, one_limit, release, reserve};

/// The most that the process may grow by in one attack: server, attacker and neighbour together.
const GROWTH_KIB_MAX: u64 = 64 << 10;

/// How many answers the neighbour must get during an attack that is over sooner.
const NEIGHBOUR_MIN: u64 = 20;

/// The open files that two thousand connections take, at both ends.
const FILES: u64 = 8_192;

/// An attack: its name, what callers may take meanwhile, and what it does; it says how it ended.
type Attack = (&'static str, fn(&mut Transport), fn(SocketAddr) -> String);

fn main() {
    let (_, hard) = files();
    assert!(hard.is_none_or(|hard| hard >= FILES), "this needs {FILES} open files: ulimit -Hn");
    let limit = rustix::process::Rlimit { current: Some(FILES), maximum: hard };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut passed = 0;
    for (name, set, attack) in attacks::ALL {
        run(name, *set, *attack);
        passed += 1;
    }
    println!("attacks: {passed} passed, 0 failed");
}

fn files() -> (Option<u64>, Option<u64>) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (limit.current, limit.maximum)
}

/// The deadlines of the attacks: short, so that they are met, and long enough for a busy machine.
fn quick() -> Transport {
    Transport {
        first_request: Duration::from_secs(2),
        keepalive: Duration::from_secs(2),
        keepalive_answer: Duration::from_secs(2),
        call_max: Duration::from_secs(4),
        ..Transport::default()
    }
}

fn run(name: &str, set: fn(&mut Transport), attack: fn(SocketAddr) -> String) {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = sidecar::settings(folder.path(), &one_limit(1_000_000));
    settings.transport = quick();
    set(&mut settings.transport);
    let ages = settings.transport.age_max < Transport::default().age_max;
    let sidecar = Sidecar { running: Server::start(settings).unwrap(), folder };
    let address = sidecar.running.listen_address().unwrap();
    let neighbour = Neighbour::begin(&sidecar, ages);
    neighbour.wait_for(NEIGHBOUR_MIN);
    let before_kib = resident_kib();
    let began = Instant::now();
    let ended = attack(address);
    let took = began.elapsed();
    let grown_kib = resident_kib().saturating_sub(before_kib);
    let during = neighbour.answers();
    neighbour.wait_for(during + NEIGHBOUR_MIN);
    println!(
        "{name}: {ended}; {:.1} s, memory +{grown_kib} KiB, the neighbour got {during} answers meanwhile",
        took.as_secs_f32()
    );
    assert!(grown_kib < GROWTH_KIB_MAX, "{name}: memory grew by {grown_kib} KiB");
    neighbour.end();
}

/// Reserves and releases; repeating it changes nothing.
async fn pair(client: &mut sidecar::Client, id: &str) -> Result<(), tonic::Status> {
    let granted = client.reserve(reserve(id, 1)).await?.into_inner();
    assert!(sidecar::grant(&granted).is_some(), "{granted:?}");
    client.release(release(id)).await.map(|_| ())
}

/// What the process has in memory.
fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4
}

/// A healthy caller over the Unix socket, who reserves and releases and must be answered each time.
struct Neighbour {
    answers: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Neighbour {
    fn begin(sidecar: &Sidecar, ages: bool) -> Self {
        let (answers, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counted, told) = (answers.clone(), over.clone());
        let socket = sidecar.socket();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let channel = sidecar::unix_channel(&socket).await;
                let mut client = sidecar::Client::new(channel);
                let mut number = 0;
                while !told.load(Ordering::Relaxed) {
                    match pair(&mut client, &format!("n{number}")).await {
                        Ok(()) => number = counted.fetch_add(1, Ordering::Relaxed) + 1,
                        // A connection that is told its age may go under a call: the same is asked again.
                        Err(status) => assert!(ages, "{status:?}"),
                    }
                }
            });
        });
        Self { answers, over, thread }
    }

    fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    fn wait_for(&self, answers: u64) {
        let until = Instant::now() + frames::PATIENCE;
        while self.answers() < answers {
            assert!(!self.thread.is_finished(), "the neighbour was not answered");
            assert!(Instant::now() < until, "the neighbour waits and waits");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}
