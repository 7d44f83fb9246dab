//! The parent's end of a child: its process, and the connections that callers share while it lives.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;

use bursar_proto::v1::quota_service_client::QuotaServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::plan::Event;
use crate::{child, settings};

/// A client of the child's.
pub(crate) type Client = QuotaServiceClient<Channel>;

const SIGKILL: i32 = 9;

/// A child process.
pub(crate) struct Child {
    process: std::process::Child,
    /// Held open: its end tells the child to stop.
    stdin: Option<ChildStdin>,
    socket: PathBuf,
    /// The time on its clock, in Unix milliseconds.
    now: i64,
}

impl Child {
    /// Starts a child on the folder; it dies at the point, if one is named. Its life is told as events.
    pub(crate) fn start(
        folder: &Path,
        start: i64,
        point: Option<&str>,
        events: &Sender<Event>,
    ) -> Self {
        let now = settings::BEGIN_UNIX_MS + start * settings::STEP_MS;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(child::FOLDER, folder).env(child::NOW, now.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(point) = point {
            command.env("BURSAR_CRASH_AT", point);
        }
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let events = events.clone();
        std::thread::spawn(move || {
            for line in lines {
                if line.is_ok_and(|line| line == child::READY) {
                    events.send(Event::Ready).unwrap();
                }
            }
            events.send(Event::Ended).unwrap();
        });
        let stdin = process.stdin.take();
        Self { process, stdin, socket: folder.join("bursar.sock"), now }
    }

    /// The time on its clock, in Unix milliseconds.
    pub(crate) fn now(&self) -> i64 {
        self.now
    }

    /// Kills it now.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    /// Waits for its end, which must be a kill.
    pub(crate) fn must_have_been_killed(mut self) {
        let status = self.process.wait().unwrap();
        assert_eq!(status.signal(), Some(SIGKILL), "the child ended by itself: {status}");
    }

    /// Tells it to stop and waits until it has, in order.
    pub(crate) fn stop(&mut self) {
        drop(self.stdin.take());
        let status = self.process.wait().unwrap();
        assert!(status.success(), "the child did not stop in order: {status}");
    }
}

/// What callers call through while a child serves.
#[derive(Clone)]
pub(crate) struct Line {
    /// Which child, from 1.
    pub(crate) number: u64,
    /// The time on its clock, in Unix milliseconds.
    pub(crate) now: i64,
    socket: PathBuf,
}

impl Line {
    /// A client with a connection of its own, made with the first call.
    pub(crate) fn client(&self) -> Client {
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        QuotaServiceClient::new(endpoint.connect_with_connector_lazy(connector))
    }
}

/// Tells callers which child serves, if one does.
pub(crate) struct Link(pub(crate) watch::Sender<Option<Line>>);

impl Link {
    /// The child serves.
    pub(crate) fn open(&self, child: &Child) {
        let number = u64::try_from(child.now - settings::BEGIN_UNIX_MS).unwrap();
        let line = Line { number, now: child.now, socket: child.socket.clone() };
        self.0.send_replace(Some(line));
    }

    /// The child is gone.
    pub(crate) fn cut(&self) {
        self.0.send_replace(None);
    }
}
