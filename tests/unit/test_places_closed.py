"""What an agent leaves in its repository starts no program when the host looks at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import GitError, InvalidArgument
from orchestrator.workspaces.git import Git
from orchestrator.workspaces.places import Place
from tests.unit.test_odd_repositories import env, prepared, repo, stays, told_by
from tests.unit.test_places import with_submodule
from tests.unit.test_snapshots import dir_of, git, spec_of

__all__ = ["env", "repo", "with_submodule"]  # fixtures


def plant_filter(within: Path, marker: Path) -> None:
    """A filter in a repository's own configuration, for a file that has to be read again."""
    git(within, "config", "filter.evil.clean", f"touch '{marker}'; cat")
    (within / ".gitattributes").write_text("* filter=evil\n")
    (within / "a.txt").write_text("changed\n")


@pytest.mark.parametrize("mode", ["worktree", "shared"])
def test_a_filter_of_a_submodule_is_never_run(
    with_submodule: Path, env: dict[str, str], tmp_path: Path, mode: str
) -> None:
    spec = spec_of(with_submodule, env, mode=mode)
    place = Place(dir_of(spec), spec, env)
    if mode == "shared":
        plant_filter(with_submodule / "sub", tmp_path / "ran")
    place.prepare()
    if mode == "worktree":
        git(place.cwd, "submodule", "--quiet", "update", "--init")
        plant_filter(place.cwd / "sub", tmp_path / "ran")
    (place.cwd / "b.txt").write_text("changed\n")
    assert told_by(place)["files"] == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["removed", "a file", "a link", "a folder", "a link above"])
def test_what_becomes_of_a_submodule_is_in_the_patch(with_submodule: Path, env: dict[str, str], how: str) -> None:
    git(with_submodule, "mv", "sub", "in/sub")
    git(with_submodule, "commit", "-q", "-m", "moved")
    place = prepared(with_submodule, env)
    sub = place.cwd / "in/sub"
    if how != "a folder":
        sub.rmdir()
    if how == "a file":
        sub.write_text("a file now\n")
    elif how == "a link":
        sub.symlink_to("../out")
    elif how == "a folder":
        (sub / "new.txt").write_text("no submodule any more\n")
    elif how == "a link above":
        (place.cwd / "in").rename(place.cwd / "moved")
        (place.cwd / "moved/sub").mkdir()
        (place.cwd / "in").symlink_to("moved")
    told = told_by(place)
    assert ("in/sub" in place.patch.read_text()) == (how != "a folder")
    assert told.get("left_out") == (["in/sub"] if how == "a folder" else None)


def without_an_object(repo: Path, marker: Path) -> None:
    """A partial clone that lacks a file of its base, and fetches it by a program."""
    program = marker.parent / "fetch"
    program.write_text(f"#!/bin/sh\ntouch '{marker}'\nexit 1\n")
    program.chmod(0o755)
    blob = git(repo, "rev-parse", "HEAD:a.txt")
    (repo / ".git/objects" / blob[:2] / blob[2:]).unlink()
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "evil",
        "remote.evil.url": str(repo),
        "remote.evil.promisor": "true",
        "remote.evil.uploadpack": str(program),
    }.items():
        git(repo, "config", key, value)


@pytest.mark.parametrize("mode", ["worktree", "clone", "shared"])
def test_an_object_that_an_agent_removes_is_fetched_by_no_program(
    repo: Path, env: dict[str, str], tmp_path: Path, mode: str
) -> None:
    place = prepared(repo, env, mode=mode)
    (place.cwd / "a.txt").write_text("changed\n")
    without_an_object(place.cwd if mode == "clone" else repo, tmp_path / "ran")
    with pytest.raises(GitError, match="is a partial clone"):
        place.finish()
    assert mode == "shared" or "is a partial clone" in stays(place)
    Git(place.cwd, env).attempt("diff-tree", "-p", "HEAD", "4b825dc642cb6eb9a060e54bf8d69288fbee4904")
    assert not (tmp_path / "ran").exists()


def test_a_partial_clone_is_for_trusted_folders(repo: Path, env: dict[str, str], tmp_path: Path) -> None:
    without_an_object(repo, tmp_path / "ran")
    with pytest.raises(InvalidArgument, match="trusted_dirs alone"):
        spec_of(repo, env)
    with pytest.raises(GitError):
        Place(dir_of(spec := spec_of(repo, env, trusted=True)), spec, env, trusted=True).prepare()
    assert (tmp_path / "ran").exists(), "there it is fetched"
