"""Clients that speak JSON lines, over a bridge's pipes or at the host's socket, and the lines that they say."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import select
import socket
import subprocess
import termios
import time
from pathlib import Path
from typing import Any, Self

from orchestrator.model import JsonObject

DEADLINE_S = 20.0
OLD_ERA: JsonObject = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "t", "version": "0"},
}
NEW_ERA: JsonObject = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
INITIALIZED: JsonObject = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class Client:
    """JSON lines in both directions. Speaks the era of 2026-07-28, or after `begin` the older one."""

    def __init__(self, source: int, sink: int) -> None:
        self.source, self.sink = source, sink
        self.heard: list[JsonObject] = []
        """All messages so far, in order."""
        self.always: JsonObject = {"_meta": NEW_ERA}
        """What stands in every request."""
        self._rest = b""
        self._last_id = 10_000  # apart from the ids that tests choose

    def write(self, data: bytes) -> None:
        """Sends bytes as they are."""
        while data:
            data = data[os.write(self.sink, data) :]

    def send(self, *messages: JsonObject) -> None:
        """Sends messages in one piece."""
        self.write(lines(*messages))

    def line(self, within_s: float = DEADLINE_S) -> bytes:
        """The next line; nothing when the other side has ended."""
        deadline = time.monotonic() + within_s
        while b"\n" not in self._rest:
            if not select.select([self.source], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError(f"nothing came within {within_s} s; heard the answers {self.ids()[-10:]}")
            piece = b""
            with contextlib.suppress(ConnectionError):
                piece = os.read(self.source, 2**20)
            if not piece:
                return b""
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def message(self, within_s: float = DEADLINE_S) -> JsonObject:
        """The next message."""
        if not (line := self.line(within_s)):
            raise EOFError(f"the other side has ended; heard the answers {self.ids()[-10:]}")
        self.heard.append(json.loads(line))
        return self.heard[-1]

    def answer(self, request_id: Any, within_s: float = DEADLINE_S) -> JsonObject:
        """The message that answers a request, whether it has come or comes yet."""
        known = iter(self.heard)
        while True:
            message = next(known, None) or self.message(within_s)
            if "method" not in message and message.get("id") == request_id:
                return message

    def ids(self) -> list[Any]:
        """The ids of all answers so far, in order."""
        return [message.get("id") for message in self.heard if "method" not in message]

    def begin(self) -> JsonObject:
        """Opens a session of the older era. Returns what initialize answered."""
        self.always = {}
        result = self.request("initialize", **OLD_ERA)
        self.send(INITIALIZED)
        return result

    def ask(self, method: str, **params: Any) -> int:
        """Sends a request and does not wait. Returns its id."""
        self._last_id += 1
        self.send(request(self._last_id, method, **params, **self.always))
        return self._last_id

    def ask_tool(self, tool: str, **arguments: Any) -> int:
        """Sends a tool call and does not wait. Returns its id."""
        return self.ask("tools/call", name=tool, arguments=arguments)

    def request(self, method: str, **params: Any) -> JsonObject:
        """The result of a request."""
        return self.answer(self.ask(method, **params))["result"]

    def call(self, tool: str, **arguments: Any) -> JsonObject:
        """The document of a tool call that must succeed."""
        return document(self.answer(self.ask_tool(tool, **arguments)))

    def refusal(self, tool: str, **arguments: Any) -> str:
        """The sentence of a tool call that must be refused."""
        return sentence(self.answer(self.ask_tool(tool, **arguments)))

    def spawn(self, prompt: str, cwd: Path, **more: Any) -> str:
        """The id of a new run of the scripted agent."""
        return self.call("spawn_run", backend="scripted", cwd=str(cwd), prompt=prompt, **more)["run_id"]

    def waiting(self, prompt: str, cwd: Path) -> str:
        """The id of a new run, once it asks something."""
        run_id = self.spawn(prompt, cwd)
        (run,) = self.call("wait_runs", run_ids=[run_id])["runs"]
        assert run["status"] == "input_required", run
        return run_id

    def cancel(self, request_id: Any) -> None:
        """Says that nobody waits for an answer any more."""
        self.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": request_id}})


class Bridge(Client):
    """A client that speaks to an `orchestrator mcp` of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        super().__init__(process.stdout.fileno(), process.stdin.fileno())
        self.process = process

    def close(self) -> int:
        """Ends it by the end of its input. Returns its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(DEADLINE_S)

    def said(self) -> str:
        """All that it wrote to stderr until its end."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()


class Connection(Client):
    """A client at a Unix socket, with nothing between."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(None)
        super().__init__(end.fileno(), end.fileno())
        self.end = end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end.close()

    def over(self, within_s: float = DEADLINE_S) -> bool:
        """Whether the other side ends without a further word."""
        return self.line(within_s) == b""


def lines(*messages: JsonObject) -> bytes:
    """Messages as they are sent."""
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def request(request_id: Any, method: str, **params: Any) -> JsonObject:
    """A request."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def tool(request_id: Any, name: str, **arguments: Any) -> JsonObject:
    """A tool call of the newer era, which needs no handshake."""
    return request(request_id, "tools/call", name=name, arguments=arguments, _meta=NEW_ERA)


def listing(request_id: Any) -> JsonObject:
    """The cheapest request of the newer era."""
    return request(request_id, "tools/list", _meta=NEW_ERA)


def document(answer: JsonObject) -> JsonObject:
    """What a tool call that succeeded returned."""
    assert "result" in answer, answer
    assert not answer["result"].get("isError"), answer
    return answer["result"]["structuredContent"]


def sentence(answer: JsonObject) -> str:
    """What a tool call that was refused said."""
    assert "result" in answer, answer
    assert answer["result"]["isError"], answer
    assert "structuredContent" not in answer["result"]
    return answer["result"]["content"][0]["text"]


def unread(descriptor: int) -> int:
    """How many bytes nobody has read yet of what was written to a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


def stuff(sink: int, data: bytes, idle_s: float = 0.5) -> int:
    """Writes until nobody has taken anything for a while. Returns how many bytes were taken."""
    os.set_blocking(sink, False)
    taken = 0
    while select.select([], [sink], [], idle_s)[1]:
        with contextlib.suppress(BlockingIOError):
            taken += os.write(sink, data)
    return taken
