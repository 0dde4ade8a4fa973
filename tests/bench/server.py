"""The MCP server as a process: its start, its size, and what its tool list costs a caller."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil

from tests.bench.figures import Figure, millis
from tests.bench.workbench import child, first_line

SERVER = ("orchestrator", "mcp", "--in-process", "--scripted")


class _Client:
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
        self._id += 1
        self._write({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        return json.loads(self._process.stdout.readline())["result"]

    def call(self, tool: str, **arguments: Any) -> Any:
        return self.request("tools/call", name=tool, arguments=arguments)["structuredContent"]


def starting() -> Iterator[Figure]:
    """From the start of the process to the answer to `initialize`, and the tool list."""
    samples: list[float] = []
    listed: Any = None
    with tempfile.TemporaryDirectory() as home:
        for _ in range(5):
            started = time.perf_counter()
            with child(*SERVER, ORCHESTRATOR_HOME=home) as process:
                client = _Client(process)
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
                    client = _Client(process)
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


def waiting(runs: int = 200) -> Iterator[Figure]:
    """Memory and CPU of a server that does nothing, and of one whose 200 remote runs all wait for an answer."""
    with tempfile.TemporaryDirectory() as folder, child("test_agents", "scripted") as agent:
        url = json.loads(first_line(agent))["agent_url"]
        with child(*SERVER, cwd=Path(folder), ORCHESTRATOR_HOME=folder, PYTHONPATH=os.getcwd()) as process:
            client = _Client(process)
            client.call("list_runs")
            server = psutil.Process(process.pid)
            yield Figure(name="memory, idle", unit="MB", samples=[server.memory_info().rss / 1e6])
            spawned = [
                client.call(
                    "spawn_run",
                    backend="remote_a2a",
                    cwd=folder,
                    prompt="ask Which?",
                    backend_config={"agent_url": url},
                )["run_id"]
                for _ in range(runs)
            ]
            for start in range(0, runs, 50):
                ids = spawned[start : start + 50]
                while not client.call("wait_runs", run_ids=ids, until="all", wait_ms=50_000)["done"]:
                    pass
            yield Figure(
                name=f"memory, {runs} waiting runs", unit="MB", samples=[server.memory_info().rss / 1e6], goal=200
            )
            busy, started = sum(server.cpu_times()[:2]), time.perf_counter()
            time.sleep(5)
            share = (sum(server.cpu_times()[:2]) - busy) / (time.perf_counter() - started) * 100
            yield Figure(name=f"CPU, {runs} waiting runs", unit="%", samples=[share], goal=2)
