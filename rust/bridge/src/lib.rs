//! What Python sees of Rust: the extension module `bursar._core`.

/// The extension module; typed for Python in `python/bursar/_core.pyi`.
#[pyo3::pymodule]
mod _core {
    /// The version of the crate this extension was built from, as `major.minor.patch`.
    #[pyo3::pyfunction]
    fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}
