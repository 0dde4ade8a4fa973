"""A receiver of webhooks on loopback: real HTTP, and as unreliable as a test wants it."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from orchestrator.model import JsonObject


@dataclass(frozen=True)
class Delivery:
    """One POST as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        """By it a receiver knows a message again."""
        return self.headers["webhook-id"]

    @property
    def message(self) -> JsonObject:
        """What it says."""
        return json.loads(self.body)


class Receiver:
    """Listens while its block runs.

    Args:
        answers: statuses, one for each POST; 200 when there are no more. 0 is no answer: the connection stays open
            until `release` is set.
        port: 0 for any.
    """

    def __init__(self, answers: Iterable[int] = (), port: int = 0) -> None:
        self.deliveries: list[Delivery] = []
        self.answers = deque(answers)
        self.release = threading.Event()
        receiver = self

        class Endpoint(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                names = {name.lower(): value for name, value in self.headers.items()}
                status = receiver.answers.popleft() if receiver.answers else 200
                receiver.deliveries.append(Delivery(names, body))
                if not status:
                    receiver.release.wait(30)
                    return
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", f"{receiver.url}elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Endpoint)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        """What to deliver to."""
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
