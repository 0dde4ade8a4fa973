"""`orchestrator ls`. Loads no event loop unless a run has to be recovered, so that it answers at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.cli.output import (
    DONE,
    ROWS,
    age,
    code_of,
    console,
    one_line,
    open_streams,
    place_of,
    print_json,
    say,
    used_words,
)
from orchestrator.errors import StoreError
from orchestrator.listing import Where, page_of, row_of, tree_of
from orchestrator.model import JsonObject, compact
from orchestrator.store.index import RunIndex
from orchestrator.store.layout import Home, RunDir, Workspace
from orchestrator.store.owner import is_owned

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS = {"agent": 0, "status": 0, "backend": 100, "age": 60, "used": 110, "run": 80, "summary": 0}
"""Each column, and the width from which on a terminal has room for it."""
MOST = {"agent": 24, "status": 14, "backend": 12, "age": 11, "used": 9, "run": 26}


class Wanted(NamedTuple):
    """Which runs: at or below a directory, or everywhere; matching all filters; so many; as a tree or not."""

    cwd: Path
    filters: Mapping[str, str]
    limit: int
    everywhere: bool = False
    tree: bool = False


def ls_here(*, everywhere: bool = False, tree: bool = False, as_json: bool = False) -> int:
    """The command `ls` with these options alone, which needs no parser. Returns its exit code."""
    open_streams()
    return code_of(
        lambda: ls(Wanted(place_of(None), {}, ROWS, everywhere=everywhere, tree=tree), as_json=as_json),
        as_json=as_json,
    )


def ls(wanted: Wanted, *, as_json: bool) -> int:
    """Lists runs, newest first."""
    document = listing(wanted)
    if as_json:
        print_json(document)
    else:
        show_rows(document, tree=wanted.tree)
    return DONE


def listing(wanted: Wanted) -> JsonObject:
    """As many runs as are asked for, in the shape of `list_runs`.

    Raises:
        StoreError, StoreVersion: what is in this directory is no store that can be read.
    """
    index, filters, limit = RunIndex(Home.default()), wanted.filters, wanted.limit
    if not wanted.everywhere:
        store_of(wanted.cwd)
    where = Where(None if wanted.everywhere else wanted.cwd, filters)
    page = page_of(index, where, limit, lambda _: None)
    if any(not run.terminal and not is_owned(run_dir) for run_dir, run in page.rows):
        _recover([run_dir for run_dir, run in page.rows if not run.terminal])
        page = page_of(index, where, limit, lambda _: None)
    status = filters.get("status")
    rows = [(row_of(run), tree_of(index.home, run_dir, run, lambda _: None) if run.depth == 0 else None)
            for run_dir, run in page.rows if status in (None, run.status)]  # fmt: skip
    runs = [row | ({"tree": tree} if tree else {}) for row, tree in rows]
    cursor = page.rows[-1][0].run_id if page.more else None
    return compact({"runs": runs, "next_cursor": cursor, "unreadable": page.unreadable or None})


def store_of(cwd: Path) -> Workspace:
    """The store of a directory, which may not be there yet.

    Raises:
        StoreError, StoreVersion: something else lies in its place, or another version wrote it.
    """
    store = Workspace(cwd)
    if store.root.exists() and not store.root.is_dir():
        raise StoreError(f"{store.root} is in the way of the store, which is a directory; move it away")
    store.check_version()
    return store


def _recover(run_dirs: list[RunDir]) -> None:
    """Some have lost their owner: the host looks at each, so that no list shows a state that is a lie."""
    import asyncio

    from orchestrator.cli.reach import command

    async def ask() -> None:
        for run_dir in run_dirs:
            await command("get_run", {"run_id": run_dir.run_id}, run_dir.workspace.cwd)

    asyncio.run(ask())


def show_rows(document: JsonObject, *, tree: bool = False) -> None:
    """The rows as a table that fits the terminal, or as lines with tabs in a pipe; beside them, what cannot be read."""
    rows: list[JsonObject] = document["runs"]
    if sys.stdout.isatty():
        _show_table(document, rows, tree=tree)
    else:
        for row, depth in _in_order(rows, tree=tree):
            keys = ("run_id", "status", "agent_name", "backend", "updated_at", "summary")
            cells = [one_line(str(row[key])) for key in keys]
            cells[2] = _below(depth) + cells[2]
            print("\t".join(cells))
    for run in document.get("unreadable", ()):
        say(f"{run['run_id']} cannot be read: {run['error']}")


def _below(depth: int) -> str:
    return "  " * depth + ("└ " if depth else "")


def _show_table(document: JsonObject, rows: list[JsonObject], *, tree: bool) -> None:
    from rich.table import Table

    out = console()
    if not rows:
        out.print("no runs here yet; `orchestrator run` starts one, and `ls --all` shows those of other directories")
        return
    names = [name for name, from_width in COLUMNS.items() if out.width >= from_width]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    cells = [_cells(row, depth) for row, depth in _in_order(rows, tree=tree)]
    for name in names:
        widest = max(row[name].cell_len for row in cells)
        width = None if name == "summary" else min(widest, MOST[name])
        table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=width)
    for row in cells:
        table.add_row(*(row[name] for name in names))
    out.print(table)
    if document.get("next_cursor"):
        out.print("… more with --limit", style="dim")


def _cells(row: JsonObject, depth: int) -> dict[str, Text]:
    """A row of the table, by column."""
    from rich.text import Text

    from orchestrator.cli.lines import STYLES

    return {
        "agent": Text(_below(depth) + row["agent_name"], style="bold"),
        "status": Text(row["status"], style=STYLES.get(row["status"], "")),
        "backend": Text(row["backend"]),
        "age": Text(age(row["updated_at"])),
        "used": Text(used_words(row), style="dim"),
        "run": Text(row["run_id"], style="dim"),
        "summary": Text(one_line(row["summary"])),
    }


def _in_order(rows: list[JsonObject], *, tree: bool) -> list[tuple[JsonObject, int]]:
    """The rows with their depth: children below their parents if a tree is wanted."""
    if not tree:
        return [(row, 0) for row in rows]
    known = {row["run_id"] for row in rows}
    ordered: list[tuple[JsonObject, int]] = []

    def add(parent: str | None, depth: int) -> None:
        for row in rows:
            above = row.get("parent_run_id")
            if (above if above in known else None) == parent:
                ordered.append((row, depth))
                add(row["run_id"], depth + 1)

    add(None, 0)
    return ordered


def watch(wanted: Wanted) -> int:
    """Shows the list and keeps it up to date until it is interrupted."""
    out = console()
    while True:
        document = listing(wanted)
        out.clear()
        show_rows(document, tree=wanted.tree)
        time.sleep(1.0)
