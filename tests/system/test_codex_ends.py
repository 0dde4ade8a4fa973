"""How runs of Codex end: whatever was started is gone, in bounded time, and all that was done is told."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.model import JsonObject
from tests.conftest import wait_until
from tests.models.codex_player import CodexPlayer
from tests.models.player import agent_environment
from tests.system.codex_desk import call as line_of
from tests.system.codex_desk import calls, changed, commands, done, helper, kill, patch, repository, texts, tree
from tests.system.desk import Desk, desk

pytestmark = [pytest.mark.system]

SECONDS = f"4321{os.environ.get('PYTEST_XDIST_WORKER', '0').removeprefix('gw')}"
"""How long the commands here would sleep: by this their processes are known, so it is another one in each of the
processes that share the tests."""


@pytest.fixture(scope="module")
def model() -> Iterator[CodexPlayer]:
    """The model of all runs here."""
    with CodexPlayer() as player:
        yield player


@pytest.fixture
async def codex(model: CodexPlayer, cwd: Path, tmp_path: Path) -> AsyncGenerator[Desk]:
    """A desk at which Codex works."""
    async with desk("codex", cwd, agent_environment(model, tmp_path)) as place:
        yield place


@pytest.fixture(autouse=True)
def nobody_sleeps_on() -> Iterator[None]:
    """No command of a test is left, in whatever session and environment."""
    yield
    left = sleepers()
    for process in left:
        process.kill()
    assert left == []


def sleepers() -> list[psutil.Process]:
    """The commands that sleep."""
    found = psutil.process_iter(["cmdline", "status"])
    return [p for p in found if SECONDS in (p.info["cmdline"] or ()) and p.info["status"] != psutil.STATUS_ZOMBIE]


SLEEPS = [
    f"sleep {SECONDS}",
    f"nohup sleep {SECONDS} > /dev/null 2>&1",
    f"setsid --wait sleep {SECONDS}",
    f"(sleep {SECONDS} &) ; sleep {SECONDS}",
    f"trap '' TERM INT HUP; sleep {SECONDS}; sleep {SECONDS}",
    f"setsid nohup sleep {SECONDS} > /dev/null 2>&1 & sleep {SECONDS}",
]
"""Commands that do not end by themselves, and some that would not want to end with their shell."""


@pytest.mark.parametrize("level", ["workspace_write", "full_access"])
@pytest.mark.parametrize("command", SLEEPS, ids=["plain", "nohup", "setsid", "twice", "stubborn", "aside"])
async def test_a_cancelled_run_leaves_no_process(codex: Desk, command: str, level: str) -> None:
    run_id = await codex.spawn("say begun", f"run {command}", "say never", permission=level)
    await codex.seen(run_id, "command_started")
    await wait_until(lambda: bool(sleepers()), "the command sleeps")
    before = time.monotonic()
    answer = await codex.call("cancel_run", run_id=run_id, reason="enough")
    assert time.monotonic() - before < 8
    assert answer["status"] == "cancelled"
    assert codex.processes() == []
    assert sleepers() == []
    ((told, status),) = await commands(codex, {"run_id": run_id})
    assert told == command
    assert status in ("failed", "interrupted")
    last = (await codex.events(run_id))[-1]
    assert last["data"] == {"status": "cancelled", "reason": "enough"}


@pytest.mark.parametrize("level", ["workspace_write", "full_access"])
async def test_a_command_without_our_environment_is_ended_as_well(codex: Desk, level: str) -> None:
    run_id = await codex.spawn(f"run env -i setsid --wait sleep {SECONDS}", "say never", permission=level)
    await wait_until(lambda: bool(sleepers()), "the command sleeps", 20)
    await codex.call("cancel_run", run_id=run_id)
    assert sleepers() == []


@pytest.mark.parametrize("level", ["workspace_write", "full_access"])
async def test_a_run_that_completes_leaves_none_of_what_it_put_into_the_background(codex: Desk, level: str) -> None:
    lines = (f"run nohup sleep {SECONDS} > /dev/null 2>&1 &", f"run setsid sleep {SECONDS} > /dev/null 2>&1 & echo on")
    run = await done(codex, *lines, "say end", permission=level)
    assert await texts(codex, run) == ["end"]
    assert codex.processes() == []
    assert sleepers() == []


@pytest.mark.parametrize("level", ["workspace_write", "full_access"])
async def test_a_command_that_outlives_its_turn_is_ended_and_told(codex: Desk, level: str) -> None:
    before = time.monotonic()
    run = await done(codex, f"run+ echo begun; sleep {SECONDS}", "say end", permission=level)
    assert time.monotonic() - before < 15
    (ended,) = await codex.events(run["run_id"], "command_finished")
    assert ended["data"]["command"] == f"echo begun; sleep {SECONDS}"
    assert ended["data"]["output"] == "begun\n"
    assert ended["data"]["status"] in ("failed", "interrupted")
    assert ended["data"].get("exit_code") in (None, 137), "SIGKILL, if Codex hears of its end before it says so itself"
    assert (run["result"]["final_response"], sleepers()) == ("end", [])


@pytest.mark.parametrize("how", ["cancelled", "outlived", "timed out", "killed"])
async def test_nothing_of_the_sandbox_is_left_in_the_project(codex: Desk, how: str) -> None:
    """Of a command that is killed Codex leaves the empty folders by which its sandbox protects what is not there."""
    if how == "outlived":
        await done(codex, f"run+ sleep {SECONDS}", "say end")
    elif how == "timed out":
        await codex.finished(f"run sleep {SECONDS}", limits={"timeout_s": 1.0})
    else:
        run_id = await codex.spawn(f"run sleep {SECONDS}")
        await wait_until(lambda: bool(sleepers()), "the command sleeps", 20)
        if how == "killed":
            kill(codex)
            await codex.settled(run_id)
        else:
            await codex.call("cancel_run", run_id=run_id)
    assert [path.name for path in codex.cwd.iterdir()] == [".orchestrator"]


async def test_a_cancelled_run_leaves_no_process_of_its_helpers(codex: Desk) -> None:
    run_id = await codex.spawn(helper(f"run sleep {SECONDS}"), f"run sleep {SECONDS}", permission="full_access")
    await wait_until(lambda: len(sleepers()) == 2, "both sleep", 20)
    await codex.call("cancel_run", run_id=run_id)
    assert sleepers() == []
    assert codex.processes() == []


async def test_a_helper_that_outlives_its_run_is_ended(codex: Desk) -> None:
    """Codex itself does not wait for what a sub-agent does, nor does the run."""
    line = "run timeout 20 sh -c 'until test -e begun; do sleep 0.05; done'"
    run = await done(codex, helper(f"run touch begun; sleep {SECONDS}"), line, "say end")
    assert run["result"]["final_response"] == "end"
    assert (sleepers(), codex.processes()) == ([], [])


async def test_what_a_helper_asks_is_taken_back_when_the_run_is_over(codex: Desk) -> None:
    waits = "run timeout 20 sh -c 'until test -e go; do sleep 0.05; done'"
    run = await codex.finished(helper("approve touch /never"), waits, "say end")
    assert [request["detail"]["command"] for request in run["pending"]] == ["touch /never"]
    (codex.cwd / "go").touch()
    await codex.seen(run["run_id"], "run_completed")
    run = await codex.call("get_run", run_id=run["run_id"])
    assert (run["result"]["final_response"], run.get("pending")) == ("end", None)
    assert not Path("/never").exists()


async def test_runs_are_cancelled_at_any_moment(codex: Desk) -> None:
    """By a seed that the failure names; the moments are between nothing and a whole run."""
    seed = 20261127
    chance = random.Random(seed)
    script = ("say one", "file made.txt x", f"run sleep 0.05; echo y; sleep {SECONDS}", "say never")
    for number in range(10):
        run_id = await codex.spawn(*script)
        after = chance.uniform(0, 1.2)
        await asyncio.sleep(after)
        before = time.monotonic()
        answer = await codex.call("cancel_run", run_id=run_id)
        where = f"seed {seed}, cancel {number} after {after:.3f} s"
        assert time.monotonic() - before < 8, where
        assert answer["status"] == "cancelled", where
        assert codex.processes() == [], where
        assert sleepers() == [], where
        events = await codex.events(run_id)
        assert events[-1]["data"]["status"] == "cancelled", where
        begun = [event["data"]["command_id"] for event in events if event["type"] == "command_started"]
        assert [e["data"]["command_id"] for e in events if e["type"] == "command_finished"] == begun, where


async def test_an_engine_that_closes_leaves_no_process(model: CodexPlayer, cwd: Path, tmp_path: Path) -> None:
    env = agent_environment(model, tmp_path)
    async with desk("codex", cwd, env) as codex:
        ids = [
            await codex.spawn(f"run {command}", "say never", permission=level)
            for command, level in zip(SLEEPS[:4], ("full_access", "workspace_write") * 2, strict=True)
        ]
        for run_id in ids:
            await codex.seen(run_id, "command_started")
        before = time.monotonic()
    assert time.monotonic() - before < 5
    assert sleepers() == []
    assert [path.name for path in cwd.iterdir()] == [".orchestrator"]
    async with desk("codex", cwd, env) as codex:
        for run_id in ids:
            run = await codex.call("get_run", run_id=run_id)
            assert (run["status"], run["error"]["code"]) == ("failed", "host_lost")
        continued = await codex.call("continue_run", run_id=ids[0], text="remember")
        assert (await codex.settled(continued["run_id"]))["result"]["final_response"] == "1 earlier prompts"


async def test_two_megabytes_of_output_neither_block_nor_are_lost_unsaid(codex: Desk) -> None:
    """Codex itself keeps 1 MiB of a command's output: its beginning and its end."""
    run = await done(codex, "run seq -w 262144 | tr '\\n' ' '; echo; echo the end", "say end")
    (ended,) = await codex.events(run["run_id"], "command_finished")
    assert 2**20 - 4096 < ended["data"]["artifact_refs"]["/output"]["total_bytes"] < 2**20 + 4096
    output, offset = "", 0
    while offset is not None:
        more: JsonObject = {"seq": ended["seq"], "field_path": "/output", "offset": offset, "limit": 262_144}
        page = await codex.call("get_event_artifact", run_id=run["run_id"], **more)
        output, offset = output + page["content"], page.get("next_offset")
    assert output.startswith("000001 000002 ")
    assert output.endswith("262144 \nthe end\n")


