//! One who watches, as Python holds it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::door::{Home, through};

/// What happens in a data plane, a message at a time, until it ends or this is dropped.
#[pyclass(module = "bursar._core", frozen)]
pub(crate) struct Watch {
    watch: Mutex<bursar_server::Watch>,
    home: Home,
}

impl Watch {
    pub(crate) fn new(watch: bursar_server::Watch) -> Self {
        Self { watch: Mutex::new(watch), home: Home::here() }
    }
}

#[pymethods]
impl Watch {
    /// A `WatchEventsResponse`, waiting at most so long for something to be in it; None once the data plane
    /// has ended.
    #[pyo3(signature = (*, timeout_ms))]
    fn next<'py>(&self, py: Python<'py>, timeout_ms: u64) -> PyResult<Option<Bound<'py, PyBytes>>> {
        self.home.check()?;
        let message = through(py, || {
            let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(watch.next(Duration::from_millis(timeout_ms))?)
        })?;
        Ok(message.map(|message| PyBytes::new(py, &message.encode_to_vec())))
    }
}
