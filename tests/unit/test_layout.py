"""Proves how files are made: private, whole or not at all, under names that are safe, in a format that is known."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidArgument, RunNotFound, StoreError, StoreVersion
from orchestrator.model import new_id
from orchestrator.store import sessions
from orchestrator.store.index import RunIndex
from orchestrator.store.layout import FORMAT, Home, RunDir, Workspace, read_json, replace_file, write_new
from orchestrator.updates import ArtifactChunk
from tests.unit.processes import racers
from tests.unit.runs import create, files_below, modes_below, new_log, texts


@pytest.fixture(params=[0o000, 0o022])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask that takes nothing from what the store asks for, or little."""
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


async def test_directories_are_0700_and_files_0600(umask: int, tmp_path: Path) -> None:
    cwd, home = tmp_path / "project", Home(tmp_path / "state/orchestrator")
    cwd.mkdir()
    log = new_log(home, cwd, key="k")
    await log.append("command_finished", {"output": "x" * 100_000})
    await log.add_chunk(ArtifactChunk(artifact_id="a", content="x" * 100_000))
    assert modes_below(cwd / ".orchestrator") == {}
    await log.end_artifacts()
    await log.end("run_completed", {"final_response": "done"})
    log.close()
    session = sessions.load(log.dir.workspace, log.run.session_id)
    sessions.save(log.dir.workspace, session, durable=True)
    lock = sessions.SessionLock(log.dir.workspace, session.session_id)
    assert lock.acquire()
    lock.release()
    assert modes_below(cwd / ".orchestrator") == {}
    assert modes_below(home.path) == {}
    assert len(list(files_below(cwd))) > 10


def test_a_file_is_private_before_anything_is_in_it(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    write = os.write

    def look(descriptor: int, content: bytes) -> int:
        modes.append(os.fstat(descriptor).st_mode & 0o777)
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", look)
    write_new(str(tmp_path / "a"), b"secret")
    replace_file(str(tmp_path / "a"), b"another", durable=True)
    assert modes == [0o600, 0o600]


@pytest.mark.parametrize("version", ["2", "", "0", "one", "1.1", "x" * 1_000, "\ufffd"])
def test_a_store_of_another_format_is_refused(home: Home, cwd: Path, version: str) -> None:
    log = new_log(home, cwd)
    log.close()
    (cwd / ".orchestrator/VERSION").write_text(version)
    before = set(files_below(cwd))
    with pytest.raises(StoreVersion, match="upgrade orchestrator-mcp"):
        create(home, cwd)
    with pytest.raises(StoreVersion):
        RunIndex(home).find(log.run.run_id, cwd)
    assert set(files_below(cwd)) == before


def test_a_store_tells_its_format_and_hides_from_git(cwd: Path) -> None:
    Workspace(cwd).open()
    Workspace(cwd).open()
    assert (cwd / ".orchestrator/VERSION").read_text().strip() == FORMAT
    assert (cwd / ".orchestrator/.gitignore").read_text() == "*\n"
    Workspace(cwd / "elsewhere").check_version()


def test_a_directory_that_cannot_be_written_is_an_error_with_a_way_out(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(StoreError, match="choose a cwd that you can write to"):
        Workspace(cwd).open()


def test_many_threads_and_processes_may_make_a_store_at_once(tmp_path: Path) -> None:
    with racers(3, "open", tmp_path) as processes:
        assert processes.go() == [f"{FORMAT}\n"] * 3
    for number in range(20):
        cwd = tmp_path / str(number)
        cwd.mkdir()
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(Workspace(cwd).open) for _ in range(8)]:
                done.result()
        assert sorted(path.name for path in (cwd / ".orchestrator").iterdir()) == [
            ".gitignore", "VERSION", "keys", "names", "runs", "sessions",
        ]  # fmt: skip


def test_many_threads_may_replace_one_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 50_000 for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(replace_file, str(path), content) for content in contents for _ in range(5)]:
            done.result()
            assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_that_cannot_be_replaced_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("write", "rename", *(["fsync"] if durable else [])):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="No space left"):
                replace_file(str(path), b"new", durable=durable)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]


