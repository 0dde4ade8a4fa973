"""One run that cannot be recovered harms no other, and nobody takes what is not theirs to take."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import psutil
import pytest

from backends import BACKENDS, Backends
from orchestrator.backend import RunContext
from orchestrator.doors.tools import Tools
from orchestrator.ends import Completed, Outcome
from orchestrator.engine import recovery
from orchestrator.engine.engine import Caller, Engine
from orchestrator.engine.history import Inherited, history_of, inherit
from orchestrator.errors import InvalidArgument, StoreError
from orchestrator.model import JsonObject
from orchestrator.process import ProcessId, reap, start_of
from orchestrator.store import layout
from orchestrator.store.layout import Home, RunDir, Workspace
from orchestrator.store.masking import Mask
from orchestrator.updates import Started
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


async def test_a_run_whose_disk_hangs_is_left_for_later_and_takes_one_thread(
    home: Home, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "TAKE_S", 0.3)
    hanging, other = queued(home, cwd), queued(home, cwd)
    answers, tries = threading.Event(), list[Path]()

    def slow(run_dir: RunDir, *given: Any, **more: Any) -> Inherited:
        if run_dir.run_id == hanging:
            tries.append(run_dir.path)
            answers.wait(20)
        return inherit(run_dir, *given, **more)

    monkeypatch.setattr(recovery, "inherit", slow)
    async with desk(cwd, Attaching(nothing)) as tools:
        assert await tools.engine.recovery.recover() == 1
        assert (await tools.over(other))["status"] == "completed"
        assert await tools.engine.recovery.recover() == 0
        assert len(tries) == 1
        answers.set()  # at last the disk answers
        waiting = tools.engine.recovery._slow  # pyright: ignore[reportPrivateUsage]
        await wait_until(lambda: not waiting, "the late one to be given back")
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


async def test_who_commands_a_run_that_cannot_be_taken_over_is_told_of_the_disk_and_not_of_its_dead_owner(
    home: Home, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Inherited:
        raise StoreError("cannot write owner.json: No space left on device")

    monkeypatch.setattr(recovery, "inherit", full)
    run_id = queued(home, cwd)
    owner = Path(Workspace(cwd).run(run_id).file("owner.json"))
    gone: JsonObject = {**orjson.loads(owner.read_bytes()), "start_time": 1.5}
    owner.write_bytes(orjson.dumps(gone))
    async with desk(cwd, Attaching(nothing)) as tools:
        with pytest.raises(StoreError, match="cannot be taken over now"):
            await tools.call("cancel_run", run_id=run_id)


@pytest.mark.parametrize("kind", ["nfs4", "ceph", "lustre", "fuse.sshfs"])
def test_nothing_is_kept_or_taken_over_where_locks_do_not_hold(
    home: Home, cwd: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run_id = queued(home, cwd)
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(cwd), fstype=kind)]

    def mounted(**_: object) -> list[SimpleNamespace]:
        return mounts

    monkeypatch.setattr(psutil, "disk_partitions", mounted)
    layout._file_system.cache_clear()  # pyright: ignore[reportPrivateUsage]
    try:
        with pytest.raises(StoreError, match="network file system"):
            Workspace(cwd).open()
        with pytest.raises(StoreError, match="network file system"):
            inherit(Workspace(cwd).run(run_id), None, attachable=True)
    finally:
        layout._file_system.cache_clear()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.skipif(sys.platform != "linux", reason="emulated where psutil reads the boot's time of day")
@pytest.mark.parametrize("step_s", [-7_200.0, 10.0])
def test_a_clock_that_is_set_changes_no_process(monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    own = ProcessId.own()
    script = f"env -i {shutil.which('sleep')} 600 & echo; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        agent = {"pid": leader.pid, "pgid": leader.pid, "start_time": start_of(leader.pid)}
        real = psutil._psplatform.boot_time  # type: ignore[attr-defined]
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: real() + step_s)  # type: ignore[attr-defined]
        assert own.alive is True
        assert ProcessId.from_json({**own.to_json(), "start_time": own.start_time - 5}).alive is False
        assert reap({"run_x": agent}, at_once=True) == 2
