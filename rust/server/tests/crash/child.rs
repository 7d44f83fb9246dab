//! The child: a data plane on a socket, until it is killed or told to stop.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bursar_quota::Timestamp;
use bursar_server::{End, PolicyFile, Server, Settings, Transport};

use crate::settings;

/// Says to this program that it is a child, and of which folder.
pub(crate) const FOLDER: &str = "BURSAR_CRASH_FOLDER";
/// The time on the child's clock, in Unix milliseconds.
pub(crate) const NOW: &str = "BURSAR_CRASH_NOW";
/// What the child prints once it serves.
pub(crate) const READY: &str = "ready";
/// The longest that calls in flight may take when it is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// What this process is to serve, if it is a child.
pub(crate) fn wanted() -> Option<Settings> {
    let folder = PathBuf::from(std::env::var_os(FOLDER)?);
    let now = std::env::var(NOW).expect("a child is given its time").parse().unwrap();
    Some(Settings {
        data_directory: folder.join("data"),
        socket: Some(folder.join("bursar.sock")),
        listen: None,
        policy: PolicyFile {
            policy: settings::policy(),
            digest: b"crash".to_vec(),
            source: b"policy: crash".to_vec(),
        },
        segment_bytes: settings::SEGMENT_BYTES,
        ledger_bytes_max: 16 << 30,
        follow_interval: settings::FOLLOW_INTERVAL,
        bounds: settings::bounds(),
        transport: Transport::default(),
        hand_clock: Some(Timestamp(now)),
        reset_changed: false,
    })
}

/// Serves; ends the process.
pub(crate) fn serve(settings: Settings) -> ! {
    let running = match Server::start(settings) {
        Ok(running) => Arc::new(running),
        Err(error) => {
            eprintln!("the child did not start: {error}");
            std::process::exit(1);
        }
    };
    println!("{READY}");
    std::io::stdout().flush().unwrap();
    let told = running.clone();
    std::thread::spawn(move || {
        // A line, or the end of the parent: either way it is time to stop.
        let _ = std::io::stdin().read_line(&mut String::new());
        told.stop(GRACE);
    });
    let end = loop {
        if let Some(end) = running.wait(Duration::from_secs(3600)) {
            break end;
        }
    };
    match end {
        End::Stopped => std::process::exit(0),
        End::Died(why) => {
            eprintln!("the child died: {why}");
            std::process::exit(70);
        }
    }
}
