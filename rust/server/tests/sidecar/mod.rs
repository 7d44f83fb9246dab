//! A real data plane in a folder of its own, on a hand clock, and clients of it: what the tests share.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by test programs: each uses its part"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use bursar_proto::v1;
use bursar_proto::v1::quota_service_client::QuotaServiceClient;
use bursar_quota::{Bounds, Timestamp};
use bursar_server::{
    End, FOLLOW_INTERVAL, PolicyFile, Running, Server, Settings, StartError, Transport,
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

pub type Client = QuotaServiceClient<Channel>;

/// 2026-03-01T00:00:00Z.
pub const START: Timestamp = Timestamp(1_772_323_200_000);

/// How long a test waits for a sidecar that ends.
pub const GRACE: Duration = Duration::from_secs(10);

pub struct Sidecar {
    pub running: Running,
    pub folder: tempfile::TempDir,
}

impl Sidecar {
    /// Serves a policy on a socket and on TCP.
    pub fn start(policy: &v1::Policy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let running = Server::start(settings(folder.path(), policy)).unwrap();
        Self { running, folder }
    }

    /// The same folder again, after a stop in order.
    pub fn restart(self, policy: &v1::Policy) -> Self {
        assert_eq!(self.running.stop(GRACE), End::Stopped);
        let running = Server::start(settings(self.folder.path(), policy)).unwrap();
        Self { running, folder: self.folder }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("bursar.sock")
    }

    pub async fn client(&self) -> Client {
        QuotaServiceClient::new(unix_channel(&self.socket()).await)
    }

    pub async fn tcp_client(&self) -> Client {
        let address = self.running.listen_address().unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        QuotaServiceClient::new(endpoint.connect().await.unwrap())
    }

    /// Moves the clock to so long after the start.
    pub fn at(&self, since_start: Duration) {
        let ms = u64::try_from(since_start.as_millis()).unwrap();
        self.running.set_hand_clock(START.after(bursar_quota::Milliseconds(ms))).unwrap();
    }

    /// The standing of a limit's only counter.
    pub fn standing(&self, limit: &str) -> v1::Standing {
        let request = v1::ListStandingsRequest { limit: limit.into(), ..Default::default() };
        let standings = self.running.standings(request).unwrap().standings;
        assert_eq!(standings.len(), 1, "{standings:?}");
        standings.into_iter().next().unwrap()
    }
}

pub fn settings(folder: &Path, policy: &v1::Policy) -> Settings {
    let policy = policy.encode_to_vec();
    Settings {
        data_directory: folder.join("data"),
        socket: Some(folder.join("bursar.sock")),
        listen: Some("127.0.0.1:0".parse().unwrap()),
        policy: PolicyFile { digest: policy.clone(), policy, source: b"policy: test".to_vec() },
        segment_bytes: 1 << 20,
        ledger_bytes_max: 64 << 20,
        bounds: Bounds::default(),
        follow_interval: FOLLOW_INTERVAL,
        transport: Transport::default(),
        hand_clock: Some(START),
        reset_changed: false,
    }
}

/// Tries to start one, and gives why it did not.
pub fn refusal(settings: Settings) -> StartError {
    Server::start(settings).err().unwrap()
}

pub async fn unix_channel(socket: &Path) -> Channel {
    let socket: PathBuf = socket.into();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost")
        .initial_connection_window_size(4 << 20)
        .connect_with_connector(connector)
        .await
        .unwrap()
}

/// A policy with one limit on all tokens together, ever.
pub fn one_limit(tokens: u64) -> v1::Policy {
    v1::Policy {
        name: "test".into(),
        reservations: Some(v1::ReservationRules {
            ttl_ms: 300_000,
            unsettled: v1::Unsettled::ChargeInput.into(),
        }),
        limits: vec![v1::Limit {
            name: "everything".into(),
            window: Some(v1::Window {
                kind: Some(v1::window::Kind::Total(v1::TotalWindow::default())),
            }),
            amounts: vec![v1::Amount { unit: v1::Unit::Tokens.into(), amount: tokens }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A Reserve of so many tokens of input.
pub fn reserve(id: &str, tokens: u64) -> v1::ReserveRequest {
    v1::ReserveRequest {
        reservation_id: id.into(),
        model: "openai/gpt-4.1-mini".into(),
        input: Some(v1::reserve_request::Input::InputTokens(tokens)),
        ..Default::default()
    }
}

/// A Commit of so many tokens of input, of a call that was completed.
pub fn commit(id: &str, tokens: u64) -> v1::CommitRequest {
    v1::CommitRequest {
        reservation_id: id.into(),
        lines: vec![line(v1::Meter::Input, tokens)],
        outcome: v1::Outcome::Completed.into(),
        ..Default::default()
    }
}

pub fn release(id: &str) -> v1::ReleaseRequest {
    v1::ReleaseRequest { reservation_id: id.into(), ..Default::default() }
}

/// A Record of so many tokens of input, at the start.
pub fn record(id: &str, tokens: u64) -> v1::RecordRequest {
    v1::RecordRequest {
        record_id: id.into(),
        model: "openai/gpt-4.1-mini".into(),
        lines: vec![line(v1::Meter::Input, tokens)],
        occurred_at_unix_ms: START.0,
        ..Default::default()
    }
}

pub fn line(meter: v1::Meter, tokens: u64) -> v1::Line {
    v1::Line { meter: meter.into(), tokens, ..Default::default() }
}

/// The grant in an answer.
pub fn grant(response: &v1::ReserveResponse) -> Option<&v1::Grant> {
    match &response.outcome {
        Some(v1::reserve_response::Outcome::Grant(grant)) => Some(grant),
        _ => None,
    }
}

/// The denial in an answer.
pub fn denial(response: &v1::ReserveResponse) -> Option<&v1::Denial> {
    match &response.outcome {
        Some(v1::reserve_response::Outcome::Denial(denial)) => Some(denial),
        _ => None,
    }
}
