"""The host and its bridges as processes: what a client pays to reach them, and what they cost when nothing happens."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import psutil

from tests.bench.figures import Figure, millis, percentiles
from tests.bench.server import SERVER, Client
from tests.bench.workbench import child, first_line

BRIDGE = ("orchestrator", "mcp", "--scripted")
CALLS = 300


@contextmanager
def home_of_a_host() -> Generator[str]:
    """A home whose host is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="orc-bench-") as folder:
        try:
            yield folder
        finally:
            with child("orchestrator", "host", "stop", "--cancel", ORCHESTRATOR_HOME=folder) as stopping:
                stopping.wait(30)


def host_of(home: str) -> psutil.Process:
    (about,) = Path(home).glob("hosts/*/json")
    return psutil.Process(orjson.loads(about.read_bytes())["pid"])


def reaching() -> Iterator[Figure]:
    """From the start of a bridge to the answer to `initialize`, with a host running and without one."""
    plain: list[float] = []
    warm: list[float] = []
    cold: list[float] = []
    sizes: list[float] = []
    for _ in range(3):
        with home_of_a_host() as home:
            started = time.perf_counter()
            with child(*BRIDGE, ORCHESTRATOR_HOME=home) as process:
                Client(process)
                cold.append(time.perf_counter() - started)
    with home_of_a_host() as home, child(*BRIDGE, ORCHESTRATOR_HOME=home) as first:
        Client(first)
        for _ in range(20):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import json, socket"], check=True)
            plain.append(time.perf_counter() - started)
            started = time.perf_counter()
            with child(*BRIDGE, ORCHESTRATOR_HOME=home) as process:
                Client(process)
                warm.append(time.perf_counter() - started)
                sizes.append(psutil.Process(process.pid).memory_info().rss / 1e6)
    base = millis("limit: python -c 'import json, socket'", plain)
    yield base
    yield millis("bridge start to initialize", warm)
    yield millis("the same over bare Python", [sample - base.value / 1000 for sample in warm], goal=30)
    yield millis("bridge start to initialize, no host yet", cold, goal=2000)
    yield Figure(name="memory of a bridge", unit="MB", samples=sizes, goal=16)


def calling() -> Iterator[Figure]:
    """A tool call through bridge and host, and in process, one after the other in the same run."""
    with (
        tempfile.TemporaryDirectory() as folder,
        home_of_a_host() as home,
        child(*SERVER, cwd=Path(folder), ORCHESTRATOR_HOME=home) as inside,
        child(*BRIDGE, cwd=Path(folder), ORCHESTRATOR_HOME=home) as outside,
    ):
        clients = Client(inside), Client(outside)
        took: tuple[list[float], list[float]] = ([], [])
        for client in clients:
            client.call("spawn_run", backend="scripted", cwd=folder, prompt="say x")
        for _ in range(CALLS):
            for client, samples in zip(clients, took, strict=True):
                started = time.perf_counter()
                client.call("list_runs")
                samples.append(time.perf_counter() - started)
        in_process, hosted = percentiles("call in process", took[0]), percentiles("call through the host", took[1])
        yield from (*in_process, *hosted)
        more = hosted[0].value - in_process[0].value
        yield Figure(name="a call through the host costs more by", unit="ms", samples=[more], goal=3)


def waiting(runs: int = 200) -> Iterator[Figure]:
    """Memory and CPU of a host that does nothing, and of one whose 200 remote runs all wait for an answer."""
    with tempfile.TemporaryDirectory() as folder, home_of_a_host() as home, child("test_agents", "scripted") as agent:
        url = json.loads(first_line(agent))["agent_url"]
        with child(*BRIDGE, cwd=Path(folder), ORCHESTRATOR_HOME=home) as process:
            client = Client(process)
            client.call("list_runs")
            host = host_of(home)
            yield Figure(name="memory of a host, idle", unit="MB", samples=[host.memory_info().rss / 1e6], goal=110)
            yield Figure(name="CPU of a host, idle", unit="%", samples=[_cpu(host)], goal=0.5)
            arguments = {"backend": "remote_a2a", "cwd": folder, "prompt": "ask Which?"}
            config = {"agent_url": url}
            spawned = [client.call("spawn_run", **arguments, backend_config=config)["run_id"] for _ in range(runs)]
            for start in range(0, runs, 50):
                ids = spawned[start : start + 50]
                while not client.call("wait_runs", run_ids=ids, until="all", wait_ms=50_000)["done"]:
                    pass
            size = host.memory_info().rss / 1e6
            yield Figure(name=f"memory of a host, {runs} waiting runs", unit="MB", samples=[size], goal=200)
            yield Figure(name=f"CPU of a host, {runs} waiting runs", unit="%", samples=[_cpu(host)], goal=2)


def _cpu(process: psutil.Process, seconds: float = 10.0) -> float:
    busy, started = sum(process.cpu_times()[:2]), time.perf_counter()
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - busy) / (time.perf_counter() - started) * 100
