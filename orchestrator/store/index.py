"""Finding runs: by id anywhere, and newest first at or below a directory.

The index under the user's home is a cache: what a workspace holds counts, dead entries are pruned, and a run that is
found in its workspace alone is entered again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import RunNotFound, nearest
from orchestrator.store.layout import RUN_ID, Home, RunDir, Workspace


class RunIndex:
    """The runs that one home knows. Paths of runs never change, so they are remembered once read."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._known: dict[str, RunDir] = {}

    def find(self, run_id: str, cwd: Path) -> RunDir:
        """The directory of a run.

        Raises:
            InvalidArgument: that is no run id.
            RunNotFound: neither the workspace of `cwd` nor the index has it.
        """
        known = self._known.get(run_id)
        if known and known.path.is_dir():
            return known
        local = Workspace(cwd).run(run_id)
        if (local.path / "spec.json").exists():
            with contextlib.suppress(OSError):
                self.home.add(local, live=False)
            run_dir = local
        else:
            run_dir = self.home.find(run_id)
        if run_dir is None or not (run_dir.path / "spec.json").exists():
            ids = {*_names(self.home.runs), *_names(local.path.parent)} - {run_id}
            hint = nearest(run_id, ids) if len(ids) < 1000 else ""  # comparing with thousands takes seconds
            raise RunNotFound(f"no run {run_id!r}{hint if 'mean' in hint else '; call list_runs'}")
        run_dir.workspace.check_version()
        self._known[run_id] = run_dir
        return run_dir

    def newest(self, agent_name: str, cwd: Path) -> RunDir:
        """The newest run of an agent of the workspace.

        Raises:
            AgentNotFound: nobody has that name there.
        """
        from orchestrator.store import sessions  # not for a list

        return self.find(sessions.newest_run(Workspace(cwd), agent_name), cwd)

    def below(self, cwd: Path | None, before: str | None) -> Iterator[RunDir]:
        """Runs whose cwd is at or below the given one (None: all), newest first, older than the run `before`."""
        ids = {name for name in _names(self.home.runs) if RUN_ID.fullmatch(name)}
        local: set[str] = set()
        if cwd is not None:
            local = {name for name in _names(Workspace(cwd).root / "runs") if RUN_ID.fullmatch(name)}
        prefix = None if cwd is None else str(cwd).rstrip("/") + "/"
        for run_id in sorted(ids | local, reverse=True):
            if before is not None and run_id >= before:
                continue
            run_dir = self._known.get(run_id)
            if run_dir is None and run_id in local and cwd is not None:
                run_dir = Workspace(cwd).run(run_id)
                if run_id not in ids:
                    with contextlib.suppress(OSError):
                        self.home.add(run_dir, live=False)
            run_dir = run_dir or self.home.find(run_id)
            if run_dir is None:
                continue
            self._known[run_id] = run_dir
            if prefix is None or f"{run_dir.path}/".startswith(prefix):
                yield run_dir


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []
