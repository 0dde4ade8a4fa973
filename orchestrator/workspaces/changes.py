"""What a run changed: its patch, what is told of it, and how that is found in a directory that the run shares with its
user. Blocks; called in threads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from orchestrator.model import JsonObject, compact
from orchestrator.workspaces.git import Git
from orchestrator.workspaces.snapshots import Snapshot, Snapshots, digest_of

PATCH = "patch.diff"
SHARED_S = 30.0
"""How long a look at a shared directory may take before a run does without."""
MOST_NAMED = 20


class Changes(NamedTuple):
    """What a run changed: what is told of it, and the tree that it left."""

    told: JsonObject
    tree: str
    applies: bool

    @property
    def files(self) -> int:
        """How many files differ."""
        return self.told["files"]

    @property
    def any(self) -> bool:
        """Whether anything is another, also what is in no patch."""
        return bool(self.told["files"] or self.told.get("left_out"))


class Before(NamedTuple):
    """A shared directory as it was when the agent began."""

    snapshots: Snapshots
    base: str | None
    """The commit that was checked out, if the directory held just that; a patch is for no commit otherwise."""
    taken: Snapshot
    submodules: Mapping[str, str]


def changes_of(
    snapshots: Snapshots, base: str | None, before: str, after: Snapshot, patch: Path, known: Collection[str] = ()
) -> Changes:
    """Writes the patch from one tree to another and tries it.

    Args:
        base: the commit that the patch is told to be for, if there is one.
        known: what was in no tree before either, and is not told.
    """
    applies = snapshots.write_patch(before, after.tree, patch)
    numbers = snapshots.difference(before, after.tree)
    named = [path for path in dict.fromkeys((*after.left_out, *numbers.submodules)) if path not in known]
    size = patch.stat().st_size
    facts = {"relpath": PATCH, "total_bytes": size, "sha256": digest_of(patch)} if size else None
    told = compact({"base": base, "files": numbers.files, "insertions": numbers.insertions,
                    "deletions": numbers.deletions, "patch": facts, "applies": applies,
                    "left_out": named[:MOST_NAMED] or None})  # fmt: skip
    return Changes(told, after.tree, applies)


def look_before(git: Git, within: Path) -> Before:
    """A shared directory, before the agent begins.

    Raises:
        GitError, OSError: it cannot be looked at, or not in time; nothing is left of the look.
    """
    snapshots = Snapshots(git, within)
    try:
        taken = snapshots.take(SHARED_S)
        head = git.resolved("HEAD^{commit}")
        clean = (git.tree_of(head) if head else snapshots.empty()) == taken.tree
        base = (head or taken.tree) if clean else None
        return Before(snapshots, base, taken, snapshots.in_submodules(SHARED_S))
    except BaseException:
        snapshots.close()
        raise


def look_after(git: Git, within: Path, before: Before, patch: Path) -> Changes:
    """The same directory when the agent has gone.

    Raises:
        GitError, OSError: it cannot be looked at, or not in time.
    """
    with Snapshots(git, within, known=before.snapshots) as snapshots:
        after, now = snapshots.take(SHARED_S), snapshots.in_submodules(SHARED_S)
        known = set(before.taken.left_out)
        edited = {path for path in now if now[path] != before.submodules.get(path)}
        after = after._replace(left_out=(*after.left_out, *sorted(edited)))
        return changes_of(snapshots, before.base, before.taken.tree, after, patch, known - edited)
