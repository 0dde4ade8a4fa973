"""Proves that no field is too large: the line stays short, its types stay, and the whole is readable in pages."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.errors import ArtifactNotFound, InvalidArgument, StoreError
from orchestrator.events import Event
from orchestrator.model import JsonObject
from orchestrator.store.artifacts import CHUNK_BYTES, LINE_BYTES, plan, preview, read_field, resolve
from orchestrator.store.layout import Home, read_json
from orchestrator.store.log import RunLog
from orchestrator.store.reader import RunReader
from orchestrator.store.serial import serialisable
from tests.unit.runs import json_values, long_texts, new_log, temporary_log, texts, whole_field

_MARGIN = 200
"""What the envelope of an event may take beside its data."""

large_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(json_values, long_texts),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.one_of(texts, long_texts), inner, max_size=8),
    max_leaves=20,
)
event_types = st.sampled_from(["tool_finished", "agent_message", "command_finished", "file_changed"])


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _leaves(value: Any, pointer: str = "") -> list[tuple[str, Any]]:
    """Every value below a document, containers too, with its pointer."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(f"{pointer}/{_escape(key)}", item) for key, item in cast(JsonObject, value).items()]
    elif isinstance(value, list):
        items = [(f"{pointer}/{index}", item) for index, item in enumerate(cast(list[Any], value))]
    return items + [below for place, item in items for below in _leaves(item, place)]


def _kind(value: object) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def _assert_same_shape(short: Any, whole: Any) -> None:
    """What was kept stands where it stood, and is of the type it was of."""
    assert _kind(short) == _kind(whole)
    if isinstance(short, dict):
        for key, item in cast(JsonObject, short).items():
            _assert_same_shape(item, whole[key])
    elif isinstance(short, list):
        for index, item in enumerate(cast(list[Any], short)):
            _assert_same_shape(item, whole[index])


async def _stored(log: RunLog, event_type: str, data: JsonObject) -> Event:
    await log.append(event_type, data)
    event = RunReader(log.dir).event(log.run.last_seq)
    assert event is not None
    return event


