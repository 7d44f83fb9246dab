"""The extension: what Python sees of Rust."""

def version() -> str:
    """The version of the crate this extension was built from, as `major.minor.patch`."""
