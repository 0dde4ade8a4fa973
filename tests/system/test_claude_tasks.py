"""The real interactive Claude Code waits for runs without waiting: our calls are tasks to it, and their ends are told.

What its model hears, and what other clients of the same home see, is what counts.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from orchestrator.model import JsonObject
from tests.models.server import Call, Said, Script
from tests.system.agents import Place
from tests.system.hosts import Ground, frozen, ground, wait_gone
from tests.system.lines import Bridge
from tests.system.terminal_claude import (
    DOWN,
    ENTER,
    NAME,
    RIGHT,
    SPACE,
    ClaudeTerminal,
    Conversation,
    claude_terminal,
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

FINAL = "all is ready"
QUESTION = "ask Which? | red | blue"
HELD = f"say hello\nlisten\nfinal {FINAL}"
"""A run that is over when somebody has spoken to it."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ground]:
    """A home for all tests here. A host that one of them kills has a successor at once, for a client is there."""
    root = tmp_path_factory.mktemp("tasks")
    with ground(root / "home", root / "project") as place:
        yield place


@pytest.fixture(scope="module")
def other(place: Ground) -> Generator[Bridge]:
    """Another client of the same home, there all the time."""
    with place.bridge() as bridge:
        bridge.request("tools/list")
        yield bridge


@pytest.fixture(autouse=True)
def nothing_left(place: Ground, tmp_path: Path) -> Generator[None]:
    """No process may be left that the agent started, but the host, which outlives its clients."""
    yield
    hosts = place.hosts()
    left = [process for process in Place(place.cwd, tmp_path).processes() if process not in hosts]
    try:
        wait_gone(*left)
    finally:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


class Heard(list[str]):
    """What the model was told after each thing that it said."""

    def script(self, *acts: Said) -> Script:
        """Says these things one after the other."""
        for act in acts:
            self.append((yield act))


def spawn(cwd: Path, prompt: str) -> Call:
    """The call by which a model starts a run and waits for it."""
    arguments = {"backend": "scripted", "cwd": str(cwd), "prompt": prompt, "wait": True}
    return Call("spawn_run", arguments, NAME)


@contextmanager
def beginning(act: Call, place: Ground, tmp_path: Path) -> Generator[tuple[ClaudeTerminal, Heard, str]]:
    """A terminal whose model has made this call, which goes on as a task. Yields what it hears, and the task's id."""
    heard = Heard()
    with (
        Conversation(heard.script(act, "It is begun.")) as model,
        claude_terminal(model, place, tmp_path) as claude,
    ):
        claude.begin("please begin")
        yield claude, heard, begun(claude, heard)


def test_a_run_that_is_waited_for_is_a_task_whose_end_the_model_is_told(
    place: Ground, other: Bridge, tmp_path: Path
) -> None:
    with beginning(spawn(place.cwd, HELD), place, tmp_path) as (claude, heard, run_id):
        claude.shows("It is begun.", "1 MCP task")
        polled(claude, run_id, "working", "hello")
        run = other.call("get_run", run_id=run_id)
        assert (run["status"], run["agent_name"] in heard[0]) == ("running", True)
        other.call("continue_run", run_id=run_id, text="go on")
        status, document = end_of(told(claude, heard, 2))
    assert (status, document["status"], document["result"]["final_response"]) == ("completed", "completed", FINAL)
    assert document["run_id"] == run_id


def test_a_wait_for_several_runs_is_a_task_until_the_last_is_over(place: Ground, other: Bridge, tmp_path: Path) -> None:
    run_ids = [other.spawn(HELD, place.cwd) for _ in range(2)]
    wait = Call("wait_runs", {"run_ids": run_ids, "until": "all"}, NAME)
    with beginning(wait, place, tmp_path) as (claude, heard, task_id):
        assert task_id.startswith("wait_")
        polled(claude, task_id, "working", f"{run_ids[0]} running; {run_ids[1]} running")
        other.call("continue_run", run_id=run_ids[0], text="go on")
        polled(claude, task_id, "working", f"{run_ids[0]} completed; {run_ids[1]} running")
        assert len(heard) == 1
        other.call("continue_run", run_id=run_ids[1], text="go on")
        status, document = end_of(told(claude, heard, 2))
    assert status == "completed"
    assert document["done"]
    assert [(run["run_id"], run["status"]) for run in document["runs"]] == [(i, "completed") for i in run_ids]
    assert all(FINAL in run["summary"] for run in document["runs"])