@given(event_types, st.dictionaries(texts, large_values, min_size=1, max_size=6))
@settings(max_examples=30)
@example("tool_finished", {"\x00" * 500: {"x": "a" * 3_000}, "\x01" * 500: {"x": "a" * 3_000}, "k": {"x": "a" * 3_000}})
@example("tool_finished", {str(n): "x" * 1_999 for n in range(30)})
@example("tool_finished", {"k" * 40_000: 1})
async def test_any_data_fits_a_line_and_is_readable_whole(event_type: str, data: JsonObject) -> None:
    whole = serialisable({**data, "text": "short"})
    with temporary_log() as log:
        event = await _stored(log, event_type, {**data, "text": "short"})
        line = Path(log.dir.file("events.jsonl")).read_bytes()
        assert len(line) <= LINE_BYTES + _MARGIN
        refs = event.data.pop("artifact_refs", {})
        _assert_same_shape(event.data, whole)
        if not refs:
            assert event.data == orjson.loads(orjson.dumps(whole))
        event.data["artifact_refs"] = refs
        for pointer, value in _leaves(whole)[:60]:
            content = whole_field(log.dir, event, pointer, limit=50_000)
            assert (content if isinstance(value, str) else orjson.loads(content)) == value


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), st.integers(1, 3_000), st.integers(1, 9_000))
@settings(max_examples=60)
async def test_pages_never_split_a_character_and_join_to_the_whole(piece: str, times: int, limit: int) -> None:
    text = (piece * times)[:100_000]
    with temporary_log() as log:
        event = await _stored(log, "command_finished", {"output": text})
        limit = max(limit, len(text) // 40)  # not thousands of pages
        assert whole_field(log.dir, event, "/output", limit) == text


@pytest.mark.parametrize("text", ["a🙂é漢" * 5_000, "a🙂é漢"], ids=["chunked", "inline"])
async def test_an_offset_inside_a_character_goes_back_to_its_start(home: Home, cwd: Path, text: str) -> None:
    log = new_log(home, cwd)
    event = await _stored(log, "command_finished", {"output": text})
    content = text.encode()
    for offset in (*range(12), *range(CHUNK_BYTES - 6, min(CHUNK_BYTES + 6, len(content)))):
        for limit in range(1, 12):
            if offset > len(content):
                continue
            page = read_field(log.dir, event, "/output", offset, limit)
            assert page.offset <= offset < page.offset + 4
            assert content[page.offset :].startswith(page.content.encode())
            assert page.returned_bytes == len(page.content.encode()) > 0 or offset == len(content)
            assert page.returned_bytes <= max(limit, 4)
    log.close()


@pytest.mark.parametrize("size", [5, 5_000, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
async def test_the_end_of_a_field_is_an_empty_page_and_what_lies_past_it_an_error(
    home: Home, cwd: Path, size: int
) -> None:
    log = new_log(home, cwd)
    event = await _stored(log, "command_finished", {"output": "x" * size})
    last = read_field(log.dir, event, "/output", size, 100)
    assert (last.content, last.returned_bytes, last.total_bytes) == ("", 0, size)
    with pytest.raises(InvalidArgument, match="past the end"):
        read_field(log.dir, event, "/output", size + 1, 100)
    log.close()


def test_the_largest_field_is_trimmed_first_and_alone_if_that_is_enough() -> None:
    data: JsonObject = {"small": ["x" * 900] * 4, "large": ["x" * 900] * 30}
    small, stored = plan("tool_finished", data)
    assert list(stored) == ["/large"]
    assert small["small"] == data["small"]
    assert 0 < len(small["large"]) < 30


async def test_fields_that_a_dead_owner_had_stored_are_in_nobodys_way(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    left = log.dir.artifact_dir(1, "command_finished")
    left.mkdir(parents=True)
    (left / "output.0001.txt").write_text("old")
    event = await _stored(log, "command_finished", {"output": "new" * 1_000})
    assert whole_field(log.dir, event, "/output") == "new" * 1_000
    log.close()


async def test_a_page_says_what_it_holds(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    event = await _stored(log, "tool_finished", {"tool": "é" * 3_000, "result": {"k": [1]}, "short": "é"})
    assert read_field(log.dir, event, "/tool", 4, 5) == ("text/plain", "utf-8", 6_000, "éé", 4, 4)
    assert read_field(log.dir, event, "/short", 0, 9) == ("text/plain", "utf-8", 2, "é", 0, 2)
    assert read_field(log.dir, event, "/result", 0, 9) == ("application/json", "utf-8", 9, '{"k":[1]}', 0, 9)
    log.close()


async def test_chunk_files_joined_are_the_field_and_the_manifest_names_them(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    text = "é" * 100_000
    event = await _stored(log, "command_finished", {"command": "make", "output": text})
    ref = event.data["artifact_refs"]["/output"]
    folder = log.dir.path / "artifacts/000001-command_finished"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["manifest.json", *(f"output.{n:04d}.txt" for n in range(1, ref["chunk_count"] + 1))]
    assert b"".join((folder / name).read_bytes() for name in names[1:]) == text.encode()
    assert ref["relpath"] == "artifacts/000001-command_finished/output.0001.txt"
    assert (ref["total_bytes"], ref["mime"], ref["encoding"]) == (200_000, "text/plain", "utf-8")
    assert (read_json(folder / "manifest.json") or {})["fields"] == event.data["artifact_refs"]
    log.close()


async def test_an_artifact_exists_before_the_event_that_names_it(
    home: Home, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log(home, cwd)
    seen: list[bool] = []
    write = RunLog._write  # pyright: ignore[reportPrivateUsage]

    def look(self: RunLog, line: bytes, **more: Any) -> None:
        refs = orjson.loads(line)["data"]["artifact_refs"]
        seen.extend((log.dir.path / ref["relpath"]).exists() for ref in refs.values())
        write(self, line, **more)

    monkeypatch.setattr(RunLog, "_write", look)
    await log.append("command_finished", {"output": "x" * 70_000, "command": "y" * 3_000})
    assert seen == [True, True]
    log.close()


async def test_fields_whose_names_look_alike_as_files_are_kept_apart(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    keys = ["a-1-2", "a-1", "a.1", "A-1", "a-1_", "", "é", "漢"]
    data: JsonObject = {key: f"{key} " * 2_000 for key in keys} | {"a": {"1": "inner " * 1_000}}
    event = await _stored(log, "tool_finished", {"result": data})
    for pointer, value in _leaves(data):
        content = whole_field(log.dir, event, "/result" + pointer)
        assert (content if isinstance(value, str) else orjson.loads(content)) == value
    names = [path.name.lower() for path in log.dir.path.glob("artifacts/*/*")]
    assert len(set(names)) == len(names)
    log.close()


async def test_a_pointer_goes_into_a_field_that_is_stored_whole(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    rows = [{"n/m": index, "~name": f"row {index}"} for index in range(3_000)]
    event = await _stored(log, "tool_finished", {"result": {"rows": rows, "note": "x"}})
    assert list(event.data["artifact_refs"]) == ["/result"]
    assert whole_field(log.dir, event, "/result/rows/2999/~0name") == "row 2999"
    assert whole_field(log.dir, event, "/result/rows/2999/n~1m") == "2999"
    assert orjson.loads(whole_field(log.dir, event, "/result/rows")) == rows
    with pytest.raises(ArtifactNotFound, match="has no field"):
        read_field(log.dir, event, "/result/rows/3000", 0, 10)
    log.close()


@pytest.mark.parametrize("content", ["no JSON ", '{"inner": "looks like a field"}' + " " * 3_000])
async def test_there_is_nothing_below_a_text(home: Home, cwd: Path, content: str) -> None:
    log = new_log(home, cwd)
    event = await _stored(log, "command_finished", {"output": content * 1_000, "command": content[:8]})
    for pointer in ("/output/inner", "/output/0", "/command/0", "/output/inner/more"):
        with pytest.raises(ArtifactNotFound):
            read_field(log.dir, event, pointer, 0, 100)
    log.close()


@given(texts, st.integers(0, 50), st.integers(1, 50))
async def test_a_bad_pointer_is_refused_in_words(pointer: str, offset: int, limit: int) -> None:
    with temporary_log() as log:
        event = await _stored(log, "command_finished", {"output": "x" * 3_000, "items": [[1, {"~/": None}], "s"]})
        for prefix in ("", "/", "/output", "/output/", "/items/", "/items/0/", "/items/0/1/", "/artifact_refs/"):
            with suppress(ArtifactNotFound, InvalidArgument):
                read_field(log.dir, event, prefix + pointer, offset, limit)


def test_a_json_pointer_is_that_of_the_standard() -> None:
    document: JsonObject = {
        "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "k\"l": 6, " ": 7, "m~n": 8, "~1": 9,
    }  # fmt: skip
    table: dict[str, Any] = {
        "": document, "/foo": ["bar", "baz"], "/foo/0": "bar", "/": 0, "/a~1b": 1, "/c%d": 2, "/e^f": 3, '/k"l': 6,
        "/ ": 7, "/m~0n": 8, "/~01": 9,
    }  # fmt: skip
    assert {pointer: resolve(document, pointer, pointer) for pointer in table} == table
    for pointer in ("/foo/2", "/foo/-", "/foo/01", "/foo/+1", "/foo/bar", "/foo/0/0", "/nobody", "/foo/99999999999"):
        with pytest.raises(ArtifactNotFound):
            resolve(document, pointer, pointer)
    with pytest.raises(InvalidArgument, match="starts with '/'"):
        resolve(document, "foo", "foo")


def test_what_a_caller_reads_most_keeps_more_of_itself() -> None:
    for event_type, data, limit in (
        ("agent_message", {"text": "x" * 8_000}, 8_000),
        ("run_completed", {"final_response": "x" * 8_000}, 8_000),
        ("input_required", {"request": {"request_id": "r", "kind": "approval", "text": "x" * 8_000}}, 8_000),
        ("command_finished", {"output": "x" * 2_000}, 2_000),
    ):
        assert plan(event_type, data) == (data, {})
        pointer, text = next((p, v) for p, v in _leaves(data) if isinstance(v, str) and len(v) == limit)
        longer = orjson.loads(orjson.dumps(data).replace(text.encode(), text.encode() + b"x"))
        assert list(plan(event_type, longer).stored) == [pointer]


@given(st.text(st.characters(codec="utf-8"), min_size=300, max_size=2_000), st.integers(200, 1_000))
def test_a_preview_is_head_and_tail_within_its_limit(text: str, limit: int) -> None:
    content = text.encode()
    if len(content) <= limit:
        return
    shown = preview(content, limit)
    head, note, tail = shown.partition("\n… ")[0], f"{len(content):,} bytes", shown.rpartition(" …\n")[2]
    assert len(shown.encode()) <= limit
    assert (text.startswith(head), note in shown, text.endswith(tail)) == (True, True, True)


@pytest.mark.parametrize("damage", ["missing", "short", "elsewhere", "type", "list"])
async def test_a_damaged_artifact_is_an_error_of_the_store(home: Home, cwd: Path, damage: str) -> None:
    log = new_log(home, cwd)
    event = await _stored(log, "tool_finished", {"result": ["x" * 100] * 1_000})
    refs = event.data["artifact_refs"]
    path = log.dir.path / refs["/result"]["relpath"]
    match damage:
        case "missing":
            path.unlink()
        case "short":
            path.write_bytes(b"[")
        case "elsewhere":
            refs["/result"]["relpath"] = "../../../../etc/passwd.0001.json"
        case "type":
            refs["/result"] = {**refs["/result"], "total_bytes": "many"}
        case _:
            event.data["artifact_refs"] = ["/result"]
    for pointer in ("/result", "/result/5"):
        with pytest.raises(StoreError):
            read_field(log.dir, event, pointer, 0, 200_000)
    log.close()
