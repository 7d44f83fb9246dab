"""`bursar count`: counts the tokens of a text for a model; it needs no sidecar."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import click

from bursar.cli import show
from bursar.cli.texts import text_of

TEXT_BYTES_MAX = 8 * 1024 * 1024


@click.command("count")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--model", required=True, metavar="PROVIDER/MODEL", help="The model to count for.")
@click.option("--text", metavar="TEXT", help="Count this text instead of a file's.")
@show.json_option
def command(file: BinaryIO, model: str, text: str | None, *, as_json: bool) -> None:
    """Count the tokens of FILE, of stdin (-), or of --text.

    \b
    Examples:
      bursar count --model openai/gpt-4.1-mini README.md
      bursar count --model openai/gpt-4.1-mini --text "How many tokens is this?"
    """
    from bursar import _core
    from bursar.v1 import quota_pb2

    read = text.encode() if text is not None else file.read(TEXT_BYTES_MAX + 1)
    name = Path(getattr(file, "name", "-")).name
    counted_text = text_of(read, name=name, bytes_max=TEXT_BYTES_MAX)
    request = quota_pb2.CountTokensRequest(model=model, texts=[counted_text])
    try:
        answer = _core.count_tokens(request=request.SerializeToString())
    except ValueError as error:
        show.fail(show.EXIT_WRONG, str(error))
    counted = quota_pb2.CountTokensResponse.FromString(answer)
    method = show.word(
        quota_pb2.CountedBy.DESCRIPTOR.fields_by_name["method"], counted.counted_by.method
    )
    tokens, tokenizer = counted.tokens[0], counted.counted_by.tokenizer
    if as_json:
        facts = {"model": model, "tokens": tokens, "method": method, "tokenizer": tokenizer or None}
        show.print_json({**facts, "bytes": len(read)})
        return
    click.echo(tokens)
    show.say(_how(method, tokenizer, len(read)), err=True)


def _how(method: str, tokenizer: str, count: int) -> str:
    words = {
        "exact": f"counted exactly by {tokenizer}",
        "estimate": f"an estimate by {tokenizer}",
        "bound": "an upper bound: no tokenizer of this model is known, so every byte counts",
    }
    return f"{words.get(method, method)}; {count:,} bytes"