async def test_many_small_outputs_are_all_told(codex: Desk) -> None:
    run = await done(codex, *(f"run echo {n}; echo error {n} >&2" for n in range(10)), "say end")
    ended = [event["data"] for event in await codex.events(run["run_id"], "command_finished")]
    assert [set(data["output"].splitlines()) for data in ended] == [{str(n), f"error {n}"} for n in range(10)]


async def eight(codex: Desk, folders: list[Path]) -> None:
    """Eight runs at once, which must all do their work unasked."""
    scripts = [(f"file {n}.txt {n}", f"run sleep 0.3; echo {n}", f"say {n}") for n in range(8)]
    ids = [await codex.spawn(*script, cwd=str(cwd)) for script, cwd in zip(scripts, folders, strict=True)]
    runs = [await codex.settled(run_id) for run_id in ids]
    assert [(run["status"], run.get("pending")) for run in runs] == [("completed", None)] * 8
    for n, run in enumerate(runs):
        assert run["result"]["final_response"] == str(n)
        assert (folders[n] / f"{n}.txt").read_text() == f"{n}\n"
        assert {"path": f"{n}.txt", "kind": "add", "diff": f"+{n}\n"} in await changed(codex, run)
        assert await commands(codex, run) == [(f"sleep 0.3; echo {n}", "completed")]


