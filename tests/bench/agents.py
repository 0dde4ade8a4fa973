"""Local agents under a host: what a run of one costs beside the agent's own work. Their models are scripted."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.model import JsonObject
from tests.bench.figures import Figure, millis
from tests.bench.host import BRIDGE, home_of_a_host, host_of
from tests.bench.server import Client
from tests.bench.workbench import child
from tests.kill.cancels import AGENTS
from tests.models.player import agent_environment

FIRST_EVENT_MS = {"claude_code": 1_500, "codex": 600}
OWN_MB = {"claude_code": 5, "codex": 2}
AT_ONCE = 8


class _Bench:
    """A client that spawns on one agent."""

    def __init__(self, client: Client, backend: str, cwd: Path) -> None:
        self.client = client
        self._spawn = {"backend": backend, "cwd": str(cwd)}

    def spawn(self, *script: str) -> str:
        """Spawns a run. Returns its id."""
        return self.client.call("spawn_run", **self._spawn, prompt="\n".join(script))["run_id"]

    def rest(self, *runs: str) -> list[JsonObject]:
        """The digests of runs once all are over or wait."""
        arguments: dict[str, Any] = {"run_ids": list(runs), "until": "all", "wait_ms": 50_000}
        while not (digest := self.client.call("wait_runs", **arguments))["done"]:
            pass
        return digest["runs"]


def runs(backend: str) -> Iterator[Figure]:
    """One trivial run after the other, eight at once, and eight that wait."""
    with home_of_a_host() as home, AGENTS[backend]() as model, tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder, "project")
        cwd.mkdir()
        env: dict[str, Any] = {"ORCHESTRATOR_HOME": home, **agent_environment(model, Path(folder))}
        with child(*BRIDGE, **env) as process:
            bench = _Bench(Client(process), backend, cwd)
            bench.rest(bench.spawn("say warm"))
            yield from _one_by_one(bench, backend)
            yield from _waiting(bench, backend, home)
            yield from _at_once(bench, backend)


def _one_by_one(bench: _Bench, backend: str) -> Iterator[Figure]:
    answered: list[float] = []
    first: list[float] = []
    whole: list[float] = []
    for _ in range(10):
        started = time.perf_counter()
        run_id = bench.spawn("say hello")
        answered.append(time.perf_counter() - started)
        bench.client.call("poll_events", run_id=run_id, types=["run_started"], wait_ms=50_000)
        first.append(time.perf_counter() - started)
        bench.rest(run_id)
        whole.append(time.perf_counter() - started)
    made = "eleven files made and three fsyncs: what the disk takes for them is most of it"
    yield millis(f"{backend}: spawn_run answered", answered, goal=10, note=made)
    yield millis(f"{backend}: spawn to first event", first, goal=FIRST_EVENT_MS[backend])
    yield millis(f"{backend}: a trivial run, whole", whole, note="the agent's own start and turn included")


def _waiting(bench: _Bench, backend: str, home: str) -> Iterator[Figure]:
    host = host_of(home)
    before = host.memory_full_info().uss
    waiting = [bench.spawn("ask Well?") for _ in range(AT_ONCE)]
    bench.rest(*waiting)
    own = (host.memory_full_info().uss - before) / 1e6 / AT_ONCE
    for run_id in waiting:
        bench.client.call("cancel_run", run_id=run_id)
    yield Figure(name=f"{backend}: memory of the host for each run", unit="MB", samples=[own], goal=OWN_MB[backend])


def _at_once(bench: _Bench, backend: str) -> Iterator[Figure]:
    started = time.time()
    spawned = [bench.spawn("run echo one", "run echo two", "say done") for _ in range(AT_ONCE)]
    digests = bench.rest(*spawned)
    assert {run["status"] for run in digests} == {"completed"}, digests
    ends = [datetime.fromisoformat(bench.client.call("get_run", run_id=run)["completed_at"]) for run in spawned]
    took = [end.timestamp() - started for end in ends]
    yield millis(f"{backend}: {AT_ONCE} runs at once", took)
    ratio = max(took) / median(took)
    yield Figure(name=f"{backend}: the slowest of {AT_ONCE} over the median", unit="×", samples=[ratio], goal=2)
