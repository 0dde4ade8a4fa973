"""Bringing the result of a run into its caller's own files, as a whole or not at all, and throwing it away.

What does not apply cleanly changes nothing and is told with the files that conflict. Hooks of the repository are not
run. Blocks; called in threads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from orchestrator.errors import Conflict, GitError, InvalidArgument, WrongState
from orchestrator.model import JsonObject, RunSpec, compact
from orchestrator.store.layout import RunDir
from orchestrator.workspaces.asked import in_the_way, told_of
from orchestrator.workspaces.git import Git, top_of
from orchestrator.workspaces.making import IDENTITY
from orchestrator.workspaces.places import Place
from orchestrator.workspaces.snapshots import Snapshots, digest_of, shown
from orchestrator.workspaces.worktrees import user_of
from orchestrator.workspaces.written import apply_whole

MOST_NAMED = 20
_PATH = re.compile(rb"^error: (?:patch failed: (.+):\d+|(.+): .+)$", re.MULTILINE)


class Commit(NamedTuple):
    """The words of a commit."""

    title: str
    body: str

    @property
    def message(self) -> str:
        """As git takes it."""
        body = "" if self.body == self.title else self.body
        return f"{self.title}\n\n{body}".strip() + "\n"


class Result:
    """Of one run that is over.

    Args:
        env: of the caller: its identity signs commits.
        trusted: see `Place`.
        digest: the SHA-256 of the patch as the run's last event has it, if it does.
    """

    def __init__(
        self,
        run_dir: RunDir,
        spec: RunSpec,
        env: Mapping[str, str],
        *,
        trusted: bool = False,
        digest: str | None = None,
    ) -> None:
        self._spec = spec
        self._digest = digest
        self._place = Place(run_dir, spec, env, trusted=trusted)

    def patch(self) -> Path:
        """The file of the patch, which may be empty; made now where nobody did, as after a crash.

        Raises:
            WrongState: nothing is known of what the run changed.
        """
        if self._place.unlooked:
            self._place.finish()
        if not self._place.patch.exists():
            raise WrongState(
                f"nothing is known of what {self._spec.run_id} changed: it did not work in a git repository"
            )
        return self._place.patch

    def apply(self, *, mode: str, words: Commit, check_only: bool, three_way: bool, branch: str | None) -> JsonObject:
        """Brings the result in.

        Args:
            mode: `apply` to the files of the working tree alone; `commit` on what is checked out; `branch` as a commit
                on a branch that is not checked out.
            three_way: merge with what changed meanwhile, if that goes without a conflict.

        Raises:
            Conflict: it does not apply; with the files. Nothing was changed.
            WrongState: there is nothing to apply, or no place for it.
        """
        if self._place.mode == "shared":
            raise WrongState(f"{self._spec.run_id} worked in your own files; what it did is there already")
        patch = self.patch()
        if not patch.stat().st_size:
            raise WrongState(f"{self._spec.run_id} changed nothing")
        if self._digest not in (None, digest_of(patch)):
            raise Conflict(f"{patch} is not what was found when {self._spec.run_id} ended: it was changed since")
        top = top_of(self._spec.cwd)
        if top is None:
            raise WrongState(f"{self._spec.cwd} is in no git repository")
        if branch is not None and mode != "branch":
            raise InvalidArgument("branch goes with mode 'branch'")
        with self._place.alone() as git, TemporaryDirectory(prefix="orc-") as scratch:
            git = git.inside(top)
            trees = Snapshots(git, Path(scratch), lasting=True)
            bringing = _Bringing(git, Path(scratch), trees, patch, self._place, three_way=three_way)
            match mode:
                case "apply":
                    done = bringing.into_files(check_only)
                case "commit":
                    done = bringing.as_commit(words, check_only)
                case _:
                    done = bringing.as_branch(branch or self._place.branch, words, check_only)
        return compact({"mode": mode, "applied": not check_only, **done})

    def discard(self) -> JsonObject:
        """Removes the worktree or clone and its branch; the patch stays with the run.

        Raises:
            Conflict: it holds what the patch does not.
        """
        place = self._place
        if place.mode == "shared":
            raise WrongState(f"{self._spec.run_id} worked in your own files; undo it with git")
        if place.told is None:
            raise WrongState(f"{self._spec.run_id} never had a workspace")
        self.patch()
        if (why := place.remove()) is not None:
            raise Conflict(f"the workspace {place.path} stays: {why}; look there, then remove it with git")
        place.forget_branch()
        return {"removed": str(place.path), "patch": str(place.patch)}


class _Bringing:
    """One attempt to bring a patch in; `scratch` takes what is only needed for that."""

    def __init__(
        self, git: Git, scratch: Path, trees: Snapshots, patch: Path, place: Place, *, three_way: bool
    ) -> None:
        self._git = git
        self._scratch = scratch
        self._trees = trees
        self._patch = patch
        self._base: str = place.record["base"]
        self._place = place
        self._three_way = three_way

    def into_files(self, check_only: bool) -> JsonObject:
        """Changes files of the working tree; the index stays as it is."""
        patch = self._patch
        if self._three_way:
            now = self._trees.take().tree
            patch = self._written(now, self._merged(now))
            if not patch.stat().st_size:
                raise WrongState("what the run did is in your files already")
        self._try(patch)
        if not check_only:
            self._apply(patch)
        return self._told(patch)

    def as_commit(self, words: Commit, check_only: bool) -> JsonObject:
        """A commit on top of what is checked out, of the files of the patch alone."""
        head = self._head()
        before = self._git.tree_of(head)
        after = self._merged(before) if self._three_way else self._on_top_of(before)
        if after == before:
            raise WrongState("what the run did is committed already")
        patch = self._written(before, after)
        self._try(patch, "--index")
        if check_only:
            return self._told(patch)
        commit = self._commit(after, head, words)
        self._apply(patch, "--index")
        try:
            self._git.run("update-ref", "-m", f"orchestrator: {words.title}", "HEAD", commit, head)
        except GitError as error:
            meanwhile = "something else was committed in the same moment"
            try:
                self._apply(patch, "--index", "--reverse")
            except GitError as stays:
                raise Conflict(f"{meanwhile}, and what the run did is in your files, uncommitted ({stays})") from error
            raise Conflict(f"{meanwhile}; try again ({error})") from error
        return {**self._told(patch), "commit": commit}

    def as_branch(self, branch: str, words: Commit, check_only: bool) -> JsonObject:
        """A commit on a branch of its own; nothing that is checked out changes, but for the run's own worktree."""
        if self._git.asks("check-ref-format", "--branch", branch) != branch:
            raise InvalidArgument(f"{branch!r} is no name that git takes for a branch")
        where = user_of(self._git, branch)
        if where == self._git.where.resolve():
            raise Conflict(f"branch {branch!r} is checked out; use mode 'commit'")
        if where not in (None, self._place.path):
            raise Conflict(f"branch {branch!r} is checked out in {where}; choose another")
        self._need_base()
        tip = self._git.resolved(f"refs/heads/{branch}")
        if (other := in_the_way(self._git, branch)) and not (tip and branch == self._place.branch):
            raise Conflict(f"branch {told_of(branch, other)}")
        after = self._on_top_of(self._git.tree_of(self._base))
        told = {**self._told(self._patch), "branch": branch}
        is_there = tip is not None and self._git.tree_of(tip) == after
        if not is_there and tip not in (None, self._base, self._place.record.get("tip")):
            raise Conflict(f"branch {branch!r} has commits that are not of the run; choose another")
        if check_only or is_there:
            return {**told, "commit": tip} if is_there and not check_only else told
        commit = self._commit(after, tip or self._base, words)
        self._git.run("update-ref", f"refs/heads/{branch}", commit, tip or "0" * len(commit))
        worktree = self._place.path
        if (worktree / ".git").exists() and self._place.mode == "worktree" and branch == self._place.branch:
            with suppress(GitError):  # its files are those of the commit; only its index does not know yet
                self._git.at(worktree).run("reset", "-q")
        return {**told, "commit": commit}

    def _head(self) -> str:
        head = self._git.resolved("HEAD^{commit}")
        if head is None:
            raise WrongState(f"{self._git.where} has no commit yet")
        for name in ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply"):
            if self._git.path_of(name).exists():
                raise WrongState(f"{self._git.where} is in the middle of a merge or rebase; finish that first")
        return head

    def _need_base(self) -> None:
        if self._git.asks("cat-file", "-e", f"{self._base}^{{commit}}") is None:
            raise WrongState(f"{self._git.where} does not have {self._base}, with which the run began; fetch it first")

    def _on_top_of(self, tree: str) -> str:
        """The tree with the patch applied."""
        git = self._trees.through("target")
        git.run("read-tree", tree)
        self._try(self._patch, "--cached", git=git)
        git.run("apply", "--cached", "--binary", str(self._patch))
        return git.text("write-tree")

    def _merged(self, now: str) -> str:
        """The tree that has both: what changed here since the base, and what the run changed."""
        self._need_base()
        git = self._trees.through("target").at(self._git.where, IDENTITY)
        theirs = self._on_top_of(self._git.tree_of(self._base))
        ours, run = (git.text("commit-tree", tree, "-p", self._base, "-m", "merge") for tree in (now, theirs))
        told = git.run("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", ours, run, ok=(0, 1))
        tree, *conflicts = [item for item in told.split(b"\0") if item]
        if conflicts:
            raise _conflict(conflicts)
        return tree.decode()

    def _written(self, before: str, after: str) -> Path:
        patch = self._scratch / "merged.diff"
        self._trees.write_patch(before, after, patch)
        return patch

    def _apply(self, patch: Path, *how: str) -> None:
        """Applies a patch that was tried. Where that fails halfway, as on a full disk, what git wrote is undone."""
        if not patch.stat().st_size:
            return
        apply_whole(self._git, patch, self._touched(patch), how, self._scratch)

    def _touched(self, patch: Path) -> list[bytes]:
        """The paths that a patch writes or removes."""
        return list(dict.fromkeys([*self._written_by(patch), *self._written_by(patch, "--reverse")]))

    def _written_by(self, patch: Path, *how: str) -> list[bytes]:
        listed = self._git.run("apply", *how, "--numstat", "-z", str(patch)).split(b"\0")
        return [item.split(b"\t", 2)[2] for item in listed if item.count(b"\t") >= 2]

    def _try(self, patch: Path, *how: str, git: Git | None = None) -> None:
        if not patch.stat().st_size:
            return
        done = (git or self._git).attempt("apply", "--check", "--binary", *how, str(patch))
        if done.code:
            found = [one or other for one, other in _PATH.findall(done.err)]
            raise _conflict(list(dict.fromkeys(found)), done.err.decode(errors="replace"))

    def _commit(self, tree: str, parent: str, words: Commit) -> str:
        try:
            return os.fsdecode(self._git.run("commit-tree", tree, "-p", parent, input=words.message.encode())).strip()
        except GitError as error:
            raise WrongState(f"git makes no commit here: {error}") from error

    def _told(self, patch: Path) -> JsonObject:
        return {"files": len(self._written_by(patch)) if patch.stat().st_size else 0}


def _conflict(paths: list[bytes], words: str = "") -> Conflict:
    named: Any = ", ".join(shown(path) for path in paths[:MOST_NAMED]) or words[:500]
    more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    return Conflict(
        f"it does not apply cleanly, and nothing was changed: {named}{more}; try three_way, or mode 'branch' and merge"
    )