async def test_eight_runs_work_at_once_in_projects_of_their_own(codex: Desk) -> None:
    folders = [codex.cwd / str(n) for n in range(8)]
    for folder in folders:
        folder.mkdir()
    await eight(codex, folders)


async def test_eight_runs_work_at_once_in_one_project(codex: Desk) -> None:
    """Codex's sandbox makes such folders for a command and takes them away after it, also from under another's."""
    for number in range(3):
        folder = codex.cwd / str(number)
        folder.mkdir()
        await eight(codex, [folder] * 8)


# ---- what is told of files


async def test_what_commands_do_to_files_is_found(codex: Desk) -> None:
    (codex.cwd / "old.txt").write_text("old\n")
    (codex.cwd / "same.txt").write_text("same\n")
    run = await done(
        codex, "file own.txt own", "run echo new > new.txt", "run mv old.txt sub.txt; touch -m same.txt", "say"
    )
    told = [(change["path"], change["kind"], change.get("diff")) for change in await changed(codex, run)]
    assert told[0] == ("own.txt", "add", "+own\n")
    assert set(told[1:]) >= {("new.txt", "add", "+new\n"), ("sub.txt", "add", "+old\n"), ("old.txt", "delete", None)}


async def test_what_a_cancelled_run_did_to_files_is_told_as_well(codex: Desk) -> None:
    run_id = await codex.spawn("file own.txt own", f"run echo new > new.txt; sleep {SECONDS}", "say never")
    await wait_until(lambda: bool(sleepers()), "the command sleeps", 20)
    await codex.call("cancel_run", run_id=run_id)
    told = [(change["path"], change["kind"]) for change in await changed(codex, {"run_id": run_id})]
    assert told == [("own.txt", "add"), ("new.txt", "add")]


