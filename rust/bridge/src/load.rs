//! The load generator and its echo as Python holds them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bursar_load::{Driver, Place, Shape, Work};
use bursar_proto::v1::Durability;
use pyo3::prelude::*;

use crate::door::{Home, Wrong, through};
use crate::sidecar::address;

/// A server that answers every call with the same words: it serves from when it is made until it is dropped.
#[pyclass(module = "bursar._core", frozen)]
pub(crate) struct Echo {
    /// None only once it was dropped.
    echo: Option<bursar_load::Echo>,
    home: Home,
}

#[pymethods]
impl Echo {
    #[new]
    #[pyo3(signature = (*, socket, listen))]
    fn new(py: Python<'_>, socket: Option<&str>, listen: Option<&str>) -> PyResult<Self> {
        through(py, || {
            let listen = listen.map(address).transpose()?;
            let echo = bursar_load::Echo::start(socket.map(Into::into), listen)?;
            Ok(Self { echo: Some(echo), home: Home::here() })
        })
    }

    /// The TCP address as bound; empty if it listens on none.
    fn listen_address(&self) -> PyResult<String> {
        self.home.check()?;
        let address = self.echo.as_ref().and_then(bursar_load::Echo::listen_address);
        Ok(address.map(|address| address.to_string()).unwrap_or_default())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let Some(echo) = self.echo.take() else { return };
        if self.home.is_here() {
            Python::attach(|py| py.detach(|| drop(echo)));
        } else {
            // The thread to be joined is the parent's.
            std::mem::forget(echo);
        }
    }
}

/// Connections to one server, driven from the thread that calls.
#[pyclass(module = "bursar._core", frozen)]
pub(crate) struct Load {
    /// Driven by one thread at a time.
    driver: Mutex<Driver>,
    home: Home,
}

#[pymethods]
impl Load {
    #[new]
    #[pyo3(signature = (*, target, connections, in_flight, run))]
    fn new(
        py: Python<'_>,
        target: &str,
        connections: usize,
        in_flight: usize,
        run: &str,
    ) -> PyResult<Self> {
        through(py, || {
            let place = match target.strip_prefix("unix:") {
                Some(path) => Place::Socket(path.into()),
                None => Place::Tcp(address(target)?),
            };
            let driver =
                Driver::connect(&place, Shape { connections, in_flight, tenants: 1 }, run)?;
            Ok(Self { driver: Mutex::new(driver), home: Home::here() })
        })
    }

    /// Reserves, or reserves and commits, again and again; what the round gave.
    #[pyo3(signature = (*, commit, power, span_ms, count_max))]
    fn round(
        &self,
        py: Python<'_>,
        commit: bool,
        power: bool,
        span_ms: u64,
        count_max: u64,
    ) -> PyResult<BTreeMap<&'static str, u64>> {
        let durability = if power { Durability::Power } else { Durability::Process };
        let work = if commit { Work::ReserveCommit(durability) } else { Work::Reserve(durability) };
        let span = Duration::from_millis(span_ms);
        let round = self.driven(py, |driver| Ok(driver.round(work, span, count_max)?))?;
        Ok(BTreeMap::from([
            ("count", round.count),
            ("elapsed_ns", round.elapsed_ns),
            ("p50_ns", round.p50_ns),
            ("p99_ns", round.p99_ns),
        ]))
    }

    /// Releases what rounds without a commit left open.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.driven(py, |driver| Ok(driver.release()?))
    }

    /// Takes what rounds without a commit left open for nothing.
    fn forget(&self, py: Python<'_>) -> PyResult<()> {
        self.driven(py, |driver| {
            driver.forget();
            Ok(())
        })
    }

    /// What the callers were told so far.
    fn tally(&self, py: Python<'_>) -> PyResult<BTreeMap<&'static str, u64>> {
        let tally = self.driven(py, |driver| Ok(driver.tally()))?;
        Ok(BTreeMap::from([
            ("granted", tally.granted),
            ("tokens_granted", tally.tokens_granted),
            ("committed", tally.committed),
            ("tokens_committed", tally.tokens_committed),
            ("released", tally.released),
            ("tokens_released", tally.tokens_released),
        ]))
    }
}

impl Load {
    fn driven<R: Send>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&mut Driver) -> Result<R, Wrong> + Send,
    ) -> PyResult<R> {
        self.home.check()?;
        through(py, || {
            let mut driver =
                self.driver.lock().map_err(|_| Wrong::core("a round of load panicked"))?;
            act(&mut driver)
        })
    }
}
