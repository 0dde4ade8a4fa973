"""An agent that does what a test says, and tools over it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator.backend import Ability, Backend, RunContext
from orchestrator.config import Settings
from orchestrator.doors.tools import Tools
from orchestrator.ends import Completed, Outcome
from orchestrator.engine.engine import Caller, Engine
from orchestrator.events import Event
from orchestrator.model import JsonObject, RunSpec
from orchestrator.store.layout import Home, Workspace
from tests.unit.runs import events_of

Act = Callable[[RunContext], Awaitable[Outcome]]


async def nothing(_ctx: RunContext) -> Outcome:
    """What an agent does that is over at once."""
    return Completed(final_response="done")


class Agent:
    """A backend whose runs do, one after the other, what is in `acts`; the last one also for all that follow."""

    name = "scripted"

    def __init__(self, *acts: Act, abilities: frozenset[Ability] = frozenset({"steer", "resume", "fork"})) -> None:
        self.acts = list(acts) or [nothing]
        self.abilities = abilities
        self.specs: list[RunSpec] = []

    def check(self, spec: RunSpec, settings: Settings) -> None:
        """See `Backend.check`."""

    def ready(self, spec: RunSpec, env: Mapping[str, str]) -> bool:
        """See `Backend.ready`."""
        return bool(env)

    async def run(self, spec: RunSpec, ctx: RunContext) -> Outcome:
        """See `Backend.run`."""
        self.specs.append(spec)
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        return await act(ctx)


class Desk:
    """The tools of a caller whose one backend is an `Agent`."""

    def __init__(self, tools: Tools, engine: Engine, cwd: Path) -> None:
        self._tools = tools
        self.engine = engine
        self.cwd = cwd

    async def call(self, tool: str, **arguments: Any) -> JsonObject:
        """Calls a tool."""
        return await self._tools.call(tool, arguments)

    async def spawn(self, **more: Any) -> str:
        """Spawns a run. Returns its id."""
        prompt = {} if "input_message" in more else {"prompt": "do it"}
        run = await self.call("spawn_run", **{"backend": "scripted", "cwd": str(self.cwd), **prompt, **more})
        return run["run_id"]

    async def settled(self, run_id: str) -> JsonObject:
        """What get_run says once the run is over or waits."""
        await self.call("wait_runs", run_ids=[run_id])
        return await self.call("get_run", run_id=run_id)

    async def over(self, run_id: str) -> JsonObject:
        """What get_run says once the run is over."""
        ends = ["run_completed", "run_failed", "rejected"]
        page = await self.call("poll_events", run_id=run_id, types=ends)
        assert page["events"], page
        return await self.call("get_run", run_id=run_id)

    async def finished(self, **more: Any) -> JsonObject:
        """Spawns a run and waits for its end."""
        return await self.settled(await self.spawn(**more))

    def events(self, run_id: str, *types: str) -> list[Event]:
        """The run's events so far, as the files hold them."""
        events = events_of(Workspace(self.cwd).run(run_id))
        return [event for event in events if not types or event.type in types]

    def resolved(self, run_id: str) -> list[JsonObject]:
        """How the run's requests were resolved."""
        return [e.data["resolved"] for e in self.events(run_id, "status_changed") if "resolved" in e.data]


@asynccontextmanager
async def desk(
    cwd: Path, agent: Backend, *, scope: Path | None = None, socket: str | None = None, **env: str
) -> AsyncGenerator[Desk]:
    """An engine over one agent; with a socket it is one that a host has."""

    async def load(_name: str) -> Backend:
        return agent

    async with Engine(Home.default(), load, scope=scope, socket=socket) as engine:
        yield Desk(Tools(engine, Caller(cwd=cwd, env=env)), engine, cwd)
