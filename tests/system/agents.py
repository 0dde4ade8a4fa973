"""The real Claude Code and the real Codex as processes, with a scripted model and MCP servers of the test's choice.

Each is started as a person without a terminal would start it, in a session and with an environment of its own: a home
under the test's directory, no account, and every switch that keeps it from calling home. When its block ends, so has
everything in its session.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import psutil
import pytest
from codex_cli_bin import bundled_codex_path

DEADLINE_S = 20.0


@dataclass(frozen=True)
class McpServer:
    """How an agent starts an MCP server."""

    command: Sequence[str]
    env: Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """The directory that an agent works in, and the one that holds its home and everything else it writes."""

    cwd: Path
    root: Path

    @property
    def home(self) -> Path:
        """The home directory of the agent."""
        return self._made("home")

    @property
    def env(self) -> dict[str, str]:
        """An environment from scratch, with nothing of the developer's but where programs are."""
        tmp = self._made("tmp")
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(tmp), "LANG": "C.UTF-8"}

    def processes(self) -> list[psutil.Process]:
        """All processes, in whatever session, that were given a directory of this place in their environment."""
        seen = psutil.process_iter(["environ"])
        return [process for process in seen if str(self.root) in str(process.info["environ"])]

    def _made(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path


class Agent:
    """A running agent. Its stdout is JSON lines on what it does."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._told: list[str] = []

    def read_until(self, text: str) -> None:
        """Reads what the agent tells until a line has this text in it."""
        if not any(text in line for line in self._lines()):
            pytest.fail(f"the agent ended without {text!r}: {self.told}")

    def end(self) -> int:
        """Waits until the agent has ended by itself, and its MCP servers with it. Returns its exit code."""
        for _line in self._lines():
            pass
        return self._ended()

    def kill(self) -> None:
        """Kills the agent, and it alone: its MCP servers learn of that as after a crash, and are expected to end."""
        self._process.kill()
        self._ended()

    def sweep(self) -> None:
        """Kills what is left of the agent and of its session."""
        left = self._session()
        for process in left:
            process.kill()
        self._process.wait(DEADLINE_S)
        psutil.wait_procs(left, DEADLINE_S)

    @property
    def told(self) -> str:
        """All that the agent has told up to now."""
        return "".join(self._told)

    def _ended(self) -> int:
        code = self._process.wait(DEADLINE_S)
        _, alive = psutil.wait_procs(self._session(), DEADLINE_S)
        assert not alive, "an MCP server outlived its agent"
        return code

    def _lines(self) -> Generator[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._told.append(line)
            yield line

    def _session(self) -> list[psutil.Process]:
        """The processes of the session that began with the agent; a detached one has left it."""
        return [process for process in psutil.process_iter() if _session_of(process.pid) == self._process.pid]


class Start(Protocol):
    """Starts an agent on a prompt, with a model at a URL, and with MCP servers by name."""

    def __call__(
        self, prompt: str, *, model: str, servers: Mapping[str, McpServer], place: Place
    ) -> AbstractContextManager[Agent]: ...


def claude(prompt: str, *, model: str, servers: Mapping[str, McpServer], place: Place) -> AbstractContextManager[Agent]:
    """Claude Code, from the package claude-agent-sdk. It is shown the tools, and allowed to use them."""
    package = find_spec("claude_agent_sdk")  # found, not imported: that takes a second
    assert package is not None
    assert package.origin is not None
    config = {
        name: {"command": server.command[0], "args": server.command[1:], "env": dict(server.env)}
        for name, server in servers.items()
    }
    command = [
        str(Path(package.origin).with_name("_bundled") / "claude"),
        *("--print", prompt, "--output-format", "stream-json", "--verbose"),
        *("--mcp-config", json.dumps({"mcpServers": config}), "--strict-mcp-config", "--setting-sources", ""),
        *("--allowedTools", ",".join(f"mcp__{name}" for name in servers)),
    ]
    env = {
        "ANTHROPIC_API_KEY": "none",
        "ANTHROPIC_BASE_URL": model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
        "CLAUDE_CONFIG_DIR": str(place.home / ".claude"),
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
    }
    return _running(command, place, env)


def codex(prompt: str, *, model: str, servers: Mapping[str, McpServer], place: Place) -> AbstractContextManager[Agent]:
    """Codex, from the package openai-codex-cli-bin.

    Its configuration is that of the README, and in addition allows the tools: `codex exec` asks nobody and refuses
    what it would have to ask for.
    """
    home = place.home / ".codex"
    home.mkdir(exist_ok=True)
    tables = [_codex_server(name, server) for name, server in servers.items()]
    (home / "config.toml").write_text("\n".join([_CODEX.replace("MODEL_URL", model), *tables]))
    command = [str(bundled_codex_path()), "exec", "--json", "--skip-git-repo-check", prompt]
    return _running(command, place, {"CODEX_HOME": str(home), "NO_KEY": "none"})


_CODEX = """\
model = "gpt-5.5"
model_provider = "scripted"
check_for_update_on_startup = false

[model_providers.scripted]
name = "scripted"
base_url = "MODEL_URL/v1"
wire_api = "responses"
env_key = "NO_KEY"
request_max_retries = 0
stream_max_retries = 0

[features]
apps = false
plugins = false
unbounded_connection_retries = false

[analytics]
enabled = false
"""


def _codex_server(name: str, server: McpServer) -> str:
    """A server's table. Codex keeps the environment from servers, but for what stands here."""
    lines = [
        f"[mcp_servers.{name}]",
        f"command = {json.dumps(server.command[0])}",
        f"args = {json.dumps(server.command[1:])}",
        "required = true",
        "startup_timeout_sec = 30",
        "tool_timeout_sec = 120",
        'default_tools_approval_mode = "approve"',
        f"[mcp_servers.{name}.env]",
        *(f"{key} = {json.dumps(value)}" for key, value in server.env.items()),
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def _running(command: Sequence[str], place: Place, env: Mapping[str, str]) -> Generator[Agent]:
    process = subprocess.Popen(
        command,
        cwd=place.cwd,
        env={**place.env, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    )
    agent = Agent(process)
    with process:
        try:
            yield agent
        finally:
            agent.sweep()


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:  # it ended, or belongs to somebody else
        return None
