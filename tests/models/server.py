"""The scripted model behind both APIs: it takes what it says from the test's script, and streams it as events.

A script is a generator. It yields what the model says, a text or the call of a tool, and is sent what the tool gave;
it is not asked again when an agent repeats a request. It runs in a thread of the server, so that it may also wait for
anything. The subclasses know how an API spells all that. The server listens on loopback, on a port of its own.
"""

from __future__ import annotations

import contextlib
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Self

from orchestrator.model import JsonObject

IDLE_S = 30.0
"""A connection on which nothing comes is closed after this time, so that no thread outlives its test."""


@dataclass(frozen=True)
class Call:
    """The call of a tool: one of the agent's own or, with `server`, one of an MCP server."""

    name: str
    arguments: JsonObject
    server: str | None = None


@dataclass(frozen=True)
class Pause:
    """The model thinks until the test sets `over`, or is done with the model. `reached` is set when it begins to."""

    reached: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


Said = str | Call
Script = Generator[Said | Pause, str, None]
THE_END = "The script is over."
"""What the model says behind the last act of its script, which ends the agent's turn."""


class Model(ABC):
    """A scripted model. It serves one conversation while its block runs, and the block fails if the script raised."""

    path: ClassVar[str]
    """Where the API takes requests to the model."""

    def __init__(self, script: Script) -> None:
        self.requests: list[JsonObject] = []
        """The bodies of all requests, in the order in which they came."""
        self.said: list[Said] = []
        """What was answered, without repetitions."""
        self._script = script
        self._one_at_a_time = threading.Lock()
        self._closing = False
        self._pause: Pause | None = None
        self._failure: Exception | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._endpoint())
        self._server.daemon_threads = False  # so that closing the server waits for its threads
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """The base of the API's addresses."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @classmethod
    @abstractmethod
    def search(cls, server: str, names: Sequence[str]) -> Call:
        """The call by which a model finds tools of an MCP server that it was told of but not shown."""

    @abstractmethod
    def shown(self, request: JsonObject, server: str) -> set[str]:
        """The tools of an MCP server whose descriptions are in a request, under the server's own names for them."""

    @abstractmethod
    def spoken(self, request: JsonObject) -> int:
        """How often the model has spoken in the conversation that a request holds."""

    @abstractmethod
    def heard(self, request: JsonObject) -> str:
        """What the tool gave that the model called last; empty if it called none."""

    @abstractmethod
    def events(self, said: Said, number: int) -> Iterator[JsonObject]:
        """The events of a streamed answer. Each has a `type`."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        if self._pause:
            self._pause.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._script.close()
        if self._failure:
            raise AssertionError(f"the script failed, having said {self.said}") from self._failure

    def _answer(self, request: JsonObject) -> Iterator[JsonObject]:
        with self._one_at_a_time:
            self.requests.append(request)
            if self._failure:
                raise self._failure
            number = self.spoken(request)
            if number == len(self.said):
                self.said.append(self._next(self.heard(request)))
            return self.events(self.said[number], number)

    def _next(self, heard: str) -> Said:
        try:
            act = self._script.send(heard) if self.said else next(self._script)
            while isinstance(act, Pause):
                self._pause = act
                act.reached.set()
                if not self._closing:
                    act.over.wait()
                act = next(self._script)
        except StopIteration:
            return THE_END
        except Exception as error:
            self._failure = error
            raise
        return act

    def _endpoint(self) -> type[BaseHTTPRequestHandler]:
        model = self

        class Endpoint(BaseHTTPRequestHandler):
            timeout = IDLE_S

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path.partition("?")[0] != model.path:
                    return self.send_error(404)
                try:
                    events = model._answer(json.loads(body))
                except Exception:  # noqa: BLE001  the model keeps it, and raises it where the test sees it
                    return self.send_error(400, "the script failed")
                with contextlib.suppress(ConnectionError):  # an agent may be killed while its model speaks
                    self.send_response(200)
                    self.send_header("content-type", "text/event-stream")
                    self.end_headers()
                    for event in events:
                        self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
                return None

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing on stderr."""

        return Endpoint
