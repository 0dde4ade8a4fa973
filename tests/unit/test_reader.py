"""Proves that a reader sees the truth at a bounded cost: pages of the log, and the state by snapshot and tail."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import RunNotFound
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home, RunDir, Workspace, read_json
from orchestrator.store.reader import RunReader
from tests.unit.histories import histories
from tests.unit.runs import events_of, folded, new_log, temporary_log

MANY = 200_000


def _numbered(run_dir: RunDir, count: int, whole_from: int = 1) -> int:
    """A log of that many events; the data of those before `whole_from` is no JSON. Returns its size."""
    lines = [
        b'{"seq":%d,"ts":"2026-01-02T03:04:05.678Z","type":"agent_message","data":%s}\n'
        % (seq, b'{"text":"message %d"}' % seq if seq >= whole_from else b"{no JSON at all}")
        for seq in range(1, count + 1)
    ]
    content = b"".join(lines)
    Path(run_dir.file("events.jsonl")).write_bytes(content)
    return len(content)


@pytest.fixture
def run_dir(home: Home, cwd: Path) -> RunDir:
    """A run whose log is empty."""
    log = new_log(home, cwd)
    log.close()
    return log.dir


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the reads from logs."""
    sizes: list[int] = []
    pread = os.pread

    def counting(descriptor: int, size: int, offset: int) -> bytes:
        content = pread(descriptor, size, offset)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(os, "pread", counting)
    return sizes


