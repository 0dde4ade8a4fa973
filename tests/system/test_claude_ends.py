"""How runs of Claude Code end: nothing of them is left, and what their commands did until then is told.

Commands try to outlive their run in all the ways that a shell offers. `desk` looks for processes with the agent's home
in their environment, in whatever session, and every test here ends with none.
"""

from __future__ import annotations

import asyncio
import json
import random
import shlex
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.model import JsonObject
from tests.conftest import wait_until
from tests.models.claude_player import ClaudePlayer
from tests.models.player import agent_environment
from tests.system.desk import Desk, desk

pytestmark = [pytest.mark.system]

BOUND_S = 10.0
"""What a cancellation may take at the most: the CLI is asked first, and then its descendants."""


@pytest.fixture(scope="module")
def model() -> Iterator[ClaudePlayer]:
    """The model of all runs here."""
    with ClaudePlayer() as player:
        yield player


@pytest.fixture
def env(model: ClaudePlayer, tmp_path: Path) -> dict[str, str]:
    """The environment of the agent."""
    return agent_environment(model, tmp_path)


@pytest.fixture
async def claude(cwd: Path, env: dict[str, str]) -> AsyncGenerator[Desk]:
    """A desk at which Claude Code works."""
    async with desk("claude_code", cwd, env) as place:
        yield place


def staying(cwd: Path, name: str = "pid") -> str:
    """A command that writes its process id into a file and stays for ever."""
    code = f"import os, time; open({str(cwd / name)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    return f"{sys.executable} -c {shlex.quote(code)}"


async def process_in(path: Path) -> psutil.Process:
    """The process that wrote its id into a file, once it has."""
    await wait_until(lambda: path.exists() and path.read_text().isdigit(), f"{path.name} holds a process id", 30)
    return psutil.Process(int(path.read_text()))


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def cancelled(claude: Desk, run_id: str) -> None:
    """Cancels a run in time, and looks at its end."""
    async with asyncio.timeout(BOUND_S):
        answer = await claude.call("cancel_run", run_id=run_id, reason="enough")
    assert answer["status"] == "cancelled"
    last = (await claude.events(run_id))[-1]
    assert last["data"] == {"status": "cancelled", "reason": "enough"}


async def finished_commands(claude: Desk, run_id: str) -> list[JsonObject]:
    """What was told of the ends of commands."""
    return [event["data"] for event in await claude.events(run_id, "command_finished")]


async def texts(claude: Desk, run_id: str) -> list[str]:
    """What the agent said."""
    return [event["data"]["text"] for event in await claude.events(run_id, "agent_message")]


# ---- cancelled

WAYS = {
    "plain": "{}",
    "ignoring": "(trap '' TERM HUP INT; {} & wait)",
    "child": "{} & wait",
    "background": "{} > /dev/null 2>&1 &",
    "nohup": "nohup {} > /dev/null 2>&1 &",
    "setsid": "setsid {} > /dev/null 2>&1 &",
    "daemon": "(setsid nohup {} > /dev/null 2>&1 &) &",
}
"""How a command may try to stay, by name."""


@pytest.mark.parametrize("way", list(WAYS))
async def test_a_command_does_not_outlive_its_cancelled_run(claude: Desk, way: str) -> None:
    command = WAYS[way].format(staying(claude.cwd))
    run_id = await claude.spawn("say begun", f"run {command}", "sleep 1000", on_approval="allow")
    process = await process_in(claude.cwd / "pid")
    await cancelled(claude, run_id)
    assert gone(process)
    assert claude.processes() == []
    assert len(await finished_commands(claude, run_id)) == 1, "each command that began has an end"


async def test_a_command_that_the_cancellation_ended_is_told_as_interrupted(claude: Desk) -> None:
    run_id = await claude.spawn(f"run {staying(claude.cwd)}", on_approval="allow")
    await process_in(claude.cwd / "pid")
    await cancelled(claude, run_id)
    (over,) = await finished_commands(claude, run_id)
    assert over["status"] == "interrupted"
    assert "doesn't want" not in over.get("output", "")


async def test_a_command_in_the_background_does_not_outlive_its_cancelled_run(claude: Desk) -> None:
    run_id = await claude.spawn(f"run+ {staying(claude.cwd)}", "say meanwhile", on_approval="allow")
    process = await process_in(claude.cwd / "pid")
    await claude.seen(run_id, "agent_message")
    await cancelled(claude, run_id)
    assert gone(process)
    assert [data["status"] for data in await finished_commands(claude, run_id)] == ["interrupted"]


