"""Rows for a person: a table that fits the terminal, and lines with tabs in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import console, one_line

NARROW = 60
"""A terminal of fewer columns has no room for what stands beside a text."""


class Column(NamedTuple):
    """How a column is shown at a terminal.

    Attributes:
        room: how wide a terminal must be to have room for it.
        most: cells that it takes at the most; None for what is left of the line, behind all others.
    """

    style: str = ""
    room: int = 0
    most: int | None = None


Cell = str | Text


def show_rows(columns: Mapping[str, Column], rows: Sequence[Sequence[Cell]], *, whole: bool = False) -> None:
    """Prints rows, with a cell for each column.

    Args:
        whole: nothing is cut. Long cells are wrapped; at a narrow terminal a row's first cell is a line of its own.
    """
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(one_line(str(cell)) for cell in row))
        return
    texts = [[_text(cell, column.style) for cell, column in zip(row, columns.values(), strict=True)] for row in rows]
    if whole and console().width < NARROW:
        _show_stacked(texts)
    else:
        show_table(columns, texts, whole=whole)


def show_table(columns: Mapping[str, Column], rows: Sequence[Sequence[Text]], *, whole: bool = False) -> None:
    """Prints rows as a table, without the columns that the terminal has no room for.

    Args:
        whole: long cells are wrapped; otherwise they are cut, so that a row is a line.
    """
    out = console()
    shown = [number for number, column in enumerate(columns.values()) if out.width >= column.room]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=False, pad_edge=False)
    left = out.width
    for number, (name, column) in enumerate(columns.items()):
        if number not in shown:
            continue
        widest = max((cell_len(name), *(row[number].cell_len for row in rows)))
        if column.most is not None:
            width = min(widest, column.most)
            table.add_column(name, no_wrap=True, overflow="ellipsis", width=width)
            left -= width + 2
        elif whole:
            table.add_column(name, overflow="fold")
        else:  # all of the others first: rich would leave some of them out
            table.add_column(name, no_wrap=True, overflow="ellipsis", width=min(widest, max(left, 4)))
    for row in rows:
        table.add_row(*(row[number] for number in shown))
    out.print(table)


def _show_stacked(rows: Sequence[Sequence[Text]]) -> None:
    from rich.padding import Padding

    out = console()
    for first, *rest in rows:
        out.print(first)
        out.print(Padding(Text("  ").join(text for text in rest if text), (0, 0, 0, 2)))


def _text(cell: Cell, style: str) -> Text:
    return cell if isinstance(cell, Text) else Text(one_line(cell), style=style)
