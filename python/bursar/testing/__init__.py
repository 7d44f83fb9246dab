"""A sidecar of scripted answers, for the tests of programs that use bursar.

It answers by script: it enforces no limit, counts nothing and keeps no ledger. What it does hold to
is the contract: real clients reach it over real gRPC, what every sidecar refuses is refused in the
same words, ids are settled once, and a repeated call has the answer it had before. For limits that
count, start `bursar serve` on a policy of your own.

    import bursar
    from bursar.testing import ScriptedSidecar, denial

    def test_a_denied_customer_is_told_when_to_come_again():
        with ScriptedSidecar() as sidecar:
            client = bursar.Client(sidecar.target, on_undecided="deny")
            sidecar.answer("Reserve", denial(limit="tenant-month", retry_after=30))
            assert my_program.answer(client, "hello") == "come again in 30 s"

What is not scripted is granted in full. While it is open, clients made in the same process keep
their spool in a temporary directory.
"""

from bursar.testing.answers import SILENCE, Answer, Failure, denial, failure, grant
from bursar.testing.rules import ScriptedReservation
from bursar.testing.sidecar import ScriptedSidecar

__all__ = [
    "SILENCE",
    "Answer",
    "Failure",
    "ScriptedReservation",
    "ScriptedSidecar",
    "denial",
    "failure",
    "grant",
]