@pytest.mark.parametrize("after_seq", [0, 1, 77_777, MANY // 2, MANY - 100, MANY - 1, MANY])
def test_a_page_of_a_long_log_costs_a_small_part_of_it(run_dir: RunDir, bytes_read: list[int], after_seq: int) -> None:
    size = _numbered(run_dir, MANY, whole_from=after_seq + 1)
    events, seen, more = RunReader(run_dir).poll(after_seq, 100, None)
    assert [event.seq for event in events] == list(range(after_seq + 1, min(after_seq + 100, MANY) + 1))
    assert (seen, more) == (min(after_seq + 100, MANY), after_seq + 100 < MANY)
    assert len(bytes_read) < 60
    assert sum(bytes_read) < size / 20


def test_a_log_of_long_lines_is_bisected_too(run_dir: RunDir, bytes_read: list[int]) -> None:
    lines = [
        b'{"seq":%d,"ts":"2026-01-02T03:04:05.678Z","type":"agent_message","data":{"text":"%s"}}\n'
        % (seq, b"x" * 30_000)
        for seq in range(1, 301)
    ]
    Path(run_dir.file("events.jsonl")).write_bytes(b"".join(lines))
    for seq in (1, 2, 100, 299, 300):
        bytes_read.clear()
        event = RunReader(run_dir).event(seq)
        assert event is not None
        assert event.seq == seq
        assert sum(bytes_read) < 1_000_000
    assert RunReader(run_dir).event(301) is None


def test_the_state_of_a_long_log_ends_where_the_log_does(run_dir: RunDir) -> None:
    size = _numbered(run_dir, 20_000)
    state = RunReader(run_dir).state()
    assert (state.run.last_seq, state.offset) == (20_000, size)


def test_what_is_skipped_is_not_parsed(run_dir: RunDir) -> None:
    """The data of all other events is no JSON; reading it would fail."""
    _numbered(run_dir, 5_000, whole_from=4_990)
    reader = RunReader(run_dir)
    assert [event.seq for event in reader.poll(4_995, 10, None)[0]] == [4_996, 4_997, 4_998, 4_999, 5_000]
    assert reader.poll(0, 10, {"run_failed"}) == ([], 5_000, False)
    event = reader.event(4_991)
    assert event is not None
    assert event.data == {"text": "message 4991"}


def test_the_state_of_a_long_log_is_its_snapshot_and_a_short_tail(run_dir: RunDir, bytes_read: list[int]) -> None:
    size = _numbered(run_dir, MANY, whole_from=MANY - 9)
    tail = sum(len(event) for event in Path(run_dir.file("events.jsonl")).read_bytes().splitlines(keepends=True)[-10:])
    spec = read_json(run_dir.file("spec.json")) or {}
    snapshot = {**spec, "status": "running", "started_at": "", "updated_at": "", "last_seq": MANY - 10}
    Path(run_dir.file("run.json")).write_bytes(orjson.dumps({**snapshot, "offset": size - tail}))
    state = RunReader(run_dir).state()
    assert (state.run.last_seq, state.run.summary, state.offset) == (MANY, f"message {MANY}", size)
    assert sum(bytes_read) < size / 20


def test_who_looks_again_reads_what_is_new(run_dir: RunDir, bytes_read: list[int]) -> None:
    _numbered(run_dir, 5_000)
    reader = RunReader(run_dir)
    known = reader.state()
    _numbered(run_dir, 5_010)
    bytes_read.clear()
    now = reader.state(known)
    assert (now.run.last_seq, now.run.summary) == (5_010, "message 5010")
    assert sum(bytes_read) < 50_000
    _numbered(run_dir, 10)  # another log, that what was known does not fit
    assert reader.state(known).run.last_seq == 10


@given(st.integers(0, 400), st.integers(0, 420), st.integers(1, 50), st.integers(1, 60), st.integers(1, 3_000))
@settings(max_examples=60)
def test_paging_through_a_log_gives_every_event_once(
    tmp_path_factory: pytest.TempPathFactory, count: int, after_seq: int, limit: int, scan: int, width: int
) -> None:
    run_dir = Workspace(tmp_path_factory.mktemp("project")).run("run_0")
    run_dir.path.mkdir(parents=True)
    lines = [
        orjson.dumps({"seq": seq, "ts": "", "type": "ab"[seq % 2], "data": {"text": "x" * (seq * 37 % width)}}) + b"\n"
        for seq in range(1, count + 1)
    ]
    Path(run_dir.file("events.jsonl")).write_bytes(b"".join(lines))
    for types in (None, {"a"}):
        got: list[int] = []
        seen, more = after_seq, True
        while more:
            events, new, more = RunReader(run_dir).poll(seen, limit, types, scan)
            assert len(events) <= limit
            assert new > seen or not more, "a page that is not the last one moves on"
            got += [event.seq for event in events]
            seen = new
        assert got == [seq for seq in range(after_seq + 1, count + 1) if types is None or seq % 2 == 0]


async def test_in_the_owners_process_reads_stop_at_what_is_published(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    await log.append("agent_message", {"text": "one"})
    published = log.offset
    await log.append("agent_message", {"text": "two"})
    bounded = RunReader(log.dir, published)
    assert [event.seq for event in bounded.poll(0, 10, None)[0]] == [1]
    assert bounded.event(2) is None
    assert bounded.state().run.summary == "one"
    assert bounded.state().offset == published
    log.close()


async def test_a_run_without_events_is_queued(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd, metadata={"ticket": 7})
    log.close()
    reader = RunReader(log.dir)
    assert reader.state() == (log.run, 0)
    assert (reader.poll(0, 10, None), reader.poll(5, 10, None)) == (([], 0, False), ([], 5, False))
    assert reader.event(1) is None
    Path(log.dir.file("events.jsonl")).unlink()
    assert reader.state() == (log.run, 0)


def test_a_directory_without_a_spec_is_no_run(cwd: Path) -> None:
    with pytest.raises(RunNotFound, match="call list_runs"):
        RunReader(Workspace(cwd).run("run_1")).state()


@given(histories)
async def test_snapshot_and_tail_are_the_fold_of_everything(history: list[tuple[str, JsonObject]]) -> None:
    with temporary_log() as log:
        snapshots: set[bytes] = set()
        for event_type, data in history:
            await log.append(event_type, data)
            state = RunReader(log.dir).state()
            assert state == (log.run, log.offset)
            path = Path(log.dir.file("run.json"))
            if path.exists():
                snapshots.add(path.read_bytes())
        assert folded(log.dir) == log.run
        for snapshot in snapshots:  # an older snapshot only makes the tail longer
            Path(log.dir.file("run.json")).write_bytes(snapshot)
            assert RunReader(log.dir).state() == (log.run, log.offset)
        assert len(events_of(log.dir)) == len(history)
