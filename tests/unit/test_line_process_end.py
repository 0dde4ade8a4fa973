"""An agent's process: when its block ends, nothing of it is left. Real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from orchestrator import line_process as module
from orchestrator import process as process_facts
from orchestrator.line_process import LineProcess
from tests.conftest import wait_until
from tests.unit.line_agents import HURRIED, POLITE, Place, first, place_at, runs


@pytest.fixture
async def place(cwd: Path) -> AsyncGenerator[Place]:
    """A place of this test."""
    async with place_at(cwd) as place:
        yield place


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a process that does not react costs no time."""
    monkeypatch.setattr(module, "POLITE_S", 0.2)
    monkeypatch.setattr(module, "TERM_S", 0.2)
    monkeypatch.setattr(process_facts, "REAP_S", 0.2)


EOF_FILE = "for line in sys.stdin: pass\nopen('eof', 'w').close()\n"
TERM_FILE = (
    "def term(*_):\n  open('term', 'w').close()\n  os._exit(6)\n"
    "signal.signal(signal.SIGTERM, term)\nprint('ready', flush=True)\n"
)
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\n"
FOREVER = "while True: time.sleep(60)"


async def test_a_process_ends_by_itself_when_its_stdin_ends(place: Place) -> None:
    async with place.python(f"{TERM_FILE}{EOF_FILE}os._exit(5)") as process:
        assert await first(process) == b"ready\n"
    assert process.exit_code == 5
    assert os.listdir(place.cwd) == ["eof"]


async def test_a_process_that_does_not_end_by_itself_is_told_to(place: Place, impatient: None) -> None:
    async with place.python(TERM_FILE + FOREVER) as process:
        await first(process)
    assert process.exit_code == 6
    assert os.listdir(place.cwd) == ["term"]


async def test_a_process_that_is_deaf_is_killed(place: Place, impatient: None) -> None:
    async with place.python(DEAF + EOF_FILE + FOREVER) as process:
        await first(process)
    assert process.exit_code == -signal.SIGKILL
    assert os.listdir(place.cwd) == ["eof"]


async def test_without_time_nobody_is_asked(place: Place) -> None:
    place.ctx.grace_s = HURRIED
    async with place.python(f"{TERM_FILE}{EOF_FILE}os._exit(5)") as process:
        await first(process)
    assert process.exit_code == -signal.SIGKILL
    assert os.listdir(place.cwd) == []


async def test_a_process_that_floods_is_ended_although_nobody_reads(
    place: Place, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_BYTES", 10_000)
    async with place.python("while True: print('x' * 99)") as process:
        await first(process)
    assert process.exit_code is not None


WAYS: dict[str, str] = {
    "plain": "sleep 1000 & echo $!",
    "nohup": "nohup sleep 1000 >/dev/null 2>&1 & echo $!",
    "setsid": "setsid sleep 1000 & echo $!",
    "twice": "setsid sh -c 'setsid sleep 1000 & echo $!'",
    "deaf": "setsid sh -c \"trap '' TERM HUP INT; echo \\$\\$; while true; do sleep 1000; done\" &",
    "without an environment, in the group": "env -i sleep 1000 & echo $!",
}


@pytest.mark.skipif(sys.platform != "linux", reason="only there a process can adopt")
@pytest.mark.parametrize("grace_s", [POLITE, HURRIED])
async def test_whoever_left_group_and_environment_is_gone_too(place: Place, grace_s: float, impatient: None) -> None:
    place.ctx.grace_s = grace_s
    async with place.shell("setsid env -i sh -c 'sleep 1000 & echo $!'; cat") as process:
        started = int(await first(process))
        await wait_until(
            lambda: psutil.Process(started).ppid() == process.pid, "it has lost its parent, and is adopted"
        )
    assert not runs(started)


@pytest.mark.parametrize("grace_s", [POLITE, HURRIED])
@pytest.mark.parametrize("leader", ["stays", "ends"])
@pytest.mark.parametrize("way", WAYS)
async def test_what_it_started_is_gone_too(
    place: Place, way: str, leader: str, grace_s: float, impatient: None
) -> None:
    place.ctx.grace_s = grace_s
    async with place.shell(f"{WAYS[way]}\n{'cat' if leader == 'stays' else 'exit 0'}") as process:
        started = int(await first(process))
        if leader == "ends":
            await wait_until(lambda: process.exit_code is not None, "the leader has ended")
        assert runs(started)
    assert not runs(started)
    assert not runs(process.pid)


async def test_who_cannot_be_found_costs_neither_time_nor_a_pipe(place: Place) -> None:
    async with place.shell("setsid env -i sleep 1000 & echo $!") as process:
        escaped = int(await first(process))
        await wait_until(lambda: process.exit_code is not None, "nobody can tell any more whose child that is")
    try:
        await wait_until(lambda: place.pipes == 0, "no pipe is open", within_s=2)
    finally:
        if runs(escaped):
            os.kill(escaped, signal.SIGKILL)


async def test_another_runs_processes_are_left_alone(place: Place, cwd: Path) -> None:
    other = Place(cwd)
    async with other.shell("setsid sleep 1000 & echo $!; cat") as kept:
        bystander = int(await first(kept))
        async with place.shell("echo x; cat") as process:
            await first(process)
        assert runs(bystander)
        assert runs(kept.pid)
    assert not runs(bystander)


@pytest.mark.parametrize("grace_s", [POLITE, HURRIED])
async def test_nothing_is_left_when_the_block_raises(place: Place, grace_s: float) -> None:
    place.ctx.grace_s = grace_s
    started: list[int] = []

    async def work() -> None:
        async with place.shell("setsid sleep 1000 & echo $!; cat") as process:
            started.extend((process.pid, int(await first(process))))
            raise RuntimeError("of the block")

    with pytest.raises(RuntimeError, match="of the block"):
        await work()
    assert len(started) == 2
    assert [pid for pid in started if runs(pid)] == []


@asynccontextmanager
async def working(place: Place, script: str) -> AsyncGenerator[tuple[LineProcess, asyncio.Task[None]]]:
    """A task that is in the block of a process that is ready, and stays there."""
    began: asyncio.Future[LineProcess] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        async with place.python(script) as process:
            await first(process)
            began.set_result(process)
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    process = await began
    try:
        yield process, task
    finally:
        if runs(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


async def test_nothing_is_left_when_the_block_is_cancelled(place: Place, impatient: None) -> None:
    async with working(place, DEAF + EOF_FILE + FOREVER) as (process, task):
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert not runs(process.pid)


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 8, 16])
async def test_nothing_is_left_when_the_beginning_is_cancelled(place: Place, steps: int) -> None:
    place.ctx.grace_s = HURRIED

    async def work() -> None:
        async with place.shell("sleep 1000"):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_nothing_is_left_when_the_end_is_cancelled_too(place: Place, impatient: None) -> None:
    async with working(place, DEAF + EOF_FILE + FOREVER) as (process, task):
        task.cancel()
        await wait_until(lambda: (place.cwd / "eof").exists(), "the end has begun")
        task.cancel()
        await asyncio.wait({task})
        await wait_until(lambda: not runs(process.pid), "the process is gone", within_s=2)
