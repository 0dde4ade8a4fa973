"""Commands that look after things: gc and config."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from orchestrator import config
from orchestrator.cli.output import DONE, harmless, one_line, print_json, say
from orchestrator.cli.reach import Reach
from orchestrator.errors import Conflict, InvalidArgument, OrchestratorError, StoreError
from orchestrator.model import JsonObject, RunSpec
from orchestrator.store import sessions
from orchestrator.store.layout import RUN_ID, SESSION_ID, Home, RunDir, Workspace
from orchestrator.store.owner import locked
from orchestrator.store.reader import RunReader, sealed_spec
from orchestrator.workspaces.places import Place

_AGE = re.compile(r"(\d+)\s*(min|h|d|w)")
_SIZE = re.compile(r"(\d+)\s*(kb|mb|gb)", re.IGNORECASE)
_WIDE = 110
"""Columns that a terminal has which can show a run and what it was about in one line."""


@dataclass(frozen=True, slots=True)
class _Old:
    """A run that is over, with what tells a person which one it is."""

    run_dir: RunDir
    ended: datetime
    size: int
    agent: str
    status: str
    summary: str


class Bounds(NamedTuple):
    """What goes. What is None does not bound.

    Attributes:
        older_than: an age; runs that ended longer ago go.
        keep: so many of the newest stay, whatever the others say; alone, all behind them go.
        max_size: so much of the newest stays; the others go.
    """

    older_than: str | None
    keep: int | None
    max_size: str | None


def gc(reach: Reach, bounds: Bounds, *, delete: bool, as_json: bool) -> int:
    """Finds old runs of this directory's store, and removes them only if told to."""
    if bounds == Bounds(None, None, None):
        bounds = Bounds("30d", None, None)
    if (root := Workspace(reach.cwd).root).is_symlink():
        raise StoreError(f"{root} is a link; go to the directory that it leads to, whose runs these are")
    owed = {run.run_id for run in reach.home.owing()}  # somebody is still to be told of their ends
    over = [old for old in _chosen(_finished(Workspace(reach.cwd)), bounds) if old.run_dir.run_id not in owed]
    count = freed = 0
    for old in over:
        if delete and not _remove(reach.home, old.run_dir):
            continue
        count, freed = count + 1, freed + old.size
        row: JsonObject = {"run_id": old.run_dir.run_id, "bytes": old.size, "removed": delete}
        row |= {"agent_name": old.agent, "status": old.status, "summary": old.summary}
        if (tree := _place(old.run_dir, _spec(reach.home, old.run_dir))) and tree.is_own:
            row["workspace"] = str(tree.path)
        if as_json:
            print_json(row)
        else:
            _show_old(old, row.get("workspace", ""))
    if delete:
        _retire_sessions(Workspace(reach.cwd))
    if not as_json:
        what = "removed" if delete else "would be removed (--delete removes them)"
        say(f"{count} runs, {freed:,} bytes {what}")
    return DONE


def _show_old(old: _Old, workspace: str) -> None:
    """A run, as soon as it is found or removed, for there may be thousands; at a terminal as far as there is room."""
    run_id, size, day = old.run_dir.run_id, f"{old.size:,} B", f"{old.ended:%Y-%m-%d}"
    cells = [one_line(text) for text in (old.agent, old.status, old.summary)]
    if not sys.stdout.isatty():
        print("\t".join((run_id, size, day, one_line(workspace), *cells)).rstrip())
        return
    from rich.text import Text

    from orchestrator.cli.tables import NARROW

    columns = shutil.get_terminal_size().columns
    fact = f"{run_id:<26}  {size:>12}" + (f"  {day}" if columns >= NARROW else "")
    fact += "  " if columns >= _WIDE else "\n  "
    words = Text("  ".join(cells))
    words.truncate(columns - len(fact.rpartition("\n")[2]), overflow="ellipsis")
    print(fact + words.plain.rstrip())
    if workspace:
        print(f"  {harmless(workspace)}")  # whole, to be copied


def _chosen(runs: list[_Old], bounds: Bounds) -> list[_Old]:
    """Of runs that are over, newest first: those that go. The newest that are to be kept never do."""
    older_than, keep, max_size = bounds
    border = None if older_than is None else _border(older_than)
    most = None if max_size is None else _size(max_size)
    chosen: list[_Old] = []
    total = 0
    for number, run in enumerate(runs):
        total += run.size
        beyond = (border is not None and run.ended < border) or (most is not None and total > most)
        if number >= (keep or 0) and (beyond or (border is None and most is None)):
            chosen.append(run)
    return chosen


