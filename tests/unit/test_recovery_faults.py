"""One run that cannot be recovered harms no other, and nobody takes what is not theirs to take."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import orjson
import psutil
import pytest

from backends import BACKENDS, Backends
from orchestrator.backend import RunContext
from orchestrator.doors.tools import Tools
from orchestrator.ends import Completed, Outcome
from orchestrator.engine import recovery
from orchestrator.engine.engine import Caller, Engine
from orchestrator.engine.history import history_of
from orchestrator.errors import InvalidArgument
from orchestrator.events import Started
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home, RunDir
from orchestrator.store.masking import Mask
from tests.conftest import wait_until
from tests.unit.agents import Agent, desk, nothing
from tests.unit.runs import events_of, new_log
from tests.unit.test_recovery import Attaching, begun, queued


def rewrite(run_dir: RunDir, change: Callable[[list[JsonObject]], object]) -> None:
    """Changes the lines of a log."""
    path = Path(run_dir.file("events.jsonl"))
    lines: list[JsonObject] = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    change(lines)
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def _no_time(lines: list[JsonObject]) -> None:
    lines[-1]["ts"] = "yesterday"


def _no_outcome(lines: list[JsonObject]) -> None:
    lines[-1] |= {"type": "status_changed", "data": {"status": "running", "resolved": {"request_id": "r1"}}}


@pytest.mark.parametrize("damage", [_no_time, _no_outcome, "spec", "agent"])
async def test_a_damaged_run_keeps_no_other_from_being_recovered(
    home: Home, cwd: Path, damage: str | Callable[[list[JsonObject]], object]
) -> None:
    log = await begun(home, cwd)
    await log.append("agent_message", {"text": "x"})
    log.close()
    if damage == "spec":
        Path(log.dir.file("spec.json")).write_bytes(b"{}")
    elif damage == "agent":
        owner: JsonObject = orjson.loads(Path(log.dir.file("owner.json")).read_bytes())
        agent: JsonObject = {"pid": "x", "pgid": [], "start_time": None}
        Path(log.dir.file("owner.json")).write_bytes(orjson.dumps({**owner, "agent": agent}))
    else:
        assert not isinstance(damage, str)
        rewrite(log.dir, damage)
    other = queued(home, cwd)
    async with desk(cwd, Attaching(nothing)) as tools:
        await tools.engine.recovery.recover()
        assert (await tools.over(other))["status"] == "completed"
        page = await tools.call("list_runs")
    assert other in [run["run_id"] for run in page["runs"]]


async def test_a_run_whose_disk_hangs_is_left_for_later(home: Home, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "TAKE_S", 0.3)
    hanging, other = queued(home, cwd), queued(home, cwd)
    pipe = cwd / ".orchestrator/runs" / hanging / "owner.json"
    pipe.unlink()
    os.mkfifo(pipe)
    async with desk(cwd, Attaching(nothing)) as tools:
        assert await tools.engine.recovery.recover() == 1
        assert (await tools.over(other))["status"] == "completed"
        with pipe.open("wb"):  # at last the disk answers
            pass
        slow = tools.engine.recovery._slow  # pyright: ignore[reportPrivateUsage]
        await wait_until(lambda: not slow, "the late one to be given back")
        assert await tools.engine.recovery.recover() == 1
        assert (await tools.over(hanging))["status"] == "completed"


async def test_a_takeover_that_fails_holds_nothing_and_is_said_once(
    home: Home, cwd: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = queued(home, cwd)
    owner = cwd / ".orchestrator/runs" / run_id / "owner.json"
    owner.unlink()
    (owner / "in the way").mkdir(parents=True)
    async with desk(cwd, Attaching(nothing)) as tools:
        await tools.call("get_run", run_id=run_id)
        before = psutil.Process().num_fds()
        for _ in range(20):
            assert (await tools.call("get_run", run_id=run_id))["status"] == "queued"
        assert psutil.Process().num_fds() <= before
    assert [record.levelname for record in caplog.records if run_id in record.getMessage()] == ["WARNING"]


async def test_a_store_of_another_format_is_left_alone(home: Home, cwd: Path) -> None:
    log = await begun(home, cwd)
    log.close()
    (cwd / ".orchestrator" / "VERSION").write_text("2\n")
    async with desk(cwd, Agent(nothing)) as tools:
        assert await tools.engine.recovery.recover() == 0
    assert [event.type for event in events_of(log.dir)] == ["run_started"]


async def test_a_run_of_a_backend_that_nobody_here_knows_is_left_alone(home: Home, cwd: Path) -> None:
    run_id = queued(home, cwd)
    async with Engine(home, Backends(BACKENDS).load) as engine:
        tools = Tools(engine, Caller(cwd=cwd, env={}))
        assert await engine.recovery.recover() == 0
        assert (await tools.call("get_run", {"run_id": run_id}))["status"] == "queued"


async def test_who_may_not_spawn_on_a_backend_may_not_resume_on_it(home: Home, cwd: Path) -> None:
    async def opened(ctx: RunContext) -> Outcome:
        await ctx.emit(Started(native_session_id="n1"))
        return Completed(final_response="done")

    async with desk(cwd, Agent(opened)) as tools:
        run = await tools.finished()
        stranger = Tools(tools.engine, Caller(cwd=cwd, env={}, backends=frozenset({"remote_a2a"})))
        with pytest.raises(InvalidArgument, match="no backend 'scripted'"):
            await stranger.call("continue_run", {"run_id": run["run_id"], "text": "go on"})


async def test_who_makes_room_takes_nothing_over(home: Home, cwd: Path) -> None:
    queued(home, cwd)
    async with desk(cwd, Attaching(nothing)) as tools:
        tools.engine.lives.draining = "another one comes"
        assert await tools.engine.recovery.recover() == 0
        tools.engine.lives.draining = None
        assert await tools.engine.recovery.recover() == 1


async def test_a_prompt_that_held_a_secret_is_not_sent_with_stars_in_it(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd, mask=Mask(["do it"]))
    log.close()
    agent = Attaching(nothing)
    async with desk(cwd, agent) as tools:
        run = await tools.over(log.run.run_id)
    assert run["error"]["code"] == "host_lost"
    assert "secret" in run["error"]["message"]
    assert agent.specs == []


async def test_time_in_which_nobody_owned_the_run_is_not_work(home: Home, cwd: Path) -> None:
    log = await begun(home, cwd)
    for _ in range(3):
        await log.append("agent_message", {"text": "x"})
        await log.append("status_changed", {"status": "running", "detail": "reattached"})
        await log.append("status_changed", {"status": "running", "detail": "waiting_for_client"})
    log.close()

    def hours(lines: list[JsonObject]) -> None:
        for number, line in enumerate(lines):
            line["ts"] = f"2026-01-02T{number:02d}:00:00.000Z"

    rewrite(log.dir, hours)
    # before each message an hour of work, but behind waiting_for_client; before each takeover nobody worked
    assert history_of(log.dir, attachable=True).worked_s == 3600


async def test_a_directory_that_is_not_a_run_yet_hides_no_other(cwd: Path) -> None:
    async with desk(cwd, Agent(nothing)) as tools:
        run = await tools.finished()
        (cwd / ".orchestrator/runs/run_1k0aaaaaaaaaaaaaaaaaaa").mkdir()
        page = await tools.call("list_runs")
    assert [row["run_id"] for row in page["runs"]] == [run["run_id"]]
