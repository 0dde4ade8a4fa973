"""Real processes: the MCP server on a pipe, and the A2A agent on a port. Each is gone when its block ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backends import Backends
from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller, Engine
from orchestrator.host.agents import agents_door
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home
from tests.models.claude_player import ClaudePlayer
from tests.models.codex_player import CodexPlayer
from tests.models.player import Player, agent_environment
from tests.system.desk import Desk
from tests.system.shell import Shell, shell

DEADLINE_S = 20.0


class Server:
    """A real `orchestrator mcp` and a client that speaks JSON lines to it, in the era that begins with initialize."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._last_id = 0
        self.request(
            "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "t", "version": "0"}
        )
        self.write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def write(self, message: JsonObject) -> None:
        """Sends one message."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def read(self) -> JsonObject:
        """The next message that is an answer."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            message = json.loads(line)
            if "id" in message and "method" not in message:
                return message
        raise EOFError("the server ended")

    def request(self, method: str, **params: Any) -> JsonObject:
        """Sends a request and returns its result."""
        return self._answer(method, params)["result"]

    def error(self, method: str, **params: Any) -> JsonObject:
        """Sends a request that must fail and returns its error."""
        return self._answer(method, params)["error"]

    def _answer(self, method: str, params: JsonObject) -> JsonObject:
        self._last_id += 1
        self.write({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})
        answer = self.read()
        assert answer["id"] == self._last_id
        return answer

    def call(self, tool: str, **arguments: Any) -> JsonObject:
        """The document of a tool call that must succeed."""
        result = self.request("tools/call", name=tool, arguments=arguments)
        assert not result.get("isError"), result
        assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
        return result["structuredContent"]

    def refusal(self, tool: str, **arguments: Any) -> str:
        """The sentence of a tool call that must be refused."""
        result = self.request("tools/call", name=tool, arguments=arguments)
        assert result["isError"], result
        assert "structuredContent" not in result
        return result["content"][0]["text"]

    def end(self, how: signal.Signals | None) -> int:
        """Ends the server by a signal or, with None, by closing its input. Returns its exit code."""
        assert self.process.stdin is not None
        if how is None:
            self.process.stdin.close()
        else:
            self.process.send_signal(how)
        return self.process.wait(DEADLINE_S)


@pytest.fixture(scope="module")
def models() -> Iterator[Mapping[str, Player]]:
    """The models of both agents."""
    with ExitStack() as stack:
        players: dict[str, Player] = {"claude_code": ClaudePlayer(), "codex": CodexPlayer()}
        yield {name: stack.enter_context(player) for name, player in players.items()}


@pytest.fixture
async def both(models: Mapping[str, Player], cwd: Path, tmp_path: Path) -> AsyncGenerator[Desk]:
    """A desk whose agents may be of either kind, and are heard, and whose caller may write to them."""
    env: dict[str, str] = {}
    for model in models.values():
        env |= agent_environment(model, tmp_path)
    async with Engine(Home.default(), Backends().load) as engine, agents_door(engine):
        caller = Caller(cwd=cwd, env=env, toolsets=frozenset({"team"}))
        with engine.lives.client(caller):
            place = Desk("claude_code", engine, Tools(engine, caller), cwd, env)
            yield place
    assert place.processes() == [], "these processes were left"


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shell]:
    """A person's shell, with one host for a file of tests."""
    with shell(tmp_path_factory.mktemp("person")) as place:
        yield place


@pytest.fixture
def here(person: Shell, tmp_path: Path) -> Shell:
    """The same shell in a directory of the test's own."""
    return person.at(tmp_path / "project")


@contextmanager
def running(*arguments: str, cwd: Path, **env: str) -> Generator[subprocess.Popen[bytes]]:
    """A module of ours as a process of its own, killed if it is still there at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, **env},
    )
    with process:
        try:
            yield process
        finally:
            if process.stdin and not process.stdin.closed:
                process.stdin.close()
            process.kill()


@contextmanager
def server(cwd: Path, *arguments: str, **env: str) -> Generator[Server]:
    """A running MCP server that also offers the scripted backend."""
    with running("orchestrator", "mcp", "--in-process", "--scripted", *arguments, cwd=cwd, **env) as process:
        yield Server(process)


@contextmanager
def agent(cwd: Path, *arguments: str) -> Generator[str]:
    """A running A2A agent. Yields its URL."""
    with running("test_agents", "scripted", *arguments, cwd=cwd) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["agent_url"]
