"""Work that must not be lost with a place: to a git whose host died, to a removal that was cut short, to what is in no
patch and would go unnamed."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from orchestrator.errors import Conflict, GitError
from orchestrator.process import reap
from orchestrator.workspaces import claims
from orchestrator.workspaces.making import aside_of
from orchestrator.workspaces.places import RECORD, Place
from orchestrator.workspaces.results import Result
from tests.unit.test_bringing import with_filter
from tests.unit.test_odd_repositories import env, goes, prepared, repo, stays, told_by
from tests.unit.test_places import with_submodule
from tests.unit.test_snapshots import dir_of, files_in, git, mine, spec_of

__all__ = ["env", "repo", "with_submodule"]  # fixtures


def until(path: Path) -> None:
    """Waits until a file is there."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} is not there"
        time.sleep(0.01)


# ---- a git that outlives its host


@pytest.fixture
def slow(repo: Path, env: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """A client whose git says that it has begun to write files, and goes on when it is told to."""
    (repo / ".gitattributes").write_text("b.txt filter=own\n")
    git(repo, "add", ".gitattributes")
    git(repo, "commit", "-q", "-m", "with a filter")
    begun, going = tmp_path / "begun", tmp_path / "going"
    smudge = f"touch '{begun}'; while ! test -e '{going}'; do sleep 0.05; done; cat"
    yield with_filter(repo, env, "b.txt", clean="cat", smudge=smudge, required="true")
    going.touch()


@pytest.mark.parametrize("mode", ["worktree", "clone"])
def test_a_git_that_outlives_its_host_keeps_the_place_to_itself_until_it_is_ended(
    repo: Path, slow: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    spec = spec_of(repo, slow, mode=mode)
    host = multiprocessing.get_context("fork").Process(target=Place(dir_of(spec), spec, slow).prepare)
    host.start()
    until(tmp_path / "begun")
    assert host.pid is not None
    os.kill(host.pid, 9)
    host.join()
    monkeypatch.setattr(claims, "ALONE_S", 0.0)
    with pytest.raises(GitError, match="somebody else is at work"):
        Place(dir_of(spec), spec, slow).prepare()
    assert reap({spec.run_id: None}) >= 1
    (tmp_path / "going").touch()
    place = Place(dir_of(spec), spec, slow)
    place.prepare()
    assert files_in(place.cwd) == files_in(repo)
    (place.cwd / "new.txt").write_text("of the agent\n")
    assert told_by(place)["files"] == 1
    assert goes(place)


@pytest.mark.parametrize("setting", ["core.trustctime=false", "core.checkStat=minimal"])
def test_an_edit_of_the_same_size_and_time_is_found(repo: Path, env: dict[str, str], setting: str) -> None:
    git(repo, "config", *setting.split("="))
    place = prepared(repo, env)
    edited, long_ago = place.cwd / "a.txt", (10**18, 10**18)
    os.utime(edited, ns=long_ago)
    git(place.cwd, "update-index", "--refresh")
    assert told_by(place)["files"] == 0
    known = int(edited.stat().st_ctime)
    edited.write_text(edited.read_text().replace("19", "91"))
    while int(edited.stat().st_ctime) == known:  # git looks at seconds
        os.utime(edited, ns=long_ago)
    assert stays(place) == "it was changed after its patch was made"


# ---- a worktree that its user has taken


def test_a_worktree_that_was_moved_stays_with_its_branch(repo: Path, env: dict[str, str], tmp_path: Path) -> None:
    spec = spec_of(repo, env)
    place = Place(dir_of(spec), spec, env)
    place.prepare()
    (place.cwd / "new.txt").write_text("new\n")
    told_by(place)
    git(repo, "worktree", "move", str(place.path), str(tmp_path / "moved"))
    with pytest.raises(Conflict, match="it was moved to"):
        Result(dir_of(spec), spec, env).discard()
    assert git(tmp_path / "moved", "rev-parse", "--abbrev-ref", "HEAD") == place.branch
    assert git(tmp_path / "moved", "rev-parse", "HEAD") == git(repo, "rev-parse", "HEAD")
    git(repo, "worktree", "remove", "--force", str(tmp_path / "moved"))
    git(repo, "checkout", "-q", place.branch)
    assert place.remove() is None
    assert git(repo, "rev-parse", "HEAD") == git(repo, "rev-parse", "main"), "a branch that is checked out stays"


def test_a_worktree_that_was_locked_stays(repo: Path, env: dict[str, str]) -> None:
    place = prepared(repo, env)
    told_by(place)
    git(repo, "worktree", "lock", "--reason", "of the user", str(place.path))
    assert stays(place) == "it is locked: of the user"
    git(repo, "worktree", "unlock", str(place.path))
    assert goes(place)


# ---- removals that are cut short


def test_a_removal_that_was_cut_short_is_finished_and_takes_nothing_else(repo: Path, env: dict[str, str]) -> None:
    before = mine(repo)
    spec = spec_of(repo, env)
    place = Place(dir_of(spec), spec, env)
    place.prepare()
    (place.cwd / "new.txt").write_text("new\n")
    told_by(place)
    record = Path(dir_of(spec).file(RECORD))
    record.write_bytes(orjson.dumps({**orjson.loads(record.read_bytes()), "state": "removing"}))
    (place.cwd / "newer.txt").write_text("of somebody who came before the removal went on\n")
    assert stays(Place(dir_of(spec), spec, env)) == "it was changed after its patch was made"
    (place.cwd / "newer.txt").unlink()
    aside = aside_of(place.path)
    place.path.rename(aside)
    (aside / ".git").unlink()
    assert goes(Place(dir_of(spec), spec, env))
    assert not aside.exists()
    assert mine(repo) == before
    assert git(repo, "branch", "--format=%(refname:short)") == "main"


def test_a_place_with_folders_that_nobody_may_write_to_goes(repo: Path, env: dict[str, str]) -> None:
    place = prepared(repo, env)
    for name in ("locked", "locked/in"):
        (place.cwd / name).mkdir()
        (place.cwd / name / "new.txt").write_text("new\n")
    for name in ("locked/in", "locked"):
        (place.cwd / name).chmod(0o500)
    assert told_by(place)["files"] == 2
    assert goes(place)


def test_what_cannot_be_removed_is_said_and_removed_later(repo: Path, env: dict[str, str]) -> None:
    place = prepared(repo, env)
    told_by(place)
    in_the_way = aside_of(place.path)
    in_the_way.parent.chmod(0o500)
    if os.access(in_the_way.parent, os.W_OK):
        in_the_way.parent.chmod(0o700)
        pytest.skip("root removes everything")
    why = stays(place)
    in_the_way.parent.chmod(0o700)
    assert why.startswith("it cannot be removed:")
    assert goes(place)


@pytest.mark.parametrize("mode", [0o000, 0o400])
@pytest.mark.parametrize("folder", ["new", "new/below", "in"])
def test_what_is_in_a_folder_that_nobody_may_read_is_named_and_kept(
    repo: Path, env: dict[str, str], folder: str, mode: int
) -> None:
    place = prepared(repo, env)
    closed = place.cwd / folder
    closed.mkdir(parents=True, exist_ok=True)
    (closed / "new.txt").write_text("of the agent\n")
    closed.chmod(mode)
    if os.access(closed, os.X_OK):
        pytest.skip("root reads everything")
    try:
        told, why = place.finish(), place.remove()
    finally:
        closed.chmod(0o700)
    assert (closed / "new.txt").read_text() == "of the agent\n"
    assert why is not None
    assert told is not None
    assert folder in ",".join(told.told["left_out"])


# ---- what the repository ignores


@pytest.fixture
def ignoring(repo: Path) -> Path:
    """A repository that ignores some files, and all of a folder."""
    (repo / ".gitignore").write_text("*.log\nsecret/\nnode_modules/\n__pycache__/\n")
    git(repo, "add", ".gitignore")
    git(repo, "commit", "-q", "-m", "ignores")
    return repo


def test_ignored_work_is_named_and_goes(ignoring: Path, env: dict[str, str]) -> None:
    place = prepared(ignoring, env)
    for name in ("x.log", "logs/y.log", "secret/z", "node_modules/m/x.js", "in/__pycache__/c.pyc"):
        (place.cwd / name).parent.mkdir(parents=True, exist_ok=True)
        (place.cwd / name).write_text("of the agent\n")
    told = told_by(place)
    assert (told["files"], told["ignored"], told.get("left_out")) == (0, ["logs/", "secret/", "x.log"], None)
    assert goes(place)


def test_a_repository_in_what_is_ignored_is_named_and_kept(ignoring: Path, env: dict[str, str]) -> None:
    place = prepared(ignoring, env)
    (place.cwd / "secret/inner").mkdir(parents=True)
    git(place.cwd / "secret/inner", "init", "-q")
    assert told_by(place)["left_out"] == ["secret/"]
    assert "secret/" in stays(place)


@pytest.mark.parametrize("rules", [".gitignore", "new/.gitignore", ".git/info/exclude", "core.excludesFile"])
def test_what_only_rules_of_the_run_ignore_is_named_and_kept(
    ignoring: Path, env: dict[str, str], tmp_path: Path, rules: str
) -> None:
    place = prepared(ignoring, env)
    (place.cwd / "new").mkdir()
    (place.cwd / "new/work.txt").write_text("of the agent\n")
    file = (ignoring if rules.startswith(".git/") else place.cwd) / rules
    if rules == "core.excludesFile":
        file = tmp_path / "rules"
        git(place.cwd, "config", rules, str(file))
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as appended:
        appended.write("work.*\n")
    assert told_by(place)["left_out"] == ["new/work.txt"]
    assert "new/work.txt" in stays(place)


# ---- what is in no patch of a shared directory


@pytest.mark.parametrize("dirty", [False, True])
def test_what_is_edited_in_a_submodule_of_a_shared_directory_is_named(
    with_submodule: Path, env: dict[str, str], dirty: bool
) -> None:
    sub = with_submodule / "sub"
    if dirty:
        (sub / "b.txt").write_text("of the user\n")
    for edited in (False, True):
        place = prepared(with_submodule, env, mode="shared")
        if edited:
            (sub / "a.txt").write_text("of the agent\n")
        changes = place.finish()
        place.close()
        assert changes is not None
        assert changes.any == edited
        assert (changes.files, changes.told.get("left_out")) == (0, ["sub"] if edited else None)


def test_a_patch_from_files_that_were_not_committed_names_no_base(repo: Path, env: dict[str, str]) -> None:
    for base in (git(repo, "rev-parse", "HEAD"), None):
        place = prepared(repo, env, mode="shared")
        (repo / "a.txt").write_text("of the agent\n")
        assert told_by(place).get("base") == base
        place.close()
        (repo / "a.txt").write_text("of the user\n")
