"""A host that does what the test says, however wrong: it has the lock and the socket of the real one's place."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager

from orchestrator.host.place import API, Place, within_reach
from orchestrator.model import JsonObject
from tests.system.lines import Connection

WITHIN_S = 5.0
"""How soon a client must come."""


class FakeHost:
    """Listens where bridges look for the host."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.clients: list[Connection] = []

    def accept(self) -> tuple[Connection, JsonObject]:
        """The next client, and its first line."""
        end, _ = self._listener.accept()
        connection = Connection(end)
        self.clients.append(connection)
        return connection, json.loads(connection.line())

    def welcome(self) -> Connection:
        """The next client, which is told that it is welcome."""
        connection, _ = self.accept()
        connection.send({"orchestrator": API, "ok": True, "build": "0", "pid": os.getpid()})
        return connection


@contextmanager
def fake_host(place: Place, name: str = "sock") -> Generator[FakeHost]:
    """Takes the place, or with another name only listens beside it."""
    place.make()
    lock = place.take() if name == "sock" else os.open(os.devnull, os.O_RDONLY)
    assert lock is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.settimeout(WITHIN_S)
        with within_reach(place.file(name)) as short:
            listener.bind(short)
        listener.listen()
        host = FakeHost(listener)
        try:
            yield host
        finally:
            os.unlink(place.file(name))
            os.close(lock)
            for client in host.clients:
                client.end.close()


BYE: JsonObject = {"orchestrator": API, "bye": "drain"}
"""What a host says before it ends on purpose."""


def result(request_id: object, **more: object) -> JsonObject:
    """An answer."""
    return {"jsonrpc": "2.0", "id": request_id, "result": more}
