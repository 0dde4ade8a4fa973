"""`orchestrator mcp`: a line bridge between a client's pipes and the host's socket. Standard library only.

A client starts one for every session, so it is small and quick: bytes go both ways as they come. Of each line only
`id`, `method`, the tool's name and the id that a cancellation names are looked at, so that when the host goes away
the next one can be found or started, told who is here, and asked again. What it cannot know it says: a command that
sent to a host that went away is answered with `host_restarted`. The bridge owns no run; ending it in any way touches
none.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Generator
from typing import Any

from orchestrator.host.launch import connect, connect_to
from orchestrator.host.lines import LINE_BYTES, Heard, OpenCalls, Splitter, hear, parsed
from orchestrator.host.place import SOCKET_VARIABLE, HostError, NoHostPossible, Place, hello

BUFFER_BYTES = 4 * 2**20
"""What may wait for one side before the other is not read any more."""
PIECE = 256 * 1024
LAST_ANSWERS_S = 0.2
"""How long answers are passed on after the end of input."""
AGAIN_S = 1.0
"""After a host could not be reached: how long no other attempt is made."""
LOOK_S = 0.1
"""How often a bridge that waits for a host looks whether its client is there."""
MOST_ATTEMPTS = 3
"""How often a read is asked, for one that ends its host would end the next one too."""
_REPLAYED = "orchestrator-bridge-initialize"
_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Call:
    """A request that is not answered yet."""

    def __init__(self, heard: Heard, line: bytes) -> None:
        self.heard = heard
        self.line = line
        self.attempts = 1
        self.listens = heard.method == "subscriptions/listen"
        """It stays open for as long as the client is there: no host is kept for its sake."""


class Bridge:
    """One client's session. `run` returns when the client is gone.

    Args:
        socket: the only one to talk to, for the agent of a run that lives there; None for the host's.
    """

    def __init__(self, place: Place, first_line: dict[str, Any], socket: str | None = None) -> None:
        self._place = place
        self._socket = socket
        self._first_line = first_line
        self._host: socket.socket | None = None
        self._selector = selectors.SelectSelector()  # unlike epoll it takes files, as in `orchestrator mcp < requests`
        self._from_client, self._from_host = Splitter(), Splitter()
        self._to_client, self._to_host = bytearray(), bytearray()
        self._calls = OpenCalls[_Call]()
        self._initialize: bytes | None = None
        """The handshake of a session of the older era, once it was answered."""
        self._initialized: bytes | None = None
        self._subscribed: dict[str, bytes] = {}
        """The subscriptions of such a session, by resource."""
        self._hosts = 0
        """How many there were; it stands before the ids of what a host asks the client, which each counts from 1."""
        self._asked: dict[str, Any] = {}
        """What the host asks the client and is not answered: the ids as the client knows them, and as the host does."""
        self._deaf = False
        """The host takes nothing more; what it said before may still be read."""
        self._farewell = False
        """The host ended on purpose: the next one is started when it is needed."""
        self._not_before = 0.0

    def open(self) -> None:
        """Connects to the host.

        Raises:
            HostError: there is none and none can be started.
        """
        with _no_longer_than_the_client():
            if self._socket is None:
                connection, rest = connect(self._place, self._first_line)
            else:
                connection, rest = connect_to(self._socket, self._first_line)
        connection.setblocking(False)
        self._host = connection
        self._hosts += 1
        self._from_host = Splitter()
        self._deaf = self._farewell = False
        self._take_from_host(rest)

    def run(self) -> None:
        """Passes lines on until the client ends."""
        closing: float | None = None
        while closing is None or (time.monotonic() < closing and self._unfinished):
            self._watch(0, selectors.EVENT_READ if closing is None and len(self._to_host) < BUFFER_BYTES else 0)
            self._watch(1, selectors.EVENT_WRITE if self._to_client else 0)
            self._watch_host()
            for key, events in self._selector.select(None if closing is None else LAST_ANSWERS_S):
                if key.fd == 0:
                    if not self._read_client():
                        closing = time.monotonic() + LAST_ANSWERS_S
                elif key.fd == 1:
                    if not self._write_client():
                        return
                elif self._host is not None:
                    self._serve_host(self._host, events)

    @property
    def _unfinished(self) -> bool:
        open_calls = any(not call.listens for call in self._calls)
        return bool(self._to_client or (open_calls and self._host))

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
            writing = selectors.EVENT_WRITE if self._to_host and not self._deaf else 0
            self._watch(self._host, reading | writing)

    # ---- the client's side ----

    def _read_client(self) -> bool:
        """Takes in what the client wrote. False when that was all."""
        try:
            piece = os.read(0, PIECE)
        except OSError:
            piece = b""
        ended = not piece or self._from_client.size > LINE_BYTES
        for line in self._from_client.feed(b"\n" if ended else piece):
            if line:
                self._pass_on(line)
        return not ended

    def _pass_on(self, line: bytes) -> None:
        if self._host is None:
            self._reopen()
        heard = hear(line)
        if heard.kind == "cancel":
            self._calls.close(heard)
        elif heard.kind == "initialized":
            self._initialized = line
        elif heard.kind == "request":
            self._calls.open(heard, _Call(heard, line))
            self._note_subscription(heard, line)
        elif heard.kind == "answer" and (own := self._answer_to(heard, line)) is not None:
            line = own
        elif heard.kind == "answer":  # to a host that is gone
            return
        if self._host is None:
            self._give_up()
        else:
            self._to_host += line + b"\n"

    def _note_subscription(self, heard: Heard, line: bytes) -> None:
        if heard.method in ("resources/subscribe", "resources/unsubscribe"):
            params: dict[str, Any] = parsed(line).get("params") or {}
            uri = str(params.get("uri"))
            self._subscribed.pop(uri, None)
            if heard.method == "resources/subscribe":
                self._subscribed[uri] = line

    def _answer_to(self, heard: Heard, line: bytes) -> bytes | None:
        """The answer as the host that asked knows it; None if that host is gone."""
        if str(heard.id) not in self._asked:
            return None
        return json.dumps({**parsed(line), "id": self._asked.pop(str(heard.id))}).encode()

    def _write_client(self) -> bool:
        """Writes as much as cannot block. False when the client does not listen any more."""
        try:
            del self._to_client[: os.write(1, self._to_client[: select.PIPE_BUF])]
        except OSError:
            return False
        return True

    # ---- the host's side ----

    def _serve_host(self, host: socket.socket, events: int) -> None:
        if events & selectors.EVENT_READ:  # first, for what it said before it went away counts
            try:
                piece = host.recv(PIECE)
            except BlockingIOError:
                return
            except OSError:
                piece = b""
            if not piece:
                self._lose_host(host)
                return
            self._take_from_host(piece)
        if events & selectors.EVENT_WRITE and not self._deaf:
            try:
                del self._to_host[: host.send(self._to_host)]
            except BlockingIOError:
                return
            except OSError:
                self._deaf = True

    def _take_from_host(self, piece: bytes) -> None:
        for line in self._from_host.feed(piece):
            if line.startswith(b'{"orchestrator"'):
                self._farewell = self._farewell or "bye" in parsed(line)
                continue
            heard = hear(line)
            if heard.kind == "answer":
                if str(heard.id).startswith(_REPLAYED):
                    continue
                self._note_handshake(heard, line)
                self._calls.close(heard)
            elif heard.kind in ("request", "cancel"):
                line = self._as_asked(heard, line)
            self._to_client += line + b"\n"

    def _note_handshake(self, heard: Heard, line: bytes) -> None:
        """A handshake that is refused, for it came too late, begins no session that could be begun again."""
        for call in self._calls:
            if call.heard.method == "initialize" and call.heard.key == heard.key and "result" in parsed(line):
                self._initialize = call.line

    def _as_asked(self, heard: Heard, line: bytes) -> bytes:
        """What a host asks the client, or asks no more, under an id that no later host uses again."""
        message, own_id = parsed(line), f"host{self._hosts}:{json.dumps(heard.id)}"
        if heard.kind == "request":
            self._asked[own_id] = heard.id
            return json.dumps({**message, "id": own_id}).encode()
        self._asked.pop(own_id, None)
        return json.dumps({**message, "params": {**message["params"], "requestId": own_id}}).encode()

    def _lose_host(self, host: socket.socket) -> None:
        self._watch(host, 0)
        host.close()
        self._host = None
        for own_id in self._asked:  # the next host asks anew, if it wants to know
            withdrawn = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": own_id}}
            self._to_client += json.dumps(withdrawn).encode() + b"\n"
        self._asked.clear()
        unsent = set(bytes(self._to_host).split(b"\n"))  # a line of which a part was sent is none of these
        self._to_host.clear()  # all of it stands in the open calls, or needs no answer
        for call in self._calls:
            call.attempts += 1
            begun = not self._farewell and call.line not in unsent  # a host that says farewell has begun nothing new
            if begun and call.heard.is_command:
                self._calls.close(call.heard)
                self._refuse(
                    call.heard,
                    f"host_restarted: the host went away while {call.heard.tool} was under way, and nobody knows "
                    "whether it was done; call list_runs before you call it again",
                )
            elif call.attempts > MOST_ATTEMPTS and not call.listens:
                self._calls.close(call.heard)
                self._refuse(call.heard, f"host_unavailable: each host that is asked this ends; see {self._place.log}")
        if not self._farewell or not all(call.listens for call in self._calls):
            self._reopen()
            if self._host is None:
                self._give_up()

    def _reopen(self) -> None:
        """Finds or starts the next host, begins the session again there, and asks again what was asked."""
        if time.monotonic() < self._not_before:
            return
        if self._to_client and select.select((), (1,), (), 0)[1]:  # finding one may take a while
            self._write_client()
        try:
            self.open()
        except HostError as error:
            self._not_before = time.monotonic() + AGAIN_S
            _say(f"no host: {error}")
            return
        if self._initialize is not None and all(call.line != self._initialize for call in self._calls):
            replayed = {**parsed(self._initialize), "id": _REPLAYED}
            self._to_host += json.dumps(replayed).encode() + b"\n"
        if self._initialized is not None:
            self._to_host += self._initialized + b"\n"
        for number, line in enumerate(self._subscribed.values()):
            if all(call.line != line for call in self._calls):
                self._to_host += json.dumps({**parsed(line), "id": f"{_REPLAYED}-{number}"}).encode() + b"\n"
        for call in self._calls:
            self._to_host += call.line + b"\n"

    def _give_up(self) -> None:
        """There is no host now. Nothing stays unanswered; the next line tries again."""
        for call in self._calls:
            self._refuse(call.heard, f"host_unavailable: no host can be reached or started; see {self._place.log}")
        self._calls.clear()

    def _refuse(self, heard: Heard, sentence: str) -> None:
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": heard.id}
        if heard.tool is None:
            answer["error"] = {"code": -32000, "message": sentence}
        else:
            answer["result"] = {"content": [{"type": "text", "text": sentence}], "isError": True}
        self._to_client += json.dumps(answer).encode() + b"\n"


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # there may be no stderr
        sys.stderr.write(f"orchestrator: {text}\n")
        sys.stderr.flush()


def _fill_gaps() -> None:
    """Where the client gave no stdin, stdout or stderr there is nothing; otherwise a socket would get the number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _leave(_number: int, _frame: object) -> None:
    os._exit(0)


