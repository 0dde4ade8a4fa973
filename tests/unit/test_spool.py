"""Proves that an artifact which arrives in pieces is stored as if it had come whole."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.events import Event
from orchestrator.store.artifacts import CHUNK_BYTES, LEAF_BYTES, read_field
from orchestrator.store.layout import Home, read_json
from orchestrator.store.log import RunLog
from orchestrator.store.reader import RunReader
from orchestrator.store.spool import Spool
from orchestrator.updates import ArtifactChunk
from tests.unit.runs import NO_SECRETS, events_of, new_log, temporary_log, texts, whole_field

pieces = st.lists(st.tuples(texts, st.sampled_from([1, 10, 500, 9_000])), max_size=8)


def _last(log: RunLog) -> Event:
    event = RunReader(log.dir).event(log.run.last_seq)
    assert event is not None
    return event


def _incoming(log: RunLog) -> list[str]:
    return [path.name for path in (log.dir.path / "artifacts").glob(".*")]


@given(pieces)
async def test_a_streamed_text_is_its_pieces_joined(arrived: list[tuple[str, int]]) -> None:
    with temporary_log() as log:
        parts = [piece * times for piece, times in arrived]
        for part in parts:
            await log.add_chunk(ArtifactChunk(artifact_id="a", name="notes", content=part))
        await log.add_chunk(ArtifactChunk(artifact_id="a", name="notes", content="", last=True))
        whole = "".join(part.encode(errors="replace").decode() for part in parts)
        event = _last(log)
        assert (event.type, event.data["artifact_id"], event.data["name"]) == ("artifact_added", "a", "notes")
        assert whole_field(log.dir, event, "/text", 20_000) == whole
        assert ("artifact_refs" in event.data) is (len(whole.encode()) > LEAF_BYTES)
        assert _incoming(log) == []


@given(st.lists(st.tuples(st.binary(max_size=20), st.sampled_from([1, 300, 9_000])), max_size=6))
@settings(max_examples=30)
async def test_a_streamed_binary_is_its_pieces_joined(arrived: list[tuple[bytes, int]]) -> None:
    with temporary_log() as log:
        parts = [piece * times for piece, times in arrived]
        for part in (*parts, b""):
            await log.add_chunk(ArtifactChunk(artifact_id="b", mime="image/png", content=part))
        await log.end_artifacts()
        whole, got, event = b"".join(parts), b"", _last(log)
        while len(got) < len(whole):
            page = read_field(log.dir, event, "/data", len(got), 50_000)
            assert (page.encoding, page.mime, page.total_bytes) == ("base64", "image/png", len(whole))
            got += base64.b64decode(page.content)
        assert got == whole
        assert event.data["data"] == {"bytes": len(whole)}


async def test_a_page_of_a_streamed_binary_is_not_larger_than_asked_for(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    content = bytes(range(256)) * 600
    await log.add_chunk(ArtifactChunk(artifact_id="b", name="b", content=content, last=True))
    event = _last(log)
    for offset, limit in ((0, 10), (CHUNK_BYTES - 3, 10), (len(content) - 4, 10)):
        page = read_field(log.dir, event, "/data", offset, limit)
        assert base64.b64decode(page.content) == content[offset : offset + limit]
        assert (page.offset, page.returned_bytes) == (offset, len(content[offset : offset + limit]))
    log.close()


@pytest.mark.parametrize("binary", [False, True])
async def test_a_streamed_artifact_is_described_in_its_event_and_its_manifest(
    home: Home, cwd: Path, binary: bool
) -> None:
    log = new_log(home, cwd)
    left = log.dir.artifact_dir(1, "artifact_added")
    left.mkdir(parents=True)
    (left / "left.txt").write_text("by an owner that died")
    content = "x" * 270_000
    given = content.encode() if binary else content
    await log.add_chunk(ArtifactChunk(artifact_id="a", content=given, last=True))
    event = _last(log)
    pointer, suffix = ("/data", "bin") if binary else ("/text", "txt")
    refs = event.data["artifact_refs"]
    assert refs == {
        pointer: {
            "field_path": pointer,
            "relpath": f"artifacts/000001-artifact_added/content.0001.{suffix}",
            "mime": "application/octet-stream" if binary else "text/plain",
            "encoding": "base64" if binary else "utf-8",
            "total_bytes": 270_000,
            "chunk_count": 5,
            "truncated": False,
        }
    }
    manifest = {"seq": 1, "type": "artifact_added", "chunk_bytes": CHUNK_BYTES, "fields": refs}
    assert read_json(left / "manifest.json") == manifest
    assert sorted(path.name for path in left.iterdir()) == [f"content.000{n}.{suffix}" for n in range(1, 6)] + [
        "manifest.json"
    ]
    assert binary or "… 270,000 bytes …" in event.data["text"]
    log.close()


@pytest.mark.parametrize(("size", "stored"), [(LEAF_BYTES, False), (LEAF_BYTES + 1, True)])
async def test_a_streamed_text_that_fits_its_event_is_stored_there_alone(
    home: Home, cwd: Path, size: int, stored: bool
) -> None:
    log = new_log(home, cwd)
    await log.add_chunk(ArtifactChunk(artifact_id="a", content="x" * size, last=True))
    assert ("artifact_refs" in _last(log).data) is stored
    log.close()


async def test_artifacts_may_arrive_side_by_side_and_end_with_the_task(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    for number in range(40):
        for name in ("x", "y", "z"):
            await log.add_chunk(ArtifactChunk(artifact_id=name, content=f"{name}{number} " * 500))
    await log.add_chunk(ArtifactChunk(artifact_id="y", content="", last=True))
    await log.append("agent_message", {"text": "between"})
    await log.end_artifacts()
    events = events_of(log.dir)
    assert [event.data.get("artifact_id") for event in events] == ["y", None, "x", "z"]
    for event in events:
        if name := event.data.get("artifact_id"):
            whole = "".join(f"{name}{number} " * 500 for number in range(40))
            assert whole_field(log.dir, event, "/text", 60_000) == whole
    log.close()


async def test_a_piece_that_does_not_append_begins_anew(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    await log.add_chunk(ArtifactChunk(artifact_id="a", content="old " * 50_000))
    await log.add_chunk(ArtifactChunk(artifact_id="a", content="new " * 20_000, append=False))
    await log.add_chunk(ArtifactChunk(artifact_id="a", content="and on", last=True))
    assert whole_field(log.dir, _last(log), "/text", 60_000) == "new " * 20_000 + "and on"
    assert _incoming(log) == []
    log.close()


async def test_closing_the_log_discards_what_is_not_complete(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    await log.add_chunk(ArtifactChunk(artifact_id="a", content="x" * 100_000))
    assert len(_incoming(log)) == 1
    log.close()
    assert _incoming(log) == []
    assert events_of(log.dir) == []


async def test_the_preview_of_a_streamed_text_is_its_own_head_and_tail(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    whole = "".join(f"line {number}\n" for number in range(40_000))
    whole = whole[: 3 * CHUNK_BYTES + 5]  # the last chunk is shorter than the tail that is shown
    await log.add_chunk(ArtifactChunk(artifact_id="a", content=whole, last=True))
    shown = _last(log).data["text"]
    assert whole.startswith(shown.partition("\n…")[0])
    tail = shown.rpartition("…\n")[2]
    assert len(tail) > 100
    assert whole.endswith(tail)
    log.close()


@pytest.mark.parametrize("cap", [0, 10, LEAF_BYTES, CHUNK_BYTES, CHUNK_BYTES + 7])
@pytest.mark.parametrize("binary", [False, True])
async def test_what_goes_over_the_cap_is_dropped_and_told(home: Home, cwd: Path, cap: int, binary: bool) -> None:
    log = new_log(home, cwd)
    content = bytes(range(1, 128)) * 2_000
    spool = Spool(log.dir, 1, NO_SECRETS, cap, binary=binary)
    for start in range(0, len(content), 10_007):
        spool.feed(content[start : start + 10_007])
    whole = spool.end()
    assert spool.truncated
    assert spool.total_bytes == cap
    if whole is not None:
        assert whole == content[:cap]
    else:
        refs = spool.settle(1, "/data", "text/plain")
        event = Event(1, "", "artifact_added", {"artifact_refs": refs})
        page = read_field(log.dir, event, "/data", 0, cap or 1)
        got = base64.b64decode(page.content) if binary else page.content.encode()
        assert got == content[:cap]
        assert refs["/data"]["truncated"] is True
    log.close()


async def test_a_secret_that_comes_while_an_artifact_is_open_is_masked_in_the_rest(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    await log.add_chunk(ArtifactChunk(artifact_id="a", content="before "))
    log.hide(["a-late-secret"])
    await log.add_chunk(ArtifactChunk(artifact_id="a", content="a-late-"))
    await log.add_chunk(ArtifactChunk(artifact_id="a", content="secret after", last=True))
    assert _last(log).data["text"] == "before *** after"
    log.close()
