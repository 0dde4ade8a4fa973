"""Which file the name of a profile means, and what is said when it means none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidArgument, OrchestratorError, PermissionCeiling, ProfileNotFound
from orchestrator.profiles import PACKAGED, Profile, Source, find, listed
from orchestrator.store.layout import Home
from tests.unit.agents import Agent, desk
from tests.unit.test_config import user
from tests.unit.test_profiles import EVERYTHING, write


def test_the_places_are_asked_in_their_order_and_the_first_wins(cwd: Path, home: Home) -> None:
    folders: list[tuple[Source, Path]] = [
        ("project", cwd / "profiles"),
        ("claude", cwd / ".claude" / "agents"),
        ("user", home.path / "profiles"),
        ("packaged", PACKAGED),
    ]
    for _, folder in folders[:3]:
        write(folder / "worker.md")
    for source, folder in folders:
        found = find("worker", cwd, home.path)
        assert (found.source, found.path) == (source, folder / "worker.md")
        assert [row.source for row in listed(cwd, home.path) if row.name == "worker"] == [source]
        if source != "packaged":
            found.path.unlink()


def test_a_name_is_that_of_the_file_or_what_the_file_says(cwd: Path) -> None:
    write(cwd / "profiles" / "file.md", "---\nname: said\n---\nx")
    assert find("file", cwd, cwd / "home") == find("said", cwd, cwd / "home")


def test_every_name_in_the_list_reaches_the_file_that_it_was_listed_for(cwd: Path, home: Home) -> None:
    for stem, name in (("a", "b"), ("b", "c"), ("d", "d")):
        write(cwd / "profiles" / f"{stem}.md", f"---\nname: {name}\n---\nx")
    write(home.path / "profiles" / "e.md", "---\nname: a\n---\nx")
    rows = [row for row in listed(cwd, home.path) if isinstance(row, Profile)]
    assert {row.name: find(row.name, cwd, home.path).path for row in rows} == {row.name: row.path for row in rows}


@pytest.mark.parametrize("way", ["absolute", "relative", "home"])
def test_a_path_names_a_file_wherever_it_is(cwd: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    path = write(cwd / "texts" / "one.md")
    monkeypatch.setenv("HOME", str(cwd))
    given = {"absolute": str(path), "relative": "texts/one.md", "home": "~/texts/one.md"}[way]
    profile = find(given, cwd, cwd / "home")
    assert (profile.name, profile.source, profile.path) == ("one", "path", path)


def test_a_name_that_is_none_is_refused_with_where_was_looked_and_the_nearest(cwd: Path, home: Home) -> None:
    write(cwd / "profiles" / "auditor.md")
    with pytest.raises(ProfileNotFound) as refused:
        find("auditer", cwd, home.path)
    folders = (cwd / "profiles", cwd / ".claude" / "agents", home.path / "profiles", PACKAGED)
    assert str(refused.value) == (f"no profile 'auditer' in {', '.join(map(str, folders))}; did you mean 'auditor'?")


@pytest.mark.parametrize("given", ["gone.md", "a/b", "~nobody-such/x.md", "a\0b/x.md", "/", "x" * 5000 + ".md"])
def test_a_path_that_is_none_is_refused_in_words(cwd: Path, given: str) -> None:
    with pytest.raises(
        (ProfileNotFound, InvalidArgument), match=r"give the path of a Markdown file|cannot be read|is no Markdown file"
    ):
        find(given, cwd, cwd / "home")


@pytest.mark.parametrize("given", ["", ".", "..", "*", "README", "wor*"])
def test_what_is_no_name_finds_nothing(cwd: Path, given: str) -> None:
    write(cwd / "profiles" / "README.md", "# What is here")
    with pytest.raises(ProfileNotFound, match="no profile"):
        find(given, cwd, cwd / "home")


def test_the_list_tells_of_files_that_are_wrong_and_leaves_out_what_is_no_profile(cwd: Path, home: Home) -> None:
    write(cwd / "profiles" / "README.md", "# What is here")
    write(cwd / "profiles" / "notes.txt")
    write(cwd / "profiles" / "wrong.md", "---\nrolle: x\n---\nx")
    write(cwd / "profiles" / "right.md", EVERYTHING)
    rows = {row.name: row.to_json() for row in listed(cwd, home.path) if row.source == "project"}
    path = str(cwd / "profiles" / "right.md")
    assert rows["reviewer"] == {
        "name": "reviewer", "description": "Looks at changes.", "role": "reviewer", "backend": "codex",
        "model": "some-model", "permission": "read_only", "source": "project", "structured": True, "path": path,
    }  # fmt: skip
    assert "did you mean 'role'" in rows.pop("wrong")["fault"]
    assert list(rows) == ["reviewer"]


def test_the_packaged_ones_are_right(cwd: Path, home: Home) -> None:
    rows = [row for row in listed(cwd, home.path) if row.source == "packaged"]
    assert {"worker", "planner", "reviewer-remediator"} <= {row.name for row in rows}
    assert all(isinstance(row, Profile) and row.description and not row.notices for row in rows)


@settings(max_examples=5)
@given(name=st.text(max_size=80))
def test_whatever_name_is_given_it_is_found_or_refused(cwd: Path, name: str) -> None:
    with pytest.raises(OrchestratorError):
        find(f"{name} none", cwd, cwd / "home")


async def test_a_link_of_the_workspace_gives_nobody_a_file_from_elsewhere(cwd: Path, tmp_path: Path) -> None:
    secret = await asyncio.to_thread(write, tmp_path / "elsewhere" / "notes.md", "A secret.")
    link = cwd / "profiles" / "worker.md"
    await asyncio.to_thread(link.parent.mkdir)
    await asyncio.to_thread(link.symlink_to, secret)
    async with desk(cwd, Agent()) as tools:
        with pytest.raises(PermissionCeiling, match=r"leads to .*notes.md, out of the project"):
            await tools.spawn(profile="worker")


async def test_a_pattern_of_a_stranger_is_not_run(cwd: Path, home: Home) -> None:
    schema = "---\noutput_schema: {type: string, pattern: ^(a+)+$}\n---\nYou help.\n"
    await asyncio.to_thread(write, cwd / "profiles" / "mine.md", schema)
    async with desk(cwd, Agent()) as tools:
        with pytest.raises(InvalidArgument, match="has a pattern"):
            await tools.spawn(profile="mine")
        await asyncio.to_thread(user, home, f'trusted_dirs = ["{cwd}"]')
        await tools.spawn(profile="mine")