@contextlib.contextmanager
def _no_longer_than_the_client() -> Generator[None]:
    """Inside the block, which may wait for long, a client that has gone and left nothing to read ends the process."""
    signal.signal(signal.SIGALRM, _leave_with_client)  # it comes through any waiting; a thread takes a millisecond more
    signal.setitimer(signal.ITIMER_REAL, LOOK_S, LOOK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _leave_with_client(_number: int, _frame: object) -> None:
    client = select.poll()
    client.register(0, select.POLLIN)
    if any(not events & select.POLLIN for _, events in client.poll(0)):
        os._exit(0)


def run(**about: Any) -> bool:
    """Serves one client on stdin and stdout, until EOF, SIGTERM, SIGINT or SIGHUP; a signal ends the process.

    Args:
        about: what else the first line says.

    Returns:
        False where no host can ever be had, with nothing read from stdin yet.
    """
    _fill_gaps()
    for number in _ENDINGS:
        signal.signal(number, _leave)
    of_agent = "agent" in about.get("toolsets", ())
    try:
        bridge = Bridge(Place.own(), hello(**about), os.environ.get(SOCKET_VARIABLE, "") if of_agent else None)
    except OSError as error:
        _say(f"the current directory is gone: {error}")
        return True
    try:
        bridge.open()
    except (NoHostPossible, OSError) as error:
        if of_agent:
            _say(f"the run's owner cannot be reached: {error}")
            return True
        _say(f"no host can be had ({error}); runs live in this process and end with it")
        for number in _ENDINGS:
            signal.signal(number, signal.SIG_DFL)
        return False
    except HostError as error:  # there is one, and it is slow: it may answer yet
        _say(f"no host: {error}")
    bridge.run()
    return True
