"""Rows of runs: what a list shows of each, read from the files. Blocks on the disk; loads no event loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.errors import InvalidArgument, OrchestratorError, RunNotFound, StoreError, StoreVersion
from orchestrator.events import clip_line
from orchestrator.model import JsonObject, Run, Status, compact
from orchestrator.store.index import RunIndex
from orchestrator.store.layout import Home, RunDir
from orchestrator.store.members import member_ids
from orchestrator.store.reader import RunReader

if TYPE_CHECKING:
    from orchestrator.store.log import RunLog


class Where(NamedTuple):
    """Which runs: at or below a directory (None: all), matching all filters, older than the cursor."""

    cwd: Path | None
    filters: Mapping[str, str]
    cursor: str | None = None
    among: frozenset[str] | None = None
    """The only runs that count; None for all."""


class Page(NamedTuple):
    """Some rows; whether more follow; and the first runs that could not be read."""

    rows: list[tuple[RunDir, Run]]
    more: bool
    unreadable: list[JsonObject]


def page_of(index: RunIndex, where: Where, limit: int, log_of: Callable[[str], RunLog | None]) -> Page:
    """Up to `limit` runs, newest first.

    Args:
        log_of: gives the log of a run that lives in this process.

    Raises:
        InvalidArgument: there is no such status.
    """
    if (status := where.filters.get("status")) and status not in set(Status):
        raise InvalidArgument(f"no status {status!r}; known: {', '.join(Status)}")
    rows: list[tuple[RunDir, Run]] = []
    unreadable: list[JsonObject] = []
    for run_dir in index.below(where.cwd, where.cursor):
        if len(rows) == limit:
            return Page(rows, True, unreadable)
        if where.among is not None and run_dir.run_id not in where.among:
            continue
        try:
            log = log_of(run_dir.run_id)
            run = log.run if log else RunReader(run_dir).state().run
        except RunNotFound:  # it is just being made, or was never made whole
            continue
        except (StoreError, StoreVersion) as error:
            if len(unreadable) < 5:
                unreadable.append({"run_id": run_dir.run_id, "error": error.sentence[:300]})
            continue
        except OSError:
            continue
        if _matches(run, where.filters):
            rows.append((run_dir, run))
    return Page(rows, False, unreadable)


def row_of(run: Run) -> JsonObject:
    """What a list shows of a run."""
    return {
        "run_id": run.run_id,
        "status": run.status,
        "backend": run.backend,
        "role": run.role,
        "agent_name": run.agent_name,
        "summary": run.summary,
        "started_at": run.started_at,
        "updated_at": run.updated_at,
        "cwd": str(run.cwd),
        **({"parent_run_id": run.parent_run_id} if run.parent_run_id else {}),
        **({"usage": run.usage.to_json()} if run.usage else {}),
    }


def list_row_of(run: Run) -> JsonObject:
    """The same among others, with what a run that waits asks first."""
    asked = {"asks": clip_line(run.pending[0].text)} if run.pending else {}
    return row_of(run) | asked


def tree_of(
    home: Home,
    run_dir: RunDir,
    run: Run,
    log_of: Callable[[str], RunLog | None],
    over: MutableMapping[str, Run] | None = None,
) -> JsonObject | None:
    """What a run and all below it are and used together; None for one that spawned nothing.

    Args:
        log_of: gives the log of a run that lives in this process.
        over: what is known of runs that are over; what is found out is added.
    """
    over = {} if over is None else over
    root = run_dir if run.depth == 0 else home.find(RunReader(run_dir).spec().root_run_id or run.run_id)
    found = {run.run_id: run}
    for run_id in member_ids(root)[1:] if root else ():
        with contextlib.suppress(OrchestratorError, OSError):  # it is gone, or damaged: the others are told of
            log = log_of(run_id)
            state = log.run if log else over.get(run_id)
            if state is None and (member := home.find(run_id)):
                state = RunReader(member).state().run
            if state is not None and state.terminal:
                over[run_id] = state
            if state is not None and state.parent_run_id in found:  # members are noted in the order of their spawns
                found.setdefault(run_id, state)
    if len(found) == 1:
        return None
    usage = None
    for one in found.values():
        usage = one.usage.plus(usage) if one.usage else usage
    live = sum(not one.terminal for one in found.values())
    return compact({"runs": len(found), "live": live, "usage": usage.to_json() if usage else None})


def _matches(run: Run, filters: Mapping[str, str]) -> bool:
    """Whether a run belongs on a page; the status of one that is not over is for its owner to tell."""
    wanted = filters if run.terminal else {name: value for name, value in filters.items() if name != "status"}
    return all(str(getattr(run, name)) == value for name, value in wanted.items())