def test_a_file_is_created_once(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    assert write_new(path, b"first", exist_ok=True)
    assert not write_new(path, b"second", exist_ok=True)
    with pytest.raises(FileExistsError):
        write_new(path, b"third")
    assert Path(path).read_bytes() == b"first"


@given(
    st.one_of(
        texts, st.sampled_from(["", ".", "..", "run_", "run_../x", "run_A", "run_1\n", "/etc", "run_" + "0" * 23])
    )
)
def test_no_name_from_outside_leaves_its_directory(name: str) -> None:
    workspace = Workspace(Path("/work"))
    for make in (workspace.run, workspace.session, workspace.name, Home(Path("/home")).find):
        try:
            made = make(name)
        except InvalidArgument:
            continue
        path = made.path if isinstance(made, RunDir) else made
        assert path is None or (path.name.removesuffix(".json") == name and "/" not in name and name[0] != ".")


def test_a_directory_whose_name_is_no_unicode_is_refused_in_words(home: Home, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="UTF-8"):
        create(home, tmp_path / "b\udcffd")
    assert list(files_below(tmp_path)) == []


def test_ids_fit_their_patterns_and_sort_by_age() -> None:
    ids = [new_id("run") for _ in range(200)]
    assert len(set(ids)) == len(ids)
    assert all(len(run_id) == 26 and Workspace(Path("/work")).run(run_id) for run_id in ids)
    assert [run_id[:16] for run_id in ids] == sorted(run_id[:16] for run_id in ids)


@pytest.mark.parametrize("content", [b"", b"[]", b"nothing", b"\xff\x00", b'{"a": ', b"[" * 100_000, b'{"a": 1e999}'])
def test_a_file_that_is_no_json_object_is_an_error_of_the_store(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    assert read_json(path) is None
    path.write_bytes(content)
    with pytest.raises(StoreError):
        read_json(path)
    with pytest.raises(StoreError):
        read_json(tmp_path)


def test_the_index_is_only_a_cache(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    log.close()
    run_id, entry = log.run.run_id, home.runs / log.run.run_id
    entry.unlink()
    assert RunIndex(home).find(run_id, cwd) == log.dir
    assert entry.read_bytes() == os.fsencode(log.dir.path), "what is found in its workspace is entered again"
    gone = cwd.rename(cwd.with_name("moved"))
    assert home.find(run_id) is None
    assert entry.exists(), "the seal of a run that may live is kept"
    home.settle(run_id)
    with pytest.raises(RunNotFound):
        RunIndex(home).find(run_id, Path("/"))
    assert not entry.exists(), "dead entries are pruned"
    assert RunIndex(home).find(run_id, gone).path == gone / ".orchestrator/runs" / run_id


def test_runs_that_only_their_workspace_knows_are_listed_and_entered_again(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    log.close()
    entry = home.runs / log.run.run_id
    entry.unlink()
    home.settle(log.run.run_id)
    (cwd / ".orchestrator/runs/no run").mkdir()
    assert list(RunIndex(home).below(cwd, None)) == [log.dir]
    assert entry.read_bytes() == os.fsencode(log.dir.path)
    assert os.listdir(home.live) == []


def test_a_near_miss_of_a_run_is_found_in_the_index_too(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    log.close()
    run_id = log.run.run_id
    with pytest.raises(RunNotFound, match=f"did you mean '{run_id}'"):
        RunIndex(home).find(run_id[:-1], Path("/"))


def test_who_names_a_run_that_cannot_be_read_is_not_asked_whether_they_meant_it(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    log.close()
    Path(log.dir.file("spec.json")).unlink()
    with pytest.raises(RunNotFound, match=f"no run '{log.run.run_id}'; call list_runs"):
        RunIndex(home).find(log.run.run_id, cwd)


@pytest.mark.parametrize("content", [b"", b"\x00", b"/nowhere/run_1", b"\xff\xfe"])
def test_a_damaged_entry_of_the_index_is_none(home: Home, cwd: Path, content: bytes) -> None:
    home.runs.mkdir(parents=True)
    (home.runs / "run_1").write_bytes(content)
    assert home.find("run_1") is None
    assert list(RunIndex(home).below(None, None)) == []


def test_runs_are_listed_newest_first_at_or_below_a_directory(home: Home, cwd: Path) -> None:
    inner = cwd / "inner"
    beside = cwd.with_name(cwd.name + "-beside")
    runs: list[RunDir] = []
    for place in (cwd, inner, beside, cwd):
        place.mkdir(exist_ok=True)
        log = new_log(home, place)
        log.close()
        runs.append(log.dir)
    newest = runs[::-1]
    index = RunIndex(home)
    assert list(index.below(None, None)) == newest
    assert list(index.below(cwd, None)) == [run for run in newest if run.workspace.cwd != beside]
    assert list(index.below(inner, None)) == [runs[1]]
    assert list(index.below(cwd, newest[0].run_id)) == [runs[1], runs[0]]
    for _ in range(2):
        home.settle(runs[0].run_id)
    assert set(os.listdir(home.live)) == {run.run_id for run in runs[1:]}
