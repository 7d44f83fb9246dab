"""The example clients in other languages reserve, stream and commit against a real sidecar."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest
from tests.system.conftest import Stock

from bursar.testing import SILENCE, ScriptedSidecar, failure
from bursar.v1 import quota_pb2

if TYPE_CHECKING:
    from tests.system.conftest import Serve, Served

EXAMPLES = Path(__file__).parents[2] / "examples" / "clients"
BUILD_S_MAX = 1200.0
RUN_S_MAX = 60.0

# A busy machine is no answer.
RESERVE_WITHIN_MS = "20000"

GOOD_KEY = "good-key"
WORDS_MAX = 1_000
LEDGER_ENTRIES_MAX = 10_000

POLICY = """
policy: examples
time_zone: UTC
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
  - name: yearly
    match: {tenant: yearly}
    window: {calendar: year}
    amount: {tokens: 60}
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
    "java": Example(
        (("mvn", "--quiet", "--batch-mode", "package"),), ("java", "-jar", "target/chat.jar")
    ),
    "rust": Example(
        (("cargo", "build", "--quiet", "--locked"),), ("cargo", "run", "--quiet", "--locked", "--")
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
        self.environment = {
            **os.environ,
            "BURSAR_TARGET": target,
            "OPENAI_BASE_URL": model,
            "RESERVE_WITHIN_MS": RESERVE_WITHIN_MS,
        }

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


def said(done: subprocess.CompletedProcess[str], *wanted: str) -> None:
    """Checks that stderr has just these lines; each is a pattern from its beginning."""
    lines = done.stderr.splitlines()
    matched = [re.match(pattern, line) for pattern, line in zip(wanted, lines, strict=False)]
    assert len(lines) == len(wanted), done
    assert all(matched), done


def settled(served: Served, tenant: str) -> int:
    """What the tenant has used; it holds nothing."""
    found = standing(served, tenant)
    assert found["reserved"] in {0, "0"}
    return int(found["committed"])


def hold(served: Served, tenant: str, tokens: int) -> None:
    """Reserves tokens for the tenant and leaves them open."""
    answer = Stock(served.socket).quota.Reserve(asked(f"held-{tenant}", tenant, tokens))
    assert answer.HasField("grant"), answer


def fill(stock: Stock) -> None:
    """Reserves until it is refused."""
    for number in range(LEDGER_ENTRIES_MAX):
        stock.quota.Reserve(asked(f"r{number}", f"t{number}", 1))


def asked(reservation_id: str, tenant: str, tokens: int) -> quota_pb2.ReserveRequest:
    """A request for output only."""
    return quota_pb2.ReserveRequest(
        reservation_id=reservation_id,
        model="openai/gpt-4.1-mini",
        labels={"tenant": tenant},
        output_tokens_max=tokens,
    )


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
    said(
        done, r"granted: \d+ tokens in, 1\d\d out$", "committed: 38 tokens$"
    )  # 8 asked, 30 answered
    assert settled(served, "acme") == 38

    # 112 are left: the output is cut to what fits.
    done = chat.ask("say to me so many words as 500", tenant="acme")
    written = len(done.stdout.split())
    assert done.returncode == 0, done
    assert 20 <= written < 112
    assert settled(served, "acme") == 38 + 8 + written

    done = chat.ask("say to me so many words as 30", tenant="acme")
    assert (done.returncode, done.stdout) == (1, ""), done
    said(
        done,
        "denied: REASON_LIMIT: .*tenant-total",
        r"refused by tenant-total: \d+ UNIT_TOKENS needed, \d+ left$",
        "trying again does not help$",
    )

    done = chat.ask("hang up after half of 30", tenant="cut-off")
    assert done.returncode == 1, done
    # Its input, as the policy says of what nobody knows.
    said(done, "granted: ", "error: the answer was cut off: ", r"committed: \d+ tokens$")
    assert 0 < settled(served, "cut-off") < 30


def test_an_example_gives_back_what_the_model_did_not_run_for(
    example: tuple[str, Path, Example], serve: Serve, model: str
) -> None:
    """The provider turned the call away, or nobody was there to take it."""
    served = serve(POLICY)
    done = Chat(example, served.listen, model).ask("say 30", tenant="acme", key="bad-key")
    assert (done.returncode, done.stdout.strip()) == (1, ""), done
    said(done, "granted: ", "error: the model did not run: status 401$", "released: 150 tokens$")
    assert settled(served, "acme") == 0

    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # and does not listen: a connection is refused
        nobody = f"http://127.0.0.1:{unheard.getsockname()[1]}/v1"
        done = Chat(example, served.listen, nobody).ask("say 30", tenant="acme")
    assert (done.returncode, done.stdout.strip()) == (1, ""), done
    said(done, "granted: ", "error: the model did not run: no connection$", "released: 150 tokens$")
    assert settled(served, "acme") == 0


def test_an_example_says_when_to_try_again(
    example: tuple[str, Path, Example], serve: Serve, model: str
) -> None:
    """After a time, where time clears it; after a settlement, where that may."""
    served = serve(POLICY)
    chat = Chat(example, served.socket, model)
    hold(served, "busy", 1)
    done = chat.ask("say 30", tenant="busy")
    assert (done.returncode, done.stdout) == (1, ""), done
    said(
        done,
        "denied: REASON_LIMIT: ",
        "refused by in-flight: 1 UNIT_CONCURRENCY needed, 0 left$",
        "try again when another call has been settled$",
    )

    used = quota_pb2.Line(meter=quota_pb2.METER_OUTPUT, tokens=50)
    stock = Stock(served.socket)
    stock.quota.Reserve(asked("used", "yearly", 50))
    stock.quota.Commit(
        quota_pb2.CommitRequest(
            reservation_id="used", outcome=quota_pb2.OUTCOME_COMPLETED, lines=[used]
        )
    )
    done = chat.ask("say 30", tenant="yearly")
    assert (done.returncode, done.stdout) == (1, ""), done
    said(
        done,
        "denied: REASON_LIMIT: ",
        r"refused by yearly: \d+ UNIT_TOKENS needed, \d+ left$",
        r"try again in \d+ ms$",
    )


def test_an_example_tells_a_wrong_question_from_none_that_can_be_decided(
    example: tuple[str, Path, Example], serve: Serve, model: str
) -> None:
    """It goes by the reason's name: 2 where the question is wrong, 3 where the ledger is full."""
    served = serve(POLICY, BURSAR_SEGMENT_BYTES="64KiB", BURSAR_LEDGER_BYTES_MAX="256KiB")
    chat = Chat(example, served.listen, model)
    done = chat.ask("say 30", tenant="")
    assert (done.returncode, done.stdout) == (2, ""), done
    said(done, "error: no decision: INVALID_FIELD: labels: ")

    stock = Stock(served.socket)
    with pytest.raises(grpc.RpcError) as full:
        fill(stock)
    assert cast("grpc.Call", full.value).code() is grpc.StatusCode.UNAVAILABLE
    done = chat.ask("say 30", tenant="acme")
    assert (done.returncode, done.stdout) == (3, ""), done
    said(done, "error: no decision: LEDGER_FULL: ")


def test_an_example_says_that_there_is_no_sidecar(
    example: tuple[str, Path, Example], model: str, tmp_path: Path
) -> None:
    """Nobody listens, or what listens says nothing: it ends with 3 and calls no model."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = f"127.0.0.1:{silent.getsockname()[1]}"
        for target in (f"unix://{tmp_path}/nobody.sock", mute):
            chat = Chat(example, target, model)
            del chat.environment["RESERVE_WITHIN_MS"]  # what users have: half a second
            done = chat.ask("say 30", tenant="acme")
            assert (done.returncode, done.stdout) == (3, ""), done
            said(done, "error: no decision: NO_ANSWER: .")


def test_an_example_repeats_what_was_unavailable_and_goes_on(
    example: tuple[str, Path, Example], model: str
) -> None:
    """The same question under the same id, and one answer that counts."""
    draining = failure("UNAVAILABLE", reason="DRAINING")
    with ScriptedSidecar() as sidecar:
        sidecar.answer("Reserve", draining, draining)
        done = Chat(example, sidecar.target, model).ask("say 30", tenant="acme")
        assert (done.returncode, len(done.stdout.split())) == (0, 30), done
        said(done, "granted: ", "committed: 32 tokens$")
        asked = sidecar.asked("Reserve")
        assert len(asked) == 3
        assert asked[0] == asked[1] == asked[2]
        assert [each.state for each in sidecar.reservations.values()] == ["committed"]


def test_an_example_gives_back_what_it_never_heard_of(
    example: tuple[str, Path, Example], model: str
) -> None:
    """No answer came in time, so it may be granted all the same: its id is released."""
    with ScriptedSidecar() as sidecar:
        sidecar.answer("Reserve", SILENCE)
        chat = Chat(example, sidecar.target, model)
        chat.environment["RESERVE_WITHIN_MS"] = "2000"
        done = chat.ask("say 30", tenant="acme")
        assert (done.returncode, done.stdout) == (3, ""), done
        said(done, "error: no decision: NO_ANSWER: .")
        asked = cast("quota_pb2.ReserveRequest", sidecar.asked("Reserve")[0])
        released = cast("quota_pb2.ReleaseRequest", sidecar.wait_for("Release"))
        assert released.reservation_id == asked.reservation_id
