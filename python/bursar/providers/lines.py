"""What a call used, in disjoint lines, as it is handed to the sidecar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from bursar.arguments import whole
from bursar.errors import InvalidRequest
from bursar.v1 import quota_pb2

MeterName = Literal[
    "input",
    "cache_read",
    "cache_write",
    "output",
    "reasoning",
    "embedding",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
    "cache_write_long",
]
BasisName = Literal["measured", "estimated", "assumed"]

METER_NAMES: frozenset[str] = frozenset(get_args(MeterName))


@dataclass(frozen=True, slots=True)
class Line:
    """The tokens of one meter within one usage; the lines of a usage are disjoint."""

    meter: MeterName
    tokens: int
    component: str = ""
    source: str = ""
    basis: BasisName = "measured"

    def __post_init__(self) -> None:
        """Raises InvalidRequest for a meter, basis or number that is none."""
        if self.meter not in METER_NAMES:
            known = ", ".join(sorted(METER_NAMES))
            raise InvalidRequest(f"meter must be one of {known} (got {self.meter!r})")
        if self.basis not in get_args(BasisName):
            raise InvalidRequest(
                f"basis must be measured, estimated or assumed (got {self.basis!r})"
            )
        whole(self.tokens, f"tokens of meter {self.meter}")

    def to_wire(self) -> quota_pb2.Line:
        """Makes the message."""
        return quota_pb2.Line(
            meter=quota_pb2.Meter.Value(f"METER_{self.meter.upper()}"),
            tokens=self.tokens,
            component=self.component,
            source=self.source,
            basis=quota_pb2.Basis.Value(f"BASIS_{self.basis.upper()}"),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What a provider says a call used; an empty string or None: it does not say."""

    lines: tuple[Line, ...]
    total_tokens: int | None = None
    model: str = ""
    model_version: str = ""
    service_tier: str = ""
    response_id: str = ""


def some(*lines: Line, rest: MeterName = "input") -> tuple[Line, ...]:
    """The lines that have tokens; where none has, one of `rest` that says so."""
    return tuple(line for line in lines if line.tokens) or (Line(rest, 0),)
