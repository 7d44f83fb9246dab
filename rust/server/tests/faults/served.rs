//! The parent's end of a child: its process, clients of it, its health, and the gate at which it is held.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use bursar_proto::v1;
use bursar_proto::v1::quota_service_client::QuotaServiceClient;
use bursar_proto::v1::quota_service_server::SERVICE_NAME;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt as _;

use crate::{child, settings};

/// A client of the child's.
pub(crate) type Client = QuotaServiceClient<Channel>;

/// What is said to whoever reserves where there is room for settlements only.
pub(crate) const LEDGER_FULL: (Code, &str) = (Code::Unavailable, "LEDGER_FULL");

/// What is said to everyone where not even the room kept for settlements is left.
pub(crate) const DISK_FULL: (Code, &str) = (Code::Unavailable, "DISK_FULL");

/// What is said to whoever waits where nothing more is answered.
pub(crate) const POISONED: (Code, &str) = (Code::Unavailable, "POISONED");

/// A child process that serves.
pub(crate) struct Child {
    process: std::process::Child,
    /// Held open: its end tells the child to stop.
    stdin: Option<ChildStdin>,
    socket: PathBuf,
}

impl Child {
    /// Starts a child on the folder, with these in its environment, and waits until it serves.
    pub(crate) fn start(folder: &Path, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(child::FOLDER, folder).env(child::NOW, settings::BEGIN_UNIX_MS.to_string());
        command.envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), child::READY, "{environment:?}");
        let stdin = process.stdin.take();
        Self { process, stdin, socket: folder.join("bursar.sock") }
    }

    /// A client with a connection of its own.
    pub(crate) async fn client(&self) -> Client {
        QuotaServiceClient::new(self.channel().await)
    }

    async fn channel(&self) -> Channel {
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint.connect_with_connector(connector).await.unwrap()
    }

    /// Waits until it has ended by itself; gives its exit code and what it said.
    pub(crate) fn ended(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.process.wait().unwrap().code(), said)
    }

    /// Tells it to stop and waits until it has, in order.
    pub(crate) fn stop(mut self) {
        drop(self.stdin.take());
        let (code, said) = self.ended();
        assert_eq!(code, Some(0), "the child did not stop in order: {said}");
    }
}

/// What `grpc.health.v1` says of the server as a whole.
pub(crate) struct Health(Streaming<HealthCheckResponse>);

impl Health {
    pub(crate) async fn watch(child: &Child) -> Self {
        let mut client = HealthClient::new(child.channel().await);
        Self(client.watch(HealthCheckRequest::default()).await.unwrap().into_inner())
    }

    /// Waits until it says so.
    pub(crate) async fn until(&mut self, serving: bool) {
        while let Some(answer) = self.0.message().await.unwrap() {
            if (answer.status() == ServingStatus::Serving) == serving {
                return;
            }
        }
        panic!("the child ended");
    }

    /// Whether the service itself says that it serves.
    pub(crate) async fn of_service(child: &Child) -> bool {
        let mut client = HealthClient::new(child.channel().await);
        let request = HealthCheckRequest { service: SERVICE_NAME.into() };
        let answer = client.check(request).await.unwrap().into_inner();
        answer.status() == ServingStatus::Serving
    }
}

/// Where a child is held at a point.
pub(crate) struct Gate {
    listener: UnixListener,
    path: String,
}

impl Gate {
    pub(crate) fn at(folder: &Path) -> Self {
        let path = folder.join("gate").to_str().unwrap().to_owned();
        Self { listener: UnixListener::bind(&path).unwrap(), path }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Waits until the child is held; it goes on when what is given is dropped.
    pub(crate) async fn reached(&self) -> UnixStream {
        self.listener.accept().await.unwrap().0
    }
}

/// The reason in a status's details; empty if it has none.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// A Reserve of ten tokens.
pub(crate) fn reserve(name: &str, durability: v1::Durability) -> v1::ReserveRequest {
    v1::ReserveRequest {
        reservation_id: name.into(),
        model: "openai/gpt-4.1-mini".into(),
        labels: [("tenant".into(), "acme".into()), ("feature".into(), "answers".into())].into(),
        input: Some(v1::reserve_request::Input::InputTokens(10)),
        durability: durability.into(),
        ..v1::ReserveRequest::default()
    }
}

/// A Commit of seven tokens, at `power`.
pub(crate) fn commit(name: &str) -> v1::CommitRequest {
    v1::CommitRequest {
        reservation_id: name.into(),
        lines: vec![v1::Line { meter: v1::Meter::Input.into(), tokens: 7, ..v1::Line::default() }],
        outcome: v1::Outcome::Completed.into(),
        ..v1::CommitRequest::default()
    }
}

/// A Record of seven tokens, at `process`.
pub(crate) fn record(name: &str) -> v1::RecordRequest {
    v1::RecordRequest {
        record_id: name.into(),
        model: "openai/gpt-4.1-mini".into(),
        lines: commit(name).lines,
        occurred_at_unix_ms: settings::BEGIN_UNIX_MS,
        durability: v1::Durability::Process.into(),
        ..v1::RecordRequest::default()
    }
}

/// A question that writes nothing.
pub(crate) fn count() -> v1::CountTokensRequest {
    v1::CountTokensRequest {
        model: "openai/gpt-4.1-mini".into(),
        texts: vec!["a text".into()],
        ..v1::CountTokensRequest::default()
    }
}
