"""What changed below a directory is found by looking twice, and nothing but what changed is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import changes
from orchestrator.changes import LEFT_OUT, Watch, added, shown
from orchestrator.model import JsonObject
from orchestrator.store.serial import serialisable


def write(path: Path, text: str = "x\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def told(watch: Watch) -> list[JsonObject]:
    """What changed; that it changed no more is found the second time."""
    found = watch.changes()
    assert watch.changes() == []
    orjson.dumps(serialisable(found))
    return found


def test_what_is_added_updated_and_deleted_is_told_in_this_order(cwd: Path) -> None:
    kept, changed, gone = (write(cwd / f"{name}.txt") for name in ("kept", "changed", "gone"))
    watch = Watch(cwd)
    write(changed, "longer\n")
    gone.unlink()
    write(cwd / "sub/new.txt", "one\ntwo")
    assert told(watch) == [
        {"path": "sub/new.txt", "kind": "add", "diff": "+one\n+two"},
        {"path": "changed.txt", "kind": "update"},
        {"path": "gone.txt", "kind": "delete"},
    ]
    assert kept.exists()


def test_several_files_are_told_by_name(cwd: Path) -> None:
    watch = Watch(cwd)
    for name in ("b/2", "a", "c", "b/1"):
        write(cwd / name)
    assert [change["path"] for change in told(watch)] == ["a", "b/1", "b/2", "c"]


def test_a_file_that_is_replaced_by_one_of_its_size_and_time_is_an_update(cwd: Path) -> None:
    path = write(cwd / "a")
    before = path.stat()
    watch = Watch(cwd)
    other = write(cwd / "b", "y\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)
    assert told(watch) == [{"path": "a", "kind": "update"}]


def test_a_file_that_is_moved_is_deleted_and_added(cwd: Path) -> None:
    write(cwd / "old", "text\n")
    watch = Watch(cwd)
    (cwd / "old").rename(cwd / "new")
    assert told(watch) == [{"path": "new", "kind": "add", "diff": "+text\n"}, {"path": "old", "kind": "delete"}]


def test_directories_are_told_by_their_files(cwd: Path) -> None:
    write(cwd / "old/a")
    watch = Watch(cwd)
    shutil.rmtree(cwd / "old")
    (cwd / "empty").mkdir()
    write(cwd / "old", "a file now\n")
    assert [(change["path"], change["kind"]) for change in told(watch)] == [("old", "add"), ("old/a", "delete")]


def test_reading_and_permissions_are_no_changes(cwd: Path) -> None:
    path = write(cwd / "a")
    watch = Watch(cwd)
    path.read_text()
    path.chmod(0o755)
    assert told(watch) == []


# ---- what others told


def test_what_was_told_already_is_not_told_again(cwd: Path) -> None:
    updated, deleted = write(cwd / "updated"), write(cwd / "deleted")
    watch = Watch(cwd)
    write(updated, "longer\n")
    deleted.unlink()
    new = write(cwd / "sub/new")
    watch.note([updated, deleted, new, cwd / "never", Path("/etc/hosts"), cwd.parent / "beside"])
    assert told(watch) == []
    write(new, "again longer\n")
    assert told(watch) == [{"path": "sub/new", "kind": "update"}]


def test_what_is_deleted_after_it_was_told_is_told(cwd: Path) -> None:
    watch = Watch(cwd)
    new = write(cwd / "new")
    watch.note([new])
    new.unlink()
    assert told(watch) == [{"path": "new", "kind": "delete"}]


@pytest.mark.parametrize("name", ["node_modules/a", "sub/.git/hooks/a", "link/a", "../beside", "sub/../../beside"])
def test_what_is_not_looked_at_is_not_told_as_deleted(cwd: Path, name: str) -> None:
    (cwd / "sub").mkdir()
    (cwd.parent / "elsewhere").mkdir()
    (cwd / "link").symlink_to(cwd.parent / "elsewhere")
    watch = Watch(cwd)
    watch.note([write(cwd / name)])
    assert told(watch) == []


@pytest.mark.parametrize("name", ["sub/../a", "./a", "sub//../a"])
def test_what_was_told_by_another_name_is_not_told_again(cwd: Path, name: str) -> None:
    (cwd / "sub").mkdir()
    watch = Watch(cwd)
    write(cwd / "a")
    watch.note([cwd / name])
    assert told(watch) == []


# ---- what is looked at


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_directories_of_tools_are_left_out(cwd: Path, name: str) -> None:
    write(cwd / name / "before")
    watch = Watch(cwd)
    write(cwd / name / "before", "longer\n")
    write(cwd / "sub" / name / "deep/after")
    assert told(watch) == []


def test_a_file_with_the_name_of_such_a_directory_is_a_file(cwd: Path) -> None:
    watch = Watch(cwd)
    write(cwd / "venv")
    assert told(watch) == [{"path": "venv", "kind": "add", "diff": "+x\n"}]


def test_links_are_told_and_not_followed(cwd: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside/secret")
    (cwd / "turned").symlink_to(outside)
    watch = Watch(cwd)
    (cwd / "file").symlink_to(outside)
    (cwd / "folder").symlink_to(outside.parent)
    (cwd / "loop").symlink_to(".")
    (cwd / "nowhere").symlink_to("nothing")
    (cwd / "turned").unlink()
    (cwd / "turned").symlink_to("nothing at all")
    write(outside, "changed\n")
    kinds = {"file": "add", "folder": "add", "loop": "add", "nowhere": "add", "turned": "update"}
    assert told(watch) == [{"path": name, "kind": kind} for name, kind in kinds.items()]


def test_what_is_no_file_is_not_told(cwd: Path) -> None:
    watch = Watch(cwd)
    os.mkfifo(cwd / "pipe")
    assert told(watch) == []
    (cwd / "pipe").unlink()
    assert told(watch) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_directory_that_cannot_be_read_is_passed_over(cwd: Path) -> None:
    write(cwd / "closed/a").parent.chmod(0)
    watch = Watch(cwd)
    write(cwd / "b")
    assert [change["path"] for change in told(watch)] == ["b"]
    (cwd / "closed").chmod(0o755)


@pytest.fixture
def depths(cwd: Path) -> Iterator[Callable[[str, int], None]]:
    """Makes a chain of directories with a file at its end, however long its path becomes, and removes it again."""
    start = Path.cwd()
    made: list[tuple[str, int]] = []

    def dig(name: str, levels: int) -> None:
        made.append((name, levels))
        os.chdir(cwd)
        for _ in range(levels):
            os.mkdir(name)
            os.chdir(name)
        Path("end").write_text("x\n")
        os.chdir(start)

    yield dig
    for name, levels in made:
        os.chdir(cwd)
        for _ in range(levels):
            os.chdir(name)
        os.unlink("end")
        for _ in range(levels):
            os.chdir("..")
            os.rmdir(name)
    os.chdir(start)


def test_a_directory_whose_path_is_too_long_is_passed_over(cwd: Path, depths: Callable[[str, int], None]) -> None:
    watch = Watch(cwd)
    depths("n" * 250, 20)
    write(cwd / "a")
    assert told(watch) == [{"path": "a", "kind": "add", "diff": "+x\n"}]


def test_no_directory_is_too_deep(cwd: Path, depths: Callable[[str, int], None]) -> None:
    watch = Watch(cwd)
    depths("d", 1500)
    assert [change["path"] for change in told(watch)] == ["d/" * 1500 + "end"]


def test_a_directory_with_too_many_files_is_not_watched(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOST_FILES", 3)
    for number in range(3):
        write(cwd / str(number))
    watch = Watch(cwd)
    four = write(cwd / "sub/four")
    assert watch.changes() == [], "it would cost more than it tells"
    four.unlink()
    write(cwd / "0", "longer\n")
    assert told(watch) == [{"path": "0", "kind": "update"}], "it is watched again"
    write(four)
    never = Watch(cwd)
    never.note([write(cwd / "1", "longer\n")])
    four.unlink()
    assert never.changes() == []


def test_a_directory_that_is_gone_has_lost_its_files(cwd: Path) -> None:
    write(cwd / "a")
    watch = Watch(cwd)
    shutil.rmtree(cwd)
    assert told(watch) == [{"path": "a", "kind": "delete"}]
    assert Watch(cwd).changes() == []


# ---- the content of what is new


@pytest.mark.parametrize(
    ("content", "diff"),
    [
        (b"", ""),
        (b"one", "+one"),
        (b"one\n\ntwo\r\n", "+one\n+\n+two\r\n"),
        ("é漢".encode(), "+é漢"),
        (b"x" * changes.DIFF_BYTES, "+" + "x" * changes.DIFF_BYTES),
        (b"x" * (changes.DIFF_BYTES + 1), None),
        (b"\x89PNG\r\n\xff", None),
        (b"text\0text", None),
    ],
)
def test_a_new_file_is_told_with_its_content_if_that_is_short_and_text(
    cwd: Path, content: bytes, diff: str | None
) -> None:
    watch = Watch(cwd)
    (cwd / "a").write_bytes(content)
    assert told(watch) == [{"path": "a", "kind": "add"} | ({} if diff is None else {"diff": diff})]


def test_names_that_are_no_text_are_told_all_the_same(cwd: Path) -> None:
    watch = Watch(cwd)
    (cwd / os.fsdecode(b"caf\xe9 \n.txt")).write_bytes(b"x")
    assert [change["kind"] for change in told(watch)] == ["add"]


# ---- what changes during the look


def scanning(monkeypatch: pytest.MonkeyPatch, then: Callable[[str], None]) -> None:
    """Lets something happen behind each listing of a directory."""
    real = os.scandir

    def scandir(folder: str) -> Iterator[os.DirEntry[str]]:
        with real(folder) as entries:
            found = list(entries)
        then(folder)
        return iter(found)

    monkeypatch.setattr(changes.os, "scandir", scandir)


def test_what_is_deleted_during_the_look_is_deleted(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(cwd / "file")
    write(cwd / "folder/inner")
    watch = Watch(cwd)
    write(cwd / "new")

    def delete(folder: str) -> None:
        if folder == str(cwd) and (cwd / "new").exists():
            for name in ("file", "new", "folder/inner"):
                (cwd / name).unlink()
            (cwd / "folder").rmdir()

    scanning(monkeypatch, delete)
    assert [(change["path"], change["kind"]) for change in told(watch)] == [
        ("file", "delete"), ("folder/inner", "delete"),
    ]  # fmt: skip


def test_what_is_deleted_before_its_content_was_read_is_told_without(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(cwd)
    write(cwd / "a")
    write(cwd / "b/inner")

    def delete(folder: str) -> None:
        if folder == str(cwd / "b"):  # when "a" was looked at
            (cwd / "a").unlink(missing_ok=True)

    scanning(monkeypatch, delete)
    assert watch.changes() == [
        {"path": "a", "kind": "add"},
        {"path": "b/inner", "kind": "add", "diff": "+x\n"},
    ]
    assert told(watch) == [{"path": "a", "kind": "delete"}]


# ---- names and diffs


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *(("/w/p/a", "a"), ("/w/p/s/a", "s/a"), ("/w/p", "."), ("/w/pp/a", "/w/pp/a"), ("/etc/a", "/etc/a")),
        *(("a", "a"), ("./s//../a", "a"), ("../a", "/w/a"), ("/w/p/../p/a", "a"), ("..", "/w"), ("../p", ".")),
    ],
)
def test_a_path_is_shown_from_where_the_agent_works(path: str, name: str) -> None:
    assert shown(Path(path), Path("/w/p")) == name


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_the_diff_of_a_new_file_is_each_of_its_lines_with_a_plus(text: str) -> None:
    lines = added(text).splitlines(keepends=True)
    assert all(line.startswith("+") for line in lines)
    assert "".join(line[1:] for line in lines) == text


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "yy"]) | st.none()), max_size=12))
def test_what_is_told_leads_from_one_state_to_the_next(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    cwd = tmp_path_factory.mktemp("project")
    known: set[str] = set()
    watch = Watch(cwd)
    for name, text in steps:
        if text is None:
            (cwd / name).unlink(missing_ok=True)
        else:
            write(cwd / name, text)
        for change in told(watch):
            assert (change["kind"] == "add") is (change["path"] not in known)
            (known.discard if change["kind"] == "delete" else known.add)(change["path"])
        assert known == {path.name for path in cwd.iterdir()}
