"""The MCP server as a process: its start, its size, and what its tool list costs a caller."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import orjson

from tests.bench.figures import Figure, millis
from tests.bench.workbench import child

SERVER = ("orchestrator", "mcp", "--in-process", "--scripted")


class Client:
    """Speaks JSON lines to a server process."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self._id = 0
        client = {"name": "bench", "version": "0"}
        self.request("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def _write(self, message: Any) -> None:
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def request(self, method: str, **params: Any) -> Any:
        """The result of a request."""
        self._id += 1
        self._write({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        return json.loads(self._process.stdout.readline())["result"]

    def call(self, tool: str, **arguments: Any) -> Any:
        """The document of a tool call."""
        return self.request("tools/call", name=tool, arguments=arguments)["structuredContent"]


def starting() -> Iterator[Figure]:
    """From the start of the process to the answer to `initialize`, and the tool list."""
    samples: list[float] = []
    listed: Any = None
    with tempfile.TemporaryDirectory() as home:
        for _ in range(5):
            started = time.perf_counter()
            with child(*SERVER, ORCHESTRATOR_HOME=home) as process:
                client = Client(process)
                samples.append(time.perf_counter() - started)
                listed = client.request("tools/list")
    seen: list[Any] = [[tool["name"], tool["description"], tool["inputSchema"]] for tool in listed["tools"]]
    yield millis("process start to initialize", samples, note="mostly the import of the MCP SDK")
    yield Figure(name="tools/list", unit="B", samples=[len(orjson.dumps(listed))], goal=10_000)
    yield Figure(name="tools/list as a model sees it", unit="B", samples=[len(orjson.dumps(seen))], goal=6_000)


def ending() -> Iterator[Figure]:
    """From each way to end the server to its exit, with ten runs live."""
    with tempfile.TemporaryDirectory() as folder:
        for name, how in (("SIGTERM", signal.SIGTERM), ("SIGINT", signal.SIGINT), ("end of input", None)):
            samples: list[float] = []
            for _ in range(3):
                with child(*SERVER, ORCHESTRATOR_HOME=folder) as process:
                    client = Client(process)
                    for _ in range(10):
                        client.call("spawn_run", backend="scripted", cwd=folder, prompt="say x\nsleep 100")
                    started = time.perf_counter()
                    if how is None:
                        assert process.stdin is not None
                        process.stdin.close()
                    else:
                        process.send_signal(how)
                    assert process.wait(10) == 0
                    samples.append(time.perf_counter() - started)
            yield millis(f"server ends on {name}, 10 runs live", samples, goal=500)
