"""Models that play scripts: HTTP servers on loopback that speak the API of a real coding agent's model.

The script travels in the prompt (see `play`), so one server serves any number of conversations at the same time, also
those that another process resumes. `Player` is the server; the subclasses know an API.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, Self

from orchestrator.model import JsonObject
from tests.models.play import Answer, Past, next_answer

IDLE_S = 30.0
"""A connection on which nothing comes is closed after this time, so that no thread outlives its test."""
_KEPT = 200


class Player(ABC):
    """A model that plays the scripts of its conversations while its block runs."""

    path: ClassVar[str]
    """Where the API takes requests to the model."""

    def __init__(self) -> None:
        self.requests: list[JsonObject] = []
        """The bodies of the last requests, in the order in which they came."""
        self._refused: Counter[str] = Counter()
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _endpoint(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The base of the API's addresses."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @abstractmethod
    def past(self, request: JsonObject) -> Past | None:
        """The conversation that a request holds; None for one that is not about a script."""

    @abstractmethod
    def events(self, answer: Answer, request: JsonObject) -> Iterator[JsonObject]:
        """The events of a streamed answer. Each has a `type`."""

    @abstractmethod
    def error(self, code: int, why: str) -> JsonObject:
        """The body of an error."""

    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """What an agent needs in its environment to talk to this model, and to nobody else."""

    @abstractmethod
    def prepare(self, home: Path) -> None:
        """Puts into an agent's home what it needs besides."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: JsonObject) -> Answer:
        """What to say to a request."""
        self.requests.append(request)
        del self.requests[:-_KEPT]
        past = self.past(request)
        if past is None:
            return Answer(acts=["This is no script."])
        name = hashlib.sha256(json.dumps(request.get("messages") or request.get("input")).encode()).hexdigest()
        answer = next_answer(past._replace(refused=self._refused[name]))
        self._refused[name] += answer.error is not None
        return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def _endpoint(model: Player) -> type[BaseHTTPRequestHandler]:  # noqa: C901  one class, in which the model is known
    class Endpoint(BaseHTTPRequestHandler):
        timeout = IDLE_S

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path.partition("?")[0] != model.path:
                return self.send_error(404)
            request = json.loads(body)
            answer = model.answer(request)
            with contextlib.suppress(ConnectionError):  # an agent may be killed while its model speaks
                if not self._waits(answer.delay_s):
                    self._reply(answer, request)
            return None

        def _reply(self, answer: Answer, request: JsonObject) -> None:
            if answer.broken is not None:
                answer.error = None  # it is told by the events
            if answer.error is not None:
                code, why = answer.error
                body = json.dumps(model.error(code, why)).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            for event in model.events(answer, request):
                self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
                if answer.hang:
                    self._waits(3600)
                    return

        def _waits(self, seconds: float) -> bool:
            """Lets time pass. Whether the agent went away, or the test is over, before it had."""
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                if model.closing.wait(min(left, 0.02)) or select.select([self.connection], [], [], 0)[0]:
                    return True
            return False

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing on stderr."""

    return Endpoint


def agent_environment(model: Player, root: Path) -> dict[str, str]:
    """An environment from scratch for a real agent, with a home below the root and the model as its only service."""
    for name in ("home", "tmp"):
        (root / name).mkdir(exist_ok=True)
    home = root / "home"
    model.prepare(home)
    places = {"HOME": str(home), "TMPDIR": str(root / "tmp")}
    places |= {"CLAUDE_CONFIG_DIR": str(home / ".claude"), "CODEX_HOME": str(home / ".codex")}
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **places, **model.environment()}
