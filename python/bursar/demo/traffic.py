"""The demo's traffic: many callers at once, each doing what a program with a model does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import bursar
from bursar.demo.model import Chunk, StandInModel
from bursar.demo.passages import Passage
from bursar.v1 import quota_pb2

CALLERS = 8
TENANTS = ("acme", "globex", "initech", "umbrella")
LARGE, SMALL = "openai/gpt-4.1", "openai/gpt-4.1-mini"

# What callers send as feature, and what the policy makes of it.
FEATURES = {
    "support-chat": "support-chat",
    "search": "search",
    "summaries": "summaries",
    "chat": "support-chat",
    "": "unattributed",
}
_FEATURES_SENT = ("support-chat", "search", "summaries", "search", "chat", "summaries", "")

_OUTPUT_TOKENS_MAX = 300
_OUTPUT_TOKENS_MIN = 60

# A decision may wait for a sidecar that is being started again.
_RESERVE_S_MAX = 20.0
_COMMIT_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """One thing that one caller wants."""

    number: int
    passage: Passage
    tenant: str
    feature_sent: str
    fate: str  # "", or what goes wrong: untagged, refused, fails, hangs-up

    @property
    def feature(self) -> str:
        """The feature that it counts under."""
        return FEATURES[self.feature_sent]

    @property
    def models(self) -> tuple[str, ...]:
        """The model it asks for and those it falls back to."""
        return (LARGE, SMALL) if self.feature == "summaries" else (SMALL,)


@dataclass(slots=True)
class Result:
    """What came of a call."""

    call: Call
    decision: str = "undecided"  # granted, cut, denied, undecided
    ending: str = ""  # completed, cancelled, unknown, released, unsettled
    model: str = ""
    output_tokens_granted: int = 0
    tokens_committed: int = 0
    denied: bursar.Denied | None = None
    error: str = ""
    words_seen: int = 0

    @property
    def counted(self) -> bool:
        """Whether it is in the usage."""
        return self.ending in {"completed", "cancelled", "unknown"}


def calls(found: Sequence[Passage]) -> list[Call]:
    """Lays out a call for each passage: who asks, for which feature, and what goes wrong."""
    fates = {23: "untagged", 31: "refused", 41: "fails", 17: "hangs-up"}
    laid_out = []
    for number, passage in enumerate(found, start=1):
        fate = next((fate for every, fate in fates.items() if number % every == 0), "")
        feature = _FEATURES_SENT[number % len(_FEATURES_SENT)]
        tenant = "" if fate == "untagged" else TENANTS[number % len(TENANTS)]
        laid_out.append(Call(number, passage, tenant, feature, fate))
    return laid_out


def drive(target: str, laid_out: Sequence[Call]) -> Iterator[Result]:
    """Makes all calls, `CALLERS` at a time, and gives each result as it comes."""
    results: queue.SimpleQueue[Result] = queue.SimpleQueue()
    stop = threading.Event()
    client = bursar.Client(target, on_undecided="deny", timeout=_RESERVE_S_MAX)

    def make(call: Call) -> None:
        if stop.is_set():
            return
        result = Result(call)
        try:
            _make(client, call, result)
        except Exception as error:  # noqa: BLE001  it is shown, and fails the demo
            result.error = f"{type(error).__name__}: {error}"
        results.put(result)

    with client, ThreadPoolExecutor(CALLERS, thread_name_prefix="caller") as callers:
        try:
            for call in laid_out:
                callers.submit(make, call)
            for _ in laid_out:
                yield results.get()
        finally:
            stop.set()


def _make(client: bursar.Client, call: Call, result: Result) -> None:
    labels = {"tenant": call.tenant, "feature": call.feature_sent}
    with bursar.labels(**{name: value for name, value in labels.items() if value}):
        try:
            reservation = client.reserve(
                model=call.models[0],
                fallback_models=call.models[1:],
                text=call.passage.text,
                output_tokens_max=_OUTPUT_TOKENS_MAX,
                output_tokens_min=_OUTPUT_TOKENS_MIN,
            )
        except bursar.Denied as denied:
            result.decision, result.denied = "denied", denied
            return
    result.model = reservation.model
    result.output_tokens_granted = reservation.output_tokens_granted
    cut = reservation.output_tokens_granted < _OUTPUT_TOKENS_MAX
    result.decision = "cut" if cut else "granted"
    try:
        with reservation:
            _answer(reservation, call, result)
    except (ConnectionRefusedError, ConnectionResetError):
        pass  # the caller's own trouble; leaving the block has settled it
    settlement = reservation.settlement
    if isinstance(settlement, quota_pb2.ReleaseResponse):
        result.ending = "released"
    elif settlement is None:
        result.ending = "unsettled"
    else:
        result.tokens_committed = settlement.tokens_committed


def _answer(reservation: bursar.Reservation, call: Call, result: Result) -> None:
    """Streams an answer and commits it; or whatever goes wrong with this call."""
    result.ending = "unknown"
    if call.fate == "refused":
        raise ConnectionRefusedError("the provider's port is closed")
    stream = StandInModel(reservation.model).stream(
        call.passage.text,
        input_tokens=reservation.input_tokens,
        max_completion_tokens=reservation.output_tokens_granted,
        response_id=f"stand-in-{call.number}",
    )
    last: Chunk = {}
    for chunk in stream:
        last = chunk
        result.words_seen += 1
        if result.words_seen == _OUTPUT_TOKENS_MIN // 2:
            if call.fate == "fails":
                raise ConnectionResetError("the connection broke while the model ran")
            if call.fate == "hangs-up":
                break
    if last.get("usage") is None:  # the reader went away; what ran is counted by what was seen
        result.ending = "cancelled"
        seen = bursar.Line("output", result.words_seen, basis="estimated")
        lines = [bursar.Line("input", reservation.input_tokens), seen]
        reservation.commit(lines, outcome="cancelled", timeout=_COMMIT_S_MAX)
        return
    result.ending = "completed"
    reservation.commit(last, timeout=_COMMIT_S_MAX)
