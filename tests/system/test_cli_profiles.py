"""`orchestrator profiles`, and a run with one, as people and scripts meet them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.shell import Shell

pytestmark = pytest.mark.system

PARROT = "---\ndescription: Says what it is told.\n---\nYou are the parrot of Zanzibar.\n"


@pytest.fixture
def here(person: Shell, tmp_path: Path) -> Shell:
    """The same shell in a directory of the test's own, with a profile."""
    place = person.at(tmp_path / "project")
    (tmp_path / "project" / "profiles").mkdir()
    (tmp_path / "project" / "profiles" / "parrot.md").write_text(PARROT)
    return place


def test_they_are_listed_with_those_that_are_packaged(here: Shell) -> None:
    rows = {row["name"]: row for row in here.json("profiles", "ls")["profiles"]}
    assert rows["parrot"]["source"] == "project"
    assert rows["parrot"]["description"] == "Says what it is told."
    assert rows["reviewer-remediator"]["source"] == "packaged"
    assert rows["finder"]["structured"] is True
    plain = here.run("profiles", "ls")
    assert "parrot\tproject\tSays what it is told.\n" in plain.out


def test_one_is_shown_with_all_that_it_says(here: Shell) -> None:
    shown = here.json("profiles", "show", "parrot")
    assert shown["text"] == "You are the parrot of Zanzibar."
    assert len(shown["sha256"]) == 64
    assert "You are the parrot of Zanzibar." in here.run("profiles", "show", "profiles/parrot.md").out
    missing = here.run("profiles", "show", "parott")
    assert missing.code == 4
    assert "did you mean 'parrot'?" in missing.err


def test_a_wrong_one_is_found_by_the_check(here: Shell) -> None:
    assert here.run("profiles", "check").code == 0
    wrong = here.cwd / "profiles" / "wrong.md"
    wrong.write_text("---\npermission: everything\n---\nYou ...\n")
    found = here.run("profiles", "check")
    assert found.code == 1
    assert "permission is 'everything'; it takes read_only, workspace_write, full_access" in found.out
    assert here.run("profiles", "check", "parrot").out == "parrot: right\n"
    assert here.run("profiles", "check", "parrot", str(wrong), "--json").code == 1
    listed = {row["name"]: row for row in here.json("profiles", "ls")["profiles"]}
    assert "it takes read_only" in listed["wrong"]["fault"]


def test_a_new_one_is_right_as_it_is_and_never_overwrites(here: Shell) -> None:
    made = here.run("profiles", "new", "mine")
    assert made.code == 0
    path = Path(made.out.strip())
    assert path == here.cwd / "profiles" / "mine.md"
    assert here.run("profiles", "check", "mine").code == 0
    path.write_text(PARROT)
    assert here.run("profiles", "new", "mine").code == 3
    assert here.json("profiles", "new", "yours") == {"path": str(here.cwd / "profiles" / "yours.md")}
    assert path.read_text() == PARROT
    assert here.run("profiles", "new", "../mine").code == 2
    assert here.run("profiles", "new", "everywhere", "--own").code == 0
    assert {row["name"] for row in here.json("profiles", "ls")["profiles"]} >= {"mine", "everywhere"}


def test_a_run_has_one_and_shows_it(here: Shell) -> None:
    done = here.run("run", "-b", "scripted", "-p", "parrot", "--json", "system Zanzibar\nfinal done")
    assert done.code == 0, done
    run = done.lines[-1]
    assert run["agent_name"].startswith("parrot")
    assert run["profile"]["name"] == "parrot"
    assert "Zanzibar is there" in done.out
    assert "parrot (" in here.run("show", run["run_id"]).out
    assert here.run("run", "-p", "parrot", "hello").code == 2, "no backend is named anywhere"
