"""Making a worktree or a clone: at an exact commit, with what an earlier run of the session had done, on a branch of
its own. Every step is noted, and may be done again."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from orchestrator.errors import GitError
from orchestrator.model import JsonObject
from orchestrator.workspaces.git import Git
from orchestrator.workspaces.ignored import rules_of
from orchestrator.workspaces.snapshots import Snapshots

OWN_BRANCHES = "orchestrator/"
"""How the branches begin that we name."""
IDENTITY = {
    **{f"GIT_{who}_NAME": "Orchestrator" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "orchestrator@localhost" for who in ("AUTHOR", "COMMITTER")},
}
CLONE_S = 3600.0


class Note(Protocol):
    """Notes facts in the run's directory. Returns all that is noted."""

    def __call__(self, **facts: object) -> JsonObject: ...


def aside_of(path: Path) -> Path:
    """Where a place is while it is being removed."""
    return path.with_name(f"{path.name}.going")


class Making:
    """Of one place.

    Args:
        asked: the workspace as `workspaces.asked` made it exact.
        base_ref: keeps a commit of the caller's changes.
        git: where the place is to be, which need be no working tree.
        patch: of an earlier run of the session, whose place is made again.
    """

    def __init__(
        self,
        asked: JsonObject,
        path: Path,
        branch: str,
        base_ref: str,
        git: Git,
        note: Note,
        patch: Callable[[], Path | None],
    ) -> None:
        self._asked = asked
        self._path = path
        self._branch = branch
        self._base_ref = base_ref
        self._git = git
        self._note = note
        self._patch = patch

    def make(self, cwd: Path) -> None:
        """Makes it; whatever a crash left of an earlier attempt goes first.

        Args:
            cwd: where in it the agent works.
        """
        self.unmake()
        base = self._clone() if self._asked["mode"] == "clone" else self._add()
        git = self._git.inside(self._path)
        patch = self._patch()
        if patch is not None and patch.is_file() and patch.stat().st_size:
            git.run("apply", "--binary", "--whitespace=nowarn", str(patch))
        self._enter_branch(git, base, known=patch is not None)
        if self._asked["mode"] == "clone":
            self._note(refs=git.text("for-each-ref", "--format=%(refname)").split("\n"))
        self._note(rules=rules_of(git))
        cwd.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (cwd / ".orchestrator").mkdir(mode=0o700)
            (cwd / ".orchestrator" / ".gitignore").write_text("*\n", encoding="utf-8")

    def unmake(self) -> None:
        """Removes the worktree or the clone. First it is moved aside in one step: whoever comes after a crash finds it
        whole, or not at all. The path is one that only we make: below our own directory, and no link.

        Raises:
            OSError: it cannot be removed; what is left of it lies aside.
        """
        aside = aside_of(self._path)
        if _is_folder(self._path):
            _remove(aside)
            self._path.rename(aside)
        if self._asked["mode"] == "worktree":
            self._git.inside(Path(self._asked["top"])).asks("worktree", "remove", "--force", "--force", str(self._path))
        _remove(aside)

    def _enter_branch(self, git: Git, base: str, *, known: bool) -> None:
        """Puts the place on its branch, whose files stay those of the run.

        Args:
            known: an earlier run of the session may have worked on the branch.
        """
        ref = f"refs/heads/{self._branch}"
        tip = git.resolved(ref)
        if tip is None:
            git.run("update-ref", ref, base, "0" * len(base))
        elif not known and tip != base:
            raise GitError(f"branch {self._branch!r} exists already")
        git.run("symbolic-ref", "HEAD", ref)
        git.run("reset", "-q")

    def _add(self) -> str:
        git = self._git.inside(Path(self._asked["top"]))
        base = str(self._note().get("base") or self._base(git))
        self._note(base=base)
        git.run("worktree", "add", "-q", "-f", "-f", "--detach", str(self._path), base)
        return base

    def _base(self, git: Git) -> str:
        """The commit that the work begins with: the one asked for, or one with the caller's changes on top of it."""
        base: str = self._asked["base"]
        if not self._asked.get("include_uncommitted"):
            return base
        with (
            tempfile.TemporaryDirectory(prefix="orc-") as scratch,
            Snapshots(git, Path(scratch), lasting=True) as snapshots,
        ):
            tree, left_out = snapshots.take()
        if left_out:
            raise GitError(
                f"include_uncommitted cannot carry over: {', '.join(left_out[:5])}; commit, ignore or remove that first"
            )
        if tree == git.tree_of(base):
            return base
        words = "What was not committed when the run began"
        commit = git.at(git.where, IDENTITY).text("commit-tree", tree, "-p", base, "-m", words)
        git.run("update-ref", self._base_ref, commit)
        return commit

    def _clone(self) -> str:
        source = self._asked.get("repo") or self._asked["top"]
        self._git.run("clone", "-q", "--no-checkout", "--template=", "--", source, str(self._path), timeout_s=CLONE_S)
        git = self._git.inside(self._path)
        wanted = self._asked.get("base", "HEAD")
        found = (
            git.asks("rev-parse", "--verify", "-q", "--end-of-options", f"{ref}^{{commit}}")
            for ref in (wanted, f"origin/{wanted}")
        )
        base = self._note().get("base") or next((commit for commit in found if commit), None)
        if base is None:
            raise GitError(f"workspace.base {wanted!r} is no commit, branch or tag of the cloned repository")
        self._note(base=base)
        git.run("checkout", "-q", "--detach", base)
        for ref in git.text("for-each-ref", "--format=%(refname)", "refs/heads").split():
            git.run("update-ref", "-d", ref)  # of the clone's own, which nobody has worked on
        return base


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and path.resolve() == path


def _remove(folder: Path) -> None:
    """Removes a directory, also where tools left folders in it that nobody may write to."""
    if not _is_folder(folder):
        folder.unlink(missing_ok=True)
        return
    for path, names, _ in os.walk(folder):
        for name in names:
            inner = Path(path, name)
            if not inner.is_symlink() and inner.stat().st_mode & 0o700 != 0o700:
                inner.chmod(0o700)
    shutil.rmtree(folder)