async def test_a_command_without_an_environment_does_not_outlive_its_cancelled_run(claude: Desk) -> None:
    """Neither its environment nor its session say whose it is, as with sudo."""
    command = f"setsid env -i {staying(claude.cwd)} > /dev/null 2>&1 &"
    run_id = await claude.spawn(f"run {command}", "sleep 1000", on_approval="allow")
    process = await process_in(claude.cwd / "pid")
    try:
        await cancelled(claude, run_id)
        assert gone(process)
    finally:
        if not gone(process):
            process.kill()


async def test_ten_runs_that_are_cancelled_at_random_moments_leave_nothing_and_harm_no_other(claude: Desk) -> None:
    draw = random.Random(4711)
    ways = [WAYS[way].format(staying(claude.cwd)) for way in ("nohup", "setsid", "plain")]
    script = ("say begun", "file a.txt x", *(f"run {way}" for way in ways), "sleep 1000")
    other = await claude.spawn("ask Still there?")
    runs = [await claude.spawn(*script, on_approval="allow") for _ in range(10)]
    moments = [draw.uniform(0, 5) for _ in runs]

    async def cancel(run_id: str, after_s: float) -> str:
        await asyncio.sleep(after_s)
        async with asyncio.timeout(2 * BOUND_S):  # all at once, on a busy machine
            return (await claude.call("cancel_run", run_id=run_id))["status"]

    statuses = await asyncio.gather(*map(cancel, runs, moments))
    assert statuses == ["cancelled"] * 10
    await claude.settled(other)
    alive = [process.name() for process in claude.processes()]
    assert alive == ["claude"], "the other one waits"
    await claude.answered(other, text="yes")
    assert await texts(claude, other) == ["the answer is: yes"]
    assert claude.processes() == []
    for run_id in runs:
        kinds = [event["type"] for event in await claude.events(run_id)]
        assert kinds.count("command_started") == kinds.count("command_finished")


# ---- shut down


async def test_closing_the_engine_leaves_nothing_and_the_sessions_go_on(cwd: Path, env: dict[str, str]) -> None:
    async with desk("claude_code", cwd, env) as claude:
        script = ("say begun", f"run setsid {staying(cwd)} > /dev/null 2>&1 &", f"run {staying(cwd, 'other')}")
        works = await claude.spawn(*script, on_approval="allow")
        waits = await claude.spawn("ask Which?")
        processes = [await process_in(cwd / name) for name in ("pid", "other")]
        await claude.settled(waits)
    assert all(map(gone, processes))
    async with desk("claude_code", cwd, env) as claude:
        for run_id in (works, waits):
            run = await claude.call("get_run", run_id=run_id)
            assert (run["status"], run["error"]["code"], run["error"]["resumable"]) == ("failed", "host_lost", True)
        answer = await claude.call("continue_run", run_id=works, text="remember")
        run = await claude.settled(answer["run_id"])
        assert (run["status"], run["result"]["final_response"]) == ("completed", "1 earlier prompts")


# ---- commands in the background

TICKS = "for i in 1 2 3; do echo tick $i; /bin/sleep 0.2; done"


@pytest.mark.parametrize(("code", "status"), [(0, "completed"), (7, "failed")])
async def test_a_run_waits_for_what_it_left_in_the_background(claude: Desk, code: int, status: str) -> None:
    command = f"{TICKS}; touch made; exit {code}"
    run = await claude.finished(f"run+ {command}", "say meanwhile", on_approval="allow")
    assert run["status"] == "completed", run
    (over,) = await finished_commands(claude, run["run_id"])
    assert (over["command"], over["exit_code"], over["status"]) == (command, code, status)
    assert over["output"].startswith("tick 1\ntick 2\ntick 3\n"), "Claude Code may add how it ended"
    kinds = [event["type"] for event in await claude.events(run["run_id"])]
    assert kinds.index("agent_message") < kinds.index("command_finished") < kinds.index("run_completed")
    (changed,) = await claude.events(run["run_id"], "file_changed")
    assert changed["data"]["changes"] == [{"path": "made", "kind": "add", "diff": ""}]


async def test_a_command_that_takes_too_long_goes_on_in_the_background_and_is_told_once(claude: Desk) -> None:
    given = {"command": f"{TICKS}; /bin/sleep 1; echo tock; exit 3", "timeout": 1000}
    run = await claude.finished(f"call Bash {json.dumps(given)}", "say meanwhile", on_approval="allow")
    assert run["status"] == "completed", run
    assert len(await claude.events(run["run_id"], "command_started")) == 1
    (over,) = await finished_commands(claude, run["run_id"])
    assert over["output"].startswith("tick 1\ntick 2\ntick 3\ntock\n")
    assert (over["exit_code"], over["status"]) == (3, "failed")


async def test_what_the_cli_says_of_a_command_is_not_told_as_its_output(claude: Desk) -> None:
    lines = [f"run+ echo {number}" for number in range(5)]
    run = await claude.finished(*lines, "say meanwhile", on_approval="allow")
    updates = await claude.events(run["run_id"], "command_updated")
    assert [event["data"]["output"] for event in updates if event["data"].get("output")] == []
    outputs = {over["command"]: over["output"] for over in await finished_commands(claude, run["run_id"])}
    assert outputs == {f"echo {number}": f"{number}\n" for number in range(5)}


