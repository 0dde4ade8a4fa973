"""Proves that a run survives its owner: the next one finds a true log, whatever a crash left, and goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import Conflict, StoreError
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home, RunDir, read_json
from orchestrator.store.log import RunLog
from orchestrator.store.reader import RunReader
from orchestrator.updates import ArtifactChunk
from tests.unit.processes import racers
from tests.unit.runs import FAILED, NO_SECRETS, events_of, folded, new_log, texts

REQUEST: JsonObject = {"request": {"request_id": "r1", "kind": "approval", "text": "May I? 漢🙂"}}


async def _life(home: Home, cwd: Path) -> RunDir:
    """A short run from its first event to its last, with something pending in between."""
    log = new_log(home, cwd)
    await log.append("run_started", {"cwd": str(cwd), "agent": "tester"})
    await log.append("agent_message", {"text": "für 漢字 🙂"})
    await log.append("input_required", REQUEST, durable=True)
    resolved = {"request_id": "r1", "outcome": "answered"}
    await log.append("status_changed", {"status": "running", "resolved": resolved})
    await log.end("run_completed", {"final_response": "é done", "usage": {"input_tokens": 1, "output_tokens": 2}})
    log.close()
    return log.dir


def _epoch(run_dir: RunDir) -> int:
    return (read_json(run_dir.file("owner.json")) or {})["epoch"]


@pytest.mark.parametrize("with_snapshot", [True, False])
async def test_a_reader_never_sees_half_a_line_wherever_the_log_ends(
    home: Home, cwd: Path, with_snapshot: bool
) -> None:
    run_dir = await _life(home, cwd)
    log = Path(run_dir.file("events.jsonl"))
    whole, events = log.read_bytes(), events_of(run_dir)
    if not with_snapshot:
        Path(run_dir.file("run.json")).unlink()
    for cut in range(len(whole), -1, -1):
        log.write_bytes(whole[:cut])
        complete = whole[:cut].count(b"\n")
        assert events_of(run_dir) == events[:complete]
        state = RunReader(run_dir).state()
        assert state.run == folded(run_dir)
        assert (state.run.last_seq, state.offset) == (complete, whole.rfind(b"\n", 0, cut) + 1)
        assert state.run.terminal is (complete == len(events))


async def test_the_next_owner_goes_on_behind_the_last_whole_line_wherever_the_log_ends(home: Home, cwd: Path) -> None:
    run_dir = await _life(home, cwd)
    log, result = Path(run_dir.file("events.jsonl")), Path(run_dir.file("result.json"))
    whole, outcome, snapshot = log.read_bytes(), result.read_bytes(), Path(run_dir.file("run.json")).read_bytes()
    epoch = _epoch(run_dir)
    for cut in range(len(whole)):
        log.write_bytes(whole[:cut])
        result.write_bytes(outcome)
        Path(run_dir.file("run.json")).write_bytes(snapshot)
        complete = whole[:cut].count(b"\n")
        owner = RunLog.take_over(run_dir, NO_SECRETS)
        epoch += 1
        assert _epoch(run_dir) == epoch
        assert not result.exists(), "a result without its terminal event is of no run"
        assert log.read_bytes() == whole[: whole.rfind(b"\n", 0, cut) + 1]
        event = await owner.append("agent_message", {"text": "again"})
        assert event.seq == complete + 1
        assert [e.seq for e in events_of(run_dir)] == list(range(1, complete + 2))
        owner.close()


async def test_a_run_that_is_over_stays_over(home: Home, cwd: Path) -> None:
    run_dir = await _life(home, cwd)
    before = {name: Path(run_dir.file(name)).read_bytes() for name in ("events.jsonl", "result.json", "run.json")}
    owner = RunLog.take_over(run_dir, NO_SECRETS)
    assert owner.run.terminal
    with pytest.raises(StoreError, match="is over"):
        await owner.end("run_failed", FAILED)
    owner.close()
    assert {name: Path(run_dir.file(name)).read_bytes() for name in before} == before


@given(data=st.data())
async def test_a_log_that_grows_over_many_owners_is_one_log(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cwd = tmp_path_factory.mktemp("project")
    log = new_log(Home(cwd / "home"), cwd)
    said: list[str] = []
    for owner in range(data.draw(st.integers(1, 4))):
        if owner:
            torn = data.draw(st.binary(max_size=30)).replace(b"\n", b"")
            path = Path(log.dir.file("events.jsonl"))
            path.write_bytes(path.read_bytes() + torn)
            log = RunLog.take_over(log.dir, NO_SECRETS)
        for text in data.draw(st.lists(texts.map(lambda t: t.encode(errors="replace").decode()), max_size=4)):
            await log.append("agent_message", {"text": text})
            said.append(text)
        log.close()
        assert _epoch(log.dir) == owner + 1
    assert [(event.seq, event.data["text"]) for event in events_of(log.dir)] == list(enumerate(said, 1))


async def test_pieces_of_an_artifact_that_a_dead_owner_had_begun_are_in_nobodys_way(home: Home, cwd: Path) -> None:
    """In a container the next owner often has the pid of the one before."""
    log = new_log(home, cwd)
    await log.add_chunk(ArtifactChunk(artifact_id="a", content="x" * 100_000))
    left = next((log.dir.path / "artifacts").iterdir())
    names = [path.name for path in left.iterdir()]
    log.close()
    left.mkdir(mode=0o700, parents=True)
    for name in names:
        (left / name).write_bytes(b"what a crash left behind")
    owner = RunLog.take_over(log.dir, NO_SECRETS)
    await owner.add_chunk(ArtifactChunk(artifact_id="a", content="y" * 100_000, last=True))
    owner.close()
    assert [path.name for path in (log.dir.path / "artifacts").iterdir()] == ["000001-artifact_added"]
    assert [event.type for event in events_of(log.dir)] == ["artifact_added"]


async def test_only_the_process_that_holds_the_lock_writes(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    await log.append("run_started", {"cwd": str(cwd)})
    with pytest.raises(Conflict):
        RunLog.take_over(log.dir, NO_SECRETS)
    with racers(2, "take_over", log.dir.path) as others:
        assert others.go() == ["conflict", "conflict"]
    await log.append("agent_message", {"text": "still mine"})
    assert (_epoch(log.dir), log.run.last_seq) == (1, 2)
    log.close()


async def test_of_many_processes_one_takes_a_run_over(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    log.close()
    with racers(4, "take_over", log.dir.path) as others:
        assert sorted(others.go()) == ["conflict", "conflict", "conflict", "owned"]
        assert _epoch(log.dir) == 2
        others.kill()
    with racers(1, "take_over", log.dir.path) as others:
        assert others.go() == ["owned"], "the lock dies with its owner"
    assert _epoch(log.dir) == 3


@pytest.mark.parametrize(
    "owner", [b"", b"[]", b"{}", b'{"epoch": "many"}', b'{"epoch": []}', b'{"epoch": null}', b"\xff"]
)
async def test_a_damaged_owner_file_does_not_lock_a_run_for_ever(home: Home, cwd: Path, owner: bytes) -> None:
    log = new_log(home, cwd)
    await log.append("run_started", {"cwd": str(cwd)})
    log.close()
    Path(log.dir.file("owner.json")).write_bytes(owner)
    after = RunLog.take_over(log.dir, NO_SECRETS)
    assert _epoch(log.dir) == 1
    await after.end("run_failed", FAILED)
    after.close()
    assert RunReader(log.dir).state().run.terminal


async def test_a_takeover_that_is_refused_holds_nothing(home: Home, cwd: Path) -> None:
    run_dir = await _life(home, cwd)
    log = Path(run_dir.file("events.jsonl"))
    good = log.read_bytes()
    log.write_bytes(b"no event\n" + good)
    Path(run_dir.file("run.json")).unlink()
    open_files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    with pytest.raises(StoreError, match="no event"):
        RunLog.take_over(run_dir, NO_SECRETS)
    if open_files:
        assert len(list(Path("/proc/self/fd").iterdir())) == open_files
    log.write_bytes(good)
    RunLog.take_over(run_dir, NO_SECRETS).close()
