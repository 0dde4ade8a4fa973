"""Places that hold what no patch holds, that are gone, half made, or made by many at once: nothing is lost."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchestrator.errors import GitError
from orchestrator.model import RunSpec
from orchestrator.store.layout import Workspace
from orchestrator.workspaces import snapshots
from orchestrator.workspaces.git import Git
from orchestrator.workspaces.places import RECORD, Place
from tests.unit.test_odd_repositories import env, filled, goes, prepared, repo, stays, told_by
from tests.unit.test_snapshots import dir_of, files_in, git, mine, spec_of

__all__ = ["env", "repo"]  # fixtures

# ---- what no patch holds


@pytest.fixture
def with_submodule(repo: Path, tmp_path: Path) -> Path:
    """A repository with another one in it, at `sub`."""
    (tmp_path / "other").mkdir()
    filled(tmp_path / "other")
    git(repo, "submodule", "--quiet", "add", str(tmp_path / "other"), "sub")
    git(repo, "commit", "-q", "-m", "with a submodule")
    return repo


def test_a_submodule_that_nobody_touches_is_no_change(with_submodule: Path, env: dict[str, str]) -> None:
    before = mine(with_submodule)
    place = prepared(with_submodule, env)
    (place.cwd / "a.txt").write_text("changed\n")
    told = told_by(place)
    assert (told["files"], told.get("left_out")) == (1, None)
    assert goes(place)
    assert mine(with_submodule) == before


@pytest.mark.parametrize("committed", [True, False])
def test_what_an_agent_does_in_a_submodule_is_named_and_kept(
    with_submodule: Path, env: dict[str, str], committed: bool
) -> None:
    place = prepared(with_submodule, env)
    git(place.cwd, "submodule", "--quiet", "update", "--init")
    (place.cwd / "sub/a.txt").write_text("changed\n")
    (place.cwd / "sub/new.txt").write_text("new\n")
    if committed:
        git(place.cwd / "sub", "add", ".")
        git(place.cwd / "sub", "commit", "-q", "-m", "of the agent")
    told = told_by(place)
    assert "sub" in stays(place)
    assert told["left_out"] == ["sub"]


@pytest.mark.parametrize("how", ["with a commit", "without one", "staged"])
def test_a_repository_within_is_named_and_kept(repo: Path, env: dict[str, str], how: str) -> None:
    place = prepared(repo, env)
    inner = place.cwd / "in/[x] :y"
    inner.mkdir()
    git(inner, "init", "-q")
    (inner / "file").write_text("of the inner one\n")
    if how != "without one":
        git(inner, "add", ".")
        git(inner, "commit", "-q", "-m", "inner")
    if how == "staged":
        git(place.cwd, "add", "-A")
    (place.cwd / "new.txt").write_text("new\n")
    told = told_by(place)
    assert told["left_out"] == ["in/[x] :y"]
    assert told["files"] == (2 if how == "staged" else 1)
    assert "in/[x] :y" in stays(place)


def test_a_large_file_is_named_and_kept(repo: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "LARGE_BYTES", 1_000)
    place = prepared(repo, env)
    (place.cwd / "big *.bin").write_bytes(b"\0" * 1_001)
    (place.cwd / "small.bin").write_bytes(b"\0" * 1_000)
    (place.cwd / "a.txt").write_bytes(b"one that was there before\n" * 100)
    told = told_by(place)
    assert (told["files"], told["left_out"]) == (2, ["big *.bin"])
    assert "big *.bin" in stays(place)


@pytest.mark.parametrize("name", ["new.txt", "a.txt", "new/file.txt"])
def test_what_cannot_be_read_is_named_and_kept(repo: Path, env: dict[str, str], name: str) -> None:
    place = prepared(repo, env)
    path = place.cwd / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("changed\n")
    closed = path if "/" not in name else path.parent
    closed.chmod(0)
    if os.access(closed, os.R_OK):
        pytest.skip("root reads everything")
    try:
        told, why = place.finish(), place.remove()
    finally:
        closed.chmod(0o700)
    assert path.read_text() == "changed\n"
    assert why is not None
    assert told is not None
    assert told.told["left_out"] == [name.split("/")[0]]


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_what_an_agent_hides_from_git_is_found_all_the_same(repo: Path, env: dict[str, str], flag: str) -> None:
    place = prepared(repo, env)
    git(place.cwd, "update-index", flag, "a.txt")
    (place.cwd / "a.txt").write_text("changed\n")
    assert told_by(place)["files"] == 1


@pytest.mark.parametrize("name", ["out/new.txt", "out/d.txt", "new/new.txt"])
def test_what_is_done_outside_of_a_sparse_checkout_is_in_the_patch(repo: Path, env: dict[str, str], name: str) -> None:
    git(repo, "sparse-checkout", "set", "--cone", "in")
    before = mine(repo)
    place = prepared(repo, env)
    assert told_by(place)["files"] == 0, "what is not checked out is not deleted"
    place.reopen()
    for path in (place.cwd / "in/new.txt", place.cwd / name):
        path.parent.mkdir(exist_ok=True)
        path.write_text("new\n")
    assert told_by(place)["files"] == 2
    assert goes(place)
    assert mine(repo) == before


@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_a_place_whose_stored_patch_is_damaged_is_kept(repo: Path, env: dict[str, str], damage: str) -> None:
    place = prepared(repo, env)
    (place.cwd / "new.txt").write_text("new\n")
    assert told_by(place)["files"] == 1
    whole = place.patch.read_bytes()
    place.patch.unlink() if damage == "gone" else place.patch.write_bytes(whole[:-9] if damage == "cut" else b"")
    assert stays(place)


def test_what_cannot_be_carried_over_is_refused_by_its_name(
    repo: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "LARGE_BYTES", 1_000)
    (repo / "big.bin").write_bytes(b"\0" * 1_001)
    (repo / "in/nested").mkdir()
    filled(repo / "in/nested")
    before = mine(repo)
    with pytest.raises(GitError, match=r"include_uncommitted cannot carry over: .*big\.bin"):
        prepared(repo, env, include_uncommitted=True)
    assert mine(repo) == before
    (repo / ".git/info").mkdir()
    (repo / ".git/info/exclude").write_text("*.bin\nnested\n")
    assert goes(prepared(repo, env, include_uncommitted=True))


# ---- gone


def test_a_worktree_without_its_git_is_not_taken_for_the_users_directory(repo: Path, env: dict[str, str]) -> None:
    (repo / "own.txt").write_text("of the user\n")
    place = prepared(repo, env)
    (place.cwd / "new.txt").write_text("of the agent\n")
    (place.cwd / ".git").unlink()
    with pytest.raises(GitError):
        place.finish()
    assert not place.patch.exists()


def test_a_worktree_without_its_git_is_kept(repo: Path, env: dict[str, str]) -> None:
    place = prepared(repo, env)
    (place.cwd / "new.txt").write_text("of the agent\n")
    (place.cwd / ".git").unlink()
    assert stays(place)


def test_a_worktree_with_another_git_is_kept(repo: Path, env: dict[str, str]) -> None:
    place = prepared(repo, env)
    (place.cwd / ".git").unlink()
    git(place.cwd, "init", "-q")
    with pytest.raises(GitError):
        place.finish()
    assert "cannot be read" in stays(place)


def test_a_worktree_that_is_gone_leaves_nothing_behind(repo: Path, env: dict[str, str]) -> None:
    before = mine(repo)
    place = prepared(repo, env)
    shutil.rmtree(place.path)
    with pytest.raises(GitError, match="is gone"):
        place.finish()
    assert goes(place)
    assert mine(repo) == before
    assert git(repo, "branch", "--format=%(refname:short)") == "main"


# ---- made again after a crash


class Crash(BaseException):
    """The process ends here."""


def crashing(monkeypatch: pytest.MonkeyPatch, step: int, *, after: bool) -> None:
    """The process ends before or after the git command of that number."""
    run, steps = Git.run, count()

    def runs(self: Git, *arguments: str, **more: Any) -> bytes:
        ends = next(steps) == step
        if ends and not after:
            raise Crash
        done = run(self, *arguments, **more)
        if ends:
            raise Crash
        return done

    monkeypatch.setattr(Git, "run", runs)


def crashes(step: int, work: Callable[[], object], *, after: bool) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        crashing(patch, step, after=after)
        try:
            work()
        except Crash:
            return True
    return False


@pytest.mark.parametrize("after", [False, True])
def test_whoever_comes_after_a_crash_makes_the_place_and_removes_it(
    repo: Path, env: dict[str, str], after: bool
) -> None:
    (repo / "own.txt").write_text("of the user\n")
    before, step = mine(repo), 0
    while step < 100:
        spec = spec_of(repo, env, include_uncommitted=True)
        first = crashes(step, Place(dir_of(spec), spec, env).prepare, after=after)
        place = Place(dir_of(spec), spec, env)
        place.prepare()
        assert (place.cwd / "own.txt").read_text() == "of the user\n"
        (place.cwd / "new.txt").write_text("new\n")
        assert told_by(place)["files"] == 1
        last = crashes(step, Place(dir_of(spec), spec, env).remove, after=after)
        assert goes(Place(dir_of(spec), spec, env))
        if not first and not last:
            break
        step += 1
    assert 5 < step < 100
    assert mine(repo) == before
    assert git(repo, "branch", "--format=%(refname:short)") == "main"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_whoever_comes_after_a_crash_of_a_later_run_finds_the_work_of_the_session(
    repo: Path, env: dict[str, str], after: bool, kept: bool
) -> None:
    step = 0
    while step < 100:
        first = spec_of(repo, env)
        place = Place(dir_of(first), first, env)
        place.prepare()
        (place.cwd / "new.txt").write_text("new\n")
        assert told_by(place)["files"] == 1
        assert kept or goes(place)
        spec = spec_of(repo, env)
        spec = replace(spec, workspace={**(spec.workspace or {}), "of": first.run_id})
        crashed = crashes(step, Place(dir_of(spec), spec, env).prepare, after=after)
        for later in (spec, third := replace(spec, run_id=spec_of(repo, env).run_id)):
            place = Place(dir_of(later), later, env)
            place.prepare()
            assert (place.cwd / "new.txt").read_text() == "new\n"
            assert told_by(place)["files"] == 1
        assert goes(Place(dir_of(third), third, env))
        if not crashed:
            break
        step += 1
    assert step < 100


def test_a_later_run_whose_place_cannot_be_made_does_not_cost_its_session_the_work(
    repo: Path, env: dict[str, str]
) -> None:
    first = spec_of(repo, env)
    place = Place(dir_of(first), first, env)
    place.prepare()
    (place.cwd / "new.txt").write_text("new\n")
    told_by(place)
    assert goes(place)
    spec = spec_of(repo, env)
    failing, last = (replace(spec, run_id=run_id, workspace={**(spec.workspace or {}), "of": first.run_id})
                     for run_id in (spec.run_id, spec_of(repo, env).run_id))  # fmt: skip
    place.path.write_text("in the way")
    with pytest.raises(GitError):
        Place(dir_of(failing), failing, env).prepare()
    place.path.unlink()
    place = Place(dir_of(last), last, env)
    place.prepare()
    assert (place.cwd / "new.txt").read_text() == "new\n"


def _half_made(spec: RunSpec, path: Path) -> None:
    path.mkdir(parents=True)
    (path / "a.txt").write_text("half")


def _registered(spec: RunSpec, path: Path) -> None:
    git(spec.cwd, "worktree", "add", "-q", "-b", "theirs", str(path))
    shutil.rmtree(path)


def _locked(spec: RunSpec, path: Path) -> None:
    _registered(spec, path)
    (spec.cwd / ".git/worktrees" / spec.run_id / "locked").write_text("initializing")


def _headless(spec: RunSpec, path: Path) -> None:
    git(spec.cwd, "worktree", "add", "-q", "-b", "theirs", str(path))
    (spec.cwd / ".git/worktrees" / spec.run_id / "HEAD").unlink()


def _branched(spec: RunSpec, path: Path) -> None:
    git(spec.cwd, "branch", "theirs")


@pytest.mark.parametrize("left", [_half_made, _registered, _locked, _headless, _branched])
def test_what_a_crash_left_half_made_is_made_anew(
    repo: Path, env: dict[str, str], left: Callable[[RunSpec, Path], None]
) -> None:
    spec = spec_of(repo, env, branch="theirs")
    path = Workspace(repo).root / "worktrees" / spec.run_id
    left(spec, path)
    record = {"state": "planned", "path": str(path), "cwd": str(path), "branch": "theirs", "top": str(repo)}
    Path(dir_of(spec).file(RECORD)).write_bytes(orjson.dumps({**record, "base": git(repo, "rev-parse", "HEAD")}))
    place = Place(dir_of(spec), spec, env)
    place.prepare()
    assert files_in(place.cwd) == files_in(repo)
    assert told_by(place)["files"] == 0
    assert goes(place)
    assert git(repo, "branch", "--format=%(refname:short)") == "main"


def test_twenty_threads_make_and_remove_places_of_one_repository_at_once(repo: Path, env: dict[str, str]) -> None:
    before = mine(repo)
    specs = [spec_of(repo, env, include_uncommitted=number % 2 == 0) for number in range(20)]
    random.Random(7).shuffle(specs)

    def run(spec: RunSpec) -> bool:
        place = Place(dir_of(spec), spec, env)
        place.prepare()
        (place.cwd / "new.txt").write_text(spec.run_id)
        told = told_by(place)
        return told["files"] == 1 and place.remove() is None

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(run, specs)) == [True] * 20
    assert mine(repo) == before
    assert git(repo, "branch", "--format=%(refname:short)") == "main"