@pytest.mark.parametrize("wait_s", [0, 1])
async def test_work_in_the_background_is_waited_for_no_longer_than_the_run_allows(claude: Desk, wait_s: int) -> None:
    config = {"background_wait_s": wait_s}
    script = (f"run+ {staying(claude.cwd)}", "say meanwhile")
    run_id = await claude.spawn(*script, on_approval="allow", backend_config=config)
    process = await process_in(claude.cwd / "pid")
    run = await claude.settled(run_id)
    assert (run["status"], run["result"]["final_response"]) == ("completed", "meanwhile")
    assert [data["status"] for data in await finished_commands(claude, run_id)] == ["interrupted"]
    assert gone(process)
    assert claude.processes() == []


# ---- large and odd outputs, many runs


async def whole(claude: Desk, run_id: str, seq: int) -> tuple[str, int]:
    """The output of a finished command, read in pages. Returns it with the number of pages."""
    content, offset, pages = "", 0, 0
    while True:
        page = await claude.call(
            "get_event_artifact", run_id=run_id, seq=seq, field_path="/output", offset=offset, limit=100_000
        )
        content, pages = content + page["content"], pages + 1
        if not page["has_more"]:
            return content, pages
        offset = page["next_offset"]


@pytest.mark.parametrize("line", ["run seq 1 60000", "run+ seq 1 60000"])
async def test_a_long_output_is_told_whole(claude: Desk, line: str) -> None:
    run = await claude.finished(line, "say done", on_approval="allow")
    assert run["status"] == "completed", run
    (event,) = await claude.events(run["run_id"], "command_finished")
    assert event["data"]["exit_code"] == 0
    assert len(event["data"]["output"]) < 2000
    output, pages = await whole(claude, run["run_id"], event["seq"])
    lines = output.partition("\n\n[exited")[0].splitlines()  # for which see the test of what the CLI says
    assert lines == [str(number) for number in range(1, 60_001)]
    assert pages == 4


async def test_of_a_long_output_of_a_failure_the_ends_are_told(claude: Desk) -> None:
    """Claude Code itself keeps no more than 10,000 characters of it, and says where it cut."""
    run = await claude.finished("run seq 1 60000; exit 3", "say done", on_approval="allow")
    (event,) = await claude.events(run["run_id"], "command_finished")
    assert (event["data"]["exit_code"], event["data"]["status"]) == (3, "failed")
    output, _ = await whole(claude, run["run_id"], event["seq"])
    assert output.startswith("1\n2\n3\n")
    assert " characters truncated] ..." in output


async def test_odd_characters_of_an_output_are_told(claude: Desk) -> None:
    command = r"printf 'a\377b\000c\033[31mred\033[0m\n'; echo bad >&2"
    run = await claude.finished(f"run {command}", "say done", on_approval="allow")
    (over,) = await finished_commands(claude, run["run_id"])
    assert over["output"] == "a\ufffdb\0c\x1b[31mred\x1b[0m\nbad"


async def test_eight_runs_at_once_all_complete_and_keep_apart(claude: Desk) -> None:
    folders = [claude.cwd / str(number) for number in range(8)]
    for folder in folders:
        folder.mkdir()
    runs = [
        await claude.spawn(f"file a.txt {folder.name}", "run cat a.txt", "ask Ready?", f"say {folder.name}",
                           cwd=str(folder), limits={"input_timeout_s": 50})
        for folder in folders
    ]  # fmt: skip
    await claude.call("wait_runs", run_ids=runs, until="all", wait_ms=50_000)
    waiting = [await claude.call("get_run", run_id=run_id) for run_id in runs]
    assert [run["status"] for run in waiting] == ["input_required"] * 8
    assert len({process.pid for process in claude.processes() if process.name() == "claude"}) == 8
    await asyncio.gather(*(claude.call("continue_run", run_id=run_id, text="yes") for run_id in runs))
    digest = await claude.call("wait_runs", run_ids=runs, until="all", wait_ms=50_000)
    assert [run["status"] for run in digest["runs"]] == ["completed"] * 8
    for run_id, folder in zip(runs, folders, strict=True):
        run = await claude.call("get_run", run_id=run_id)
        assert run["result"]["final_response"] == folder.name
        assert [data["output"] for data in await finished_commands(claude, run_id)] == [folder.name]
        (changed,) = await claude.events(run_id, "file_changed")
        assert [change["path"] for change in changed["data"]["changes"]] == ["a.txt"]
        assert (folder / "a.txt").read_text() == f"{folder.name}\n"
