"""What a scripted sidecar can be told to answer."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import (  # type: ignore[import-untyped] # no stubs
    code_pb2,
    error_details_pb2,
    status_pb2,
)

from bursar.arguments import to_ms
from bursar.errors import InvalidRequest
from bursar.v1 import quota_pb2

TTL_DEFAULT_MS = 300_000
"""How long a grant lasts where the request does not say."""

_BYTES_PER_TOKEN = 4


class _Silence(Enum):
    SILENCE = "no answer"


SILENCE: Final = _Silence.SILENCE
"""No answer until the caller's deadline, or `go_on()`: as of a sidecar that has stalled."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A gRPC status, with the details that a sidecar sends beside it."""

    code: grpc.StatusCode
    message: str = "as the script has it"
    reason: str = ""
    fields: Sequence[tuple[str, str]] = ()

    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The trailing metadata of the status."""
        details: list[Message] = []
        if self.reason:
            details.append(error_details_pb2.ErrorInfo(reason=self.reason, domain="bursar"))
        if self.fields:
            violation = error_details_pb2.BadRequest.FieldViolation
            wrong = [violation(field=name, description=what) for name, what in self.fields]
            details.append(error_details_pb2.BadRequest(field_violations=wrong))
        if not details:
            return ()
        packed = [any_pb2.Any() for _ in details]
        for each, detail in zip(packed, details, strict=True):
            each.Pack(detail)
        status = status_pb2.Status(
            code=code_pb2.Code.Value(self.code.name), message=self.message, details=packed
        )
        return (("grpc-status-details-bin", status.SerializeToString()),)


Answer = Message | Failure | _Silence | Callable[[quota_pb2.ReserveRequest], Message]
"""A response as it is sent; a status; no answer; or, for Reserve, one made of the request."""


def check_answer(method: str, answer: object) -> None:
    """Raises InvalidRequest for what is no answer to `method`."""
    if isinstance(answer, (Failure, _Silence)):
        return
    if method == "Reserve" and _takes_a_request(answer):
        return
    check_response(method, answer)


def check_response(method: str, response: object) -> None:
    """Raises InvalidRequest for what is no message that `method` answers with."""
    if isinstance(response, getattr(quota_pb2, f"{method}Response")):
        return
    made = "a grant() or denial(), a function that makes one of the request, "
    wanted = (made if method == "Reserve" else "") + f"a {method}Response, a failure() or SILENCE"
    got = f"a {type(response).__name__}" if isinstance(response, Message) else repr(response)
    raise InvalidRequest(f"the answer to {method} must be {wanted} (got {got})")


def _takes_a_request(answer: object) -> bool:
    """Whether it can be called with a request: `grant()` can, `grant` and a class cannot."""
    if not callable(answer) or isinstance(answer, type):
        return False
    try:
        inspect.signature(answer).bind(quota_pb2.ReserveRequest())
    except (TypeError, ValueError):
        return False
    return True


def failure(
    status: str, message: str = "", *, reason: str = "", fields: Sequence[tuple[str, str]] = ()
) -> Failure:
    """A status by its name, such as UNAVAILABLE; `reason` and `fields` as a sidecar would say them.

    Raises InvalidRequest for a name that is none.
    """
    if status not in grpc.StatusCode.__members__ or status == "OK":
        known = ", ".join(name for name in grpc.StatusCode.__members__ if name != "OK")
        raise InvalidRequest(f"status must be one of {known} (got {status!r})")
    code = grpc.StatusCode[status]
    return Failure(code, message or f"{status}, as the script has it", reason, tuple(fields))


def grant(
    *,
    output_tokens: int | None = None,
    model: str = "",
    tightest: quota_pb2.Standing | None = None,
    advisories: Sequence[quota_pb2.Advisory] = (),
) -> Callable[[quota_pb2.ReserveRequest], quota_pb2.ReserveResponse]:
    """A grant of what was asked, or of less output, or of a fallback model."""

    def answer(request: quota_pb2.ReserveRequest) -> quota_pb2.ReserveResponse:
        made = granted(request)
        if output_tokens is not None:
            less = (request.output_tokens_max - output_tokens) * max(request.choices, 1)
            made.grant.output_tokens_granted = output_tokens
            made.grant.tokens_reserved -= less
        made.grant.model = model or made.grant.model
        if tightest is not None:
            made.grant.tightest.CopyFrom(tightest)
        made.grant.advisories.extend(advisories)
        return made

    return answer


def granted(request: quota_pb2.ReserveRequest) -> quota_pb2.ReserveResponse:
    """A grant of all that was asked; text counts a token for every four bytes."""
    tokens = input_tokens(request)
    ttl_ms = request.ttl_ms or TTL_DEFAULT_MS
    given = request.WhichOneof("input") in {None, "input_tokens", "input_lines"}
    method = quota_pb2.METHOD_GIVEN if given else quota_pb2.METHOD_ESTIMATE
    made = quota_pb2.Grant(
        reservation_id=request.reservation_id,
        state=quota_pb2.STATE_OPEN,
        model=request.model,
        input_tokens=tokens,
        counted_by=quota_pb2.CountedBy(method=method),
        output_tokens_granted=request.output_tokens_max,
        tokens_reserved=tokens + request.output_tokens_max * max(request.choices, 1),
        expires_in_ms=ttl_ms,
        expires_at_unix_ms=time.time_ns() // 1_000_000 + ttl_ms,
    )
    return quota_pb2.ReserveResponse(grant=made, policy_version=1)


def input_tokens(request: quota_pb2.ReserveRequest) -> int:
    """The input of a request in tokens."""
    match request.WhichOneof("input"):
        case "input_tokens":
            return request.input_tokens
        case "input_bytes":
            return request.input_bytes
        case "input_text":
            return estimate(request.input_text)
        case "input_chat":
            return sum(estimate(text) for text in texts_of(request.input_chat))
        case "input_lines":
            return sum(line.tokens for line in request.input_lines.lines)
        case _:
            return 0


def estimate(text: str) -> int:
    """A token for every four bytes, rounded up: no tokenizer is asked."""
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def texts_of(chat: quota_pb2.Chat) -> list[str]:
    """Every text of a chat."""
    parts = [part.text for message in chat.messages for part in message.parts]
    return [message.text for message in chat.messages] + parts


def denial(
    *,
    limit: str = "scripted-limit",
    reason: str = "limit",
    retry_after: timedelta | float | None = None,
    hint: str = "",
    scope: Mapping[str, str] | None = None,
    requested: int = 0,
    remaining: int = 0,
    clears_on_settle: bool = False,
) -> quota_pb2.ReserveResponse:
    """A denial by one limit; `reason` is the contract's in lower case, such as `request_cap`.

    Raises InvalidRequest for a reason that is none.
    """
    names = [name.removeprefix("REASON_").lower() for name in quota_pb2.Reason.keys()]  # noqa: SIM118  no dict
    if reason not in names[1:]:
        raise InvalidRequest(f"reason must be one of {', '.join(names[1:])} (got {reason!r})")
    retry_after_ms = None if retry_after is None else to_ms(retry_after, "retry_after")
    shortfall = quota_pb2.Shortfall(
        standing=quota_pb2.Standing(
            limit=limit,
            unit=quota_pb2.UNIT_TOKENS,
            scope=scope,
            amount=remaining,
            remaining=remaining,
        ),
        requested=requested,
        retry_after_ms=retry_after_ms,
        clears_on_settle=clears_on_settle,
    )
    made = quota_pb2.Denial(
        reason=quota_pb2.Reason.Value(f"REASON_{reason.upper()}"),
        shortfalls=[shortfall],
        retry_after_ms=retry_after_ms,
        hint=hint,
    )
    return quota_pb2.ReserveResponse(denial=made, policy_version=1)
