"""The working trees that a repository has, as git lists them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from orchestrator.workspaces.git import Git


class Worktree(NamedTuple):
    """One of them."""

    path: Path
    branch: str | None
    """The full name of what is checked out; None if HEAD is detached."""
    locked: str | None
    """Why somebody locked it, which may be empty; None if nobody did."""


def worktrees(git: Git) -> list[Worktree]:
    """All working trees of a repository, also those whose directories are gone."""
    found: list[Worktree] = []
    for entry in git.run("worktree", "list", "--porcelain", "-z").split(b"\0\0"):
        lines = (os.fsdecode(line).partition(" ") for line in entry.split(b"\0") if line)
        facts = {name: text for name, _, text in lines}
        if "worktree" in facts:
            found.append(Worktree(Path(facts["worktree"]), facts.get("branch"), facts.get("locked")))
    return found


def user_of(git: Git, branch: str) -> Path | None:
    """Where a branch is checked out; None if it is nowhere."""
    return next((tree.path for tree in worktrees(git) if tree.branch == f"refs/heads/{branch}"), None)


def why_taken(git: Git, path: Path) -> str | None:
    """Why a worktree that was made at a path is not to be removed: somebody moved it, or locked it."""
    where = _now_at(git, path)
    if where != path and where.exists():
        return f"it was moved to {where}"
    locked = next((tree.locked for tree in worktrees(git) if tree.path == where), None)
    return None if locked is None else f"it is locked{f': {locked}' if locked else ''}"


def _now_at(git: Git, path: Path) -> Path:
    """Where a worktree is now, by what git keeps under the name that it was made with."""
    common = Path(git.text("rev-parse", "--path-format=absolute", "--git-common-dir"))
    try:
        return Path(os.fsdecode((common / "worktrees" / path.name / "gitdir").read_bytes().rstrip(b"\n"))).parent
    except OSError:  # git knows of it no more
        return path
