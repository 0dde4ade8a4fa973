"""The place where one run works: the directory itself, a worktree or a clone; made, looked at in the end, removed.

What was done is noted in the run's directory before and after each step, so that whoever comes after a crash goes on
from there. Where a place is follows from the run's spec, never from the note, which an agent might have changed.
Nothing is removed that the stored patch does not hold. Blocks; called in threads.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path

import orjson

from orchestrator.errors import GitError, OrchestratorError
from orchestrator.model import JsonObject, RunSpec
from orchestrator.process import MARKER
from orchestrator.store.layout import RUN_ID, RunDir, read_json, replace_file
from orchestrator.workspaces.changes import MOST_NAMED, PATCH, Before, Changes, changes_of, look_after, look_before
from orchestrator.workspaces.claims import Claim
from orchestrator.workspaces.git import Git, top_of
from orchestrator.workspaces.ignored import ignored_in
from orchestrator.workspaces.making import OWN_BRANCHES, Making, aside_of
from orchestrator.workspaces.snapshots import Snapshots
from orchestrator.workspaces.worktrees import user_of, why_taken

RECORD = "workspace.json"
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


class Place:
    """Of one run.

    Args:
        env: of its client.
        trusted: the user lists the folder in `trusted_dirs`: filters of the repository's own configuration are run.
        stop: ends what git is doing when it is set.
    """

    def __init__(
        self,
        run_dir: RunDir,
        spec: RunSpec,
        env: Mapping[str, str],
        *,
        trusted: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        self._dir = run_dir
        self._spec = spec
        self._asked = spec.workspace or {"mode": "shared"}
        first = str(self._asked.get("of", spec.run_id))
        self._first = first if RUN_ID.fullmatch(first) else spec.run_id
        self._root = run_dir.workspace.root.resolve() / "worktrees"
        self.path = self._root / self._first
        """The top of the worktree or clone."""
        own = {name: text for name, text in env.items() if name != MARKER}  # that of whoever spawned the run
        self._git = Git(self._root, own, stop=stop, trusted=trusted)
        self._trusted = trusted
        self._stop = stop
        self._before: Before | None = None
        self.unknown: str | None = None
        """Why nothing is known of the changes in a shared directory."""
        self.record: JsonObject = {} if self.mode == "shared" else self._recorded()

    def _recorded(self) -> JsonObject:
        record = read_json(self._dir.file(RECORD)) or {}
        return record if _COMMIT.fullmatch(str(record.get("base", "0" * 40))) else {}

    @property
    def run_id(self) -> str:
        """The run's."""
        return self._spec.run_id

    @property
    def mode(self) -> str:
        """`shared`, `worktree` or `clone`."""
        return self._asked["mode"]

    @property
    def cwd(self) -> Path:
        """Where the agent works."""
        return self._spec.cwd if self.mode == "shared" else self.path / self._asked.get("prefix", "")

    @property
    def folder(self) -> str:
        """The same, from the top of the repository; empty at the top."""
        return "" if self.mode == "shared" else str(self._asked.get("prefix", ""))

    @property
    def branch(self) -> str:
        """The branch of the place. One of its own: two runs of one agent do not share it, but those of a session do."""
        name = re.sub(r"\.{2,}", ".", self._spec.agent_name).strip(".")
        return self._asked.get("branch") or f"{OWN_BRANCHES}{name}-{self._first[-6:]}"

    @property
    def patch(self) -> Path:
        """The file of the stored patch."""
        return Path(self._dir.file(PATCH))

    @property
    def told(self) -> JsonObject | None:
        """What callers hear of it; None where there is none of the run's own."""
        if "base" not in self.record:
            return None
        return {"mode": self.mode, "path": str(self.path), "base": self.record["base"], "branch": self.branch}

    @property
    def is_there(self) -> bool:
        """Whether there is a worktree or a clone, or what is left of one."""
        there = self.path.exists() or aside_of(self.path).exists()
        return self.mode != "shared" and bool(self.record) and there

    @property
    def is_own(self) -> bool:
        """The same, and no later run of the session works there."""
        return self.is_there and self._claim.holder == self._spec.run_id

    # ---- making it

    def prepare(self) -> None:
        """Makes the place, or finds it again as an earlier run of the session or an earlier owner of this one left it.

        Raises:
            GitError, InvalidArgument: it cannot be made, with git's reason; nothing is left of it.
        """
        if self.mode == "shared":
            self._look_before()
        elif self.record.get("state") != "ready" or self._claim.holder != self._spec.run_id:
            try:
                with self.alone() as git:
                    self._move_in(git)
            except OSError as error:
                raise GitError(f"the workspace cannot be made: {error}") from error

    def _look_before(self) -> None:
        top = top_of(self._spec.cwd)
        if top is None:
            return
        try:
            git = self._git.at(top)
            if git.own_programs() and not self._trusted:
                what = "its own configuration names filters or a partial clone"
                self.unknown = f"{what}, which are run for folders in trusted_dirs alone"
                return
            self._before = look_before(git, self._dir.path)
        except (OrchestratorError, OSError) as error:  # the run is worth more than what is known of it
            self.unknown = str(error)

    def _earlier(self) -> Place | None:
        """The place of the run that worked here last."""
        run_id = self._claim.holder
        if run_id == self._spec.run_id or not RUN_ID.fullmatch(run_id):
            return None
        place = Place(self._dir.workspace.run(run_id), replace(self._spec, run_id=run_id), {})
        return place if "base" in place.record else None

    def _move_in(self, git: Git) -> None:
        """Takes the place over from the run that was here last, or makes it. What is to be done is noted before the
        place is claimed: after that nobody can tell who was here before."""
        earlier = self._earlier()
        if earlier is not None and "base" not in self.record:
            self._note(**{key: earlier.record[key] for key in ("base", "refs", "rules") if key in earlier.record})
            if (self.path / ".git").exists():
                self._note(state="ready")
            elif self.path.exists():
                raise GitError(f"{self.path} is no worktree any more; look there, and move it away")
            else:  # one whose place was never made has nothing of its own
                made = earlier.record.get("state") in ("ready", "removing", "removed")
                self._note(again=earlier.run_id if made else earlier.record.get("again", ""))
        elif self.path.exists() and self.record.get("state") not in ("planned", "ready"):
            raise GitError(f"{self.path} is in the way; move it away")
        self._claim.take(self._spec.run_id)
        if self.record.get("state") == "ready":
            return
        # if we die, this git is ended before the run's next owner begins
        making = self._making(git.marked({MARKER: self._spec.run_id}))
        try:
            self._note(state="planned")
            making.make(self.cwd)
            self._note(state="ready")
        except BaseException:  # no agent was there
            with contextlib.suppress(OrchestratorError, OSError):
                making.unmake()
            raise

    # ---- looking at what came of it

    def finish(self) -> Changes | None:
        """Stores and tries the patch. None where nothing is known of changes, as outside of repositories.

        Raises:
            GitError: the place cannot be read any more.
        """
        if self.mode == "shared":
            return self._finish_shared() if self._before else None
        with self.alone() as git:
            return self._finish(git)

    def _finish_shared(self) -> Changes:
        assert self._before is not None
        top = top_of(self._spec.cwd)
        if top is None:
            raise GitError(f"{self._spec.cwd} is in no git repository any more")
        return look_after(self._git.inside(top), self._dir.path, self._before, self.patch)

    def _finish(self, git: Git) -> Changes:
        self.record = self._recorded() or self.record
        git = git.inside(self.path)
        base: str = self.record["base"]
        with Snapshots(git, self._dir.path) as snapshots:
            after = snapshots.take()
            after = after._replace(left_out=(*after.left_out, *snapshots.opened_submodules()))
            ignored = ignored_in(snapshots.through(), base, self.record.get("rules", {}))
            after = after._replace(left_out=(*after.left_out, *ignored.kept))
            changes = changes_of(snapshots, base, git.tree_of(base), after, self.patch)
        tip = git.resolved(f"refs/heads/{self.branch}")
        if ignored.named:
            changes.told["ignored"] = list(ignored.named[:MOST_NAMED])
        self._note(after=changes.tree, tip=tip, left_out=changes.told.get("left_out", []))
        return changes

    @property
    def unlooked(self) -> bool:
        """Whether nobody looked yet at what the agent left there, as after a crash."""
        return self.is_own and self.record.get("state") == "ready" and "after" not in self.record

    def reopen(self) -> None:
        """The agent goes on: what was found so far is not the end."""
        if self.mode != "shared":
            self.record.pop("after", None)
            self._note(state="ready")

    # ---- ending it

    def close(self) -> None:
        """Removes what only the look at a shared directory needed, an earlier owner's too."""
        for scratch in self._dir.path.glob("git-*"):
            shutil.rmtree(scratch, ignore_errors=True)

    def why_kept(self, *, failed: bool) -> str | None:
        """Why the place stays when the run is over; None if it may go."""
        keep = self._asked.get("keep", "on_failure")
        if keep == "always" or (keep == "on_failure" and failed):
            return "as asked" if keep == "always" else "the run did not succeed"
        with self.alone() as git:
            return self._why_taken(git) or self._why_not(git)

    def remove(self) -> str | None:
        """Removes the worktree or clone, if its stored patch holds all that is there.

        Returns:
            Why it stays; None if it is gone.
        """
        if "base" not in self.record or self.record.get("state") == "removed":
            return None
        with self.alone() as git:
            self.record = self._recorded() or self.record
            if self._claim.holder != self._spec.run_id:
                return "a later run of the session works there"
            if self.record.get("state") != "planned" and (why := self._why_taken(git) or self._why_not(git)):
                return why
            self._note(state="removing")
            try:
                self._making(git).unmake()
            except OSError as error:
                return f"it cannot be removed: {error}"
            if self.mode == "worktree":
                self._delete_branch(git, self.record["base"])  # if nothing was committed on it
            self._note(state="removed")
        return None

    def _why_taken(self, git: Git) -> str | None:
        """Why the worktree is somebody else's by now."""
        if self.mode != "worktree":
            return None
        try:
            return why_taken(git.inside(self._top), self.path)
        except (OrchestratorError, OSError) as error:
            return f"what is known of it cannot be read: {error}" if self.path.exists() else None

    def _why_not(self, git: Git) -> str | None:
        """Why what is there must stay; None also where nothing is."""
        if not self.path.exists():
            return None
        try:
            if "after" not in self.record:
                self._finish(git)
            if left_out := self.record["left_out"]:
                return f"it holds what no patch holds: {', '.join(left_out[:3])}"
            if _holds_runs(self.path):
                return "runs that were spawned in it have their records there"
            git = git.inside(self.path)
            if self.mode == "clone" and (more := self._more_refs(git)):
                return f"it holds what no patch holds: {', '.join(more[:3])}"
            with Snapshots(git, self._dir.path) as snapshots:
                if snapshots.take().tree != self.record["after"]:
                    return "it was changed after its patch was made"
                before = git.tree_of(self.record["base"])
                whole = self.patch.exists() and snapshots.yields(before, self.patch, self.record["after"])
        except (OrchestratorError, OSError) as error:
            return f"what it holds cannot be read: {error}"
        return None if whole else "the stored patch does not give what it holds"

    def _more_refs(self, git: Git) -> list[str]:
        """Branches, tags and stashes that were made in a clone: the patch does not have them."""
        known = {*self.record.get("refs", ()), f"refs/heads/{self.branch}"}
        return [ref for ref in git.text("for-each-ref", "--format=%(refname)").split("\n") if ref and ref not in known]

    def _delete_branch(self, git: Git, tip: str) -> None:
        """Deletes the branch of the place if that is its tip, and nobody has checked it out."""
        git = git.inside(self._top)
        if user_of(git, self.branch) is None:
            git.asks("update-ref", "-d", f"refs/heads/{self.branch}", tip)

    def forget_branch(self) -> None:
        """Removes the branch that was made for the run, if it is as the agent left it and nobody has checked it out;
        what it held is in the patch."""
        if self.mode == "worktree" and "branch" not in self._asked and (tip := self.record.get("tip")):
            self._delete_branch(self._git, tip)

    def forget(self) -> None:
        """The run itself goes: nobody needs the commit any more that held its caller's changes."""
        if self.mode == "shared" or self._claim.holder != self._spec.run_id:
            return
        if self.mode == "worktree" and self._top.is_dir():
            self._git.inside(self._top).asks("update-ref", "-d", self._base_ref)
        self._claim.drop()

    # ---- git and notes

    @property
    def _top(self) -> Path:
        return Path(self._asked["top"])

    @property
    def _base_ref(self) -> str:
        return f"refs/orchestrator/base/{self._first}"

    @property
    def _claim(self) -> Claim:
        return Claim(self._root / f"{self._first}.claim", self._stop)

    @contextlib.contextmanager
    def alone(self) -> Generator[Git]:
        """Alone with the place: nobody looks at it, removes it, or moves in, while we or the git that this gives are at
        work."""
        with self._claim.alone() as lock:
            yield self._git.holding(lock)

    def _making(self, git: Git) -> Making:
        return Making(self._asked, self.path, self.branch, self._base_ref, git, self._note, self._earlier_patch)

    def _earlier_patch(self) -> Path | None:
        """What an earlier run of the session had done, where its place is made again."""
        run_id = str(self.record.get("again", ""))
        return Path(self._dir.workspace.run(run_id).file(PATCH)) if RUN_ID.fullmatch(run_id) else None

    def _note(self, **facts: object) -> JsonObject:
        if facts:
            self.record = {**self.record, **facts}
            replace_file(self._dir.file(RECORD), orjson.dumps(self.record), durable=True)
        return self.record


def _holds_runs(path: Path) -> bool:
    """Whether runs that were spawned somewhere in there have their records there."""
    return any(Path(folder).name == ".orchestrator" and "runs" in folders for folder, folders, _ in os.walk(path))
