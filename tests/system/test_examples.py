"""The example clients in other languages reserve, stream and commit against a real sidecar."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.system.conftest import Serve, Served

EXAMPLES = Path(__file__).parents[2] / "examples" / "clients"
BUILD_S_MAX = 600.0
RUN_S_MAX = 30.0

GOOD_KEY = "good-key"
WORDS_MAX = 1_000

POLICY = """
policy: examples
labels:
  tenant: {missing: deny}
reservations: {ttl: 1m, unsettled: charge_input}
limits:
  - name: tenant-total
    scope: [tenant]
    window: {total: {}}
    amount: {tokens: 150}
  - name: in-flight
    scope: [tenant]
    amount: {concurrency: 1}
"""


@dataclass(frozen=True)
class Example:
    """How one example is built and run, in its own folder."""

    build: tuple[tuple[str, ...], ...]
    run: tuple[str, ...]


LANGUAGES = {
    "go": Example((("go", "generate", "."), ("go", "build", "-o", "chat", ".")), ("./chat",)),
    "typescript": Example(
        (("npm", "ci", "--no-audit", "--no-fund"), ("npm", "run", "build")),
        ("node", "dist/chat.js"),
    ),
}


class _StandInModel(BaseHTTPRequestHandler):
    """Answers one chat completion: one token per word, the input's tokens by its words."""

    def do_POST(self) -> None:
        """Streams the answer, refuses a wrong key, or hangs up in the middle if told to."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {GOOD_KEY}":
            self._send(HTTPStatus.UNAUTHORIZED, "application/json", b'{"error": {"message": "no"}}')
            return
        question = asked["messages"][0]["content"]
        written = min(int(question.split()[-1]), asked["max_completion_tokens"], WORDS_MAX)
        chunks = [_chunk(content=f"word{number} ") for number in range(written)]
        if "hang up" in question:
            body = b"".join(chunks[: written // 2])
        else:
            body = b"".join([*chunks, _usage(len(question.split()), written), b"data: [DONE]\n\n"])
        self._send(HTTPStatus.OK, "text/event-stream", body)

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing: the test's output is the clients'."""


def _chunk(*, content: str) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": content}, "finish_reason": None}
    return _event(choices=[choice])


def _usage(prompt: int, completion: int) -> bytes:
    details = {"prompt_tokens_details": {"cached_tokens": 2}}
    details |= {"completion_tokens_details": {"reasoning_tokens": 3}}
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return _event(choices=[], usage=counts | {"total_tokens": prompt + completion} | details)


def _event(**fields: object) -> bytes:
    kind = {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "stand-in",
    }
    return f"data: {json.dumps(kind | fields)}\n\n".encode()


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """Serves the stand-in on a free port; gives the base URL that clients of OpenAI take."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _StandInModel)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module", params=LANGUAGES)
def example(request: pytest.FixtureRequest) -> tuple[str, Path, Example]:
    """An example, built with its language's usual tools."""
    language: str = request.param
    folder, built = EXAMPLES / language, LANGUAGES[language]
    for command in built.build:
        if shutil.which(command[0]) is None:
            pytest.fail(f"{command[0]} is not on PATH: install it to test the {language} example")
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=BUILD_S_MAX, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    return language, folder, built


class Chat:
    """One example against one sidecar."""

    def __init__(self, example: tuple[str, Path, Example], target: str, model: str) -> None:
        self.language, self.folder, self.example = example
        self.environment = {**os.environ, "BURSAR_TARGET": target, "OPENAI_BASE_URL": model}

    def ask(
        self, question: str, *, tenant: str, key: str = GOOD_KEY
    ) -> subprocess.CompletedProcess[str]:
        """Runs it with a question."""
        environment = self.environment | {"TENANT": tenant, "OPENAI_API_KEY": key}
        return subprocess.run(
            [*self.example.run, question],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_S_MAX,
            check=False,
        )


def standing(served: Served, tenant: str) -> dict[str, Any]:
    """Where the tenant's total stands."""
    listed = served.ask("limits", "tenant-total", "--scope", f"tenant={tenant}")
    found: dict[str, Any] = listed["standings"][0]
    return found


@pytest.mark.parametrize("transport", ["socket", "tcp"])
def test_an_example_reserves_streams_and_settles_what_was_used(
    example: tuple[str, Path, Example], transport: str, serve: Serve, model: str
) -> None:
    """It commits what the provider says, asks for what was granted, and takes no for an answer."""
    served = serve(POLICY)
    target = f"unix://{served.ready['socket']}" if transport == "socket" else served.listen
    chat = Chat(example, target, model)

    done = chat.ask("say to me so many words as 30", tenant="acme")
    assert (done.returncode, done.stdout.split()) == (0, [f"word{n}" for n in range(30)]), done
    assert "committed: 38 tokens" in done.stderr  # 8 words asked, 30 answered
    assert int(standing(served, "acme")["committed"]) == 38

    # 112 are left: the output is cut to what fits.
    done = chat.ask("say to me so many words as 500", tenant="acme")
    written = len(done.stdout.split())
    assert done.returncode == 0, done
    assert 20 <= written < 112
    assert int(standing(served, "acme")["committed"]) == 38 + 8 + written

    done = chat.ask("say to me so many words as 30", tenant="acme")
    assert (done.returncode, done.stdout) == (1, ""), done
    assert "denied: " in done.stderr
    assert "tenant-total" in done.stderr

    done = chat.ask("say to me so many words as 30", tenant="wrong-key", key="bad-key")
    assert done.returncode == 1, done
    assert "released: " in done.stderr
    assert int(standing(served, "wrong-key")["committed"]) == 0

    done = chat.ask("hang up after half of 30", tenant="cut-off")
    assert done.returncode == 1, done
    assert "committed: " in done.stderr  # its input, as the policy says of what nobody knows
    assert 0 < int(standing(served, "cut-off")["committed"]) < 30

    assert standing(served, "acme")["reserved"] in {0, "0"}


def test_an_example_says_that_there_is_no_sidecar(
    example: tuple[str, Path, Example], model: str, tmp_path: Path
) -> None:
    """Nobody listens: it ends with 3 and calls no model."""
    chat = Chat(example, f"unix://{tmp_path}/nobody.sock", model)
    done = chat.ask("say 30", tenant="acme")
    assert (done.returncode, done.stdout) == (3, ""), done
    assert "error: " in done.stderr
