"""What a client asks, made of what its caller said: every argument is checked here, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Required, TypedDict, cast

from bursar.arguments import (
    NUMBER_32_MAX,
    DurabilityName,
    OutcomeName,
    durability_to_wire,
    instant_unix_ms,
    label_map,
    new_id,
    outcome_to_wire,
    to_ms,
    whole,
)
from bursar.arguments import text as text_of
from bursar.arguments import texts as texts_of
from bursar.context import current_labels
from bursar.errors import InvalidRequest
from bursar.providers import Line, MeterName, chat_to_wire, read_usage
from bursar.v1 import quota_pb2

Lines = Sequence[Line] | Mapping[MeterName, int]


class ReserveArguments(TypedDict, total=False):
    """What `reserve` takes, by name; all but `model` may be left out."""

    model: Required[str]
    """The model to call, as `provider/model`."""
    input_tokens: int | None
    """The input in tokens, as counted by the caller; give the input in one way only."""
    input_bytes: int | None
    """The input's size in bytes, an upper bound of its tokens."""
    text: str | None
    """The input's text, to be counted by the sidecar."""
    chat: Sequence[Mapping[str, object]] | None
    """The input as chat messages, to be counted by the sidecar."""
    tools: Sequence[Mapping[str, object]]
    """The tools that go with `chat`."""
    lines: Lines | None
    """The input by meter."""
    output_tokens_max: int
    """The most output per choice, reasoning included, in tokens; 0: none."""
    output_tokens_min: int | None
    """The least output per choice that would do; None: the most."""
    choices: int
    """How many answers the model is asked for."""
    fallback_models: Iterable[str]
    """Models to try in turn when the first does not fit."""
    service_tier: str
    """The provider's tier; empty: standard."""
    ttl: timedelta | float | None
    """How long it stays open unsettled, in seconds if a number; None: the policy's."""
    labels: Mapping[str, str] | None
    """Labels, over those of `bursar.labels`."""
    reservation_id: str | None
    """The id; None makes a UUIDv7."""
    durability: DurabilityName | None
    """What the grant survives; None: the sidecar's process."""
    dry_run: bool
    """Decide and change nothing."""
    timeout: timedelta | float | None
    """How long one try may take, in seconds if a number; None: the client's."""
    wait: timedelta | float | None
    """How long a denial is tried again, in seconds if a number; None: not at all."""


def reserve_request(
    *,
    model: str,
    input_tokens: int | None = None,
    input_bytes: int | None = None,
    text: str | None = None,
    chat: Sequence[Mapping[str, object]] | None = None,
    tools: Sequence[Mapping[str, object]] = (),
    lines: Lines | None = None,
    output_tokens_max: int = 0,
    output_tokens_min: int | None = None,
    choices: int = 1,
    fallback_models: Iterable[str] = (),
    service_tier: str = "",
    ttl: timedelta | float | None = None,
    labels: Mapping[str, str] | None = None,
    reservation_id: str | None = None,
    durability: DurabilityName | None = None,
    dry_run: bool = False,
) -> quota_pb2.ReserveRequest:
    """Makes the request of what a caller said; raises InvalidRequest, naming what is wrong."""
    if tools and chat is None:
        raise InvalidRequest("tools go with chat: give the messages too, or leave tools out")
    request = quota_pb2.ReserveRequest(
        reservation_id=_id(reservation_id, "reservation_id"),
        model=text_of(model, "model"),
        fallback_models=texts_of(fallback_models, "fallback_models"),
        service_tier=text_of(service_tier, "service_tier"),
        labels={**current_labels.get(), **label_map(labels)},
        output_tokens_max=whole(output_tokens_max, "output_tokens_max"),
        choices=whole(choices, "choices", most=NUMBER_32_MAX),
        ttl_ms=to_ms(ttl, "ttl"),
        dry_run=dry_run,
        durability=durability_to_wire(durability),
    )
    if output_tokens_min is not None:
        request.output_tokens_min = whole(output_tokens_min, "output_tokens_min")
    given: dict[str, object] = {
        "input_tokens": input_tokens,
        "input_bytes": input_bytes,
        "text": text,
        "chat": None if chat is None else chat_to_wire(chat, tools),
        "lines": lines,
    }
    _set_input(request, {name: value for name, value in given.items() if value is not None})
    return request


def _id(given: str | None, name: str) -> str:
    return new_id() if given is None else text_of(given, name)


def _set_input(request: quota_pb2.ReserveRequest, given: Mapping[str, object]) -> None:
    """Sets the one form of input that is given; none: zero tokens."""
    if len(given) > 1:
        raise InvalidRequest(f"give the input in one way (got {' and '.join(sorted(given))})")
    for name, value in given.items():
        if name in {"input_tokens", "input_bytes"}:
            setattr(request, name, whole(value, name))
        elif name == "text":
            request.input_text = text_of(value, name)
        elif name == "chat":
            request.input_chat.CopyFrom(cast("quota_pb2.Chat", value))
        else:
            usage = read_usage(value, granted_model=request.model)
            request.input_lines.lines.extend(line.to_wire() for line in usage.lines)


class RecordArguments(TypedDict, total=False):
    """What `record` takes besides the answer, by name."""

    model: Required[str]
    """The model that answered, as `provider/model`."""
    occurred_at: Required[datetime]
    """When the call was made, with a zone; never later than now."""
    record_id: str | None
    """The id; None makes a UUIDv7. Repeating a record under its id counts it once."""
    outcome: OutcomeName
    """How the call ended; completed if nothing is said."""
    service_tier: str
    """The tier that billed; empty: what the answer says, else standard."""
    labels: Mapping[str, str] | None
    """Labels, over those of `bursar.labels`."""
    latency: timedelta | float | None
    """How long the call took, in seconds if a number."""
    durability: DurabilityName | None
    """What the answer survives; None: a loss of power."""


def record_request(
    answer: object,
    *,
    model: str,
    occurred_at: datetime,
    record_id: str | None = None,
    outcome: OutcomeName = "completed",
    service_tier: str = "",
    labels: Mapping[str, str] | None = None,
    latency: timedelta | float | None = None,
    durability: DurabilityName | None = None,
) -> quota_pb2.RecordRequest:
    """Makes the request that enters usage without a reservation; raises InvalidRequest."""
    usage = read_usage(answer, granted_model=model)
    return quota_pb2.RecordRequest(
        record_id=_id(record_id, "record_id"),
        model=text_of(usage.model or model, "model"),
        model_version=usage.model_version,
        service_tier=service_tier
        or ("" if usage.service_tier == "standard" else usage.service_tier),
        labels={**current_labels.get(), **label_map(labels)},
        lines=[line.to_wire() for line in usage.lines],
        occurred_at_unix_ms=instant_unix_ms(occurred_at, "occurred_at"),
        response_id=usage.response_id,
        outcome=outcome_to_wire(outcome),
        total_tokens=usage.total_tokens,
        latency_ms=to_ms(latency, "latency"),
        durability=durability_to_wire(durability),
    )


def count_request(
    *,
    model: str,
    texts: Sequence[str] = (),
    chat: Sequence[Mapping[str, object]] | None = None,
    tools: Sequence[Mapping[str, object]] = (),
) -> quota_pb2.CountTokensRequest:
    """Makes the request to count texts or a chat."""
    return quota_pb2.CountTokensRequest(
        model=text_of(model, "model"),
        texts=texts_of([texts] if isinstance(texts, str) else texts, "texts"),
        chat=None if chat is None else chat_to_wire(chat, tools),
    )
