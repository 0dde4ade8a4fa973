"""Local agents under a host: what becomes of them and of their commands when it is killed, or asked to end."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from orchestrator.host.place import hello
from tests.models.claude_player import ClaudePlayer
from tests.models.codex_player import CodexPlayer
from tests.models.player import Player, agent_environment
from tests.system.hosts import Ground, ground, until
from tests.system.lines import Connection

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

MODELS: dict[str, type[Player]] = {"claude_code": ClaudePlayer, "codex": CodexPlayer}
WORKING = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(1000)"
"""A command that says who it is and goes on for ever."""
DETACHED = f'nohup setsid python3 -c "{WORKING}" > /dev/null 2>&1 & until test -s pid; do sleep 0.05; done'
"""One that leaves its shell's group and session; the shell stays until it has, for an agent may end the group then."""


@dataclass(frozen=True)
class Place:
    """A home with its host, and an agent that clients there spawn."""

    ground: Ground
    backend: str
    env: dict[str, str]

    @contextmanager
    def session(self) -> Generator[Connection]:
        """A client with the agent's environment; a host is started if there is none."""
        self.ground.command("start")
        with self.ground.connect() as connection:
            connection.send({**hello(), "cwd": str(self.ground.cwd), "env": self.env})
            assert json.loads(connection.line())["ok"]
            yield connection

    def spawn(self, client: Connection, *script: str) -> str:
        """Spawns a run that may do what it likes. Returns its id."""
        arguments = {"backend": self.backend, "cwd": str(self.ground.cwd), "prompt": "\n".join(script)}
        permission = "full_access" if self.backend == "codex" else "workspace_write"
        return client.call("spawn_run", **arguments, permission=permission, on_approval="allow")["run_id"]

    def command_runs(self) -> None:
        """Waits until the command is there."""
        until(lambda: self.file.exists() and self.file.read_text().isdigit(), "the command runs")

    @property
    def file(self) -> Path:
        """Where the command says who it is."""
        return self.ground.cwd / "pid"

    def processes(self) -> list[psutil.Process]:
        """All that has the agent's home in its environment: the agent and what it started."""
        seen = psutil.process_iter(["environ", "status"])
        alive = [p for p in seen if p.info["status"] != psutil.STATUS_ZOMBIE]
        return [p for p in alive if self.env["HOME"] in str(p.info["environ"]) or self.ground.cwd == _cwd(p)]


def _cwd(process: psutil.Process) -> Path | None:
    try:
        return Path(process.cwd())
    except psutil.Error:
        return None


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, Player]]:
    """The models of the agents."""
    with ClaudePlayer() as claude, CodexPlayer() as codex:
        yield {"claude_code": claude, "codex": codex}


@pytest.fixture(params=list(MODELS))
def place(request: pytest.FixtureRequest, tmp_path: Path, models: dict[str, Player]) -> Generator[Place]:
    """Each agent in a home of its own. Nothing may be left of it."""
    env = agent_environment(models[request.param], tmp_path)
    with ground(tmp_path / "orchestrator", tmp_path / "project") as at:
        here = Place(at, request.param, env)
        yield here
        at.command("stop", "--cancel")
    left = here.processes()
    for process in left:
        process.kill()
    assert not left, "these processes were left"


@pytest.mark.parametrize("command", [f'python3 -c "{WORKING}"', DETACHED], ids=["plain", "detached"])
def test_no_command_outlives_a_killed_host_and_its_session_goes_on(place: Place, command: str) -> None:
    with place.session() as client:
        run_id = place.spawn(client, "say started", f"run {command}", "sleep 100")
        place.command_runs()
        place.ground.kill_host()
    with place.session() as client:
        run = client.call("get_run", run_id=run_id)
        assert (run["status"], run["error"]["code"], run["error"]["resumable"]) == ("failed", "host_lost", True)
        until(lambda: place.processes() == [], "nothing is left of the agent")
        resumed = client.call("continue_run", run_id=run_id, text="remember\nsay on")
        assert resumed["mode"] == "resume"
        assert client.call("wait_runs", run_ids=[resumed["run_id"]], wait_ms=50_000)["done"]
        run = client.call("get_run", run_id=resumed["run_id"])
        assert (run["status"], run["result"]["final_response"]) == ("completed", "on"), run
        events = client.call("poll_events", run_id=resumed["run_id"], types=["agent_message"])["events"]
    assert [event["data"]["text"] for event in events] == ["1 earlier prompts", "on"]


def test_what_was_pending_when_the_host_was_killed_is_told(place: Place) -> None:
    with place.session() as client:
        run_id = place.spawn(client, "ask Which way? | left | right")
        assert client.call("wait_runs", run_ids=[run_id], wait_ms=50_000)["runs"][0]["status"] == "input_required"
        place.ground.kill_host()
    with place.session() as client:
        error = client.call("get_run", run_id=run_id)["error"]
    assert error["code"] == "host_lost"
    assert "Which way?" in error["message"]


def test_stopping_the_host_ends_its_agents_and_their_commands(place: Place) -> None:
    with place.session() as client:
        run_id = place.spawn(client, f"run {DETACHED}", "sleep 100")
        place.command_runs()
    assert place.ground.command("stop", "--cancel").returncode == 0
    assert place.processes() == []
    with place.session() as client:
        assert client.call("get_run", run_id=run_id)["status"] == "cancelled"


def test_a_signal_to_the_host_leaves_nothing_of_its_agents_either(place: Place) -> None:
    with place.session() as client:
        run_id = place.spawn(client, f"run {DETACHED}", "sleep 100")
        place.command_runs()
        place.ground.host().terminate()
        until(lambda: place.ground.hosts() == [], "the host has ended")
    until(lambda: place.processes() == [], "nothing is left of the agent")
    with place.session() as client:
        run = client.call("get_run", run_id=run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "host_lost")
