"""The SDK's public names, each loaded when first asked for."""

from __future__ import annotations

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """Loads the public name `name`; raises AttributeError if there is none."""
    if name == "__version__":
        from importlib.metadata import version

        return version("bursar")
    raise AttributeError(f"module 'bursar' has no attribute {name!r}")
