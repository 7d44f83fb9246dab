//! What Python sees of Rust: the extension module `bursar._core`.

mod door;
mod load;
mod sidecar;
mod watch;

/// The extension module; typed for Python in `python/bursar/_core.pyi`.
#[pyo3::pymodule]
mod _core {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use bursar_store::Options;
    use prost::Message as _;
    use pyo3::prelude::*;
    use pyo3::types::PyBytes;

    use crate::door::through;
    #[pymodule_export]
    use crate::load::{Echo, Load};
    #[pymodule_export]
    use crate::sidecar::Sidecar;
    use crate::sidecar::decoded;
    #[pymodule_export]
    use crate::watch::Watch;

    /// The version of the crate this extension was built from, as `major.minor.patch`.
    #[pyfunction]
    fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Every metric of the data plane: its name, type, labels and meaning.
    #[pyfunction]
    fn metric_families() -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
        let told =
            |family: &bursar_server::Family| (family.name, family.kind, family.labels, family.help);
        bursar_server::FAMILIES.iter().map(told).collect()
    }

    /// Every mistake the rules find in a `Policy`.
    #[pyfunction]
    #[pyo3(signature = (*, policy))]
    fn check_policy(py: Python<'_>, policy: &[u8]) -> PyResult<Vec<String>> {
        through(py, || Ok(bursar_server::check_policy(policy)))
    }

    /// The first field of a call's request that is refused under any policy, and what is wrong with it.
    #[pyfunction]
    #[pyo3(signature = (*, method, request))]
    fn check_request(
        py: Python<'_>,
        method: &str,
        request: &[u8],
    ) -> PyResult<Option<(String, String)>> {
        through(py, || Ok(bursar_server::check_request(method, request)?))
    }

    /// A `CountTokensResponse` to a `CountTokensRequest`.
    #[pyfunction]
    #[pyo3(signature = (*, request))]
    fn count_tokens<'py>(py: Python<'py>, request: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = through(py, || {
            let request = decoded(request)?;
            Ok(bursar_server::count_tokens(request)?.encode_to_vec())
        })?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// A `UsageBatch` of everything the ledger says, also while a sidecar writes it.
    #[pyfunction]
    #[pyo3(signature = (*, data_directory))]
    fn scan_usage(py: Python<'_>, data_directory: PathBuf) -> PyResult<Bound<'_, PyBytes>> {
        let bytes = through(py, || {
            Ok(bursar_store::scan_usage(&data_directory)?.to_message().encode_to_vec())
        })?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// What the reservations whose id begins so add up to in the ledger, also while a sidecar writes it.
    #[pyfunction]
    #[pyo3(signature = (*, data_directory, id_prefix))]
    fn scan_totals(
        py: Python<'_>,
        data_directory: PathBuf,
        id_prefix: &str,
    ) -> PyResult<BTreeMap<&'static str, u64>> {
        let totals = through(py, || Ok(bursar_store::scan_totals(&data_directory, id_prefix)?))?;
        Ok(BTreeMap::from([
            ("granted", totals.granted),
            ("tokens_granted", totals.tokens_granted),
            ("committed", totals.committed),
            ("tokens_committed", totals.tokens_committed),
            ("released", totals.released),
            ("tokens_released", totals.tokens_released),
            ("expired", totals.expired),
        ]))
    }

    /// Recomputes everything from the ledger's first entry and compares it with the index.
    #[pyfunction]
    #[pyo3(signature = (*, data_directory))]
    fn verify(
        py: Python<'_>,
        data_directory: PathBuf,
    ) -> PyResult<BTreeMap<&'static str, Py<PyAny>>> {
        let report =
            through(py, || Ok(bursar_store::verify(&data_directory, &Options::default())?))?;
        let mut fields = BTreeMap::new();
        fields.insert("entries", report.entries.into_pyobject(py)?.into_any().unbind());
        fields.insert("last_sequence", report.last_sequence.into_pyobject(py)?.into_any().unbind());
        fields
            .insert("index_sequence", report.index_sequence.into_pyobject(py)?.into_any().unbind());
        fields.insert("usage_groups", report.usage_groups.into_pyobject(py)?.into_any().unbind());
        fields.insert("problems", report.problems.into_pyobject(py)?.into_any().unbind());
        Ok(fields)
    }
}
