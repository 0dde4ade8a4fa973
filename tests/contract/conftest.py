"""The contract's subjects: the same tests run on a local agent and on the same agent behind A2A 1.0 and 0.3, and
through both doors: the tools in this process, and the host's socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from backends import BACKENDS, SCRIPTED, Backends
from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller, Engine
from orchestrator.host.agents import agents_door
from orchestrator.host.client import call as call_host
from orchestrator.host.server import Server
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home
from test_agents.a2a_agent import Settings, serve
from tests.models import echo_server
from tests.models.claude_player import ClaudePlayer
from tests.models.codex_player import CodexPlayer
from tests.models.player import Player, agent_environment

Call = Callable[[str, JsonObject], Awaitable[JsonObject]]

MEANT = [
    # a small event is one write(2) to a local file: a thread would cost ten times as much
    ("os.write", "orchestrator/store/layout.py", {"write_all"}),
]


BACKEND_OF = {"local": "scripted", "claude": "claude_code", "codex": "codex"}
"""The backend of each local subject."""
MODELS: dict[str, type[Player]] = {"claude": ClaudePlayer, "codex": CodexPlayer}
"""What the real agents among them talk to."""
SERVERS = {"echo": {"command": sys.executable, "args": [echo_server.__file__]}}


@dataclass(frozen=True, slots=True)
class Subject:
    """A backend under test, its tools, and how to spawn on it."""

    kind: str
    engine: Engine
    tools: Call
    cwd: Path
    config: JsonObject

    @property
    def backend(self) -> str:
        """The name to spawn with."""
        return BACKEND_OF.get(self.kind, "remote_a2a")

    @property
    def local(self) -> bool:
        """Whether the run's backend is the agent itself."""
        return self.kind in BACKEND_OF

    @property
    def real(self) -> bool:
        """Whether a real agent does what the script says, by means of its own."""
        return self.kind.removeprefix("a2a_") in MODELS

    async def spawn(self, *script: str, **more: Any) -> str:
        """Spawns a run of a script, a line each. Returns its id."""
        answer = await self.call("spawn_run", **{**self.arguments(*script), **more})
        return answer["run_id"]

    def arguments(self, *script: str) -> JsonObject:
        """The arguments of such a spawn."""
        prompt = {"prompt": "\n".join(script)}
        return {"backend": self.backend, "cwd": str(self.cwd), "backend_config": self.config, **prompt}

    def ours(self, tool: str, **arguments: Any) -> str:
        """The line of a script by which the agent calls one of our own tools."""
        agent = self.kind.removeprefix("a2a_")
        prefix = {"claude": "mcp__orchestrator__", "codex": "mcp__orchestrator."}.get(agent, "")
        return f"call {prefix}{tool} {json.dumps(arguments)}" + ("\nheard" if self.real else "")

    async def call(self, tool: str, **arguments: Any) -> JsonObject:
        """Calls a tool."""
        return await self.tools(tool, arguments)

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

    async def at_work(self, on: str = "sleep 100") -> str:
        """Spawns a run, and waits until its agent has begun. Returns its id."""
        run_id = await self.spawn("say started", "command true -> ", on)  # a model says all up to a tool at once
        page = await self.call("poll_events", run_id=run_id, types=["agent_message"])
        assert page["events"], page
        return run_id

    async def events(self, run_id: str, *types: str) -> list[JsonObject]:
        """The run's events so far."""
        some = {"types": list(types)} if types else {}
        page = await self.call("poll_events", run_id=run_id, limit=1000, wait_ms=0, max_chars=200_000, **some)
        assert not page["has_more"]
        return page["events"]


@asynccontextmanager
async def open_subject(kind: str, door: str, cwd: Path, env: Mapping[str, str]) -> AsyncGenerator[Subject]:
    """The subject, with its server if it has one."""
    async with AsyncExitStack() as stack:
        config: JsonObject = {}
        backends = Backends({**BACKENDS, **SCRIPTED})
        if kind == "codex":
            config = {"mcp_servers": {"echo": {**SERVERS["echo"], "default_tools_approval_mode": "approve"}}}
        if kind.startswith("a2a_"):
            name = kind.removeprefix("a2a_")
            agent = await backends.load(BACKEND_OF.get(name, "scripted"))
            servers = {"echo": {**SERVERS["echo"], "default_tools_approval_mode": "approve"}}
            own = {"mcp_servers": servers} if name == "codex" else None
            settings = Settings(v03=kind == "a2a_0.3", env=env, backend_config=own)
            config = {"agent_url": await stack.enter_async_context(serve(agent, settings))}
        engine = await stack.enter_async_context(Engine(Home.default(), backends.load))
        if door != "host":
            await stack.enter_async_context(agents_door(engine, scripted=True))
        caller = Caller(cwd=cwd, env=env, toolsets=frozenset({"team", "workspace"}))
        tools: Call = Tools(engine, caller).call
        if door == "host":
            tools = await stack.enter_async_context(_host_door(engine, caller))
        yield Subject(kind, engine, tools, cwd, config)


@asynccontextmanager
async def _host_door(engine: Engine, caller: Caller) -> AsyncGenerator[Call]:
    """The host's server on a real socket; each call is a connection of its own."""
    with tempfile.TemporaryDirectory(prefix="orc-") as folder:
        path = f"{folder}/sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        server = Server(engine, lambda _: frozenset({**BACKENDS, **SCRIPTED}), {}, lambda _: None)
        server.hear_agents(path)
        serving = asyncio.create_task(server.serve(listener))
        yield lambda tool, arguments: call_host(path, caller, tool, arguments)
        serving.cancel()
        await asyncio.wait({serving})


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


@pytest.fixture(scope="session")
def models() -> Iterator[Mapping[str, Player]]:
    """The models of all real agents."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(player()) for name, player in MODELS.items()}


PRETENDING = tuple(f"{kind}{door}" for kind in ("local", "a2a_1.0", "a2a_0.3") for door in ("", "-host"))
REAL = ("claude", "claude-host", "codex", "codex-host", "a2a_claude", "a2a_codex", "a2a_codex-host")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each subject in turn; real agents are left out where only one that pretends can do what the test is about."""
    if "subject" in metafunc.fixturenames:
        pretended = metafunc.definition.get_closest_marker("pretended")
        kinds = PRETENDING if pretended else PRETENDING + REAL
        if metafunc.definition.get_closest_marker("local"):
            kinds = tuple(kind for kind in kinds if not kind.startswith("a2a_"))
        metafunc.parametrize("subject", kinds, indirect=True)


@pytest.fixture
async def subject(
    request: pytest.FixtureRequest, cwd: Path, tmp_path: Path, models: Mapping[str, Player]
) -> AsyncGenerator[Subject]:
    """The subject of a test."""
    kind, _, door = request.param.partition("-")
    env: Mapping[str, str] = {}
    if (model := models.get(kind.removeprefix("a2a_"))) is not None:
        env = agent_environment(model, tmp_path)
    async with open_subject(kind, door, cwd, env) as subject:
        yield subject
