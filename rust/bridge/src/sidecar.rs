//! A data plane as Python holds it.

use std::time::Duration;

use bursar_proto::v1;
use bursar_quota::{Bounds, Milliseconds, Timestamp};
use bursar_server::{End, FOLLOW_INTERVAL, PolicyFile, Running, Server, Settings, Transport};
use prost::Message;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::door::{Home, Wrong, through};
use crate::watch::Watch;

/// How long a question for usage waits for the index to have what was written so far.
const CATCH_UP: Duration = Duration::from_secs(5);

/// A data plane: it serves from when it is made until it is stopped or dropped.
#[pyclass(module = "bursar._core", frozen)]
pub(crate) struct Sidecar {
    /// None only once it was dropped.
    running: Option<Running>,
    home: Home,
}

#[pymethods]
impl Sidecar {
    #[new]
    #[pyo3(signature = (*, data_directory, socket, listen, policy, policy_digest, policy_source,
        segment_bytes, ledger_bytes_max, counters_max, reservations_open_max, settled_ids_max,
        settled_span_ms, connections_max, connections_per_caller_max, reset_changed=false, hand_clock_unix_ms=None))]
    #[allow(clippy::too_many_arguments, reason = "what is flat crosses as keyword arguments")]
    fn new(
        py: Python<'_>,
        data_directory: &str,
        socket: Option<&str>,
        listen: Option<&str>,
        policy: &[u8],
        policy_digest: &[u8],
        policy_source: &[u8],
        segment_bytes: u64,
        ledger_bytes_max: u64,
        counters_max: usize,
        reservations_open_max: usize,
        settled_ids_max: usize,
        settled_span_ms: u64,
        connections_max: usize,
        connections_per_caller_max: usize,
        reset_changed: bool,
        hand_clock_unix_ms: Option<i64>,
    ) -> PyResult<Self> {
        through(py, || {
            let settings = Settings {
                data_directory: data_directory.into(),
                socket: socket.map(Into::into),
                listen: listen.map(address).transpose()?,
                policy: PolicyFile {
                    policy: policy.into(),
                    digest: policy_digest.into(),
                    source: policy_source.into(),
                },
                reset_changed,
                segment_bytes,
                ledger_bytes_max,
                bounds: Bounds {
                    counters_max,
                    reservations_open_max,
                    settled_ids_max,
                    settled_span: Milliseconds(settled_span_ms),
                },
                follow_interval: FOLLOW_INTERVAL,
                transport: Transport {
                    connections_max,
                    connections_per_caller_max,
                    ..Transport::default()
                },
                hand_clock: hand_clock_unix_ms.map(Timestamp),
            };
            Ok(Self { running: Some(Server::start(settings)?), home: Home::here() })
        })
    }

    /// The TCP address as bound; empty if it listens on none.
    fn listen_address(&self) -> PyResult<String> {
        let address = self.running()?.listen_address();
        Ok(address.map(|address| address.to_string()).unwrap_or_default())
    }

    /// A `GetStatusResponse` of what the data plane knows.
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.message(py, |running| Ok(running.status()?))
    }

    /// A `GetPolicyResponse`.
    fn policy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.message(py, |running| Ok(running.policy()?))
    }

    /// Brings a policy into force and gives its version; None where the file is the one that came last.
    #[pyo3(signature = (*, policy, policy_digest, policy_source, reset_changed=false))]
    fn activate(
        &self,
        py: Python<'_>,
        policy: &[u8],
        policy_digest: &[u8],
        policy_source: &[u8],
        reset_changed: bool,
    ) -> PyResult<Option<u64>> {
        let running = self.running()?;
        through(py, || {
            let file = PolicyFile {
                policy: policy.into(),
                digest: policy_digest.into(),
                source: policy_source.into(),
            };
            Ok(running.activate(file, reset_changed)?)
        })
    }

    /// A `ListStandingsResponse` to a `ListStandingsRequest`.
    #[pyo3(signature = (*, request))]
    fn standings<'py>(&self, py: Python<'py>, request: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        self.message(py, |running| {
            let request: v1::ListStandingsRequest = decoded(request)?;
            Ok(running.standings(request)?)
        })
    }

    /// A `ListReservationsResponse` to a `ListReservationsRequest`.
    #[pyo3(signature = (*, request))]
    fn reservations<'py>(&self, py: Python<'py>, request: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        self.message(py, |running| Ok(running.reservations(decoded(request)?)?))
    }

    /// A `GetReservationResponse` to a `GetReservationRequest`.
    #[pyo3(signature = (*, request))]
    fn reservation<'py>(&self, py: Python<'py>, request: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        self.message(py, |running| Ok(running.reservation(decoded(request)?)?))
    }

    /// An `ExplainResponse` to an `ExplainRequest`.
    #[pyo3(signature = (*, request))]
    fn explain<'py>(&self, py: Python<'py>, request: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        self.message(py, |running| Ok(running.explain(decoded(request)?)?))
    }

    /// Begins to watch what a `WatchEventsRequest` wants; None where as many watch already as may.
    #[pyo3(signature = (*, request))]
    fn watch(&self, py: Python<'_>, request: &[u8]) -> PyResult<Option<Watch>> {
        let running = self.running()?;
        through(py, || Ok(running.watch(decoded(request)?)?.map(Watch::new)))
    }

    /// A `UsageBatch`: the next page for books that have everything through a sequence; None if there is
    /// nothing new.
    #[pyo3(signature = (*, books_sequence, page, catch_up=false))]
    fn usage_page<'py>(
        &self,
        py: Python<'py>,
        books_sequence: u64,
        page: &[u8],
        catch_up: bool,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let running = self.running()?;
        let page = through(py, || {
            if catch_up {
                running.index().catch_up(CATCH_UP)?;
            }
            Ok(running.index().usage_page(books_sequence, page)?)
        })?;
        let nothing_new = page.groups.is_empty() && page.through_sequence == books_sequence;
        Ok((!nothing_new).then(|| PyBytes::new(py, &page.to_message().encode_to_vec())))
    }

    /// What the data plane counts, as Prometheus' text.
    fn metrics(&self, py: Python<'_>) -> PyResult<String> {
        let running = self.running()?;
        through(py, || Ok(running.metrics()?))
    }

    /// Moves the hand clock; what is due has expired when this returns.
    #[pyo3(signature = (*, unix_ms))]
    fn set_hand_clock(&self, py: Python<'_>, unix_ms: i64) -> PyResult<()> {
        let running = self.running()?;
        through(py, || Ok(running.set_hand_clock(Timestamp(unix_ms))?))
    }

    /// Waits at most so long until it ends: None while it serves, empty if it was stopped, else why it died.
    #[pyo3(signature = (*, timeout_ms))]
    fn wait(&self, py: Python<'_>, timeout_ms: u64) -> PyResult<Option<String>> {
        let running = self.running()?;
        through(py, || {
            Ok(running.wait(Duration::from_millis(timeout_ms)).map(|end| match end {
                End::Stopped => String::new(),
                End::Died(why) => why,
            }))
        })
    }

    /// Takes no new reservations from here on; settlements go on.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        let running = self.running()?;
        through(py, || {
            running.drain();
            Ok(())
        })
    }

    /// Drains, lets calls in flight end within the grace, writes, syncs, closes.
    #[pyo3(signature = (*, grace_ms))]
    fn stop(&self, py: Python<'_>, grace_ms: u64) -> PyResult<()> {
        let running = self.running()?;
        through(py, || match running.stop(Duration::from_millis(grace_ms)) {
            End::Stopped => Ok(()),
            End::Died(why) => Err(Wrong::Named("Poisoned", why)),
        })
    }
}

impl Sidecar {
    fn running(&self) -> PyResult<&Running> {
        self.home.check()?;
        self.running
            .as_ref()
            .ok_or_else(|| pyo3::exceptions::PyRuntimeError::new_err("the sidecar is gone"))
    }

    fn message<'py, M: Message>(
        &self,
        py: Python<'py>,
        ask: impl FnOnce(&Running) -> Result<M, Wrong> + Send,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let running = self.running()?;
        let bytes = through(py, || ask(running).map(|message| message.encode_to_vec()))?;
        Ok(PyBytes::new(py, &bytes))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        if self.home.is_here() {
            Python::attach(|py| py.detach(|| drop(running)));
        } else {
            // The threads to be joined are the parent's.
            std::mem::forget(running);
        }
    }
}

/// Reads a message that Python made.
pub(crate) fn decoded<M: Message + Default>(bytes: &[u8]) -> Result<M, Wrong> {
    M::decode(bytes)
        .map_err(|error| Wrong::Question(format!("request: not the message expected: {error}")))
}

pub(crate) fn address(text: &str) -> Result<std::net::SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        Wrong::Question(format!(
            "listen: an address is an IP and a port, as 127.0.0.1:7420 (got {text:?})"
        ))
    })
}
