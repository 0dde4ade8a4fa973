"""A local backend with its real agent, whose model plays the script in the prompt (`tests.models.play`).

One ground for each test: a project, an engine with its tools, a home for the agent below the test's directory. Nothing
of the agent may be left when it ends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from backends import Backends
from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller, Engine
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home


@dataclass(frozen=True, slots=True)
class Desk:
    """The tools of one caller, who spawns on one backend."""

    backend: str
    engine: Engine
    tools: Tools
    cwd: Path
    env: Mapping[str, str]

    async def call(self, tool: str, **arguments: Any) -> JsonObject:
        """Calls a tool."""
        return await self.tools.call(tool, arguments)

    async def spawn(self, *script: str, **more: Any) -> str:
        """Spawns a run of a script, a line each. Returns its id."""
        arguments: JsonObject = {"backend": self.backend, "cwd": str(self.cwd), "prompt": "\n".join(script), **more}
        if "input_message" in more:
            del arguments["prompt"]
        return (await self.call("spawn_run", **arguments))["run_id"]

    async def settled(self, run_id: str) -> JsonObject:
        """The run once it is over or waits."""
        digest = await self.call("wait_runs", run_ids=[run_id], wait_ms=50_000)
        assert digest["done"], digest
        return await self.call("get_run", run_id=run_id)

    async def finished(self, *script: str, **more: Any) -> JsonObject:
        """Runs a script until it is over or waits."""
        return await self.settled(await self.spawn(*script, **more))

    async def answered(self, run_id: str, **answer: Any) -> JsonObject:
        """Answers what the run waits for. Returns the run once it is over or waits again."""
        await self.call("continue_run", run_id=run_id, **answer)
        return await self.settled(run_id)

    async def events(self, run_id: str, *types: str) -> list[JsonObject]:
        """The run's events so far."""
        some = {"types": list(types)} if types else {}
        page = await self.call("poll_events", run_id=run_id, limit=1000, wait_ms=0, max_chars=200_000, **some)
        assert not page["has_more"]
        return page["events"]

    async def seen(self, run_id: str, event_type: str, after_seq: int = 0) -> JsonObject:
        """The first event of a type, once it is there."""
        page = await self.call("poll_events", run_id=run_id, types=[event_type], after_seq=after_seq, wait_ms=50_000)
        assert page["events"], page
        return page["events"][0]

    def processes(self) -> list[psutil.Process]:
        """All processes that have the agent's home in their environment, in whatever session."""
        home, seen = self.env["HOME"], psutil.process_iter(["environ", "status"])
        return [p for p in seen if home in str(p.info["environ"]) and p.info["status"] != psutil.STATUS_ZOMBIE]


@asynccontextmanager
async def desk(backend: str, cwd: Path, env: Mapping[str, str]) -> AsyncGenerator[Desk]:
    """A desk. Its engine is closed when the block ends, and then nothing of its agents may be left."""
    async with Engine(Home.default(), Backends().load) as engine:
        caller = Caller(cwd=cwd, env=env)
        with engine.lives.client(caller):
            place = Desk(backend, engine, Tools(engine, caller), cwd, env)
            yield place
    assert place.processes() == [], "these processes were left"