def test_a_run_that_asks_opens_a_form_and_goes_on_with_the_persons_answer(
    place: Ground, other: Bridge, tmp_path: Path
) -> None:
    with beginning(spawn(place.cwd, QUESTION), place, tmp_path) as (claude, heard, run_id):
        choose_blue(claude, other.call("get_run", run_id=run_id)["agent_name"])
        assert other.call("get_run", run_id=run_id)["status"] == "input_required"
        assert len(heard) == 1
        claude.confirm(gone="requests your input")
        status, document = end_of(told(claude, heard, 2))
        (update,) = claude.wire.asked("tasks/update")
    (answer,) = update["params"]["inputResponses"].values()
    assert answer == {"action": "accept", "content": {"decision": "blue"}}
    assert (status, document["status"]) == ("completed", "completed")
    assert document["result"]["final_response"] == "the answer is: blue"


def test_an_answer_to_what_another_client_has_answered_changes_nothing(
    place: Ground, other: Bridge, tmp_path: Path
) -> None:
    with beginning(spawn(place.cwd, QUESTION), place, tmp_path) as (claude, heard, run_id):
        choose_blue(claude, other.call("get_run", run_id=run_id)["agent_name"])
        other.call("continue_run", run_id=run_id, decision="red")
        assert other.call("wait_runs", run_ids=[run_id])["runs"][0]["status"] == "completed"
        claude.confirm(gone="requests your input")
        status, document = end_of(told(claude, heard, 2))
        (answer,) = claude.wire.answers("tasks/update")
    assert "result" in answer
    assert (status, document["status"]) == ("completed", "completed")
    assert document["result"]["final_response"] == "the answer is: red"


def test_a_run_whose_host_is_killed_is_told_as_lost_by_the_next_host(
    place: Ground, other: Bridge, tmp_path: Path
) -> None:
    with beginning(spawn(place.cwd, HELD), place, tmp_path) as (claude, heard, run_id):
        polled(claude, run_id, "working", "hello")
        place.kill_host()
        status, document = end_of(told(claude, heard, 2))
        assert claude.wire.polls(run_id)[-1]["result"]["structuredContent"] == document
        assert document == other.call("get_run", run_id=run_id)
    assert (status, document["run_id"], document["status"]) == ("completed", run_id, "failed")
    assert document["error"]["code"] == "host_lost"


def test_a_wait_goes_on_under_its_id_at_the_host_after_one_that_was_killed(
    place: Ground, other: Bridge, tmp_path: Path
) -> None:
    """One of its runs is lost with the host; one that was queued behind it begins at the next."""
    lost = other.spawn(HELD, place.cwd)
    session = {"session_mode": "resume", "session_id": other.call("get_run", run_id=lost)["session_id"]}
    queued = other.spawn(HELD, place.cwd, **session)
    wait = Call("wait_runs", {"run_ids": [lost, queued], "until": "all"}, NAME)
    with beginning(wait, place, tmp_path) as (claude, heard, task_id):
        polled(claude, task_id, "working", f"{lost} running; {queued} queued")
        place.kill_host()
        polled(claude, task_id, "working", f"{lost} failed; {queued} running")
        assert len(heard) == 1
        other.call("continue_run", run_id=queued, text="go on")
        status, document = end_of(told(claude, heard, 2))
    assert status == "completed"
    assert [run["status"] for run in document["runs"]] == ["failed", "completed"]


def test_an_agent_that_also_shook_hands_with_a_slow_host_goes_on_at_the_next(
    place: Ground, other: Bridge, tmp_path: Path
) -> None:
    """It tries the older era when it is not answered soon, and stays in the newer one. No host may take the other."""
    heard, host = Heard(), place.host()
    with (
        Conversation(heard.script(spawn(place.cwd, HELD), "It is begun.")) as model,
        frozen(host),
        claude_terminal(model, place, tmp_path) as claude,
    ):
        claude.until(lambda: bool(claude.wire.asked("initialize")), "the agent tries the older era")
        host.resume()
        claude.begin("please begin")
        assert ["error" in answer for answer in claude.wire.answers("initialize")] == [True]
        run_id = begun(claude, heard)
        polled(claude, run_id, "working", "hello")
        place.kill_host()
        status, document = end_of(told(claude, heard, 2))
    assert (status, document["run_id"], document["status"]) == ("completed", run_id, "failed")
    assert other.call("get_run", run_id=run_id)["error"]["code"] == "host_lost"


