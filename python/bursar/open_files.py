"""How many files this process may have open, its connections among them."""

from __future__ import annotations

import resource

from bursar.errors import StartError

OTHER_FILES = 256
"""What a sidecar opens besides its data plane's connections: ledger, index, books, admin, HTTP."""


def allow_connections(connections: int) -> None:
    """Has this process be allowed to open so many connections and all else.

    Raises StartError where the system's limit for it is lower.
    """
    wanted = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        message = (
            f"{connections:_} connections and all else take {wanted:_} open files, and this "
            f"process may have {hard:_}: raise that (ulimit -Hn, or LimitNOFILE of a unit)"
        )
        if hard > OTHER_FILES:
            message += f", or set --connections-max to {hard - OTHER_FILES:_} or less"
        raise StartError(message)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
