"""Tools for measuring: an engine in a temporary directory, child processes that end with it, a talkative agent."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from backends import BACKENDS, SCRIPTED, Backends
from orchestrator.backend import Ability, Backend, RunContext
from orchestrator.config import Settings
from orchestrator.doors.tools import Tools
from orchestrator.ends import Completed, Outcome
from orchestrator.engine.engine import Caller, Engine
from orchestrator.errors import InvalidArgument
from orchestrator.model import JsonObject, RunSpec
from orchestrator.store.layout import Home
from orchestrator.updates import AgentMessage, Started

ROOT = Path(__file__).parents[2]


class Talker:
    """A backend that says `backend_config.count` messages of `size` bytes, and nothing else."""

    name = "talker"
    abilities: frozenset[Ability] = frozenset()

    def check(self, spec: RunSpec, settings: Settings) -> None:
        """See `Backend.check`."""

    def ready(self, spec: RunSpec, env: Mapping[str, str]) -> bool:
        """See `Backend.ready`."""
        return True

    async def run(self, spec: RunSpec, ctx: RunContext) -> Outcome:
        """See `Backend.run`."""
        await ctx.emit(Started(agent="talker"))
        text = "x" * spec.backend_config["size"]
        for _ in range(spec.backend_config["count"]):
            await ctx.emit(AgentMessage(text=text))
        return Completed(final_response="done")


class Bench:
    """An engine and its tools in a directory of their own."""

    def __init__(self, tools: Tools, cwd: Path) -> None:
        self.tools = tools
        self.cwd = cwd

    async def spawn(self, backend: str, prompt: str = "go", **config: Any) -> str:
        """Spawns a run; returns its id."""
        arguments = {"backend": backend, "cwd": str(self.cwd), "prompt": prompt, "backend_config": config}
        return (await self.tools.call("spawn_run", arguments))["run_id"]

    async def finished(self, *runs: str) -> list[JsonObject]:
        """The digests of the runs once all are over."""
        digests: list[JsonObject] = []
        for start in range(0, len(runs), 50):
            arguments = {"run_ids": list(runs[start : start + 50]), "until": "all", "wait_ms": 50_000}
            while not (digest := await self.tools.call("wait_runs", arguments))["done"]:
                pass
            digests += digest["runs"]
        assert all(run["status"] == "completed" for run in digests), digests
        return digests

    def run_dir(self, run_id: str) -> Path:
        """The directory of a run."""
        return self.cwd / ".orchestrator" / "runs" / run_id


@asynccontextmanager
async def open_bench(within: str | None = None) -> AsyncGenerator[Bench]:
    """A fresh bench, in a directory or where temporary files go."""
    backends = Backends({**BACKENDS, **SCRIPTED})
    talker = Talker()

    async def load(name: str) -> Backend:
        try:
            return talker if name == "talker" else await backends.load(name)
        except InvalidArgument as error:
            raise SystemExit(str(error)) from error

    with tempfile.TemporaryDirectory(prefix="orchestrator-bench-", dir=within) as folder:
        cwd = Path(folder, "project")
        cwd.mkdir()
        async with Engine(Home(Path(folder, "home")), load) as engine:
            yield Bench(Tools(engine, Caller(cwd=cwd, env=dict(os.environ))), cwd)


@contextmanager
def child(*arguments: str, cwd: Path = ROOT, **env: str) -> Generator[subprocess.Popen[bytes]]:
    """A module as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[bytes]) -> str:
    """The line by which a child says that it is ready."""
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()
