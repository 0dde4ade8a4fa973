"""`orchestrator mcp`: a line bridge between a client's pipes and the host's socket. Standard library only.

A client starts one for every session, so it is small and quick: bytes go both ways as they come. Of each line only
`id`, `method`, the tool's name and the id that a cancellation names are looked at, so that when the host goes away
the next one can be found or started, told who is here, and asked again. What it cannot know it says: a command that
was under way is answered with `host_restarted`. The bridge owns no run; ending it in any way touches none.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import socket
import sys
import time
from typing import Any, NamedTuple

from orchestrator.host.launch import connect
from orchestrator.host.place import READS, HostError, Place, hello

BUFFER_BYTES = 4 * 2**20
"""What may wait for one side before the other is not read any more."""
LINE_BYTES = 64 * 2**20
PIECE = 256 * 1024
PARENT_S = 5.0
"""How often it is checked that the client is still there; usually its end is the end of our input."""
LAST_ANSWERS_S = 0.2
"""How long answers are passed on after the end of input."""
_REPLAYED = "orchestrator-bridge-initialize"
_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Call(NamedTuple):
    """A request that is not answered yet."""

    line: bytes
    tool: str | None

    @property
    def repeatable(self) -> bool:
        return self.tool is None or self.tool in READS


class Bridge:
    """One client's session. `run` returns when the client is gone."""

    def __init__(self, place: Place, first_line: dict[str, Any]) -> None:
        self._place = place
        self._first_line = first_line
        self._host: socket.socket | None = None
        self._selector = selectors.SelectSelector()  # unlike epoll it takes files, as in `orchestrator mcp < requests`
        self._from_client = self._from_host = b""
        """The beginning of a line whose end has not come yet."""
        self._to_client, self._to_host = bytearray(), bytearray()
        self._calls: dict[Any, _Call] = {}
        self._initialize: bytes | None = None
        self._initialized: bytes | None = None
        self._farewell = False
        """The host ended on purpose: the next one is started when it is needed."""

    def open(self) -> None:
        """Connects to the host.

        Raises:
            HostError: there is none and none can be started.
        """
        connection, self._from_host = connect(self._place, self._first_line)
        connection.setblocking(False)
        self._host = connection
        self._farewell = False

    def run(self) -> None:
        """Passes lines on until the client ends."""
        parent, closing = os.getppid(), None
        while closing is None or (time.monotonic() < closing and self._unfinished):
            self._watch(0, selectors.EVENT_READ if closing is None and len(self._to_host) < BUFFER_BYTES else 0)
            self._watch(1, selectors.EVENT_WRITE if self._to_client else 0)
            self._watch_host()
            for key, events in self._selector.select(PARENT_S if closing is None else LAST_ANSWERS_S):
                if key.fd == 0:
                    if not self._read_client():
                        closing = time.monotonic() + LAST_ANSWERS_S
                elif key.fd == 1:
                    if not self._write_client():
                        return
                else:
                    self._serve_host(events)
            if os.getppid() != parent:
                return

    @property
    def _unfinished(self) -> bool:
        return bool(self._to_client or (self._calls and self._host))

    def _watch(self, file: int | socket.socket, events: int) -> None:
        known = self._selector.get_map().get(file)
        if known is None:
            if events:
                self._selector.register(file, events)
        elif not events:
            self._selector.unregister(file)
        elif known.events != events:
            self._selector.modify(file, events)

    def _watch_host(self) -> None:
        if self._host is not None:
            reading = selectors.EVENT_READ if len(self._to_client) < BUFFER_BYTES else 0
            self._watch(self._host, reading | (selectors.EVENT_WRITE if self._to_host else 0))

    # ---- the client's side ----

    def _read_client(self) -> bool:
        """Takes in what the client wrote. False when that was all."""
        try:
            piece = os.read(0, PIECE)
        except OSError:
            piece = b""
        ended = not piece or len(self._from_client) > LINE_BYTES
        *lines, self._from_client = (self._from_client + (b"\n" if ended else piece)).split(b"\n")
        for line in lines:
            if not line:
                continue
            if self._host is None:
                self._reopen()
            self._note_request(line)
            if self._host is None:
                self._give_up()
            else:
                self._to_host += line + b"\n"
        return not ended

    def _note_request(self, line: bytes) -> None:
        message = _parsed(line)
        method, request_id = message.get("method"), message.get("id")
        params = _object(message.get("params"))
        if method == "notifications/cancelled":
            self._calls.pop(_hashable(params.get("requestId")), None)  # which is never answered
        elif method == "notifications/initialized":
            self._initialized = line
        elif method is not None and request_id is not None:
            if method == "initialize":
                self._initialize = line
            tool = str(params.get("name")) if method == "tools/call" else None
            self._calls[_hashable(request_id)] = _Call(line, tool)

    def _write_client(self) -> bool:
        """Writes as much as cannot block. False when the client does not listen any more."""
        try:
            del self._to_client[: os.write(1, self._to_client[: select.PIPE_BUF])]
        except OSError:
            return False
        return True

    # ---- the host's side ----

    def _serve_host(self, events: int) -> None:
        assert self._host is not None
        try:
            if events & selectors.EVENT_WRITE:
                del self._to_host[: self._host.send(self._to_host)]
            if events & selectors.EVENT_READ:
                piece = self._host.recv(PIECE)
                if not piece:
                    return self._lose_host()
                self._take_from_host(piece)
        except BlockingIOError:
            return None
        except OSError:
            self._lose_host()
        return None

    def _take_from_host(self, piece: bytes) -> None:
        *lines, self._from_host = (self._from_host + piece).split(b"\n")
        for line in lines:
            message = _parsed(line)
            if "orchestrator" in message:
                self._farewell = True
            elif message.get("id") == _REPLAYED:
                continue
            else:
                if "method" not in message:
                    self._calls.pop(_hashable(message.get("id")), None)
                self._to_client += line + b"\n"

    def _lose_host(self) -> None:
        assert self._host is not None
        self._watch(self._host, 0)
        self._host.close()
        self._host = None
        self._from_host = b""
        self._to_host.clear()  # all of it stands in the open calls, or needs no answer
        for request_id, call in list(self._calls.items()):
            if not call.repeatable:
                del self._calls[request_id]
                self._refuse(
                    request_id,
                    f"host_restarted: the host went away while {call.tool} was under way, and nobody knows whether it "
                    "was done; call list_runs before you call it again",
                )
        if (self._calls or not self._farewell) and not self._reopen():
            self._give_up()

    def _reopen(self) -> bool:
        """Finds or starts the next host, begins the session again there, and asks again what was asked."""
        try:
            self.open()
        except HostError as error:
            _say(f"no host: {error}")
            return False
        if self._initialize is not None and self._initialized is not None:
            replayed = {**_parsed(self._initialize), "id": _REPLAYED}
            self._to_host += json.dumps(replayed).encode() + b"\n" + self._initialized + b"\n"
        for call in self._calls.values():
            self._to_host += call.line + b"\n"
        return True

    def _give_up(self) -> None:
        """There is no host now. Nothing stays unanswered; the next line tries again."""
        for request_id in list(self._calls):
            del self._calls[request_id]
            self._refuse(request_id, f"host_unavailable: no host can be reached or started; see {self._place.log}")

    def _refuse(self, request_id: Any, sentence: str) -> None:
        result = {"content": [{"type": "text", "text": sentence}], "isError": True}
        answer = {"jsonrpc": "2.0", "id": request_id, "result": result}
        self._to_client += json.dumps(answer).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        return _object(json.loads(line))
    except ValueError:  # the host says what is wrong with it
        return {}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _hashable(request_id: Any) -> Any:
    return request_id if isinstance(request_id, (str, int, float)) else json.dumps(request_id)


def _say(text: str) -> None:
    sys.stderr.write(f"orchestrator: {text}\n")
    sys.stderr.flush()


def _leave(_number: int, _frame: object) -> None:
    os._exit(0)


def run(**about: Any) -> bool:
    """Serves one client on stdin and stdout, until EOF, SIGTERM, SIGINT or SIGHUP; a signal ends the process.

    Args:
        about: what else the first line says.

    Returns:
        False where no host can be had, with nothing read from stdin yet.
    """
    for number in _ENDINGS:
        signal.signal(number, _leave)
    try:
        bridge = Bridge(Place.own(), hello(**about))
        bridge.open()
    except (HostError, OSError) as error:
        _say(f"no host ({error}); runs live in this process and end with it")
        for number in _ENDINGS:
            signal.signal(number, signal.SIG_DFL)
        return False
    bridge.run()
    return True
