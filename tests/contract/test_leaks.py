"""After the work nothing is left: no task, no file descriptor, no temporary file, no entry in a table."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_until
from tests.contract.conftest import Subject

EVERY_END = [
    ("say hello", "command ls -> 5KB", "artifact 200KB", "binary 100KB"),
    ("fail because",),
    ("reject because",),
    ("crash",),
    ("sleep 100",),
    ("ask Which?",),
    ("artifact 200KB", "sleep 100"),
]


async def play(subject: Subject) -> None:
    """Brings runs to every kind of end."""
    runs = [await subject.spawn(*script) for script in EVERY_END]
    for run_id in runs:
        await subject.call("poll_events", run_id=run_id, types=["message_added", "run_failed"])
    for run_id in runs:
        if (await subject.call("get_run", run_id=run_id))["status"] in ("running", "input_required"):
            await subject.call("cancel_run", run_id=run_id)
    await subject.call("wait_runs", run_ids=runs, until="all")


async def test_no_task_and_no_descriptor_is_left(subject: Subject) -> None:
    await play(subject)  # what is loaded and opened once stays
    engine = subject.engine

    def idle() -> bool:
        return engine.lives.idle

    def counts() -> tuple[int, int]:
        gc.collect()
        return len(asyncio.all_tasks()), psutil.Process().num_fds()

    await wait_until(idle, "the engine's tables to be empty")
    settled = counts()
    await play(subject)
    await wait_until(idle, "the engine's tables to be empty")
    await wait_until(lambda: counts() <= settled, f"no more than {settled} tasks and descriptors, now {counts()}")


async def test_no_temporary_file_is_left(subject: Subject) -> None:
    await play(subject)
    left = [
        path
        for path in (subject.cwd / ".orchestrator").rglob("*")
        if path.name.endswith(".tmp") or path.name.startswith(".incoming") or path.name == "reserve"
    ]
    assert left == []


async def test_no_run_stays_in_the_index_of_live_runs(subject: Subject) -> None:
    await play(subject)
    live = subject.engine.home.live
    await wait_until(lambda: list(live.iterdir()) == [], "the index of live runs to be empty")


@pytest.mark.parametrize("script", [("say x",), ("ask Which?",)])
async def test_closing_the_engine_ends_everything(subject: Subject, script: tuple[str, ...], cwd: Path) -> None:
    run_id = await subject.spawn(*script)
    await subject.settled(run_id)
    engine = subject.engine
    await engine.lives.close()
    await wait_until(lambda: not engine.lives, "no life")
    if subject.backend != "remote_a2a":  # that agent is a server of its own, which goes on
        assert psutil.Process().children() == []
