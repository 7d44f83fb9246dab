//! The client: a closed loop of Reserve calls on one connection, with so many in flight.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bursar_proto::v1::quota_service_client::QuotaServiceClient;
use bursar_proto::v1::reserve_response::Outcome;
use hdrhistogram::Histogram;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::{Failure, request};

/// The longest call that is told apart, in nanoseconds.
const LONGEST_NS: u64 = 10_000_000_000;

/// One connection, and the number of its next request.
pub(crate) struct Driver {
    client: QuotaServiceClient<Channel>,
    in_flight: usize,
    next: u64,
}

/// What one round of calls gave.
pub(crate) struct Round {
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) calls_per_second: f64,
}

impl Driver {
    pub(crate) async fn connect(socket: &Path, in_flight: usize) -> Result<Self, Failure> {
        let socket: PathBuf = socket.into();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector(connector).await?;
        Ok(Self { client: QuotaServiceClient::new(channel), in_flight, next: 0 })
    }

    /// Makes the calls and measures each.
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) async fn round(&mut self, calls: usize) -> Result<Round, Failure> {
        let each = calls / self.in_flight;
        let began = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..self.in_flight {
            let first = self.next;
            self.next += u64::try_from(each)?;
            workers.spawn(call_in_turn(self.client.clone(), first, self.next));
        }
        let mut latencies = Histogram::<u64>::new_with_max(LONGEST_NS, 3)?;
        while let Some(done) = workers.join_next().await {
            latencies.add(done??)?;
        }
        Ok(Round {
            p50_ns: latencies.value_at_quantile(0.50),
            p99_ns: latencies.value_at_quantile(0.99),
            calls_per_second: latencies.len() as f64 / began.elapsed().as_secs_f64(),
        })
    }
}

/// One worker: one call after the other, every one granted.
async fn call_in_turn(
    mut client: QuotaServiceClient<Channel>,
    first: u64,
    end: u64,
) -> Result<Histogram<u64>, Failure> {
    let mut latencies = Histogram::new_with_max(LONGEST_NS, 3)?;
    for number in first..end {
        let request = request::reserve(number);
        let began = Instant::now();
        let response = client.reserve(request).await?.into_inner();
        latencies.saturating_record(u64::try_from(began.elapsed().as_nanos())?);
        if !matches!(response.outcome, Some(Outcome::Grant(_))) {
            return Err(format!("call {number} was not granted: {response:?}").into());
        }
    }
    Ok(latencies)
}
