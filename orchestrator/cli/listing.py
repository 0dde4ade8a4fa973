"""`orchestrator ls`. Loads no event loop unless a run has to be recovered, so that it answers at once."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.output import DONE, age, console, one_line, print_json, used_words
from orchestrator.listing import Where, page_of, row_of, tree_of
from orchestrator.model import JsonObject, compact
from orchestrator.store.index import RunIndex
from orchestrator.store.layout import Home, RunDir
from orchestrator.store.owner import is_owned

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS = {"agent": 0, "status": 0, "backend": 100, "age": 60, "used": 110, "run": 80, "summary": 0}
"""Each column, and the width from which on a terminal has room for it."""
MOST = {"agent": 24, "status": 14, "backend": 12, "age": 9, "used": 9, "run": 26}


def ls(cwd: Path, filters: dict[str, str], *, limit: int, everywhere: bool, as_json: bool, tree: bool) -> int:
    """Lists runs, newest first."""
    document = listing(cwd, filters, limit=limit, everywhere=everywhere)
    if as_json:
        print_json(document)
    else:
        show_rows(document, tree=tree)
    return DONE


def listing(cwd: Path, filters: dict[str, str], *, limit: int, everywhere: bool) -> JsonObject:
    """As many runs as are asked for, in the shape of `list_runs`."""
    index = RunIndex(Home.default())
    where = Where(None if everywhere else cwd, filters)
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


def _recover(run_dirs: list[RunDir]) -> None:
    """Some have lost their owner: the host looks at each, so that no list shows a state that is a lie."""
    import asyncio

    from orchestrator.cli.reach import command

    async def ask() -> None:
        for run_dir in run_dirs:
            await command("get_run", {"run_id": run_dir.run_id}, run_dir.workspace.cwd)

    asyncio.run(ask())


def show_rows(document: JsonObject, *, tree: bool = False) -> None:
    """The rows as a table that fits the terminal, or as lines with tabs in a pipe."""
    rows: list[JsonObject] = document["runs"]
    if not sys.stdout.isatty():
        for row in rows:
            keys = ("run_id", "status", "agent_name", "backend", "updated_at", "summary")
            print("\t".join(one_line(str(row[key])) for key in keys))
        return
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
        "agent": Text("  " * depth + ("└ " if depth else "") + row["agent_name"], style="bold"),
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


def watch(cwd: Path, filters: dict[str, str], *, limit: int, everywhere: bool) -> int:
    """Shows the list and keeps it up to date until it is interrupted."""
    out = console()
    while True:
        document = listing(cwd, filters, limit=limit, everywhere=everywhere)
        out.clear()
        show_rows(document)
        time.sleep(1.0)
