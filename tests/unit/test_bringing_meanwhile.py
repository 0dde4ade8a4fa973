"""Results that are brought in while the user goes on: nothing that somebody else does meanwhile is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.model import RunSpec
from orchestrator.workspaces import git as commands
from orchestrator.workspaces.git import GitError
from orchestrator.workspaces.places import Place
from tests.unit.test_bringing import ran, refused, with_filter
from tests.unit.test_odd_repositories import bring, env, repo, told_by
from tests.unit.test_snapshots import dir_of, files_in, git, spec_of

__all__ = ["env", "repo"]  # fixtures


@pytest.mark.parametrize("released", [False, True])
def test_what_the_user_does_while_a_lock_is_waited_for_stays(
    repo: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, released: bool
) -> None:
    spec = ran(repo, env)
    files = files_in(repo)
    monkeypatch.setattr(commands, "LOCKED_S", 0.3)
    lock = repo / ".git/index.lock"
    lock.touch()

    def meanwhile(_: float) -> None:
        (repo / "a.txt").write_text("of the user\n")
        (repo / "new [x].txt").write_text("of the user too\n")
        if released and lock.exists():
            lock.unlink()
            git(repo, "add", "b.txt", "a.txt")

    monkeypatch.setattr("time.sleep", meanwhile)
    with pytest.raises(GitError):
        bring(spec, env, mode="commit")
    edited = {b"a.txt": ("file", b"of the user\n"), b"new [x].txt": ("file", b"of the user too\n")}
    assert files_in(repo) == files | edited
    lock.unlink(missing_ok=True)
    assert git(repo, "diff", "--cached", "--name-only") == ("a.txt" if released else "")


@pytest.mark.parametrize("mode", ["apply", "commit"])
def test_what_fails_halfway_takes_back_what_git_wrote_and_nothing_else(
    repo: Path, env: dict[str, str], mode: str
) -> None:
    spec = ran(repo, env)
    files = files_in(repo)
    smudge = f"printf 'of the user\\n' >'{repo}/a.txt'; false"
    env = with_filter(repo, env, "new*", clean="cat", smudge=smudge, required="true")
    with pytest.raises(OrchestratorError):
        bring(spec, env, mode=mode)
    assert files_in(repo) == {**files, b"a.txt": ("file", b"of the user\n")}


def test_a_file_that_became_a_folder_comes_back_when_its_patch_fails_halfway(repo: Path, env: dict[str, str]) -> None:
    def becomes(top: Path) -> None:
        (top / "a.txt").unlink()
        (top / "a.txt").mkdir()
        (top / "a.txt/below").write_text("new\n")
        (top / "z.txt").write_text("new\n")

    spec = ran(repo, env, becomes)
    files = files_in(repo)
    env = with_filter(repo, env, "z.txt", clean="cat", smudge="false", required="true")
    with pytest.raises(OrchestratorError):
        bring(spec, env)
    assert files_in(repo) == files


# ---- branches that somebody else works on


def kept(repo: Path, env: dict[str, str]) -> tuple[RunSpec, Place]:
    """A run that is over, whose worktree is there with a commit and a change."""
    spec = spec_of(repo, env)
    place = Place(dir_of(spec), spec, env)
    place.prepare()
    (place.path / "one.txt").write_text("of the agent\n")
    git(place.path, "add", ".")
    git(place.path, "commit", "-q", "-m", "of the agent")
    (place.path / "two.txt").write_text("of the agent\n")
    assert told_by(place)["files"] == 2
    return spec, place


def test_a_branch_takes_the_result_on_top_of_what_the_agent_committed(repo: Path, env: dict[str, str]) -> None:
    spec, _ = kept(repo, env)
    done = bring(spec, env, mode="branch")
    assert git(repo, "log", "--format=%s", f"main..{done['branch']}").splitlines() == ["Title", "of the agent"]
    assert bring(spec, env, mode="branch") == done, "once"


def test_commits_that_somebody_else_made_on_a_branch_stay(repo: Path, env: dict[str, str]) -> None:
    spec, place = kept(repo, env)
    (place.path / "mine.txt").write_text("of the user\n")
    git(place.path, "add", "mine.txt")
    git(place.path, "commit", "-q", "-m", "of the user")
    refused(repo, env, spec, "has commits that are not of the run", mode="branch")
    assert git(repo, "show", f"{place.branch}:mine.txt") == "of the user"


def test_a_branch_that_is_checked_out_elsewhere_is_refused(repo: Path, env: dict[str, str], tmp_path: Path) -> None:
    spec, place = kept(repo, env)
    git(place.path, "checkout", "-q", "--detach")
    git(repo, "worktree", "add", "-q", str(tmp_path / "mine"), place.branch)
    refused(repo, env, spec, "is checked out in", mode="branch")
    assert git(tmp_path / "mine", "status", "--porcelain") == ""
