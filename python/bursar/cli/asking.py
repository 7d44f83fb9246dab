"""The options that say what a call would use, and the request they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar

import click

from bursar.cli import show
from bursar.cli.labels import label_map
from bursar.cli.texts import text_of
from bursar.config import span_ms, whole_number
from bursar.errors import SettingsError
from bursar.plain import literal

_Function = TypeVar("_Function", bound=Callable[..., object])

_SPAN_MS_MAX = 36_500 * 86_400_000

TEXT_BYTES_MAX = 4 * 1024 * 1024
"""The longest text that is sent to be counted."""


class Asked(TypedDict):
    """What the options say, by their names."""

    model: str
    fallback_models: Sequence[str]
    service_tier: str
    label: Sequence[str]
    input_tokens: int | None
    input_bytes: int | None
    text: str | None
    file: Any
    output_tokens_max: int
    output_tokens_min: int | None
    choices: int


def _number(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    """Reads a number as a policy file has it: 812, 1_000 or 200k."""
    try:
        return None if text is None else whole_number(text)
    except SettingsError as error:
        raise click.BadParameter(literal(str(error))) from None


def asked_options(function: _Function) -> _Function:
    """Adds the options that say what a call would use."""
    options = [
        click.option("--model", default="", metavar="PROVIDER/MODEL", help="The model to call."),
        click.option(
            "--fallback-model", "fallback_models", multiple=True, metavar="PROVIDER/MODEL",
            help="A model to try if that does not fit. May be given again.",
        ),
        click.option("--service-tier", default="", metavar="TIER", help="The provider's tier."),
        click.option(
            "-l", "--label", multiple=True, metavar="KEY=VALUE",
            help="A label, such as tenant=acme. May be given again.",
        ),
        click.option(
            "--input-tokens", callback=_number, metavar="N", help="The input, counted by you.",
        ),
        click.option(
            "--input-bytes", callback=_number, metavar="N",
            help="The input's size, an upper bound.",
        ),
        click.option("--text", metavar="TEXT", help="The input, for the sidecar to count."),
        click.option(
            "--file", type=click.File("rb"), metavar="FILE",
            help="The input's text in a file, or - for stdin, for the sidecar to count.",
        ),
        click.option(
            "--output-tokens-max", default="0", callback=_number, metavar="N",
            help="The most output per choice, reasoning included.",
        ),
        click.option(
            "--output-tokens-min", callback=_number, metavar="N",
            help="The least output that would do.  [default: the most]",
        ),
        click.option("--choices", default=1, type=click.IntRange(1, 128), metavar="N",
                     help="How many answers the model is asked for."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def arguments(asked: Asked) -> dict[str, Any]:
    """What the options say, as `bursar.Client.reserve` takes it; ends the command if wrong."""
    if not asked["model"]:
        show.fail(show.EXIT_WRONG, "--model is required", "write --model openai/gpt-4.1-mini")
    text = asked["text"]
    if asked["file"] is not None:
        if text is not None:
            show.fail(show.EXIT_WRONG, "give --text or --file, not both")
        file = asked["file"]
        content = file.read(TEXT_BYTES_MAX + 1)
        text = text_of(content, name=file.name, bytes_max=TEXT_BYTES_MAX)
    return {
        "model": asked["model"],
        "fallback_models": asked["fallback_models"],
        "service_tier": asked["service_tier"],
        "labels": label_map(asked["label"], option="--label"),
        "input_tokens": asked["input_tokens"],
        "input_bytes": asked["input_bytes"],
        "text": text,
        "output_tokens_max": asked["output_tokens_max"],
        "output_tokens_min": asked["output_tokens_min"],
        "choices": asked["choices"],
    }


def span_s(text: str | None, option: str) -> float | None:
    """Reads a span such as 30s; None where nothing is said; ends the command if wrong."""
    if text is None:
        return None
    try:
        ms = span_ms(text)
    except SettingsError as error:
        show.fail(show.EXIT_WRONG, f"{option} {error}")
    if ms > _SPAN_MS_MAX:
        most = _SPAN_MS_MAX // 86_400_000
        show.fail(show.EXIT_WRONG, f"{option} must be at most {most}d (got {text})")
    return ms / 1000
