"""The contract's subjects: the same tests run on a local agent and on the same agent behind A2A 1.0 and 0.3."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from orchestrator.doors.tools import Tools
from orchestrator.model import JsonObject
from test_agents.a2a_agent import Settings, serve
from test_agents.scripted import Scripted
from tests.conftest import open_tools

MEANT = [
    # a small event is one write(2) to a local file: a thread would cost ten times as much
    ("os.write", "orchestrator/store/layout.py", {"write_all"}),
]


@dataclass(frozen=True, slots=True)
class Subject:
    """A backend under test, its tools, and how to spawn on it."""

    kind: str
    tools: Tools
    cwd: Path
    config: JsonObject

    @property
    def backend(self) -> str:
        """The name to spawn with."""
        return "scripted" if self.kind == "local" else "remote_a2a"

    async def spawn(self, *script: str, **more: Any) -> str:
        """Spawns a run of a script, a line each. Returns its id."""
        answer = await self.call("spawn_run", **self.arguments(*script), **more)
        return answer["run_id"]

    def arguments(self, *script: str) -> JsonObject:
        """The arguments of such a spawn."""
        prompt = {"prompt": "\n".join(script)}
        return {"backend": self.backend, "cwd": str(self.cwd), "backend_config": self.config, **prompt}

    async def call(self, tool: str, **arguments: Any) -> JsonObject:
        """Calls a tool."""
        return await self.tools.call(tool, arguments)

    async def settled(self, run_id: str) -> JsonObject:
        """The digest of a run once it is over or waits."""
        digest = await self.call("wait_runs", run_ids=[run_id], wait_ms=20_000)
        assert digest["done"], digest
        return digest["runs"][0]

    async def finished(self, *script: str, **more: Any) -> JsonObject:
        """Runs a script to its end. Returns what get_run says."""
        run_id = await self.spawn(*script, **more)
        await self.settled(run_id)
        return await self.call("get_run", run_id=run_id)

    async def events(self, run_id: str, *types: str) -> list[JsonObject]:
        """The run's events so far."""
        some = {"types": list(types)} if types else {}
        page = await self.call("poll_events", run_id=run_id, limit=1000, wait_ms=0, max_chars=200_000, **some)
        assert not page["has_more"]
        return page["events"]


@asynccontextmanager
async def open_subject(kind: str, cwd: Path) -> AsyncGenerator[Subject]:
    """The subject, with its server if it has one."""
    if kind == "local":
        async with open_tools(cwd) as tools:
            yield Subject(kind, tools, cwd, {})
        return
    async with serve(Scripted(), Settings(v03=kind == "a2a_0.3")) as url, open_tools(cwd) as tools:
        yield Subject(kind, tools, cwd, {"agent_url": url})


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """A blocking call on the event loop fails the test, but for those that are meant."""
    if "MUTANT_UNDER_TEST" in os.environ:  # mutants have other names, and those that are meant are known by name
        yield
        return
    with blockbuster_ctx(scanned_modules=["orchestrator", "backends"]) as blocker:
        for function, file, names in MEANT:
            blocker.functions[function].can_block_in(file, names)
        yield


@pytest.fixture(params=["local", "a2a_1.0", "a2a_0.3"])
async def subject(request: pytest.FixtureRequest, cwd: Path) -> AsyncGenerator[Subject]:
    """Each subject in turn."""
    async with open_subject(request.param, cwd) as subject:
        yield subject