async def test_each_kind_of_change_is_told_as_it_is_on_disk(codex: Desk) -> None:
    for name, text in (("a.txt", "one\ntwo\n"), ("old.txt", "old\n"), ("from.txt", "1\n2\n")):
        (codex.cwd / name).write_text(text)
    body = (
        "*** Add File: sub/new.txt\n+n\n*** Update File: a.txt\n@@\n-two\n+zwei\n*** Delete File: old.txt\n"
        "*** Update File: from.txt\n*** Move to: to.txt\n@@\n-2\n+zwei\n"
    )
    run = await done(codex, patch(body), "say end")
    assert tree(codex.cwd) == {"sub/new.txt": b"n\n", "a.txt": b"one\nzwei\n", "to.txt": b"1\nzwei\n"}
    told = sorted((change["path"], change["kind"]) for change in await changed(codex, run))
    kinds = [("from.txt", "delete"), ("old.txt", "delete"), ("sub/new.txt", "add"), ("to.txt", "add")]
    assert told == [("a.txt", "update"), *kinds]


async def test_each_run_has_the_patch_of_its_own_turn(codex: Desk) -> None:
    repository(codex.cwd)
    (codex.cwd / "a.txt").write_text("one\n")
    first = await done(codex, "edit a.txt one -> two", "file new.txt x", "edit new.txt x -> y", "say end")
    second = await done(codex, "file more.txt m", "say end", session_mode="resume", session_id=first["session_id"])
    third = await done(codex, "run touch by-command", "say end", session_mode="resume", session_id=first["session_id"])
    patches = [await codex.events(run["run_id"], "artifact_added") for run in (first, second, third)]
    assert [len(events) for events in patches] == [1, 1, 0]
    data = patches[0][0]["data"]
    assert (data["name"], data["mime"]) == ("turn.patch", "text/x-diff")
    assert "more.txt" not in data["text"]
    assert "a.txt" not in patches[1][0]["data"]["text"]
    fresh = codex.cwd.parent / "fresh"
    fresh.mkdir()
    (fresh / "a.txt").write_text("one\n")
    applied = await asyncio.to_thread(
        subprocess.run, ["git", "apply", "-"], cwd=fresh, input=data["text"].encode(), check=False
    )
    assert applied.returncode == 0
    assert tree(fresh) == {"a.txt": b"two\n", "new.txt": b"y\n"}


async def test_a_patch_that_does_not_fit_changes_nothing_and_is_heard(codex: Desk) -> None:
    """Codex has no item for it: only the agent hears."""
    run = await done(codex, "edit none.txt a -> b", "heard", "say end")
    assert "none.txt" in (await texts(codex, run))[0]
    assert await codex.events(run["run_id"], "file_changed", "tool_started", "artifact_added") == []


async def test_commands_of_one_answer_are_told_each_by_itself(codex: Desk) -> None:
    lines = [line_of("exec_command", cmd=f"echo {n}") for n in range(4)]
    run = await done(codex, calls(*lines), "say end")
    ended = [event["data"] for event in await codex.events(run["run_id"], "command_finished")]
    assert sorted((data["command"], data["output"]) for data in ended) == [(f"echo {n}", f"{n}\n") for n in range(4)]