def _finished(workspace: Workspace) -> list[_Old]:
    workspace.check_version()
    found: list[_Old] = []
    try:
        names = sorted((n for n in os.listdir(workspace.root / "runs") if RUN_ID.fullmatch(n)), reverse=True)  # noqa: PTH208
    except FileNotFoundError:
        return []
    for name in names:
        run_dir = workspace.run(name)
        if run_dir.path.resolve() != workspace.root.resolve() / "runs" / name:  # a link leads out of the store
            continue
        with contextlib.suppress(OrchestratorError):
            run = RunReader(run_dir).state().run
            if run.completed_at is not None:
                size = sum(path.lstat().st_size for path in run_dir.path.rglob("*") if path.is_file())
                ended = datetime.fromisoformat(run.completed_at)
                found.append(_Old(run_dir, ended, size, run.agent_name, run.status, run.summary))
    return found


def _remove(home: Home, run_dir: RunDir) -> bool:
    """Removes a run with its worktree. False if somebody owns it, or the worktree holds what no patch does."""
    try:
        with locked(run_dir) as lock:
            spec = _spec(home, run_dir)
            place = _place(run_dir, spec)
            if why := _left(place) if place else _untold(run_dir):
                say(f"{run_dir.run_id} stays, for its workspace does: {why}")
                os.close(lock)
                return False
            shutil.rmtree(run_dir.path)
            os.close(lock)
    except Conflict:
        say(f"{run_dir.run_id} is in use and stays")
        return False
    home.forget(run_dir.run_id)
    if spec and spec.key_digest:
        with contextlib.suppress(OrchestratorError, OSError):  # who uses it next finds that its run is gone
            sessions.release_key(run_dir.workspace, spec.key_digest, run_dir.run_id)
    return True


def _retire_sessions(workspace: Workspace) -> None:
    """Removes the sessions whose last run is gone, with the names of their agents, but for those that are in use."""
    if not (workspace.root / "runs").is_dir():  # then nothing says that runs are gone for good
        return
    used: set[str] = set()
    for run_id in workspace.run_ids():  # of one that died before it was noted, its spec alone says the session
        with contextlib.suppress(OrchestratorError):
            used.add(RunReader(workspace.run(run_id)).spec().session_id)
    for path in (workspace.root / "sessions").glob("*.runs"):
        if SESSION_ID.fullmatch(path.stem) and path.stem not in used:
            with contextlib.suppress(OrchestratorError, OSError):  # what is damaged stays
                sessions.retire(workspace, path.stem)


def _spec(home: Home, run_dir: RunDir) -> RunSpec | None:
    """What was asked of a run; None where that cannot be read or was changed since."""
    with contextlib.suppress(OrchestratorError):
        return sealed_spec(home, run_dir)
    return None


def _place(run_dir: RunDir, spec: RunSpec | None) -> Place | None:
    """Where a run worked; None where nobody can tell."""
    with contextlib.suppress(OrchestratorError):
        return Place(run_dir, spec, os.environ) if spec else None
    return None


def _untold(run_dir: RunDir) -> str | None:
    """Why a run stays of which nobody can tell where it worked."""
    place = run_dir.workspace.root / "worktrees" / run_dir.run_id
    return f"its spec.json is damaged or was changed, and {place} may be its own" if place.exists() else None


def _left(place: Place) -> str | None:
    """Removes the place of a run that goes. Returns why it stays, if it does."""
    try:
        if place.is_own and (why := place.remove()):
            return why
        place.forget()
    except (OrchestratorError, OSError) as error:
        return str(error)
    return None


def _border(text: str) -> datetime:
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"--older-than is {text!r}; it takes a number and min, h, d or w, as 30d")
    unit = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}[match[2]]
    try:
        return datetime.now(UTC) - timedelta(**{unit: int(match[1])})
    except OverflowError:  # before there were dates
        return datetime.min.replace(tzinfo=UTC)


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"--max-size is {text!r}; it takes a number and KB, MB or GB, as 500MB")
    return int(match[1]) * {"kb": 1024, "mb": 1024**2, "gb": 1024**3}[match[2].lower()]


def settings(reach: Reach, *, as_json: bool) -> int:
    """Prints the settings in force here, and where each comes from."""
    effective = config.load(reach.home.path, reach.cwd, os.environ)
    rows = {
        name: {"value": getattr(effective.settings, name), "source": origin.source}
        for name, origin in effective.origins.items()
    }
    if as_json:
        print_json({"settings": rows, "notices": effective.notices})
        return DONE
    from orchestrator.cli.tables import Column, show_rows

    columns = {"setting": Column("bold", most=40), "value": Column(), "from": Column("dim")}
    show_rows(columns, [[n, config.shown(row["value"]), str(row["source"])] for n, row in rows.items()], whole=True)
    for notice in effective.notices:
        say(notice)
    return DONE
