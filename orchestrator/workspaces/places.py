"""The place where one run works: the directory itself, a worktree or a clone; made, looked at in the end, removed.

What was done is noted in the run's directory before and after each step, so that whoever comes after a crash goes on
from there. Nothing is removed that the stored patch does not hold. Blocks; called in threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import NamedTuple

import orjson

from orchestrator.errors import StoreError
from orchestrator.home import make_directory
from orchestrator.model import JsonObject, RunSpec, compact
from orchestrator.store.layout import RunDir, read_json, replace_file
from orchestrator.workspaces.git import Git, GitError, own_filters, switched_off, top_of
from orchestrator.workspaces.snapshots import Snapshots, digest_of

RECORD = "workspace.json"
PATCH = "patch.diff"
OWN_BRANCHES = "orchestrator/"
"""How the branches begin that we name."""
SHARED_S = 30.0
"""How long a look at a shared directory may take before a run does without."""
IDENTITY = {
    **{f"GIT_{who}_NAME": "Orchestrator" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "orchestrator@localhost" for who in ("AUTHOR", "COMMITTER")},
}


class Changes(NamedTuple):
    """What a run changed: what is told of it, and the tree that it left."""

    told: JsonObject
    tree: str
    applies: bool

    @property
    def files(self) -> int:
        """How many files differ."""
        return self.told["files"]


class Place:
    """Of one run.

    Args:
        env: of its client.
    """

    def __init__(self, run_dir: RunDir, spec: RunSpec, env: Mapping[str, str]) -> None:
        self._dir = run_dir
        self._spec = spec
        self._env = env
        self._asked = spec.workspace or {"mode": "shared"}
        self.record: JsonObject = read_json(run_dir.file(RECORD)) or {}

    @property
    def mode(self) -> str:
        """`shared`, `worktree` or `clone`."""
        return self._asked["mode"]

    @property
    def cwd(self) -> Path:
        """Where the agent works."""
        return Path(self.record["cwd"]) if "cwd" in self.record else self._spec.cwd

    @property
    def patch(self) -> Path:
        """The file of the stored patch."""
        return Path(self._dir.file(PATCH))

    @property
    def told(self) -> JsonObject | None:
        """What callers hear of it when it begins."""
        if "path" not in self.record:
            return None
        return compact({"mode": self.mode, "path": self.record["path"], "base": self.record["base"],
                        "branch": self.record.get("branch")})  # fmt: skip

    # ---- making it

    def prepare(self) -> None:
        """Makes the place, or finds it again as an earlier owner of the run left it.

        Raises:
            GitError, InvalidArgument: it cannot be made, with git's reason.
        """
        if self.mode == "shared":
            self._look_before()
        elif self.record.get("state") != "ready":
            with self.alone():
                if not self._go_on_there():
                    self._make()
            self._note(state="ready")

    def _look_before(self) -> None:
        top = top_of(self._spec.cwd)
        if top is None:
            return
        try:
            git = Git(top, self._env)
            snapshots = Snapshots(git, self._scratch)
            before = snapshots.take(SHARED_S)
            base = git.asks("rev-parse", "--verify", "-q", "HEAD^{commit}")
            self.record = {"top": str(top), "base": base or snapshots.empty(), "tree": before.tree,
                           "filters": own_filters(git), "left_out": before.left_out}  # fmt: skip
        except (StoreError, OSError) as error:  # the run is worth more than what is known of it
            self.record = {"unknown": str(error)}

    def _go_on_there(self) -> bool:
        """Whether the run goes on where an earlier one of its session worked, and the place is still there."""
        earlier = self._earlier()
        if earlier is None:
            return False
        for key in ("path", "cwd", "top", "base", "commit", "branch", "filters"):
            if key in earlier.record:
                self.record[key] = earlier.record[key]
        if not (Path(self.record["path"]) / ".git").exists():
            self._make(earlier.patch)
        return True

    def _earlier(self) -> Place | None:
        if (run_id := self._asked.get("after")) is None:
            return None
        run_dir = self._dir.workspace.run(run_id)
        place = Place(run_dir, self._spec, self._env)
        return place if "path" in place.record else None

    def _make(self, patch: Path | None = None) -> None:
        """Makes a worktree or a clone; whatever a crash left of an earlier attempt goes first, for no agent was there.

        Args:
            patch: what an earlier run of the session had done.
        """
        path = self._root / (self._asked.get("of") or self._spec.run_id)
        make_directory(self._root)
        planned = bool(self.record.get("state"))
        branch = self.record.get("branch") or self._asked.get("branch") or self._branch()
        self._note(state="planned", path=str(path), cwd=str(path / self._asked.get("prefix", "")), branch=branch)
        if self.mode == "clone":
            self._clone(path, branch)
        else:
            self._add_worktree(path, branch, planned=planned)
        git = Git(path, self._env)
        if patch is not None and patch.exists() and patch.stat().st_size:
            git.run("apply", "--binary", "--whitespace=nowarn", str(patch))
        self._note(filters=own_filters(git))
        self.cwd.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (self.cwd / ".orchestrator").mkdir(mode=0o700)
            (self.cwd / ".orchestrator" / ".gitignore").write_text("*\n", encoding="utf-8")

    def _add_worktree(self, path: Path, branch: str, *, planned: bool) -> None:
        top = Path(self._asked["top"])
        git = Git(top, self._env)
        if planned or path.exists():
            git.asks("worktree", "remove", "--force", "--force", str(path))
            git.asks("worktree", "prune")
        base = self.record.get("base") or self._base(git)
        self._note(top=str(top), base=base)
        exists = git.asks("rev-parse", "--verify", "-q", f"refs/heads/{branch}") is not None
        if exists and not planned and "after" not in self._asked:
            raise GitError(f"branch {branch!r} exists already")
        how = (str(path), branch) if exists else ("-b", branch, str(path), base)
        # forced: a place of that name that a crash left half made is registered still
        git.run("worktree", "add", "-q", "-f", "-f", *how)

    def _base(self, git: Git) -> str:
        """The commit that the work begins with: the one asked for, or one with the caller's changes on top of it."""
        base: str = self._asked["base"]
        if not self._asked.get("include_uncommitted"):
            return base
        snapshots = Snapshots(git, self._scratch, lasting=True)
        tree = snapshots.take().tree
        snapshots.close()
        if tree == git.text("rev-parse", f"{base}^{{tree}}"):
            return base
        words = "What was not committed when the run began"
        commit = git.at(git.where, IDENTITY).text("commit-tree", tree, "-p", base, "-m", words)
        git.run("update-ref", f"refs/orchestrator/base/{self._spec.run_id}", commit)
        return commit

    def _clone(self, path: Path, branch: str) -> None:
        self._delete(path)
        source = self._asked.get("repo") or self._asked["top"]
        outside = Git(self._root, self._env)
        outside.run("clone", "-q", "--no-checkout", "--template=", "--", source, str(path))
        git = outside.at(path)
        wanted = self._asked.get("base", "HEAD")
        found = (git.asks("rev-parse", "--verify", "-q", "--end-of-options", f"{ref}^{{commit}}")
                 for ref in (wanted, f"origin/{wanted}"))  # fmt: skip
        base = self.record.get("base") or next((commit for commit in found if commit), None)
        if base is None:
            raise GitError(f"workspace.base {wanted!r} is no commit, branch or tag of the cloned repository")
        self._note(top=str(path), base=base)
        git.run("checkout", "-q", "-B", branch, base)

    def _branch(self) -> str:
        """A name of its own: two runs of one agent do not share a branch."""
        name = re.sub(r"\.{2,}", ".", self._spec.agent_name).strip(".")
        return f"{OWN_BRANCHES}{name}-{self._spec.run_id[-6:]}"

    # ---- looking at what came of it

    def finish(self) -> Changes | None:
        """Stores and tries the patch. None where nothing is known of changes, as outside of repositories.

        Raises:
            GitError: the place cannot be read any more.
        """
        if "tree" not in self.record and self.mode == "shared":
            return None
        top = Path(self.record["path"] if self.mode == "worktree" else self.record["top"])
        git = Git(top, self._env)
        git = git.with_flags(switched_off(own_filters(git), self.record.get("filters", {})))
        snapshots = Snapshots(git, self._scratch)
        try:
            return self._changes(git, snapshots)
        finally:
            if self.mode != "shared":
                snapshots.close()

    def _changes(self, git: Git, snapshots: Snapshots) -> Changes:
        shared = self.mode == "shared"
        after = snapshots.take(SHARED_S if shared else None)
        base = self.record["base"]
        before = self.record["tree"] if shared else git.text("rev-parse", f"{base}^{{tree}}")
        snapshots.write_patch(before, after.tree, self.patch)
        numbers = snapshots.difference(before, after.tree)
        applies = snapshots.yields(before, self.patch, after.tree)
        known = set(self.record.get("left_out", ())) if shared else set[str]()
        left_out = [path for path in (*after.left_out, *numbers.submodules) if path not in known]
        size = self.patch.stat().st_size
        patch = {"relpath": PATCH, "total_bytes": size, "sha256": digest_of(self.patch)} if size else None
        told = compact({"base": base, "files": numbers.files, "insertions": numbers.insertions,
                        "deletions": numbers.deletions, "patch": patch, "applies": applies,
                        "left_out": left_out[:20] or None})  # fmt: skip
        if not shared:
            self._note(after=after.tree, left_out=left_out)
        return Changes(told, after.tree, applies)

    # ---- ending it

    def close(self) -> None:
        """Removes what only the look at a shared directory needed."""
        if self._scratch.exists():
            shutil.rmtree(self._scratch, ignore_errors=True)

    def why_kept(self, *, failed: bool) -> str | None:
        """Why the place stays when the run is over; None if it may go."""
        keep = self._asked.get("keep", "on_failure")
        if keep == "always" or (keep == "on_failure" and failed):
            return "as asked" if keep == "always" else "the run did not succeed"
        return self._why_not(Path(self.record["path"]))

    def remove(self) -> str | None:
        """Removes the worktree or clone, if its stored patch holds all that is there.

        Returns:
            Why it stays; None if it is gone.
        """
        if self.mode == "shared" or "path" not in self.record:
            return None
        path = Path(self.record["path"])
        with self.alone():
            if self._claimant() != self._spec.run_id:
                return "a later run of the session works there"
            if (path / ".git").exists() and (why := self._why_not(path)):
                return why
            self._note(state="removing")
            if self.mode == "worktree":
                self._remove_worktree(path)
            self._delete(path)
            self._note(state="removed")
        return None

    def reopen(self) -> None:
        """The agent goes on: what was found so far is not the end."""
        if self.mode != "shared":
            self.record.pop("after", None)
            self._note()

    @property
    def is_there(self) -> bool:
        """Whether there is a worktree or a clone."""
        return "path" in self.record and (Path(self.record["path"]) / ".git").exists()

    @property
    def is_own(self) -> bool:
        """The same, and no later run of the session works there."""
        return self.is_there and self._claimant() == self._spec.run_id

    @property
    def unlooked(self) -> bool:
        """Whether nobody looked yet at what the agent left there, as after a crash."""
        return self.is_own and "after" not in self.record

    def forget_branch(self) -> None:
        """Removes the branch that was made for the run; what it held is in the patch."""
        if self.mode == "worktree" and (branch := self.record["branch"]).startswith(OWN_BRANCHES):
            Git(Path(self.record["top"]), self._env).asks("update-ref", "-d", f"refs/heads/{branch}")

    def forget(self) -> None:
        """The run itself goes: nobody needs the commit any more that held its caller's changes."""
        if self.mode == "worktree" and Path(top := self.record.get("top", "")).is_dir():
            Git(Path(top), self._env).asks("update-ref", "-d", f"refs/orchestrator/base/{self._spec.run_id}")
        if self.mode != "shared" and self._claimant() == self._spec.run_id:
            self._claim.unlink(missing_ok=True)

    def _why_not(self, path: Path) -> str | None:
        try:
            if "after" not in self.record:
                self.finish()
            if left_out := self.record["left_out"]:
                return f"it holds what no patch holds: {', '.join(left_out[:3])}"
            if (self.cwd / ".orchestrator" / "runs").exists():
                return "runs that were spawned in it have their records there"
            snapshots = Snapshots(Git(path, self._env), self._scratch)
            try:
                now = snapshots.take()
            finally:
                snapshots.close()
        except (StoreError, OSError) as error:
            return f"what it holds cannot be read: {error}"
        return None if now.tree == self.record["after"] else "it was changed after its patch was made"

    def _remove_worktree(self, path: Path) -> None:
        git = Git(Path(self.record["top"]), self._env)
        if (path / ".git").exists():
            git.run("worktree", "remove", "--force", "--force", str(path))
        git.run("worktree", "prune")
        branch = f"refs/heads/{self.record['branch']}"
        if git.asks("rev-parse", "--verify", "-q", branch) == self.record["base"]:
            git.asks("update-ref", "-d", branch, self.record["base"])  # nothing was committed on it

    def _delete(self, path: Path) -> None:
        """Removes a clone, for which git has no command, or what a crash left of a worktree while git removed it. The
        path is one that we made: below our own directory, and no link."""
        if path.parent == self._root and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)

    # ---- notes

    @property
    def _root(self) -> Path:
        return self._dir.workspace.root / "worktrees"

    @property
    def _scratch(self) -> Path:
        return Path(self._dir.file("git"))

    def _note(self, **facts: object) -> None:
        self.record = {**self.record, **facts}
        replace_file(self._dir.file(RECORD), orjson.dumps(self.record), durable=True)

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """Alone with the place: nobody removes it while a later run of the session moves in."""
        make_directory(self._root)
        descriptor = os.open(self._claim, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self.record.get("state") in (None, "planned"):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, self._spec.run_id.encode(), 0)
            yield
        finally:
            os.close(descriptor)

    @property
    def _claim(self) -> Path:
        return self._root / f"{self._asked.get('of') or self._spec.run_id}.claim"

    def _claimant(self) -> str:
        """The run whose place it is: of a session, the last one that moved in."""
        try:
            return self._claim.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return ""
