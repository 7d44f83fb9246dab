"""Errors that prove that a model call did not run, so that nothing was spent."""

from __future__ import annotations

from collections.abc import Mapping

from bursar.providers.fields import get

# The clients whose errors we know; any other's status may be of a call that was not the model's.
_KNOWN_CLIENTS = ("openai", "anthropic", "google.genai", "botocore")

# The statuses by which a provider refuses a call before it runs.
_STATUSES_NOT_RUN = frozenset({400, 401, 404, 429})

# What HTTP libraries call a connection that was never made: raised before anything is sent.
_NEVER_CONNECTED: Mapping[str, tuple[str, ...]] = {
    "ConnectError": ("httpx", "httpcore"),
    "EndpointConnectionError": ("botocore",),
}

# How many causes of an error are followed; a chain that is longer proves nothing.
_CAUSES_MAX = 16


def proves_not_run(error: BaseException) -> bool:
    """Says whether an error proves that the model call did not run.

    True for a refused connection (Python's own error, or a known client's that it caused) and for a
    known client's status 400, 401, 404 or 429. Of a client that retried by itself only the last
    attempt is seen.
    """
    if isinstance(error, ConnectionRefusedError):
        return True
    if not _is_of_known_client(error):
        return False
    status = _status_of(error)
    if status is not None:
        return status in _STATUSES_NOT_RUN
    # Only `raise … from`: what happened while another error was handled says nothing of that one.
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if cause is None:
            return False
        if _never_connected(cause):
            return True
        cause = cause.__cause__
    return False


def _status_of(error: BaseException) -> object:
    """The HTTP status a known client's error carries; None if it has none."""
    status = get(error, "status_code", "code")
    if isinstance(status, int):
        return status
    return get(get(get(error, "response"), "ResponseMetadata"), "HTTPStatusCode")  # botocore's


def _never_connected(cause: BaseException) -> bool:
    kind = type(cause)
    if kind.__module__.startswith(_NEVER_CONNECTED.get(kind.__name__, ("\0",))):
        return True
    return isinstance(cause, ConnectionRefusedError)


def _is_of_known_client(error: BaseException) -> bool:
    return any(
        kind.__module__ == known or kind.__module__.startswith(f"{known}.")
        for kind in type(error).__mro__
        for known in _KNOWN_CLIENTS
    )
