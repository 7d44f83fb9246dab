"""The extension: what Python sees of Rust."""

__all__ = ["version"]

def version() -> str:
    """The version of the crate this extension was built from, as `major.minor.patch`."""
