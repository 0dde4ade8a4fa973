"""`orchestrator ls`. Loads no event loop unless a run has to be recovered, so that it answers at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
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
    said_or_asked,
    say,
    used_words,
)
from orchestrator.errors import StoreError
from orchestrator.listing import Where, list_row_of, page_of, tree_of
from orchestrator.model import JsonObject, compact
from orchestrator.store.index import RunIndex
from orchestrator.store.layout import Home, RunDir, Workspace
from orchestrator.store.owner import is_owned

if TYPE_CHECKING:
    from rich.text import Text


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
        show(document)
    return DONE


def listing(wanted: Wanted) -> JsonObject:
    """As many runs as are asked for, in the shape of `list_runs`; as a tree, children below their parents by `depth`.

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
    rows = [(list_row_of(run), tree_of(index.home, run_dir, run, lambda _: None) if run.depth == 0 else None)
            for run_dir, run in page.rows if status in (None, run.status)]  # fmt: skip
    runs = [row | ({"tree": tree} if tree else {}) for row, tree in rows]
    if any(row["status"] == "queued" for row in runs) and (places := _places(wanted)):
        runs = [row | ({"queue_place": places[row["run_id"]]} if row["run_id"] in places else {}) for row in runs]
    if wanted.tree:
        runs = [{**row, "depth": depth} for row, depth in _in_order(runs)]
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


def _places(wanted: Wanted) -> dict[str, int]:
    """The places of queued runs, which the host alone knows; nothing if none runs, for a list starts none."""
    from orchestrator.cli.reach import ask_host, command

    if not ask_host("status"):
        return {}
    import asyncio

    arguments = {"cwd": "*" if wanted.everywhere else str(wanted.cwd), "status": "queued", "limit": 100}
    rows: list[JsonObject] = asyncio.run(command("list_runs", arguments, wanted.cwd))["runs"]
    return {row["run_id"]: row["queue_place"] for row in rows if "queue_place" in row}


def show(document: JsonObject) -> None:
    """The rows as a table that fits the terminal, or as lines with tabs in a pipe; beside them, what cannot be read."""
    rows: list[JsonObject] = document["runs"]
    if sys.stdout.isatty():
        _show_table(document, rows)
    else:
        for row in rows:
            keys = ("run_id", "status", "agent_name", "backend", "updated_at")
            cells = [one_line(str(row[key])) for key in keys]
            cells[2] = _below(row) + cells[2]
            print("\t".join([*cells, said_or_asked(row["summary"], row.get("asks"))]))
    for run in document.get("unreadable", ()):
        say(f"{run['run_id']} cannot be read: {run['error']}")


def _below(row: JsonObject) -> str:
    depth = row.get("depth", 0)
    return "  " * depth + ("└ " if depth else "")


def _show_table(document: JsonObject, rows: list[JsonObject]) -> None:
    from orchestrator.cli.tables import Column, show_table

    out = console()
    if not rows:
        out.print("no runs here yet; `orchestrator run` starts one, and `ls --all` shows those of other directories")
        return
    columns = {
        "agent": Column(most=24),
        "status": Column(most=14),
        "backend": Column(room=100, most=12),
        "age": Column(room=60, most=11),
        "used": Column(room=110, most=9),
        "run": Column(room=80, most=26),
        "summary": Column(),
    }
    show_table(columns, [_cells(row) for row in rows])
    if document.get("next_cursor"):
        out.print("… more with --limit", style="dim")


def _cells(row: JsonObject) -> list[Text]:
    """A row of the table."""
    from rich.text import Text

    from orchestrator.cli.lines import STYLES

    place = f" {row['queue_place']}." if "queue_place" in row else ""
    return [
        Text(_below(row) + one_line(row["agent_name"]), style="bold"),
        Text(row["status"] + place, style=STYLES.get(row["status"], "")),
        Text(one_line(row["backend"])),
        Text(age(row["updated_at"])),
        Text(used_words(row), style="dim"),
        Text(row["run_id"], style="dim"),
        Text(said_or_asked(row["summary"], row.get("asks"))),
    ]


def _in_order(rows: list[JsonObject]) -> Iterator[tuple[JsonObject, int]]:
    """The rows with their depth: children below their parents, as far as these are among them."""
    known = {row["run_id"] for row in rows}
    below: dict[str | None, list[JsonObject]] = {}
    for row in rows:
        above = row.get("parent_run_id")
        below.setdefault(above if above in known else None, []).append(row)
    left = [(row, 0) for row in reversed(below.get(None, []))]
    while left:
        row, depth = left.pop()
        yield row, depth
        left += [(child, depth + 1) for child in reversed(below.get(row["run_id"], []))]


def watch(wanted: Wanted) -> int:
    """Shows the list and keeps it up to date until it is interrupted."""
    out = console()
    while True:
        shown = min(wanted.limit, max(out.height - 3, 1))  # the newest stay in sight
        document = listing(wanted._replace(limit=shown))
        out.clear()
        show(document)
        time.sleep(1.0)
