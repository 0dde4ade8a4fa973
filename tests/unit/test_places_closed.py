"""What an agent leaves in its repository starts no program when the host looks at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.workspaces.places import Place
from tests.unit.test_odd_repositories import env, prepared, repo, told_by
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
