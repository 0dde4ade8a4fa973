"""The main agents that we are made for, Claude Code and Codex themselves, as clients; their model is the test.

What their models hear is what counts: that is all that a run can tell them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.doors.schemas import TOOLS
from orchestrator.model import JsonObject
from tests.models.anthropic import AnthropicModel
from tests.models.openai import OpenAIModel
from tests.models.server import Call, Model, Pause, Said, Script
from tests.system.agents import DEADLINE_S, McpServer, Place, Start, claude, codex

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

NAME = "orchestrator"
TOOL_NAMES = [tool.name for tool in TOOLS]


@dataclass(frozen=True)
class Kind:
    """A kind of main agent, the model that it talks to, and how it says on stdout that it calls wait_runs."""

    start: Start
    model: type[Model]
    waiting: str


@dataclass(frozen=True)
class Moment:
    """When the first client is killed: what its run does then, and what lets the run go on."""

    prompt: str
    status: str
    answer: JsonObject
    in_call: bool


KINDS = {
    "claude": Kind(claude, AnthropicModel, f'"name":"mcp__{NAME}__wait_runs"'),
    "codex": Kind(codex, OpenAIModel, '"tool":"wait_runs"'),
}
MOMENTS = {
    "while-its-model-thinks": Moment(
        "say hello\nask Which? | red | blue\nfinal done", "input_required", {"decision": "red"}, in_call=False
    ),
    "during-a-call": Moment("say hello\nlisten\nfinal done", "running", {"text": "go on"}, in_call=True),
}


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of main agent."""
    return request.param


@pytest.fixture
def place(tmp_path: Path, cwd: Path) -> Generator[Place]:
    """Where the agents of a test work and live. No process may be left that was started from there."""
    place = Place(cwd, tmp_path)
    yield place
    _, alive = psutil.wait_procs(place.processes(), DEADLINE_S)
    for process in alive:
        process.kill()
    assert not alive, "these processes were left"


@pytest.fixture
def host(place: Place) -> Generator[McpServer]:
    """The server as it is by default, a bridge to a host that outlives it. The host is gone when the test has ended."""
    yield server()
    stop = [sys.executable, "-m", "orchestrator", "host", "stop", "--cancel"]
    subprocess.run(stop, cwd=place.cwd, check=True, timeout=DEADLINE_S)


def server(*arguments: str) -> McpServer:
    """Our server, with the home of this test."""
    command = [sys.executable, "-m", "orchestrator", "mcp", "--scripted", *arguments]
    return McpServer(command, {"ORCHESTRATOR_HOME": os.environ["ORCHESTRATOR_HOME"]})


class Heard(list[JsonObject]):
    """What a model was told by our tools, in order."""

    def call(self, tool: str, **arguments: Any) -> Generator[Said | Pause, str, JsonObject]:
        """One call in a script, to be used with `yield from`."""
        text = yield Call(tool, arguments, NAME)
        assert text.startswith("{"), text
        self.append(json.loads(text))
        return self[-1]


def test_a_main_agent_finds_all_tools_and_drives_a_whole_run(kind: Kind, place: Place) -> None:
    heard = Heard()

    def script() -> Script:
        yield kind.model.search(NAME, TOOL_NAMES)
        spawned = yield from heard.call(
            "spawn_run", backend="scripted", prompt="say hello\nfinal done", cwd=str(place.cwd)
        )
        yield from heard.call("wait_runs", run_ids=[spawned["run_id"]])
        yield from heard.call("get_run", run_id=spawned["run_id"])
        yield "Your agent says: done"

    servers = {NAME: server("--in-process")}
    with (
        kind.model(script()) as model,
        kind.start("Run it.", model=model.url, servers=servers, place=place) as agent,
    ):
        assert agent.end() == 0, agent.told
    assert "Your agent says: done" in agent.told
    assert model.shown(model.requests[1], NAME) == set(TOOL_NAMES)
    _, waited, got = heard
    assert waited["done"]
    assert waited["runs"][0]["status"] == "completed"
    assert got["result"]["final_response"] == "done"


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=list(MOMENTS))
def test_a_run_outlives_its_killed_client_and_the_next_one_goes_on_with_it(
    kind: Kind, moment: Moment, place: Place, host: McpServer
) -> None:
    first, second = Heard(), Heard()
    held = Pause()

    def begin() -> Script:
        spawned = yield from first.call("spawn_run", backend="scripted", prompt=moment.prompt, cwd=str(place.cwd))
        yield from first.call("wait_runs", run_ids=[spawned["run_id"]])
        yield held

    def go_on() -> Script:
        listed = yield from second.call("list_runs")
        run_id = listed["runs"][0]["run_id"]
        yield from second.call("continue_run", run_id=run_id, **moment.answer)
        yield from second.call("wait_runs", run_ids=[run_id])
        yield from second.call("get_run", run_id=run_id)

    with (
        kind.model(begin()) as model,
        kind.start("Run it.", model=model.url, servers={NAME: host}, place=place) as agent,
    ):
        if moment.in_call:
            agent.read_until(kind.waiting)
        else:
            assert held.reached.wait(DEADLINE_S), agent.told
        agent.kill()

    with (
        kind.model(go_on()) as model,
        kind.start("Go on.", model=model.url, servers={NAME: host}, place=place) as agent,
    ):
        assert agent.end() == 0, agent.told
    listed, _, waited, got = second
    assert [(run["run_id"], run["status"]) for run in listed["runs"]] == [(first[0]["run_id"], moment.status)]
    assert waited["done"]
    assert got["status"] == "completed"
    assert got["result"]["final_response"] == "done"
