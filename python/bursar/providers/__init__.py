"""What model providers speak, made ours: usage, streams, chats, and proofs that no call ran."""

from bursar.providers.answers import read_usage
from bursar.providers.chats import chat_to_wire
from bursar.providers.lines import BasisName, Line, MeterName, Usage
from bursar.providers.refusals import proves_not_run
from bursar.providers.stream import StreamUsage

__all__ = [
    "BasisName",
    "Line",
    "MeterName",
    "StreamUsage",
    "Usage",
    "chat_to_wire",
    "proves_not_run",
    "read_usage",
]
