"""Proves that a run ends in its log even when nothing more fits on the disk: it kept a reserve for its last event."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.store.layout import Home, RunDir, read_json
from orchestrator.store.reader import RunReader
from tests.unit.processes import racers
from tests.unit.runs import FAILED, events_of, folded, new_log


@pytest.mark.parametrize("limit", [20_000, 131_072, 200_001])
def test_a_run_that_fills_its_last_file_ends_in_its_log(home: Home, cwd: Path, limit: int) -> None:
    """The limit is the kernel's own on the size of a file, in a process of its own."""
    with racers(1, "fill", home.path, cwd, str(limit)) as processes:
        path, written = processes.go()[0]
    run_dir = RunDir(Path(path))
    events = events_of(run_dir)
    assert [event.seq for event in events] == list(range(1, written + 2))
    assert [event.type for event in events] == ["agent_message"] * written + ["run_failed"]
    state = RunReader(run_dir).state()
    assert (state.run.status, state.run.error and state.run.error.code) == ("failed", "store_error")
    assert state.run == folded(run_dir)
    assert (read_json(run_dir.file("result.json")) or {})["code"] == "store_error"
    assert not Path(run_dir.file("reserve")).exists()


async def test_the_reserve_is_given_up_before_the_last_event_is(
    home: Home, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log(home, cwd)
    reserve = Path(log.dir.file("reserve"))
    assert reserve.stat().st_size >= 8_192
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    for durable in (False, True):
        with pytest.raises(StoreError, match="No space left"):
            await log.append("agent_message", {"text": "no room"}, durable=durable)
    assert reserve.exists()
    await log.end("run_failed", FAILED)
    assert [event.type for event in events_of(log.dir)] == ["run_failed"]
    assert RunReader(log.dir).state().run == log.run
    log.close()


async def test_a_run_whose_last_event_cannot_be_written_is_not_over(
    home: Home, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log(home, cwd)

    def full(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    waiting = asyncio.ensure_future(log.wait(lambda run: run.terminal))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="No space left"):
            await log.end("run_failed", FAILED)
    assert not log.run.terminal
    assert not waiting.done()
    assert not RunReader(log.dir).state().run.terminal
    await log.end("run_failed", FAILED)
    await waiting
    assert [event.seq for event in events_of(log.dir)] == [1]
    log.close()


async def test_a_run_that_ends_well_keeps_no_reserve(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    await log.end("run_completed", {"final_response": "done"})
    log.close()
    assert not Path(log.dir.file("reserve")).exists()