def test_a_task_that_the_model_stops_is_a_cancelled_run(place: Ground, other: Bridge, tmp_path: Path) -> None:
    heard = Heard()

    def script() -> Script:
        yield from heard.script(spawn(place.cwd, HELD))
        yield from heard.script(Call("TaskStop", {"task_id": own_id(heard[0])}), "It is stopped.")

    with Conversation(script()) as model, claude_terminal(model, place, tmp_path) as claude:
        claude.begin("please begin")
        run_id = begun(claude, heard)
        assert "is stopped" in told(claude, heard, 2)
        cancelled(claude, other, run_id)


def test_a_task_that_the_person_stops_is_a_cancelled_run(place: Ground, other: Bridge, tmp_path: Path) -> None:
    with beginning(spawn(place.cwd, HELD), place, tmp_path) as (claude, heard, run_id):
        polled(claude, run_id, "working", "hello")
        claude.shows("It is begun.", "1 MCP task still running")
        claude.press(DOWN, shows="enter to view tasks")
        claude.press(ENTER, shows=f"Server task: {run_id}")
        claude.shows("working · hello")
        claude.press("x", shows="No tasks currently running")
        cancelled(claude, other, run_id)
        assert len(heard) == 1


def choose_blue(claude: ClaudeTerminal, agent: str) -> None:
    """Waits for the form by which an agent asks which, chooses, and goes to the button that accepts."""
    claude.shows("requests your input", f"{agent} asks: Which?", "❯ Answer: ▸ not set")
    claude.press(RIGHT, shows="❯ ◯ red")
    claude.press(DOWN, shows="❯ ◯ blue")
    claude.press(SPACE, shows="❯ ✔ Answer: ▸ blue")
    claude.press(DOWN, shows="❯ In your own words")
    claude.press(DOWN, shows="❯ Accept")


def begun(claude: ClaudeTerminal, heard: Heard) -> str:
    """Waits until the model's first call has ended, which it does by a task. Returns the server's id of that."""
    match = re.search(r"started server-side task (\w+)", told(claude, heard, 1))
    assert match, heard
    return match[1]


def own_id(text: str) -> str:
    """The id that the agent itself gave to a task, from what it told the model when that began."""
    match = re.search(r'use TaskStop with task_id "(\w+)"', text)
    assert match, text
    return match[1]


def told(claude: ClaudeTerminal, heard: Heard, number: int) -> str:
    """Waits until the model has heard something for this many times. Returns the last of these."""
    claude.until(lambda: len(heard) >= number, f"the model is told something for time {number}")
    return heard[number - 1]


def end_of(text: str) -> tuple[str, JsonObject]:
    """How a task ended, and with what result, from the notification that the model got."""
    match = re.search(r"<status>(\w+)</status>.*<result>\n(.*)\n</result>\n</task-notification>", text, re.DOTALL)
    assert match, text
    return match[1], json.loads(match[2])


def polled(claude: ClaudeTerminal, task_id: str, status: str, words: str) -> None:
    """Waits until the last answer of tasks/get has this status and these words."""

    def is_told() -> bool:
        last = claude.wire.polls(task_id)[-1:]
        return [(poll["status"], poll["statusMessage"]) for poll in last] == [(status, words)]

    claude.until(is_told, f"{task_id} is {status}: {words}")


def cancelled(claude: ClaudeTerminal, other: Bridge, run_id: str) -> None:
    """Checks that a run is cancelled or becomes it, and that this was all that the server was told to cancel."""
    wire = claude.wire
    claude.until(lambda: 0 < len(wire.asked("tasks/cancel")) == len(wire.answers("tasks/cancel")), "it is cancelled")
    assert {request["params"]["taskId"] for request in wire.asked("tasks/cancel")} == {run_id}
    assert all("result" in answer for answer in wire.answers("tasks/cancel"))
    assert other.call("wait_runs", run_ids=[run_id])["done"]
    assert other.call("get_run", run_id=run_id)["status"] == "cancelled"
