"""Proves that no file, whatever stands in it, does more than be refused: a true state, or an error of the store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.errors import OrchestratorError, StoreError
from orchestrator.model import JsonObject
from orchestrator.store.artifacts import read_field
from orchestrator.store.layout import Home, RunDir
from orchestrator.store.log import RunLog
from orchestrator.store.reader import RunReader
from tests.unit.runs import NO_SECRETS, json_values, new_log, texts

FILES = ["spec.json", "run.json", "events.jsonl", "owner.json"]
REQUEST: JsonObject = {"request": {"request_id": "r1", "kind": "question", "text": "Which?"}}
NO_END = b'{"seq":1,"ts":"t","type":"run_started","data":'


@asynccontextmanager
async def _run() -> AsyncGenerator[RunLog]:
    """A run that has all its files and no owner."""
    with TemporaryDirectory() as folder:
        cwd = Path(folder, "project")
        cwd.mkdir()
        log = new_log(Home(Path(folder, "home")), cwd)
        await log.append("run_started", {"cwd": folder})
        await log.append("command_finished", {"output": "x" * 3_000})
        await log.append("input_required", REQUEST)
        await log.append("agent_message", {"text": "so far"})
        log.close()
        yield log


def _read_everything(run_dir: RunDir) -> None:
    """What readers and the next owner do. Any error but that of the store fails the test."""
    reader = RunReader(run_dir)
    with suppress(StoreError):
        reader.spec()
    with suppress(StoreError):
        orjson.dumps(reader.state().run.to_json())
    for after_seq in (0, 1, 3, 100):
        with suppress(StoreError):
            reader.poll(after_seq, 100, None)
        with suppress(StoreError):
            reader.poll(after_seq, 1, {"agent_message"})
    for seq in (1, 2, 4):
        with suppress(OrchestratorError):
            if event := reader.event(seq):
                read_field(run_dir, event, "/output", 0, 100)
    with suppress(StoreError):
        RunLog.take_over(run_dir, NO_SECRETS).close()


@pytest.mark.parametrize("name", FILES)
@given(content=st.one_of(st.binary(max_size=200), json_values.map(lambda value: orjson.dumps(str(value)))))
@example(content=b'{"seq":' + b"9" * 5_000 + b',"ts":"","type":"x","data":{}}\n')
@example(content=NO_END + b"5}\n")
@example(content=NO_END + b"[]}\n" + NO_END.replace(b"1", b"2") + b"null}\n")
@example(content=NO_END + b"[" * 5_000 + b"\n")
@example(
    content=NO_END + b'{"artifact_refs":5}}\n' + NO_END.replace(b"1", b"2") + b'{"artifact_refs":{"/output":5}}}\n'
)
@example(content=b"\n" * 300_000)
@example(content=b"x" * 300_000)
@example(content=b'{"epoch": 1e300, "offset": 1e300, "cwd": 5}')
@settings(max_examples=40)
async def test_any_bytes_are_refused_or_harmless(name: str, content: bytes) -> None:
    async with _run() as log:
        Path(log.dir.file(name)).write_bytes(content)
        _read_everything(log.dir)


@given(st.sampled_from(FILES), st.integers(0, 10_000), st.binary(max_size=3), st.integers(0, 3))
@settings(max_examples=150)
async def test_any_change_of_a_few_bytes_is_refused_or_harmless(name: str, at: int, put: bytes, cut: int) -> None:
    async with _run() as log:
        path = Path(log.dir.file(name))
        content = path.read_bytes()
        at %= len(content)
        path.write_bytes(content[:at] + put + content[at + cut :])
        _read_everything(log.dir)


@given(st.sampled_from(["spec.json", "run.json", "owner.json"]), st.integers(0, 100), json_values)
@settings(max_examples=150)
async def test_any_value_in_the_place_of_another_is_refused_or_harmless(name: str, which: int, value: object) -> None:
    async with _run() as log:
        path = Path(log.dir.file(name))
        document = orjson.loads(path.read_bytes())
        key = sorted(document)[which % len(document)]
        with suppress(orjson.JSONEncodeError):
            path.write_bytes(orjson.dumps({**document, key: value}))
        _read_everything(log.dir)
        path.write_bytes(orjson.dumps({k: v for k, v in document.items() if k != key}))
        _read_everything(log.dir)


LIES: list[JsonObject] = [
    {"offset": 0},
    {"offset": 5},
    {"offset": -1},
    {"offset": 10**9},
    {"offset": "many"},
    {"offset": None},
    {"last_seq": 0},
    {"last_seq": 1},
    {"last_seq": 10**9},
    {"last_seq": 5, "offset": 10**9},
    {"run_id": "run_of_somebody_else"},
    {"status": "flying"},
    {"status": None},
    {"cwd": None},
    {"pending": [5]},
    {"pending": 5},
    {"error": "none"},
]


@pytest.mark.parametrize("lie", LIES, ids=str)
async def test_a_snapshot_that_does_not_fit_the_log_is_not_believed(lie: JsonObject) -> None:
    async with _run() as log:
        path = Path(log.dir.file("run.json"))
        document = orjson.loads(path.read_bytes())
        path.write_bytes(orjson.dumps({**document, **lie}))
        assert RunReader(log.dir).state() == (log.run, log.offset)


@given(st.binary(max_size=100))
async def test_without_a_snapshot_the_log_alone_tells_the_state(content: bytes) -> None:
    async with _run() as log:
        path = Path(log.dir.file("run.json"))
        whole = path.read_bytes()
        for damaged in (content, whole[: len(content)], whole + content + b"}"):
            path.write_bytes(damaged)
            assert RunReader(log.dir).state() == (log.run, log.offset)
        path.unlink()
        assert RunReader(log.dir).state() == (log.run, log.offset)
        owner = RunLog.take_over(log.dir, NO_SECRETS)
        assert owner.run == log.run
        owner.close()


async def test_a_gap_or_a_number_twice_is_told_and_not_passed_over() -> None:
    async with _run() as log:
        path = Path(log.dir.file("events.jsonl"))
        lines = path.read_bytes().splitlines(keepends=True)
        for order in ([0, 2, 3], [0, 1, 1, 2], [1, 0, 2, 3], [3]):
            path.write_bytes(b"".join(lines[index] for index in order))
            Path(log.dir.file("run.json")).unlink(missing_ok=True)
            with pytest.raises(StoreError, match="event"):
                RunReader(log.dir).state()
            with pytest.raises(StoreError, match="event"):
                RunReader(log.dir).poll(0, 100, None)


@given(st.dictionaries(texts, texts, max_size=3))
async def test_what_newer_code_wrote_is_read_by_older_code(extra: dict[str, str]) -> None:
    more = {f"later_{key}": value for key, value in extra.items()}
    async with _run() as log:
        for name in ("spec.json", "run.json", "owner.json"):
            path = Path(log.dir.file(name))
            with suppress(orjson.JSONEncodeError):
                path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), **more}))
        assert RunReader(log.dir).state() == (log.run, log.offset)
