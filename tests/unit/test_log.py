"""Proves what the log promises while it is written: its numbers, its last event, its order, and what failures leave."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import StoreError
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home, read_json
from orchestrator.store.log import SNAPSHOT_EVERY, RunLog
from orchestrator.store.masking import Mask
from orchestrator.store.reader import RunReader
from orchestrator.store.serial import serialisable
from orchestrator.updates import ArtifactChunk
from tests.unit.runs import FAILED, events_of, folded, json_values, new_log, temporary_log, texts

REQUEST: JsonObject = {"request": {"request_id": "r1", "kind": "question", "text": "Which one?"}}
ENDINGS: list[tuple[str, JsonObject]] = [
    ("run_completed", {"final_response": "done"}),
    ("run_failed", FAILED),
    ("rejected", {**FAILED, "code": "unsupported"}),
    ("status_changed", {"status": "cancelled", "reason": "enough"}),
]

ways = st.sampled_from(["fast", "oversize", "durable", "cancelled", "secret", "chunk", "asked"])


async def _append(log: RunLog, way: str, number: int) -> None:
    text = f"{number} "
    match way:
        case "oversize":
            await log.append("agent_message", {"text": text + "x" * 20_000})
        case "durable":
            await log.append("reasoning", {"text": text}, durable=True)
        case "cancelled":
            task = asyncio.ensure_future(log.append("agent_message", {"text": text + "y" * 3_000}, durable=True))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        case "secret":
            await log.append("agent_message", {"text": text + "sesame-sesame"})
        case "chunk":
            await log.add_chunk(ArtifactChunk(artifact_id=f"a{number}", content=text, last=True))
        case "asked":
            await log.append("input_required", {"request": {**REQUEST["request"], "request_id": text}})
        case _:
            await log.append("agent_message", {"text": text})


@given(st.lists(st.tuples(ways, st.booleans()), min_size=1, max_size=25))
@settings(max_examples=30)
async def test_the_numbers_have_no_gaps_whatever_is_appended_at_once(work: list[tuple[str, bool]]) -> None:
    with temporary_log(Mask({"sesame-sesame"})) as log:

        async def one(number: int, way: str, later: bool) -> None:
            if later:
                await asyncio.sleep(0)
            await _append(log, way, number)

        await asyncio.gather(*(one(number, *what) for number, what in enumerate(work)))
        seqs = [event.seq for event in events_of(log.dir)]
        assert seqs == list(range(1, len(work) + 1))
        assert log.run.last_seq == len(work)
        assert RunReader(log.dir).state() == (log.run, log.offset)
        assert folded(log.dir) == log.run


async def test_an_append_that_was_cancelled_is_in_the_log_all_the_same(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    await _append(log, "cancelled", 1)
    assert [event.seq for event in events_of(log.dir)] == [1]
    assert log.run.last_seq == 1
    log.close()


@pytest.mark.parametrize(("event_type", "data"), ENDINGS)
async def test_nothing_follows_the_last_event(home: Home, cwd: Path, event_type: str, data: JsonObject) -> None:
    log = new_log(home, cwd)
    await log.append("run_started", {"cwd": str(cwd)})
    await log.end(event_type, data)
    before = Path(log.dir.file("events.jsonl")).read_bytes()
    for again in (log.append, log.end):
        for durable in (False, True):
            with pytest.raises(StoreError, match="is over"):
                await again("agent_message", {"text": "one more thing"}, durable=durable)
    with pytest.raises(StoreError, match="is over"):
        await log.add_chunk(ArtifactChunk(artifact_id="a", content="late", last=True))
    assert Path(log.dir.file("events.jsonl")).read_bytes() == before
    assert [event.type for event in events_of(log.dir)] == ["run_started", event_type]
    assert RunReader(log.dir).state().run.terminal
    log.close()


async def test_of_many_endings_at_once_one_is_written(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    outcomes = await asyncio.gather(*(log.end(*ending) for ending in ENDINGS), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), StoreError, StoreError, StoreError]
    assert [event.type for event in events_of(log.dir)] == ["run_completed"]
    assert (read_json(log.dir.file("result.json")) or {})["type"] == "run_completed"
    log.close()


async def test_the_result_is_on_disk_before_the_last_event_and_the_snapshot_after_it(
    home: Home, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log(home, cwd)
    order: list[str] = []
    rename, write = os.rename, os.write

    def note_rename(source: str, target: str) -> None:
        order.append(os.path.basename(target))
        rename(source, target)

    def note_write(descriptor: int, content: bytes) -> int:
        if bytes(content).startswith(b'{"seq":'):
            order.append("events.jsonl")
        return write(descriptor, content)

    monkeypatch.setattr(os, "rename", note_rename)
    monkeypatch.setattr(os, "write", note_write)
    waiting = asyncio.ensure_future(log.wait(lambda run: run.terminal))
    await asyncio.sleep(0)
    await log.end("run_completed", {"final_response": "done"})
    await waiting
    assert order == ["result.json", "events.jsonl", "run.json"]
    log.close()


async def test_the_result_holds_a_long_final_response_whole(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    answer, structured = "é" * 50_000, {"rows": list(range(9_000))}
    await log.end("run_completed", {"final_response": answer, "structured_output": structured})
    result = read_json(log.dir.file("result.json"))
    assert result is not None
    assert (result["final_response"], result["structured_output"]) == (answer, structured)
    log.close()


@given(st.dictionaries(texts, json_values, max_size=4))
async def test_what_append_returns_and_publishes_is_what_a_reader_reads(data: JsonObject) -> None:
    with temporary_log() as log:
        for event_type in ("tool_finished", "agent_message"):
            event = await log.append(event_type, {**data, "text": "said"})
            assert RunReader(log.dir).event(event.seq) == event
        await log.append("status_changed", {"status": "running", "detail": str(data)})
        assert RunReader(log.dir).state() == (log.run, log.offset)


async def test_half_a_surrogate_in_a_message_breaks_neither_the_log_nor_the_snapshot(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd, metadata={"title": "\udfff", "big": 2**70})
    await log.append("agent_message", {"text": "half \ud800 a character"})
    await log.append("status_changed", {"status": "running", "detail": "\ud800"})
    await log.append("input_required", REQUEST)
    await log.append("agent_message", {"text": "on"})
    assert [event.seq for event in events_of(log.dir)] == [1, 2, 3, 4]
    assert RunReader(log.dir).state().run == log.run
    assert orjson.dumps(log.run.to_json())
    log.close()


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (2**64, str(2**64)),
        (2**64 - 1, 2**64 - 1),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (-(2**63), -(2**63)),
        (-1, -1),
        ("\ud800x", "?x"),
        ((1, "\udfff"), [1, "?"]),
        ({"\ud800": None, 1: True}, {"?": None, "1": True}),
        (1.5, 1.5),
        (Path("/a"), "/a"),
    ],
)
def test_a_value_loses_only_what_json_cannot_hold(value: object, kept: object) -> None:
    beside = 2**70  # what forces the way of replacement
    assert serialisable([value, beside]) == [kept, str(beside)]


@pytest.mark.parametrize("depth", [200, 255, 600, 990])
async def test_a_value_nested_too_deep_for_json_is_no_reason_to_fail(home: Home, cwd: Path, depth: int) -> None:
    value: Any = "the core"
    for level in range(depth):
        value = [value] if level % 2 else {"inner": value}
    log = new_log(home, cwd)
    await log.append("tool_finished", {"tool_id": "t", "tool": "deep", "result": value})
    await log.append("tool_finished", {"tool_id": "t", "tool": "deep", "result": [value, "x" * 5_000]})
    await log.end("run_completed", {"final_response": "done", "structured_output": value})
    assert [event.seq for event in events_of(log.dir)] == [1, 2, 3]
    assert RunReader(log.dir).state().run == log.run
    log.close()


@pytest.mark.parametrize("durable", [False, True])
async def test_a_line_that_could_not_be_written_leaves_no_trace(
    home: Home, cwd: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    log = new_log(home, cwd)
    await log.append("agent_message", {"text": "first"})
    write, written = os.write, 0

    def fill_up(descriptor: int, content: bytes) -> int:
        nonlocal written
        written += 1
        if written == 1:
            return write(descriptor, content[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill_up)
        with pytest.raises(StoreError, match="No space left"):
            await log.append("agent_message", {"text": "second"}, durable=durable)
    assert log.run.last_seq == 1
    await log.append("agent_message", {"text": "third"}, durable=durable)
    assert [(event.seq, event.data["text"]) for event in events_of(log.dir)] == [(1, "first"), (2, "third")]
    log.close()


async def test_a_line_that_could_not_be_made_durable_leaves_no_trace(
    home: Home, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log(home, cwd)
    await log.append("agent_message", {"text": "first"})

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError):
            await log.append("input_required", REQUEST, durable=True)
    assert log.run.last_seq == 1
    await log.append("agent_message", {"text": "second"})
    assert [(event.seq, event.type) for event in events_of(log.dir)] == [(1, "agent_message"), (2, "agent_message")]
    assert folded(log.dir) == log.run
    log.close()


async def test_a_snapshot_that_cannot_be_written_stops_nobody(
    home: Home, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log(home, cwd)

    def fail(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        await log.append("input_required", REQUEST)
    assert RunReader(log.dir).state().run == log.run
    log.close()


async def test_the_snapshot_is_replaced_before_the_tail_grows_long(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    await log.append("run_started", {"cwd": str(cwd)})
    for number in range(SNAPSHOT_EVERY + 10):
        await log.append("agent_message", {"text": f"message {number}"})
    snapshot = read_json(log.dir.file("run.json"))
    assert snapshot is not None
    assert log.run.last_seq - snapshot["last_seq"] < SNAPSHOT_EVERY
    assert snapshot["last_seq"] > 1
    assert RunReader(log.dir).state() == (log.run, log.offset)
    log.close()


async def test_who_waits_is_woken_by_the_event_and_by_the_end_of_the_log(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    second = asyncio.ensure_future(log.wait(lambda run: run.last_seq >= 2))
    never = asyncio.ensure_future(log.wait(lambda run: run.terminal))
    await asyncio.sleep(0)
    await log.append("agent_message", {"text": "1"})
    assert not second.done()
    await log.append("agent_message", {"text": "2"})
    async with asyncio.timeout(5):
        await second
        assert not never.done()
        log.close()
        await never
        await log.wait(lambda run: run.terminal)
